"""Estimates the memory, operations and time of any run, from the trace of its step.

The bytes of the state are exact. The step is traced as it will run, without computing it. Its operations are counted in
the trace. Its temporary memory is the most that arrays of the trace take at once: each device holds its part of the
batch, and the gradients of its parameters. XLA needs less where it fuses operations. A DiT that its objective evaluates
once is planned by the more detailed formulas of `estimate`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from diffusion.experiments.planning.estimate import fits, local_bytes
from diffusion.experiments.planning.machines import MACHINES, Machine, product_seconds, refusal, ring_bandwidth
from diffusion.experiments.run import program as programs
from diffusion.models.budget import peak_memory
from diffusion.models.budget.counted_flops import counted_flops
from diffusion.recipe.recipe import Recipe
from diffusion.recipe.values import config_hash
from diffusion.training import sharding

CHANGES = {
    False: "--config.train.accumulate splits the batch into micro-batches, --config.model.remat recomputes activations "
    "where the network has this field, and more devices with --config.mesh.fsdp split the state",
    True: "--config.base.dtype=bfloat16 halves the base, --config.train.accumulate splits the batch into "
    "micro-batches, and more devices with --config.mesh.fsdp split the base and the state",
}  # by whether the run tunes a base


class Step(NamedTuple):
    """The step of a run on a mesh, traced as it will run.

    Attributes:
        mesh: the mesh.
        program: the program of the run.
        operations: the floating-point operations of a step, of the whole job; the mean over steps if only the second
            player is updated in some of them.
        in_fp8: the operations of a step that are products in fp8.
    """

    mesh: Mesh
    program: programs.Program
    operations: int
    in_fp8: int = 0

    @property
    def arguments(self) -> tuple:
        """The arguments of the step."""
        return self.program.target, self.program.batch, self.program.seed


def step_of(recipe: Recipe, devices: int) -> Step:
    """Returns the traced step of a run.

    Args:
        recipe: the recipe of the run, for a shape of examples.
        devices: the number of devices; this process must have as many, real or simulated.

    Raises:
        ConfigError: if the mesh does not fit the run.
    """
    mesh = programs.mesh_of(recipe.config, jax.devices()[:devices])
    planned = recipe.config.copy_and_resolve_references()
    planned.train.accumulate = recipe.config.train.accumulate or 1  # for 0 the rule would choose by the CPU here
    step = Step(mesh, programs.build(recipe.with_parts(config=planned), mesh), 0)

    def counted(in_fp8: bool) -> int:
        operations = counted_flops(step.program.jitted, *step.arguments, in_fp8=in_fp8)
        if (turns := planned.second_player.updates) > 1:
            at_rest = counted_flops(step.program.jitted, *step.arguments, branch=min, in_fp8=in_fp8)
            operations = at_rest + (operations - at_rest) // turns
        return operations

    fp8 = planned.train.products == "fp8"
    return step._replace(operations=counted(False), in_fp8=counted(True) if fp8 else 0)


def plan(recipe: Recipe, step: Step, names: Sequence[str]) -> dict[str, Any]:
    """Plans a run from its traced step.

    Args:
        recipe: the recipe of the run, for a shape of examples.
        step: the run's step on the mesh.
        names: the machines, keys of `MACHINES`.

    Returns:
        The dict of `experiments.plan.plan`, where "flops" has one entry, "step", and "memory" has "gradients", "trace"
        and, if the run tunes a base, "base".
    """
    config, mesh, program = recipe.config, step.mesh, step.program
    parts = _memory(step)
    rows = config.train.batch_size
    return {
        "config_hash": config_hash(config),
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(program.target.params)),
        "unit": recipe.unit(),
        "images": {"step": rows, "device": rows // sharding.batch_shards(mesh), "micro_batches": program.micro_batches},
        "flops": {"step": step.operations},
        "machines": {
            name: _on_machine(MACHINES[name], step, parts, config.train.dtype)
            | {"refused": refusal(MACHINES[name], config.train.products)}
            for name in names
        },
    }


def _memory(step: Step) -> dict[str, float]:
    """The bytes of each part on each device."""
    program, mesh, target = step.program, step.mesh, step.program.target
    trace = jax.make_jaxpr(program.jitted)(*step.arguments).jaxpr
    # These bytes, in addition to the step's arguments, are those of the whole batch on all devices.
    beside = max(peak_memory.peak(trace) - peak_memory.held(step.arguments), 0)
    copies = 2 if program.micro_batches > 1 else 1  # of the gradients, which a mesh splits as the parameters alone
    base = {"base": local_bytes(target.unsaved)} if program.tuned is not None else {}
    others = (target.frozen, target.second_players, None if program.tuned is not None else target.unsaved)
    return {
        "parameters": local_bytes(target.params),
        "optimizer": local_bytes(target.opt_state),
        "average": local_bytes(target.ema),
        "others": local_bytes(others),
        **base,
        "gradients": copies * local_bytes(target.params),
        "trace": max(beside - copies * peak_memory.held(target.params), 0) / sharding.batch_shards(mesh),
    }


def _sent(params: Any, mesh: Mesh) -> float:
    """The bytes of gradients and parameters that a device sends in a step over the axes that split the batch.

    The gradients of parameters that every device holds are summed, which sends twice their bytes. Parameters that fsdp
    splits are gathered twice, and their gradients scattered. What the axes tensor and sequence exchange is not counted.
    """
    group, sent = sharding.batch_shards(mesh), 0.0
    for leaf in jax.tree.leaves(params):
        split = "fsdp" in leaf.sharding.spec
        gathered = local_bytes(leaf) * (mesh.shape["fsdp"] if split else 1)
        sent += (3 if split else 2) * gathered * (group - 1) / group
    return sent


def _on_machine(machine: Machine, step: Step, parts: Mapping[str, float], dtype: str) -> dict[str, Any]:
    """The entry of a machine, whose products are of that type."""
    mesh, program = step.mesh, step.program
    base = parts.get("base", 0.0)
    state = sum(part for name, part in parts.items() if name not in ("base", "trace"))
    bandwidth = ring_bandwidth(machine, mesh.shape, sharding.BATCH_AXES)
    spent = {
        "compute": product_seconds(machine, step.operations / mesh.size, dtype, step.in_fp8 / mesh.size),
        "memory": (2 * state + 3 * base + 2 * parts["trace"]) / machine.bandwidth,
        "network": _sent(program.target.params, mesh) / bandwidth,
    }
    overlapped = max(spent.values())
    in_turn = sum(spent.values())
    ideal = step.operations / mesh.size / machine.flops
    share = {"mfu_overlapped": ideal / overlapped, "mfu_in_turn": ideal / in_turn}
    fit = fits(parts, machine)
    return {
        "platform": machine.platform,
        "attention": "as traced here",
        "memory": dict(parts),
        "hbm_bytes": machine.memory,
        "collectives": [],
        "seconds": spent | {"overlapped": overlapped, "in_turn": in_turn} | share,
        "fits": fit,
        "change": None if fit else CHANGES[program.tuned is not None],
        "compiled": None,
    }
