"""The probability flow in the angle theta = atan2(sigma, alpha), the variable in which it is smooth at both ends.

The scaled sample u = x / sqrt(alpha^2 + sigma^2) = cos(theta) x0 + sin(theta) eps obeys

    du/dtheta = cos(theta) eps(x, t) - sin(theta) x0(x, t),

in which no coefficient is infinite at either end and no derivative of the schedule appears, so that a solver has its
full order for every schedule. (In t, sigma' is infinite at t = 0 if sigma grows as sqrt(t).)
"""

__all__ = ["angle", "radius", "time", "velocity"]

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusion.package import public
from diffusion.parameterizations import Denoiser, checked
from diffusion.parameterizations.sampled_process import check_process
from diffusion.schedules import NoiseSchedule, at_each, left_broadcast
from diffusion.schedules.bisection import bisect

HALVINGS = 40  # halvings of [0, 1], beyond the digits of float32 near the data
NEAR = 1e-6  # distance from an end, as a share of t_max, at which slopes that are infinite at the end are compared


def angle(schedule: NoiseSchedule, t: ArrayLike) -> Array:
    """theta = atan2(sigma, alpha), from 0 at the data to pi / 2 where alpha = 0; the mean of the leaves' angles."""
    if schedule.leaves:
        return jnp.stack([angle(leaf, t) for _, leaf in schedule.leaves]).mean(axis=0)
    return jnp.arctan2(schedule.sigma(t), schedule.alpha(t))


def radius(schedule: NoiseSchedule, t: ArrayLike) -> Array:
    """sqrt(alpha^2 + sigma^2), by which x is divided."""
    return jnp.hypot(schedule.alpha(t), schedule.sigma(t))


def time(schedule: NoiseSchedule, theta: Array) -> Array:
    """The time at which atan2(sigma, alpha) = theta, clipped to the schedule's range against rounding."""
    if schedule.leaves:
        low, high = bisect(lambda t: -angle(schedule, t), -theta, HALVINGS)
        return jnp.clip((low + high) / 2, schedule.t_min, schedule.t_max)
    cos = jnp.maximum(jnp.cos(theta), 0)  # in float32, pi/2 is slightly more than the right angle
    log_snr = 2 * (jnp.log(cos) - jnp.log(jnp.sin(theta)))
    return jnp.clip(schedule.inverse_log_snr(log_snr), schedule.t_min, schedule.t_max)


def velocity(denoise: Denoiser, schedule: NoiseSchedule) -> Callable[[Array, Array], Array]:
    """The right-hand side of the probability flow in the angle theta = atan2(sigma, alpha).

        du/dtheta = cos(theta) eps(r u, t) - sin(theta) x0(r u, t),    u = x / r,    r = sqrt(alpha^2 + sigma^2)

    If leaves have a schedule each, theta is the mean of their L angles, and leaf l moves by

        du_l/dtheta = dtheta_l/dtheta (cos(theta_l) eps_l - sin(theta_l) x0_l),    0 <= dtheta_l/dtheta <= L.

    Args:
        denoise: (x_t, t) -> Prediction, called with t `[B]`.
        schedule: the process.

    Returns:
        (theta `[]` or `[B]` in radians, u `[B, ...]`) -> du/dtheta `[B, ...]`.

    Raises:
        ValueError: if the denoiser was made for another process.
    """
    check_process(denoise, schedule)

    def slope(theta, u):
        theta = jnp.broadcast_to(theta, u.shape[:1])
        t = time(schedule, theta)
        if schedule.leaves:
            theta, share = _of_leaves(schedule, t)
        r, cos, sin = (
            left_broadcast(a, u) for a in (radius(schedule, at_each(schedule, t, u)), jnp.cos(theta), jnp.sin(theta))
        )
        prediction = checked(denoise)(r * u, t)
        moved = cos * prediction.eps - sin * prediction.x0
        return share * moved if schedule.leaves else moved

    return slope


def _of_leaves(schedule: NoiseSchedule, t: Array) -> tuple[Array, Array]:
    """The angle of each number and its derivative with respect to the leaves' mean angle, `[B, D]` each, at t `[B]`.

    If the angles of some leaves have an infinite slope in t, such as sigma ~ sqrt(t) at t = 0, only these leaves
    change, in the ratio of their slopes near this end.
    """
    slope = lambda t, leaf: jax.jvp(lambda t: angle(leaf, t), (t,), (jnp.ones_like(t),))[1]
    inside = jnp.clip(t, NEAR * schedule.t_max, (1 - NEAR) * schedule.t_max)
    angles, rates, beside = (
        jnp.stack([value(leaf) for _, leaf in schedule.leaves], axis=1)
        for value in (lambda leaf: angle(leaf, t), functools.partial(slope, t), functools.partial(slope, inside))
    )
    infinite = ~jnp.isfinite(rates)
    rates = jnp.where(infinite, beside, jnp.where(infinite.any(axis=1, keepdims=True), 0, rates))
    rates = jnp.where((rates > 0).any(axis=1, keepdims=True), rates, beside)
    sizes = np.array([size for size, _ in schedule.leaves])
    columns = lambda a: jnp.repeat(a, sizes, axis=1, total_repeat_length=int(sizes.sum()))
    return columns(angles), columns(rates / rates.mean(axis=1, keepdims=True))


public.declare(__name__)
