"""The strength of a guidance: a number, one for each sample, or a function of t, at all times or in an interval."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.parameters import traced
from diffusion.schedules import NoiseSchedule, left_broadcast
from diffusion.schedules.noise_schedule import as_float

Scale = ArrayLike | Callable[[Array], ArrayLike]
"""The strength of a guidance: a number, one for each sample `[B]`, or a function of t."""
Interval = tuple[float, float] | None
"""(t_low, t_high), the times at which a guidance acts; None for all."""


class Stepwise(NamedTuple):
    """A scale with one value for each step, as a function of t. It is a pytree, so it can be a program's argument.

    Attributes:
        times: times `[N]` at which the steps begin.
        scales: scales `[N]` of the steps.
    """

    times: ArrayLike
    scales: ArrayLike

    def __call__(self, t: ArrayLike) -> Array:
        """The scale of the step whose time is nearest to t, with t's shape."""
        distance = jnp.abs(jnp.asarray(t)[..., None] - jnp.asarray(self.times))
        return jnp.asarray(self.scales)[jnp.argmin(distance, axis=-1)]


Ramp = Callable[[Array], Array]
"""t -> factor of a guidance's strength at t: 0 for none, 1 for the full strength."""


def power_cosine(power: float = 4.0) -> Ramp:
    """A ramp that grows towards the data: (1 - cos(pi (1 - t)^power)) / 2.

    Args:
        power: exponent, > 0; with a larger power the guidance grows later.

    Raises:
        ValueError: if power is not positive.

    Reference: Gao et al., "Masked Diffusion Transformer is a Strong Image Synthesizer", 2023, section 4, and the
    authors' code, whose t is smaller by one step of the discrete process.
    """
    if not traced(power) and not power > 0:
        raise ValueError(f"power_cosine: power = {power} must be positive (4 in the paper's code)")
    return lambda t: (1 - jnp.cos(jnp.pi * (1 - t) ** power)) / 2


def ramped(scale: Scale, ramp: Ramp | None) -> Scale:
    """The scale with a ramp, 1 + (scale - 1) ramp(t), or the unchanged scale if ramp is None."""
    if ramp is None:
        return scale

    def grown(t):
        value, share = jnp.asarray(scale(t) if callable(scale) else scale), jnp.asarray(ramp(t))
        most = max(value, share, key=jnp.ndim)  # a scale for each sample, and a time for each of its frames
        return 1 + (left_broadcast(value, most) - 1) * left_broadcast(share, most)

    return grown


def check_interval(interval: Interval, schedule: NoiseSchedule | None = None) -> None:
    """Refuses an interval that is no pair (t_low, t_high), or contains no time.

    Args:
        interval: (t_low, t_high), or None.
        schedule: the process, whose times an interval of a paper's sigma / alpha, or of the indices of steps, leaves;
            None where it is not known.
    """
    if interval is None:
        return
    if not (hasattr(interval, "__len__") and len(interval) == 2):
        raise ValueError(f"guidance interval {interval}. Valid: a pair (t_low, t_high), or None for all times")
    if not traced(*interval) and not interval[0] <= interval[1]:
        raise ValueError(
            f"guidance interval {interval} is empty. Valid: (t_low, t_high) with t_low <= t_high, where t = 0 is the "
            "data"
        )
    if schedule is None or traced(*interval, schedule.t_max):
        return
    last = max(schedule.t_max, 1.0)
    if interval[0] > last or last < interval[1] < math.inf:
        raise ValueError(
            f"guidance interval {interval} leaves the times of this schedule, [0, {schedule.t_max:g}]. The time of a "
            "paper's sigma / alpha is schedule.inverse_log_snr(-2 log(sigma / alpha)), and that of step i of T is "
            "(i + 1) / T"
        )


def strength(scale: Scale, neutral: float, interval: Interval, t: ArrayLike, x: Array) -> Array:
    """scale - neutral within the interval and exactly 0 outside it, shaped to multiply x example by example.

    Args:
        scale: guidance scale: a number, `[B]`, or a function of t whose values are numbers or have t's shape.
        neutral: the scale at which the guidance has no effect.
        interval: (t_low, t_high), both included; None for all times.
        t: times `[]`, `[B]` or `[B, F]`.
        x: noisy samples `[B, ...]`.

    Raises:
        ValueError: if the scale has another shape.
    """
    t = jnp.asarray(t)
    value = jnp.asarray(scale(t) if callable(scale) else scale, as_float(x).dtype)
    if value.shape != x.shape[: value.ndim]:
        raise ValueError(
            f"the scale of the guidance has the shape {value.shape}. Valid for x of shape {x.shape}: a number, one for "
            f"each sample, {x.shape[:1]}, or a function of t whose values have t's shape"
        )
    extra = left_broadcast(value - neutral, x)
    if interval is None:
        return extra
    return jnp.where(left_broadcast((interval[0] <= t) & (t <= interval[1]), x), extra, 0)
