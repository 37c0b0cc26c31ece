"""Examples that are pytrees of arrays, as one vector each, which is what schedules, objectives and samplers take.

Noise is drawn for each number by itself, and a loss is a mean over all numbers, so that the process of a pytree is that
of the vector of its leaves. The leaves stand in JAX's order of a pytree, those of a mapping by the order of its keys.
"""

__all__ = ["is_shape", "pack", "packed_shape", "shapes_of", "unpack"]

import math
from typing import Any

import jax
import numpy as np


def is_shape(shape: Any) -> bool:
    """Whether a value is the shape of one array, a tuple of integers; a pytree of shapes is a pytree of such tuples."""
    return isinstance(shape, tuple) and all(isinstance(side, int) for side in shape)


def shapes_of(example: Any) -> Any:
    """The shape of an array, or the pytree of the shapes of a pytree."""
    if isinstance(example, np.ndarray):  # most are, and a tree of one leaf takes as long as the rest of a small record
        return example.shape
    return jax.tree.map(lambda leaf: tuple(np.shape(leaf)), example)


def packed_shape(shape: Any) -> tuple[int, ...]:
    """The shape of an example as the engine has it: its own, or (D,) of a pytree with D numbers."""
    if is_shape(shape):
        return shape
    return (sum(math.prod(leaf) for leaf in jax.tree.leaves(shape, is_leaf=is_shape)),)


def pack(example: Any, shape: Any) -> np.ndarray:
    """One example as one array.

    Args:
        example: an array, or a pytree of arrays.
        shape: its shape, or the pytree of its shapes.

    Returns:
        The array itself, or float32 [D], the leaves one after another.

    Raises:
        ValueError: if the example is of another shape, or another pytree; both are named.
    """
    found = shapes_of(example)
    if found != shape:
        raise ValueError(f"an example is of shape {found}, expected {shape}")
    if is_shape(shape):
        return np.asarray(example)
    leaves = [np.asarray(leaf, np.float32).reshape(-1) for leaf in jax.tree.leaves(example)]
    return np.concatenate(leaves) if leaves else np.zeros(0, np.float32)


def unpack(x: Any, shape: Any) -> Any:
    """The pytrees of a batch of vectors, the inverse of `pack`.

    Args:
        x: [..., D], NumPy or JAX.
        shape: the pytree of shapes.

    Returns:
        The pytree, leaves [..., *leaf]; x itself where `shape` is one shape.
    """
    if is_shape(shape):
        return x
    shapes, structure = jax.tree.flatten(shape, is_leaf=is_shape)
    ends = np.cumsum([math.prod(leaf) for leaf in shapes]).tolist()
    parts = [x[..., end - math.prod(leaf) : end].reshape(*x.shape[:-1], *leaf) for leaf, end in zip(shapes, ends)]
    return jax.tree.unflatten(structure, parts)
