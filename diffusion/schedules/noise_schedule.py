"""The type that every factory of this package returns, and the functions that the factories share."""

__all__ = [
    "NoiseSchedule",
    "Trained",
    "as_float",
    "at_each",
    "check_schedule",
    "check_times",
    "inside_times",
    "leaf_schedules",
    "normal",
    "preserves_variance",
    "prior_std",
    "variance_preserving_from",
    "with_data_end",
]

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.arguments import require
from diffusion.arrays.broadcasting import left_broadcast
from diffusion.arrays.parameters import traced
from diffusion.package import public

INSIDE = 2.0**-18  # a time this far from an end, as a share, is not yet rounded to it by a discrete process


class Trained(NamedTuple):
    """The parameters of a schedule that is trained together with the model.

    Attributes:
        init: () -> initial parameters.
        build: parameters -> the `NoiseSchedule`.
    """

    init: Callable[[], Any]
    build: Callable[[Any], "NoiseSchedule"]


class NoiseSchedule(NamedTuple):
    """A Gaussian process x_t = alpha(t) x_0 + sigma(t) eps, and its stochastic differential equation.

    The equation is dx = f(t) x dt + g(t) dw with f = d log alpha / dt and g^2 = d sigma^2 / dt - 2 f sigma^2
    (Song et al. 2021, eq. 5; Kingma et al. 2021, "Variational Diffusion Models").

    Attributes:
        alpha: t -> signal coefficient in [0, 1].
        sigma: t -> noise standard deviation, >= 0.
        log_snr: t -> log(alpha^2 / sigma^2), decreasing from +inf at t = 0.
        inverse_log_snr: log-SNR -> t.
        drift: t -> f(t); infinite where alpha = 0.
        diffusion: t -> g(t) >= 0.
        t_min: smallest time at which a network is trained or evaluated; at t_min = 0 sigma is zero, and only the
            parameterizations that do not divide by it are defined there.
        t_max: largest time at which a network is trained or evaluated; where alpha(t_max) = 0, epsilon and score
            prediction are not defined.
        prior: (key, shape) -> one example of the distribution that sampling starts from: N(0, I) where the variance is
            preserved, for data of mean 0 and variance 1, and N(0, sigma(t_max)^2 I) elsewhere.
        norm: (a, b) -> the norm that is 1 along the process, norm(alpha(t), sigma(t)) = 1, with norm(c a, c b) = c
            norm(a, b): `jnp.hypot` where the variance is preserved, a + b on straight lines, a where alpha = 1. The
            norm defines the process up to a change of the time variable: (a, b) / norm(a, b) is the process's point
            with the ratio a / b.
        trained: how the schedule is trained with the model, where this schedule is the initial one; None for a fixed
            schedule.
        leaves: the number of values and the schedule of each leaf, for a pytree whose leaves have a schedule each
            (`schedules.per_leaf`); () for a single schedule.

    Every function of t takes float t of any shape (integers and half precision are promoted to float32) and returns
    the same shape, float32, or float64 where t is. Times are in [0, t_max]. Beyond them a coefficient is a number
    without meaning (alpha(3) of the cosine schedule is not 0), because a formula cannot refuse a time that is traced;
    denoisers, samplers and `editing.noised` refuse such times where they are known.
    """

    alpha: Callable[[ArrayLike], Array]
    sigma: Callable[[ArrayLike], Array]
    log_snr: Callable[[ArrayLike], Array]
    inverse_log_snr: Callable[[ArrayLike], Array]
    drift: Callable[[ArrayLike], Array]
    diffusion: Callable[[ArrayLike], Array]
    t_min: float
    t_max: float
    prior: Callable[[Array, tuple[int, ...]], Array]
    norm: Callable[[Array, Array], Array]
    trained: Trained | None = None
    leaves: tuple[tuple[int, "NoiseSchedule"], ...] = ()


def at_each(schedule: NoiseSchedule, t: ArrayLike, x: Array) -> Array:
    """The times in the shape that the schedule takes: t itself, or one time for each number of x.

    Args:
        schedule: the process.
        t: times, an array whose shape is a prefix of x's.
        x: samples `[B, ...]`; the flat numbers `[B, D]` of a pytree, if its leaves have a schedule each.

    Raises:
        ValueError: if t's shape is not a prefix of x's.
    """
    return jnp.broadcast_to(left_broadcast(t, x), x.shape) if schedule.leaves else jnp.asarray(t)


def leaf_schedules(schedule: NoiseSchedule) -> list[NoiseSchedule]:
    """The schedules of the leaves, if they have one each; otherwise a list with the schedule itself."""
    return [leaf for _, leaf in schedule.leaves] or [schedule]


def check_schedule(schedule: Any) -> None:
    """Refuses a value that is not a schedule, such as a function of `schedules` that was not called.

    Raises:
        TypeError: if the value is not a schedule; the message names it.
    """
    require(schedule, NoiseSchedule, "schedule", "a NoiseSchedule, such as schedules.rectified_flow()")


