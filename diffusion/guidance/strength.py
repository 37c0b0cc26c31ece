"""The strength of a guidance: a number, one for each sample, or a schedule over t; always or within an interval."""

__all__ = ["Interval", "Scale", "check_interval", "strength"]

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.schedules import left_broadcast

Scale = ArrayLike | Callable[[Array], ArrayLike]
"""The strength of a guidance: a number, one for each sample `[B]`, or a function of t."""
Interval = tuple[float, float] | None
"""(t_low, t_high), the times at which a guidance acts; None for all."""


def check_interval(interval: Interval) -> None:
    """Refuses an interval (t_low, t_high) that holds no time."""
    if interval is not None and not interval[0] <= interval[1]:
        raise ValueError(
            f"guidance interval {interval} is empty; give (t_low, t_high) with t_low <= t_high, t = 0 being the data"
        )


def strength(scale: Scale, neutral: float, interval: Interval, t: ArrayLike, x: Array) -> Array:
    """scale - neutral within the interval and exactly 0 outside it, shaped to multiply x example by example.

    Args:
        scale: a number, `[B]`, or a function of t with values of t's shape (or numbers).
        neutral: the scale that changes nothing.
        interval: (t_low, t_high), both included; None for all times.
        t: `[]`, `[B]` or `[B, F]`.
        x: `[B, ...]`.
    """
    t = jnp.asarray(t)
    value = scale(t) if callable(scale) else scale
    extra = left_broadcast(jnp.asarray(value, jnp.promote_types(x.dtype, jnp.float32)) - neutral, x)
    if interval is None:
        return extra
    return jnp.where(left_broadcast((interval[0] <= t) & (t <= interval[1]), x), extra, 0)
