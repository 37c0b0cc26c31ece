"""What a run that tunes a text-to-image model needs: the exact bytes of base and new weights, the rest from its trace.

The step is traced as it will run, and not computed: its operations are counted in the trace, and its temporary memory
is the most that arrays of the trace take at once. XLA fuses operations, and then needs less.
"""

__all__ = ["plan"]

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffusion.experiments.config import checks
from diffusion.experiments.config.values import config_hash
from diffusion.experiments.planning.estimate import fits, local_bytes
from diffusion.experiments.planning.machines import MACHINES, Machine, ring_bandwidth
from diffusion.experiments.run import program as programs, tuned_examples
from diffusion.models.budget import peak_memory
from diffusion.models.budget.counted_flops import counted_flops
from diffusion.training import sharding

CHANGE = (
    "--config.base.dtype=bfloat16 halves the base, --config.train.accumulate cuts the batch, and more devices with "
    "--config.mesh.fsdp split both"
)


def plan(config: ConfigDict, devices: int, names: Sequence[str]) -> dict[str, Any]:
    """Returns everything that is known of a tuned run before it is started.

    Args:
        config: the config, complete; the base's folder and the pictures are there.
        devices: the number of devices; this process must have as many, real or simulated.
        names: keys of `MACHINES`.

    Returns:
        As `experiments.plan.plan`, where "memory" has an entry "base", and "flops" one, "step".

    Raises:
        ConfigError: if the config is not valid, or the pictures do not fit it.
    """
    recipe = checks.validate(config)
    recipe = checks.with_data(recipe, tuned_examples.pictures(recipe).spec)
    mesh = programs.mesh_of(config, jax.devices()[:devices])
    program = programs.build(recipe, mesh)
    arguments = (program.target, program.batch, program.seed)
    parts = _memory(program, arguments, mesh)
    operations = counted_flops(program.step, *arguments)
    rows = config.train.batch_size
    return {
        "config_hash": config_hash(config),
        "devices": devices,
        "mesh": dict(mesh.shape),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(program.target.params)),
        "images": {"step": rows, "device": rows // sharding.batch_shards(mesh), "micro_batches": program.micro_batches},
        "flops": {"step": operations},
        "machines": {name: _on_machine(MACHINES[name], parts, operations, mesh) for name in names},
    }


def _memory(program: programs.Program, arguments: tuple, mesh: Mesh) -> dict[str, float]:
    """The bytes of each part on each device."""
    target = program.target
    trace = jax.make_jaxpr(program.step)(*arguments).jaxpr
    # What a step holds beside what it is given, of the whole batch and of all devices; a mesh cuts the batch.
    beside = max(peak_memory.peak(trace) - peak_memory.held(arguments), 0)
    parameters = local_bytes(target.params)
    return {
        "parameters": parameters,
        "optimizer": local_bytes(target.opt_state),
        "average": local_bytes(target.ema),
        "base": local_bytes(target.unsaved),
        "trace": beside / sharding.batch_shards(mesh),
    }


def _on_machine(machine: Machine, parts: Mapping[str, float], operations: float, mesh: Mesh) -> dict[str, Any]:
    """The entry of a machine."""
    group = sharding.batch_shards(mesh)
    state = sum(part for name, part in parts.items() if name not in ("base", "trace"))
    sent = 2 * parts["parameters"] * (group - 1) / group
    spent = {
        "compute": operations / mesh.size / machine.flops,
        "memory": (2 * state + 3 * parts["base"] + 2 * parts["trace"]) / machine.bandwidth,
        "network": sent / ring_bandwidth(machine, mesh.shape, sharding.BATCH_AXES) if group > 1 else 0.0,
    }
    overlapped = max(spent.values())
    in_turn = sum(spent.values())
    share = {"mfu_overlapped": spent["compute"] / overlapped, "mfu_in_turn": spent["compute"] / in_turn}
    fit = fits(parts, machine)
    return {
        "platform": machine.platform,
        "attention": "as traced here",
        "memory": dict(parts),
        "hbm_bytes": machine.memory,
        "collectives": [],
        "seconds": spent | {"overlapped": overlapped, "in_turn": in_turn} | share,
        "fits": fit,
        "change": None if fit else CHANGE,
        "compiled": None,
    }
