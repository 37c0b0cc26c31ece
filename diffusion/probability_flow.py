"""The probability flow in the angle theta = atan2(sigma, alpha), the variable in which it is smooth at both ends.

The scaled sample u = x / sqrt(alpha^2 + sigma^2) = cos(theta) x0 + sin(theta) eps obeys

    du/dtheta = cos(theta) eps(x, t) - sin(theta) x0(x, t),

in which no coefficient is infinite at either end (in t, sigma' is, at t = 0, where sigma grows as sqrt(t)) and no
derivative of the schedule appears, so that one solver serves every schedule at its full order.
"""

__all__ = ["angle", "radius", "time", "velocity"]

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion import public
from diffusion.parameterizations import Denoiser, checked
from diffusion.schedules import NoiseSchedule, left_broadcast


def angle(schedule: NoiseSchedule, t: ArrayLike) -> Array:
    """theta = atan2(sigma, alpha), from 0 at the data to pi / 2 where alpha = 0."""
    return jnp.arctan2(schedule.sigma(t), schedule.alpha(t))


def radius(schedule: NoiseSchedule, t: ArrayLike) -> Array:
    """sqrt(alpha^2 + sigma^2), by which x is divided."""
    return jnp.hypot(schedule.alpha(t), schedule.sigma(t))


def time(schedule: NoiseSchedule, theta: Array) -> Array:
    """The time at which atan2(sigma, alpha) = theta, kept in the schedule's range against rounding."""
    cos = jnp.maximum(jnp.cos(theta), 0)  # in float32, pi/2 lies beyond the right angle
    log_snr = 2 * (jnp.log(cos) - jnp.log(jnp.sin(theta)))
    return jnp.clip(schedule.inverse_log_snr(log_snr), schedule.t_min, schedule.t_max)


def velocity(denoise: Denoiser, schedule: NoiseSchedule) -> Callable[[Array, Array], Array]:
    """(theta `[]` or `[B]`, u `[B, ...]`) -> du/dtheta `[B, ...]`; the denoiser is called with t `[B]`."""

    def slope(theta, u):
        theta = jnp.broadcast_to(theta, u.shape[:1])
        t = time(schedule, theta)
        r, cos, sin = (left_broadcast(a, u) for a in (radius(schedule, t), jnp.cos(theta), jnp.sin(theta)))
        prediction = checked(denoise)(r * u, t)
        return cos * prediction.eps - sin * prediction.x0

    return slope


public.declare(__name__)
