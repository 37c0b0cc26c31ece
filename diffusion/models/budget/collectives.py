"""Bytes that the devices of a mesh send each other in a train step, by formula.

A ring of n devices sends, for an array of X bytes (Thakur et al., 2005, "Optimization of collective communication
operations in MPICH", section 4), from each device:

    all-gather to X, reduce-scatter of X    (n - 1) / n X
    all-reduce of X                       2 (n - 1) / n X
    all-to-all of X on each device          (n - 1) / n X

| axis     | collectives of each micro-batch                                                                          |
|----------|----------------------------------------------------------------------------------------------------------|
| fsdp     | all-gathers of the split parameters, forward and again backward; reduce-scatter of their gradients;      |
|          | where the group has fewer examples than a modulation has inputs, its outputs are summed and their        |
|          | gradients gathered, in place of its kernel                                                               |
| data     | all-reduce of the gradients (the part that fsdp leaves); over sequence too                               |
| tensor   | all-reduce of a layer's two sums over heads and hidden features, and of their gradients                  |
| sequence | all-to-all of q, k, v and the output of attention, from tokens to heads and back, and of their gradients; |
|          | where heads do not divide, k and v travel from device to device, and backward with their gradients; with |
|          | another attention than "auto", all-gathers of k and v, and reduce-scatter of their gradients             |

Parameters and gradients have the compute type. With `mesh.split = "optimizer"`, whole parameters are gathered once a
step, in float32, after the update.

XLA for TPU, whose devices form a torus, differs in four ways, seen in compiled steps of DiT on 64 v5p:

| where                              | in place of                          | it sends                                |
|------------------------------------|--------------------------------------|-----------------------------------------|
| fsdp is the whole torus            | all-gather and reduce-scatter        | all-reduce, twice the bytes             |
| fsdp is a part of the torus        | reduce-scatter of attention's over   | all-reduce                              |
|                                    | one ring, or in parts of tiles       |                                         |
|                                    | reduce-scatter of other gradients    | their tiles, of 16 rows                 |
|                                    | sums of less than 8 rows a device    | all-reduce                              |
|                                    | two gathers of q, k and v's kernel   | three, if layers are computed again     |
| tensor beside more than a ring     | half of the gathers, and the scatter | permutes beside the products (windows)  |
| each collective, but these windows | collectives beside kernels           | collectives while no kernel runs        |
"""

import math
import re
from typing import Any, NamedTuple

from jax.sharding import Mesh

from diffusion.io.leaf_names import leaves_of
from diffusion.models.budget.activation_memory import BYTES
from diffusion.models.budget.flops import tokens
from diffusion.models.dit import DiT
from diffusion.models.layers import layout

FACTORS = {"all-gather": 1, "reduce-scatter": 1, "all-reduce": 2, "all-to-all": 1, "collective-permute": 1}
ROWS, TILE = 8, 16  # a TPU's tiles have 8 rows of float32, or 16 of bfloat16


class Collective(NamedTuple):
    """The communication of each device in a step, by one kind of collective over one group of axes.

    Attributes:
        kind: a key of `FACTORS`, or "collective-permute".
        axes: names of the mesh axes whose devices form a group.
        bytes: sent by each device in a step.
        overlapped: whether XLA starts it early, so that kernels run beside it.
    """

    kind: str
    axes: tuple[str, ...]
    bytes: float
    overlapped: bool


def sent(kind: str, size: float, devices: int) -> float:
    """Returns the bytes that each of a group's devices sends for an array of `size` bytes; see the table above."""
    return FACTORS[kind] * (devices - 1) / devices * size


