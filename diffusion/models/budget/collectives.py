"""Bytes that the devices of a mesh send each other in a train step, by formula.

A ring of n devices sends, for an array of X bytes (Thakur et al., 2005, "Optimization of collective communication
operations in MPICH", section 4), from each device:

    all-gather to X, reduce-scatter of X    (n - 1) / n X
    all-reduce of X                       2 (n - 1) / n X
    all-to-all of X on each device          (n - 1) / n X

| axis     | collectives of each micro-batch                                                                          |
|----------|----------------------------------------------------------------------------------------------------------|
| fsdp     | all-gathers of the split parameters, forward and again backward; reduce-scatter of their gradients       |
| data     | all-reduce of the gradients (the part that fsdp leaves); over sequence too                               |
| tensor   | all-reduce of a layer's two sums over heads and hidden features, and of their gradients                  |
| sequence | all-to-all of q, k, v and the output of attention, from tokens to heads and back, and of their gradients; |
|          | where heads do not divide, k and v travel from device to device, and backward with their gradients; with |
|          | another attention than "auto", all-gathers of k and v, and reduce-scatter of their gradients             |

Parameters and gradients have the compute type. With `mesh.split = "optimizer"`, whole parameters are gathered once a
step, in float32, after the update. XLA may find a cheaper collective for small arrays, or choose an all-reduce where
this counts an all-gather, as on a TPU for an axis over all of a torus.
"""

__all__ = ["Collective", "collectives", "sent"]

import math
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from diffusion.models.budget.activation_memory import BYTES
from diffusion.models.budget.flops import tokens
from diffusion.models.dit import DiT
from diffusion.models.layers import layout

FACTORS = {"all-gather": 1, "reduce-scatter": 1, "all-reduce": 2, "all-to-all": 1}


class Collective(NamedTuple):
    """The communication of each device in a step, by one kind of collective over one group of axes.

    Attributes:
        kind: a key of `FACTORS`, or "collective-permute".
        axes: names of the mesh axes whose devices form a group.
        bytes: sent by each device in a step.
    """

    kind: str
    axes: tuple[str, ...]
    bytes: float


def sent(kind: str, size: float, devices: int) -> float:
    """Returns the bytes that each of a group's devices sends for an array of `size` bytes; see the table above."""
    return FACTORS[kind] * (devices - 1) / devices * size


def collectives(
    params: Any, average: Any, mesh: Mesh, model: DiT, image_shape: tuple[int, int, int], rows: int, accumulate: int
) -> list[Collective]:
    """Returns the collectives of a train step.

    Args:
        params: pytree of the parameters' jax.ShapeDtypeStruct with shardings.
        average: the same of the moving average, which is split like the optimizer's state.
        mesh: the mesh.
        model: the network.
        image_shape: height, width and channels of one image.
        rows: examples of a step on each device, of all micro-batches.
        accumulate: micro-batches in a step.

    Returns:
        One Collective for each kind and group of axes; none for axes of one device.
    """
    bytes_by_kind: dict[tuple[str, tuple[str, ...]], float] = {}

    def add(kind, axes, size):
        axes = tuple(axis for axis in axes if mesh.shape.get(axis, 1) > 1)
        devices = math.prod(mesh.shape[axis] for axis in axes)
        if devices > 1:
            bytes_by_kind[kind, axes] = bytes_by_kind.get((kind, axes), 0.0) + sent(kind, size, devices)

    size = BYTES[model.dtype]
    parts = mesh.shape.get("fsdp", 1)
    for leaf, average_leaf in zip(jax.tree.leaves(params), jax.tree.leaves(average), strict=True):
        split = "fsdp" in leaf.sharding.spec
        split_after = "fsdp" in average_leaf.sharding.spec
        elements = math.prod(average_leaf.sharding.shard_shape(leaf.shape)) * (parts if split_after else 1)
        if split:
            add("all-gather", ("fsdp",), 2 * accumulate * size * elements)
        elif split_after:
            add("all-gather", ("fsdp",), 4 * elements)
        if split_after:
            add("reduce-scatter", ("fsdp",), accumulate * size * elements)
            add("all-reduce", ("data", "sequence"), accumulate * size * elements / parts)
        else:
            add("all-reduce", ("data", "fsdp", "sequence"), accumulate * size * elements)
    passes = 3 if model.remat == "full" else 2  # forward, backward, and forward again
    token_bytes = rows * tokens(model, image_shape) * model.width * size / mesh.shape.get("sequence", 1)
    add("all-reduce", ("tensor",), model.depth * passes * 2 * token_bytes)
    head_bytes = token_bytes / mesh.shape.get("tensor", 1)
    with layout.over(mesh):
        in_a_ring = layout.in_a_ring(model.heads)
    n = mesh.shape.get("sequence", 1)
    if not in_a_ring:
        add("all-to-all", ("sequence",), model.depth * passes * 4 * head_bytes)
    elif model.attention == "auto":  # n - 1 turns, and one more brings the gradients home, which are sums in float32
        turns = passes * (n - 1) + n * BYTES["float32"] / size
        bytes_by_kind["collective-permute", ("sequence",)] = model.depth * turns * 2 * head_bytes
    else:
        add("all-gather", ("sequence",), model.depth * passes * 2 * n * head_bytes)
        add("reduce-scatter", ("sequence",), model.depth * 2 * n * head_bytes)
    return [Collective(kind, axes, total) for (kind, axes), total in bytes_by_kind.items()]
