"""The inverse of a decreasing function of time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def bisect(decreasing: Callable[[Array], Array], target: Array, steps: ArrayLike) -> tuple[Array, Array]:
    """Returns the ends of an interval of times in [0, 1] between which a decreasing function passes its target.

    It carries no derivatives; one Newton step from it does.

    Args:
        decreasing: t, float of any shape -> float of the same shape.
        target: float of any shape, in the range of the function.
        steps: halvings of [0, 1].

    Returns:
        (low, high), each of the target's shape, high - low = 2^-steps.
    """

    def halve(_, interval):
        low, high = interval
        middle = (low + high) / 2
        above = decreasing(middle) > target
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    unit = (jnp.zeros_like(target), jnp.ones_like(target))
    return jax.lax.stop_gradient(jax.lax.fori_loop(0, steps, halve, unit))