def collectives(
    params: Any,
    average: Any,
    mesh: Mesh,
    model: DiT,
    image_shape: tuple[int, int, int],
    rows: int,
    accumulate: int,
    torus: int = 0,
) -> list[Collective]:
    """Returns the collectives of a train step.

    Args:
        params: pytree of the parameters' jax.ShapeDtypeStruct with shardings.
        average: the pytree of the moving average, likewise; it is split like the optimizer's state.
        mesh: the mesh.
        model: the network.
        image_shape: height, width and channels of one image.
        rows: examples of a step on each device, of all micro-batches.
        accumulate: micro-batches in a step.
        torus: dimensions of the torus that the devices form, as TPUs do; 0 for none. See the second table above.

    Returns:
        One Collective for each kind and group of axes; none for axes of one device.
    """
    bytes_by_kind: dict[tuple[str, tuple[str, ...]], float] = {}

    def add(kind, axes, size):
        axes = tuple(axis for axis in axes if mesh.shape.get(axis, 1) > 1)
        devices = math.prod(mesh.shape[axis] for axis in axes)
        if torus and devices == mesh.size and kind in ("all-gather", "reduce-scatter"):
            kind = "all-reduce"
        if devices > 1:
            bytes_by_kind[kind, axes] = bytes_by_kind.get((kind, axes), 0.0) + sent(kind, size, devices)

    size = BYTES[model.dtype]
    parts = mesh.shape.get("fsdp", 1)
    plane = torus > 0 and parts < mesh.size
    ring = plane and parts**torus <= mesh.size
    windowed = plane and not ring and mesh.shape.get("tensor", 1) > 1
    again = model.remat == "full"
    averages = leaves_of(average)
    for name, leaf in leaves_of(params).items():
        split = "fsdp" in leaf.sharding.spec
        split_after = "fsdp" in averages[name].sharding.spec
        elements = math.prod(averages[name].sharding.shard_shape(leaf.shape)) * (parts if split_after else 1)
        gathered = accumulate * size * elements
        modulates = name.endswith("modulation/dense/kernel")
        if split and modulates and rows * parts / accumulate < leaf.shape[-3]:
            outputs = size * elements / leaf.shape[-3] * rows * parts
            few = plane and rows / accumulate < ROWS
            add("all-reduce" if few else "reduce-scatter", ("fsdp",), outputs * (2 if again else 1))
            add("all-gather", ("fsdp",), outputs)
            add("all-reduce", ("data",), gathered / parts)
            continue
        if split:
            add("all-gather", ("fsdp",), gathered)
            add("collective-permute" if windowed else "all-gather", ("fsdp",), gathered)
            if plane and again and name.endswith("attention/qkv/kernel"):
                add("all-gather", ("fsdp",), gathered)
        elif split_after:
            add("all-gather", ("fsdp",), 4 * elements)
        if not split_after:
            add("all-reduce", ("data", "fsdp", "sequence"), gathered)
            continue
        if windowed:
            add("collective-permute", ("fsdp",), gathered)
        else:
            padded = _padded(leaf) if plane and split else 1.0
            summed = re.search(r"attention/\w+/kernel$", name) and (ring or padded > 1)
            add("all-reduce" if summed else "reduce-scatter", ("fsdp",), gathered * (1.0 if summed else padded))
        add("all-reduce", ("data", "sequence"), gathered / parts)
    passes = 3 if again else 2  # forward, backward, and forward again
    token_bytes = rows * tokens(model, image_shape) * model.width * size / mesh.shape.get("sequence", 1)
    add("all-reduce", ("tensor",), model.depth * passes * 2 * token_bytes)
    head_bytes = token_bytes / mesh.shape.get("tensor", 1)
    with layout.over(mesh):
        in_a_ring = layout.in_a_ring(model.heads)
    n = mesh.shape.get("sequence", 1)
    if not in_a_ring:
        turns = 2 if model.remat == "none" else 3  # policies keep products, and no array that changed its side
        add("all-to-all", ("sequence",), model.depth * turns * 4 * head_bytes)
    elif model.attention == "auto":  # n - 1 turns, and one more brings the gradients home, which are sums in float32
        turns = passes * (n - 1) + n * BYTES["float32"] / size
        bytes_by_kind["collective-permute", ("sequence",)] = model.depth * turns * 2 * head_bytes
    else:
        add("all-gather", ("sequence",), model.depth * passes * 2 * n * head_bytes)
        add("reduce-scatter", ("sequence",), model.depth * 2 * n * head_bytes)
    early = ("collective-permute",) if torus else ("all-gather", "reduce-scatter", "collective-permute")
    return [Collective(kind, axes, total, kind in early) for (kind, axes), total in bytes_by_kind.items()]


def _padded(leaf: Any) -> float:
    """The part of a TPU's tiles over fsdp in a parameter's gradient, as a multiple of the gradient."""
    axis = leaf.sharding.spec.index("fsdp")
    part = leaf.sharding.shard_shape(leaf.shape)[axis]
    return math.ceil(part / TILE) * TILE / part
