"""The inverse of a decreasing function of time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def bisect(decreasing: Callable[[Array], Array], target: Array, steps: ArrayLike) -> tuple[Array, Array]:
    """Returns the ends of a short interval of times in [0, 1] in which a decreasing function passes its target.

    The result carries no derivatives; a Newton step from there adds them.

    Args:
        decreasing: elementwise decreasing function of t, float of any shape -> float of the same shape.
        target: values to reach, float of any shape, in the range of the function.
        steps: number of halvings of [0, 1], >= 0.

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


def in_unit(t: Array) -> Array:
    """t, and 0 and 1 beyond them; the derivative at 0 and 1 is 1, where that of `jnp.clip` is a half."""
    return jnp.where(t > 1, 1.0, jnp.where(t < 0, 0.0, t)).astype(t.dtype)
