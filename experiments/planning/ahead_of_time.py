"""Compiles the training step of a run for TPUs or GPUs that this machine does not have.

XLA's compilers come with the package libtpu and with JAX's CUDA plugin, each in an environment of its own:

    python3 -m venv tpu && tpu/bin/pip install -r requirements-tpu.txt
    tpu/bin/python -m diffusion plan --config=FILE --devices=64 --machine=v5p --compile
    python3 -m venv cuda && cuda/bin/pip install -r requirements-cuda12.txt
    cuda/bin/python -m diffusion plan --config=FILE --devices=1 --machine=h100 --compile
"""

import importlib.util
import math
import os
import time
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from diffusion.experiments.planning.compiled import communication
from diffusion.experiments.planning.estimate import as_on
from diffusion.experiments.planning.machines import Machine
from diffusion.experiments.run.program import Program


class AheadError(RuntimeError):
    """The step cannot be compiled here; the message says why and what to do."""


# Without these variables, libtpu asks a cloud's metadata server which machine it is on. It also refuses a second
# process.
ENVIRONMENT = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}


def devices(machine: Machine, topology: str) -> list[Any]:
    """Returns descriptions of a machine's devices. A program can be compiled for them, but no array placed on them.

    Args:
        machine: a machine that XLA can describe.
        topology: XLA's name for the devices, from `machines.topology_name`.

    Raises:
        AheadError: if the compiler's package is not installed, or if it does not know the topology.
    """
    return _gpus(machine, topology) if machine.target else _tpus(topology)


def _gpus(machine: Machine, topology: str) -> list[Any]:
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        raise AheadError(
            "--compile for a GPU needs JAX's CUDA plugin in an environment of its own. Make the environment by python3 "
            "-m venv cuda && cuda/bin/pip install -r requirements-cuda12.txt, and run this command with "
            "cuda/bin/python."
        )
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # no driver is needed to compile
    return topologies.get_topology_desc(platform="cuda", topology=topology, target_config=machine.target).devices


def _tpus(topology: str) -> list[Any]:
    if importlib.util.find_spec("libtpu") is None:
        raise AheadError(
            "--compile for a TPU needs the package libtpu in an environment of its own. Make the environment by "
            "python3 -m venv tpu && tpu/bin/pip install -r requirements-tpu.txt, and run this command with "
            "tpu/bin/python."
        )
    kind, _, text = topology.partition(":")
    sides = [int(side) for side in text.split("x")]
    chips = math.prod(sides)
    for name, value in {**ENVIRONMENT, "TPU_ACCELERATOR_TYPE": f"{kind}-{chips}"}.items():
        os.environ.setdefault(name, value)
    small = {"chips_per_host_bounds": sides + [1] * (3 - len(sides))}
    try:
        described = topologies.get_topology_desc(topology, "tpu", **(small if chips < 4 else {}))
    except jax.errors.JaxRuntimeError as error:
        raise AheadError(
            f"libtpu has no slice {topology!r}: {str(error).splitlines()[0]}. Choose another number of --devices, e.g. "
            "a power of 2."
        ) from error
    return described.devices


def compile_step(build: Callable[[Mesh], Program], mesh: Mesh, machine: Machine) -> dict[str, Any]:
    """Compiles the step of `build(mesh)` for a mesh over described devices of a machine.

    Returns:
        {"seconds": the time of compilation, "fits": whether the program fits in the memory}. If it does not fit,
        "error" says why. If it does, the dict also has, in bytes on each device, "arguments", "outputs", "aliased"
        (outputs that take the place of arguments), "temporaries", "peak", and "collectives": {kind: bytes that each
        device sends in a step}.
    """
    with as_on(machine.platform):
        program = build(mesh)
        lowered = program.step.lower(program.target, program.batch, program.seed)
    began = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        kind, _, message = str(error).partition(": ")
        if kind != "RESOURCE_EXHAUSTED":
            raise
        return {"seconds": time.perf_counter() - began, "fits": False, "error": message.splitlines()[0]}
    spent = time.perf_counter() - began
    memory = compiled.memory_analysis()
    peak = memory.peak_memory_in_bytes
    if peak > machine.memory:  # the compiler for TPUs raises an error, the one for GPUs only warns
        error = f"the program needs {peak / 1e9:.1f} GB at its peak, and a device has {machine.memory / 1e9:.0f} GB"
        return {"seconds": spent, "fits": False, "error": error}
    return {
        "seconds": spent,
        "fits": True,
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "peak": peak,
        "collectives": communication.collective_bytes(compiled.as_text(), mesh.size),
    }
