"""Estimates the memory, operations, collectives and time of a run per device, from its config.

The bytes of the state are exact, as they follow from the shapes and shardings that the run itself uses. All other
figures are estimates by the formulas of `diffusion.models.budget`, which hold for a step that evaluates the model once,
forward and backward. `traced` plans every other step.
"""

import contextlib
import math
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple
from unittest import mock

import jax
from jax.sharding import Mesh

from diffusion.experiments.planning.machines import USABLE, Machine, Passes, product_seconds, ring_bandwidth
from diffusion.models.budget import activation_memory, collectives as collective_formulas
from diffusion.models.budget.flops import hidden, recomputed_flops, tokens, train_flops
from diffusion.models.dit import DiT
from diffusion.models.layers import attention
from diffusion.training.state import TrainState


class Work(NamedTuple):
    """The part of a run that its bytes and operations are counted from."""

    model: DiT
    shape: tuple[int, int, int]  # height, width and channels of one image
    target: TrainState  # leaves are jax.ShapeDtypeStruct with shardings
    mesh: Mesh  # mesh of these shardings
    batch_size: int  # images in a step of the whole job
    accumulate: int  # micro-batches in a step
    in_fp8: float = 0.0  # share of the operations that are products in fp8

    @property
    def rows(self) -> int:
        """Images on each device in a step, of all micro-batches."""
        return self.batch_size // (self.mesh.shape.get("data", 1) * self.mesh.shape.get("fsdp", 1))


def as_on(platform: str) -> contextlib.AbstractContextManager:
    """A context in which `jax.default_backend()` returns a platform, as some networks choose their kernels by it."""
    return mock.patch.object(jax, "default_backend", lambda: platform)


def local_bytes(tree: Any) -> int:
    """The bytes on each device of a pytree of jax.ShapeDtypeStruct with shardings."""
    shard = lambda leaf: math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    return sum(map(shard, jax.tree.leaves(tree)))


def attention_name(model: DiT, shape: tuple[int, int, int], platform: str) -> str:
    """The implementation of attention that a DiT uses for such examples on a platform, without a forward derivative."""
    if model.attention not in ("auto", "auto_jvp"):
        return model.attention.removesuffix("_jvp")
    head = model.width // model.heads
    with as_on(platform):
        return attention.choice(jax.ShapeDtypeStruct((1, tokens(model, shape), model.heads, head), model.dtype))


def _parameters_are_split(work: Work) -> bool:
    """Whether fsdp splits parameters, which are then gathered to be used."""
    return any("fsdp" in leaf.sharding.spec for leaf in jax.tree.leaves(work.target.params))


def memory_by_part(work: Work, platform: str) -> dict[str, float]:
    """Returns the most bytes that each part of a step holds on each device of a platform ("gpu", "tpu" or "cpu").

    The bytes of the first four parts are exact, those of the others are estimates:

        parameters, optimizer, average    the state of training
        others                            parameters of a teacher, an encoder and a second player, and the state of the
                                          second player's optimizer
        activations                       arrays that a micro-batch keeps for its backward pass
        gradients                         gradients in float32, split as the parameters; twice if micro-batches are
                                          summed
        copies                            parameters in the compute type
        layer                             a layer's gathered parameters and their gradients, in the compute type
        working                           arrays of one layer: recomputed activations, or cotangents
    """
    model = work.model
    mesh = work.mesh.shape
    size = activation_memory.BYTES[model.dtype]
    parameters = local_bytes(work.target.params)
    name = attention_name(model, work.shape, platform)
    splits = (mesh.get("sequence", 1), mesh.get("tensor", 1))
    rows = work.rows // work.accumulate
    gathered = _parameters_are_split(work)
    layer = parameters * (mesh.get("fsdp", 1) if gathered else 1) * size // 4 / model.depth
    return {
        "parameters": parameters,
        "optimizer": local_bytes(work.target.opt_state),
        "average": local_bytes(work.target.ema),
        "others": local_bytes((work.target.frozen, work.target.second_players, work.target.unsaved)),
        "activations": rows * activation_memory.kept_bytes(model, work.shape, name, *splits),
        "gradients": parameters * (2 if work.accumulate > 1 else 1),
        "copies": parameters // 2 if size == 2 else 0,
        "layer": layer * (2 if gathered else 1),
        "working": rows * activation_memory.layer_bytes(model, work.shape, name, "none", *splits),
    }


