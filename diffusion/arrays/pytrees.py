"""Pytrees of arrays as x: the vector of their numbers, which is what schedules, objectives and samplers take.

Noise is drawn for each number by itself, and a loss is a mean over all numbers, so that the process of a pytree is
the process of the vector of its leaves. The leaves stand in JAX's order of a pytree: a mapping's in the order of its
keys.

    x = pytrees.pack({"positions": positions, "types": types})         # [B, D]
    network = pytrees.vector_network(network, {"positions": (N, 3), "types": (N, K)})
    made = pytrees.unpack(samplers.sample(...), shape)

A mask of what is real also has the shape `[B, D]`; `mask` makes it of one mask for all leaves, or of one for each.
"""

__all__ = [
    "is_shape",
    "leaves_and_clocks",
    "mask",
    "pack",
    "packed_shape",
    "real_of",
    "shapes_of",
    "sizes_of",
    "unpack",
    "vector_network",
]

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.arrays.arguments import described
from diffusion.arrays.broadcasting import flattened
from diffusion.package import public


def is_shape(shape: Any) -> bool:
    """Whether a value is the shape of one array, a tuple of integers; a pytree of shapes is a pytree of such tuples."""
    return isinstance(shape, tuple) and all(isinstance(side, int) for side in shape)


def shapes_of(example: Any) -> Any:
    """The shape of an array, or the pytree of the shapes of a pytree."""
    if isinstance(example, np.ndarray):  # most are, and a tree of one leaf takes as long as the rest of a small record
        return example.shape
    return jax.tree.map(lambda leaf: tuple(np.shape(leaf)), example)


def sizes_of(shape: Any) -> tuple[int, ...]:
    """The number of values in each leaf of an example.

    Args:
        shape: the pytree of the leaves' shapes, {"position": (3,), "image": (8, 8, 1)}; or one shape.

    Returns:
        One number for each leaf, in the order of `jax.tree.leaves`: (64, 3) for this example, "image" first.
    """
    leaves = jax.tree.leaves(shape, is_leaf=is_shape)
    for leaf in leaves:
        if not is_shape(leaf):
            raise TypeError(
                f"each leaf must be the shape of an array without the batch, a tuple such as (3,); got "
                f"{described(leaf)}. Valid: pytrees.shapes_of(example)"
            )
    return tuple(map(math.prod, leaves))


def packed_shape(shape: Any) -> tuple[int, ...]:
    """The shape of an example as the engine has it: its own, or (D,) of a pytree with D numbers."""
    return shape if is_shape(shape) else (sum(sizes_of(shape)),)


def pack(x: Any) -> Array:
    """The vectors `[B, D]` of a batch of pytrees, leaves `[B, ...]`."""
    return jnp.concatenate([flattened(leaf) for leaf in jax.tree.leaves(x)], axis=1)


def unpack(x: Any, shape: Any) -> Any:
    """The pytrees of a batch of vectors, the inverse of `pack`.

    Args:
        x: [..., D], NumPy or JAX.
        shape: the pytree of shapes, without the batch.

    Returns:
        The pytree, leaves [..., *leaf]; x itself where `shape` is one shape.
    """
    if is_shape(shape):
        return x
    shapes, structure = jax.tree.flatten(shape, is_leaf=is_shape)
    ends = np.cumsum(sizes_of(shape)).tolist()
    parts = [x[..., end - math.prod(leaf) : end].reshape(*x.shape[:-1], *leaf) for leaf, end in zip(shapes, ends)]
    return jax.tree.unflatten(structure, parts)


def mask(real: Any, shape: Any) -> Array:
    """The mask `[B, D]` of the numbers that are real, from masks of elements.

    Args:
        real: Bool `[B, ...]`, a prefix of every leaf's shape (`[B, N]` of leaves `[B, N, 3]` and `[B, N, K]`), or a
            pytree of masks, one for each leaf.
        shape: the pytree of shapes, without the batch.

    Raises:
        ValueError: for a mask that is no prefix of its leaf, or another pytree of masks.
    """
    shapes, structure = jax.tree.flatten(shape, is_leaf=is_shape)
    masks, given = jax.tree.flatten(real)
    if given != structure:
        if len(masks) != 1:
            raise ValueError(
                f"the masks have the structure {given}, but the leaves {structure}; give one mask for all leaves, or "
                "one for each"
            )
        masks = masks * len(shapes)
    parts = []
    for one, leaf in zip(masks, shapes):
        rest = leaf[one.ndim - 1 :]
        if one.shape[1:] != leaf[: one.ndim - 1]:
            raise ValueError(f"the shape of a mask, {one.shape[1:]}, is not a prefix of the shape of its leaf, {leaf}")
        leaf_mask = jnp.broadcast_to(jnp.reshape(one, one.shape + (1,) * len(rest)), (len(one), *leaf))
        parts.append(flattened(leaf_mask))
    return jnp.concatenate(parts, axis=1)


def real_of(condition: Any, shape: Any) -> Array | None:
    """The mask of x, which is the entry "real" of a condition; None where the condition has no such entry.

    Args:
        condition: the condition of a batch.
        shape: shape of an example, or the pytree of its leaves' shapes; the mask is then `[B, D]`, as in `mask`.

    Raises:
        TypeError: for an entry that is not of Bool.
    """
    if not (isinstance(condition, Mapping) and "real" in condition):
        return None
    for leaf in jax.tree.leaves(condition["real"]):
        if not (hasattr(leaf, "dtype") and leaf.dtype == bool):
            raise TypeError(
                'the entry "real" of a condition must be the mask of what is not padding in x, a Bool array; got '
                f"{getattr(leaf, 'dtype', type(leaf).__name__)}. If it is no mask, give it another name"
            )
    return condition["real"] if is_shape(shape) else mask(condition["real"], shape)


def vector_network(network: Callable[..., Any], shape: Any) -> Callable[..., Any]:
    """A network of pytrees as one of vectors, which denoisers and objectives call.

    Args:
        network: (x, clock, condition) -> output, pytrees of one structure. The clock is `[B]`, or, where each leaf has
            its own time (`schedules.per_leaf`), the pytree of the leaves' clocks, `[B]` each.
        shape: the pytree of shapes, without the batch.

    Returns:
        (x `[B, D]`, clock `[B]` or `[B, D]`, condition) -> output `[B, D]`; with `features`: (output, features).

    Raises:
        ValueError: when called, if the network returns another pytree than it receives.
    """

    def vector_network(x: Array, clock: Any, condition: Any, **features: Any) -> Any:
        output = network(*leaves_and_clocks(x, clock, shape), condition, **features)
        hidden: Any = None
        if features:
            output, hidden = output
        shapes = jax.tree.map(lambda leaf: tuple(leaf.shape[1:]), output)
        if shapes != shape:
            raise ValueError(
                f"the network returns {shapes} for an input of {shape}: both must have the same structure and shapes"
            )
        return (pack(output), hidden) if features else pack(output)

    return vector_network


def leaves_and_clocks(x: Array, clock: Any, shape: Any) -> tuple[Any, Any]:
    """The pytrees that a network receives for x `[B, D]` and a clock, or a tuple of two clocks."""
    starts = np.cumsum([0, *sizes_of(shape)[:-1]])
    structure = jax.tree.structure(shape, is_leaf=is_shape)
    by_leaf = lambda clock: clock if jnp.ndim(clock) < 2 else structure.unflatten([clock[:, start] for start in starts])
    return unpack(x, shape), tuple(map(by_leaf, clock)) if isinstance(clock, tuple) else by_leaf(clock)


public.declare(__name__, renamed={"of_leaves": "vector_network"})
