"""The norm of the gradient in each block of a network, which shows vanishing and exploding gradients.

Names and norms come in the same order:

    names(params)          # ["blocks/0", "blocks/1", ..., "final", "patch_embedding", ...]
    by_block(gradients)    # float32 [K], in that order
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.io.leaf_names import leaves_of

STACKS = ("blocks", "layers")  # how the names of scanned layers end: the first axis of their leaves counts the layers


def _blocks(params: Any) -> Iterator[tuple[str, list, int]]:
    """(block, its leaves, number of layers that are stacked in it or 0), sorted by name."""
    blocks: dict[str, list] = {}
    for name, leaf in leaves_of(params).items():
        blocks.setdefault(name.removeprefix("params/").partition("/")[0], []).append(leaf)
    for block, leaves in sorted(blocks.items()):
        heights = {leaf.shape[:1] for leaf in leaves}
        scanned = block.endswith(STACKS) and len(heights) == 1
        yield block, leaves, sum(heights.pop()) if scanned else 0


def names(params: Any) -> list[str]:
    """The blocks of a network: its outermost modules, and each layer of the modules that are scanned.

    Args:
        params: a pytree of arrays, or of anything with a shape.

    Returns:
        [K] names, "block" or "block/layer", in the order of `by_block`.
    """
    parts = ([f"{block}/{i}" for i in range(layers)] if layers else [block] for block, _, layers in _blocks(params))
    return [name for part in parts for name in part]


def by_block(gradients: Any) -> jax.Array:
    """The Euclidean norm of the gradient in each block; their squares add up to the whole gradient's squared norm.

    Args:
        gradients: a pytree of float arrays, of the shape of the parameters.

    Returns:
        float32 [K].
    """
    parts = [jnp.zeros([0])]  # a network without parameters has no block
    for _, leaves, layers in _blocks(gradients):
        first_axis = 1 if layers else 0
        squares = [jnp.square(leaf.astype(jnp.float32)).sum(range(first_axis, leaf.ndim)) for leaf in leaves]
        parts.append(jnp.sqrt(sum(squares)).reshape(-1))
    return jnp.concatenate(parts)
