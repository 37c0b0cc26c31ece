"""Packs records that are pytrees of arrays into one vector each; `diffusion.pytrees` packs batches."""

from typing import Any

import jax
import numpy as np

from diffusion.arrays.pytrees import is_shape, shapes_of


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
    example_shape = shapes_of(example)
    if example_shape != shape:
        raise ValueError(f"the example has the shape {example_shape}; expected {shape}")
    if is_shape(shape):
        return np.asarray(example)
    leaves = [np.asarray(leaf, np.float32).reshape(-1) for leaf in jax.tree.leaves(example)]
    return np.concatenate(leaves) if leaves else np.zeros(0, np.float32)
