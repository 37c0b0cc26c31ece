"""The conditions of several branches in one batch, and the checks of their shapes."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.arguments import described, require


def joined(conditions: tuple[Any, ...]) -> Any:
    """The rows of K conditions below each other, a pytree of arrays `[K B, ...]`; errors as in `together`."""
    require(conditions, (tuple, list), "conditions", "a tuple such as (labels, null_labels)")
    if len(conditions) < 2:
        raise ValueError(f"guidance.together needs at least two conditions; got {len(conditions)}")
    if any(c is None for c in conditions):
        raise ValueError(
            "guidance.together: a condition is None. Guidance needs an explicit null condition, such as "
            "the label num_classes for every example"
        )
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(conditions)}
    if len(sizes) > 1 or () in sizes:
        shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(condition)] for condition in conditions]
        raise ValueError(
            f"guidance.together: the arrays of the {len(conditions)} conditions have the shapes {shapes}. Each needs "
            "the same batch axis, such as jnp.full(B, num_classes) for the null class of B examples"
        )
    first, *others = (jax.tree.structure(condition) for condition in conditions)
    for other in others:
        if other != first:
            raise ValueError(
                f"guidance.together: the conditions differ in structure, {first} and {other}. Valid: the same for all"
            )
    return jax.tree.map(_rows_below, *conditions)


def _rows_below(*leaves: Array) -> Array:
    """The concatenation of arrays of one shape, all of whole numbers or none."""
    leaves = tuple(map(jnp.asarray, leaves))
    integers = {jnp.issubdtype(leaf.dtype, jnp.integer) for leaf in leaves}
    if len({leaf.shape for leaf in leaves}) > 1 or len(integers) > 1:
        arrays = " and ".join(described(leaf) for leaf in leaves)
        raise ValueError(f"guidance.together: the conditions have {arrays}. Valid: one shape, and one type of numbers")
    return jnp.concatenate(leaves)


def check_rows(condition: Any, number: int, x_t: Array) -> None:
    """Refuses samples of another number than the rows of each of `number` conditions that are `joined`."""
    for leaf in jax.tree.leaves(condition):
        if len(leaf) != number * len(x_t):
            raise ValueError(
                f"guidance.together: x_t has {len(x_t)} examples, but the conditions have {len(leaf) // number}"
            )