EXACT = ("parameters", "optimizer", "average", "others")
TEMPORARY = ("gradients", "copies", "layer", "working")


def operations(work: Work) -> dict[str, float]:
    """Returns the operations of a step of the whole job: {"model", "recomputed": those of rematerialisation}."""
    return {
        "model": work.batch_size * train_flops(work.model, work.shape),
        "recomputed": work.batch_size * recomputed_flops(work.model, work.shape),
    }


def collectives(work: Work, machine: Machine) -> list[collective_formulas.Collective]:
    """Returns the collectives of a step, each with the bytes that a device sends."""
    return collective_formulas.collectives(
        work.target.params,
        work.target.ema,
        work.mesh,
        work.model,
        work.shape,
        work.rows,
        work.accumulate,
        torus=machine.torus,
    )


def passed(work: Work, machine: Machine) -> Passes:
    """Returns the bytes of each kind of array that a device makes passes over, see `Passes`."""
    model, mesh = work.model, work.mesh.shape
    size = activation_memory.BYTES[model.dtype]
    n = tokens(model, work.shape)
    sequence, tensor = mesh.get("sequence", 1), mesh.get("tensor", 1)
    parts = memory_by_part(work, machine.platform)
    fused = attention_name(model, work.shape, machine.platform) in ("cudnn", "splash")
    kernels = model.width * (4 * model.width + (3 if model.mlp == "swiglu" else 2) * hidden(model))
    kinds = {(collective.kind, collective.axes): collective.bytes for collective in collectives(work, machine)}
    token_bytes = size * model.depth * work.rows * n * model.width / sequence
    return Passes(
        state=sum(parts[name] for name in EXACT),
        weights=work.accumulate * size * model.depth * kernels / tensor,
        tokens=token_bytes,
        scores=0.0 if fused else 4 * model.depth * work.rows * model.heads * n * n / (sequence * tensor),
        exchanged=kinds.get(("all-to-all", ("sequence",)), 0.0),
        windows=token_bytes if ("collective-permute", ("fsdp",)) in kinds else 0.0,
    )


def seconds(work: Work, machine: Machine) -> dict[str, float]:
    """Returns the seconds of a step as XLA compiles it, if each kernel runs at the peaks of the data sheet.

    Products run in turn with passes over arrays ("memory"). Collectives that XLA starts early run, at best, at the same
    time as both. All other collectives run in turn with them. A real step takes longer, as no program reaches the
    peaks. The model's utilisation (MFU) is model FLOPs / (seconds x devices x peak), where the peak is that of bfloat16
    for every compute type.

    Returns:
        {"compute", "memory", "network": the seconds of each; "exposed": the seconds of the collectives during which no
        kernel runs; "overlapped": the seconds of the step if early collectives cost nothing while kernels run;
        "in_turn": the seconds of the step if collectives and kernels never run at the same time; "mfu_overlapped",
        "mfu_in_turn": the utilisation in these two cases}.
    """
    needed = operations(work)
    operated = sum(needed.values()) / work.mesh.size
    early = {True: 0.0, False: 0.0}
    for collective in collectives(work, machine):
        early[collective.overlapped] += collective.bytes / ring_bandwidth(machine, work.mesh.shape, collective.axes)
    by_resource = {
        "compute": product_seconds(machine, operated, work.model.dtype, work.in_fp8 * operated),
        "memory": sum(map(operator.mul, passed(work, machine), machine.passes)) / machine.bandwidth,
        "network": sum(early.values()),
        "exposed": early[False],
    }
    kernels = by_resource["compute"] + by_resource["memory"]
    ideal = needed["model"] / work.mesh.size / machine.flops
    overlapped = max(kernels, early[True]) + early[False]
    in_turn = kernels + by_resource["network"]
    return by_resource | {
        "overlapped": overlapped,
        "in_turn": in_turn,
        "mfu_overlapped": ideal / overlapped,
        "mfu_in_turn": ideal / in_turn,
    }


def fits(parts: Mapping[str, float], machine: Machine) -> bool:
    """Whether the parts leave a tenth of a machine's memory free, see `machines.USABLE`."""
    return sum(parts.values()) <= USABLE * machine.memory