def check_times(schedule: NoiseSchedule, t: ArrayLike) -> None:
    """Refuses times outside of [0, t_max], where the coefficients of a schedule mean nothing; traced times pass.

    Raises:
        ValueError: if a time is outside, or NaN; the message names it.
    """
    check_schedule(schedule)
    if traced(t, schedule.t_max):
        return
    values = np.asarray(t)
    outside = ~((values >= 0) & (values <= np.asarray(schedule.t_max) * (1 + 1e-6)))  # NaN too
    if outside.any():
        raise ValueError(
            f"t = {float(values[outside].ravel()[0]):g} lies outside the times of this schedule, [0, "
            f"{schedule.t_max:g}]; t = 0 is the data"
        )


def preserves_variance(schedule: NoiseSchedule) -> bool:
    """Whether alpha^2 + sigma^2 = 1 at every t, by construction: the schedule's norm is `jnp.hypot`."""
    check_schedule(schedule)
    return schedule.norm is jnp.hypot


def prior_std(schedule: NoiseSchedule, t: ArrayLike) -> Array:
    """The standard deviation of the noise that sampling starts from at t, `[]` or one for each number of leaves `[D]`.

    It is 1 where the variance is preserved, and otherwise sigma(t). `schedule.prior` has it at t_max.

    Args:
        schedule: the process.
        t: the time at which sampling starts, `[]`.
    """
    sigma = schedule.sigma(t)
    return jnp.where(jnp.abs(jnp.hypot(schedule.alpha(t), sigma) - 1) < 1e-5, 1.0, sigma)


def variance_preserving_from(
    log_snr: Callable[[Array], Array], inverse_log_snr: Callable[[Array], Array], t_min: float
) -> NoiseSchedule:
    """The variance-preserving process of a log-SNR that is defined and finite for t in (0, 1].

    alpha^2 = sigmoid(log-SNR), sigma^2 = sigmoid(-log-SNR) and g^2 = -sigma^2 d log-SNR / dt; at t = 0 sigma jumps
    to 0, the data.

    Args:
        log_snr: decreasing, differentiable function of float t.
        inverse_log_snr: its inverse, for log-SNRs down to log_snr(1); for log-SNRs above log_snr(0) it may return
            anything.
        t_min: smallest time at which a network is trained or evaluated, > 0.
    """

    def ended(t):
        t = as_float(t)
        return jnp.where(t > 0, log_snr(t), jnp.inf)

    def sigma(t):
        # At t = 0 the root has no derivative with respect to the log-SNR's parameters, so it is not evaluated there.
        t = as_float(t)
        return jnp.where(t > 0, jnp.sqrt(jax.nn.sigmoid(-log_snr(jnp.where(t > 0, t, 1)))), 0)

    def inverse(value):
        value = as_float(value)
        finite = jnp.where(jnp.isposinf(value), 0, value)
        return jnp.where(jnp.isposinf(value), 0, inverse_log_snr(finite))

    def diffusion(t):
        t = as_float(t)
        rate = jax.jvp(log_snr, (t,), (jnp.ones_like(t),))[1]
        return sigma(t) * jnp.sqrt(-rate)

    return NoiseSchedule(
        alpha=lambda t: jnp.sqrt(jax.nn.sigmoid(ended(t))),
        sigma=sigma,
        log_snr=ended,
        inverse_log_snr=inverse,
        drift=lambda t: -(diffusion(t) ** 2) / 2,
        diffusion=diffusion,
        t_min=t_min,
        t_max=1.0,
        prior=normal(1.0),
        norm=jnp.hypot,
    )


def with_data_end(
    function: Callable[[Array], Array], value: ArrayLike, rate: ArrayLike
) -> Callable[[ArrayLike], Array]:
    """A coefficient with its value and derivative at t = 0 set explicitly, because a root of 0 has no derivative.

    Args:
        function: the coefficient, of t > 0.
        value: the coefficient at t = 0.
        rate: limit of its derivative as t falls to 0; it may be infinite.
    """

    def ended(t):
        t = as_float(t)
        data = t == 0
        return jnp.where(data, value, function(jnp.where(data, 0.5, t))) + _rising(t, rate)

    return ended


@jax.custom_jvp
def _rising(t: Array, rate: ArrayLike) -> Array:
    """Returns 0, with the derivative `rate` at t = 0."""
    return jnp.zeros_like(t)


@_rising.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    t, rate = primals
    return jnp.zeros_like(t), jnp.where(t == 0, rate, 0) * tangents[0]


def as_float(t: ArrayLike) -> Array:
    """t in float32, or in float64 if it is float64 already.

    Under x64 a Python number stays weakly typed, so that the coefficients at `schedule.t_max` do not widen a float32 x.
    """
    t = jnp.asarray(t)
    return t if t.dtype == jnp.float64 else t.astype(jnp.float32)


def inside_times(schedule: NoiseSchedule, t: ArrayLike) -> Array:
    """The times, with those at alpha = 0 and sigma = 0 moved inside by a small share of the whole.

    There the log-SNR is infinite, and a product of its derivative with the SNR is 0 times infinity.

    Args:
        schedule: the process.
        t: times of any shape.
    """
    t = as_float(t)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    step = schedule.t_max * INSIDE
    moved = jnp.where(sigma > 0, jnp.where(alpha > 0, t, t - step), t + step)
    return moved if alpha.shape == t.shape else t


def normal(scale: float) -> Callable[[Array, tuple[int, ...]], Array]:
    """The prior N(0, scale^2 I)."""
    return lambda key, shape: scale * jax.random.normal(key, shape, jnp.float32)


public.declare(__name__, renamed={"of_each_leaf": "leaf_schedules"})
