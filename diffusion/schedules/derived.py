"""Functions that derive a schedule from another: shifts of the log-SNR, zero signal at the end, and an earlier end."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.parameters import functions_of, traced
from diffusion.schedules.bisection import bisect, in_unit
from diffusion.schedules.leaves import joined
from diffusion.schedules.noise_schedule import (
    NoiseSchedule,
    Trained,
    as_float,
    check_schedule,
    preserves_variance,
    with_data_end,
)


def shifted(schedule: NoiseSchedule, factor: float) -> NoiseSchedule:
    """The schedule whose sigma / alpha is multiplied by `factor` at every t, for pictures of another resolution.

        log-SNR'(t) = log-SNR(t) - 2 ln(factor),    (alpha', sigma') = (alpha, factor sigma) / norm(alpha, factor sigma)

    With the cosine schedule this is simple diffusion's "shifted cosine", where factor = d / 64 for pictures of d x d if
    the schedule was made for 64 x 64. On the rectified flow it is SD3's time shift.

    Facts:
        alpha: alpha / norm(alpha, factor sigma)
        sigma: factor sigma / norm(alpha, factor sigma)
        end: alpha = 0 if the schedule ends there; otherwise a log-SNR lower by 2 ln(factor)
        paper: Hoogeboom et al. 2023, "simple diffusion", eq. 4; Esser et al. 2024, eq. 23

    Args:
        schedule: any schedule.
        factor: factor of sigma / alpha, > 0; above 1 for larger pictures.

    Raises:
        ValueError: if factor is not positive and finite.
    """
    check_schedule(schedule)
    if not traced(factor) and not 0 < factor < math.inf:
        raise ValueError(f"shifted: factor = {factor} must be positive (d / 64 for pictures of d x d in the paper)")
    if schedule.leaves:
        return _each(schedule, lambda leaf: shifted(leaf, factor))

    norm, noisier = _with_noise(schedule, lambda t: factor)
    fall = 2 * functions_of(factor).log(factor)
    return noisier._replace(
        log_snr=lambda t: schedule.log_snr(t) - fall,
        inverse_log_snr=lambda log_snr: schedule.inverse_log_snr(as_float(log_snr) + fall),
        diffusion=lambda t: factor * schedule.diffusion(t) / norm(t),
        trained=_trained(schedule, lambda base: shifted(base, factor)),
    )


def interpolated(schedule: NoiseSchedule, first: float, last: float) -> NoiseSchedule:
    """The schedule whose sigma / alpha is multiplied by a factor that changes from `first` at t = 0 to `last` at t = 1.

        log-SNR'(t) = log-SNR(t) - 2 ln f(t),    f(t) = first^(1 - t) last^t

    With the cosine schedule this is simple diffusion's interpolation between two shifted schedules, with
    first = d / 256 and last = d / 32 for pictures of d x d. There is then enough noise to hide large structures, and
    small noise levels, which concern details, are still trained as often as before.

    Facts:
        alpha: alpha / norm(alpha, f sigma), f = first^(1 - t) last^t
        sigma: f sigma / norm(alpha, f sigma)
        end: alpha = 0 if the schedule ends there; otherwise a log-SNR lower by 2 ln(last)
        paper: Hoogeboom et al. 2023, "simple diffusion", section 3.2; Hoogeboom et al. 2024, "Simpler Diffusion (SiD2)"

    Args:
        schedule: any schedule on [0, 1].
        first: factor at t = 0, the data, > 0.
        last: factor at t = 1, the noise, at least `first`, so that the log-SNR still decreases.

    Raises:
        ValueError: if first or last is out of range.
    """
    check_schedule(schedule)
    if not traced(first, last) and not 0 < first <= last < math.inf:
        raise ValueError(f"interpolated: first = {first} and last = {last} must be positive, with first <= last")
    if schedule.leaves:
        return _each(schedule, lambda leaf: interpolated(leaf, first, last))
    functions = functions_of(first, last)
    beginning, growth = functions.log(first), functions.log(last / first)

    def factor(t):
        return first * jnp.exp(growth * as_float(t))

    norm, noisier = _with_noise(schedule, factor)

    def log_snr(t):
        return schedule.log_snr(t) - 2 * (beginning + growth * as_float(t))

    def inverse_log_snr(target):
        end = as_float(target)
        target = jnp.where(jnp.isfinite(end), end, 0)
        t, _ = bisect(log_snr, target, jnp.finfo(target.dtype).nmant + 2)
        # One Newton step for t = g(t) corrects the last digits, even for small t, and carries the derivative.
        shift = lambda t: schedule.inverse_log_snr(target + 2 * (beginning + growth * t))
        reached, rate = jax.jvp(shift, (t,), (jnp.ones_like(t),))
        t = in_unit(t + (reached - t) / (1 - jax.lax.stop_gradient(rate)))
        return jnp.where(jnp.isfinite(end), t, schedule.inverse_log_snr(end))

    def diffusion(t):
        unscaled = jnp.sqrt(schedule.diffusion(t) ** 2 + 2 * growth * schedule.sigma(t) ** 2)
        return factor(t) / norm(t) * unscaled

    return noisier._replace(
        log_snr=log_snr,
        inverse_log_snr=inverse_log_snr,
        diffusion=diffusion,
        trained=_trained(schedule, lambda base: interpolated(base, first, last)),
    )


def _with_noise(schedule: NoiseSchedule, factor: Callable[[Array], Any]) -> tuple[Callable, NoiseSchedule]:
    """(the norm by which both coefficients are divided, the process with factor(t) times the noise).

    The returned process still has the `log_snr` and `diffusion` of `schedule`.
    """

    def norm(t):
        return schedule.norm(schedule.alpha(t), factor(t) * schedule.sigma(t))

    def sigma(t):
        # At t = 0, sigma is 0 even if the derivative of the norm is not finite.
        return factor(t) * schedule.sigma(t) / with_data_end(norm, 1.0, 0.0)(t)

    def alpha(t):
        return with_data_end(lambda t: schedule.alpha(t) / norm(t), 1.0, drift(_data(t)))(t)

    def drift(t):
        # d sigma / dt may be infinite at the data itself, where the norm does not depend on sigma.
        t = jnp.maximum(as_float(t), 1e-30)
        n, n_dot = jax.jvp(norm, (t,), (jnp.ones_like(t),))
        return schedule.drift(t) - n_dot / n

    prior = _scaled_prior(schedule, lambda: sigma(schedule.t_max))
    return norm, schedule._replace(alpha=alpha, sigma=sigma, drift=drift, prior=prior)


def _scaled_prior(schedule: NoiseSchedule, sigma: Callable[[], Array]) -> Callable[[Array, tuple[int, ...]], Array]:
    """The prior with the standard deviation sigma(); if the variance is preserved, the schedule's prior."""

    def prior(key, shape):
        scale = 1.0 if preserves_variance(schedule) else sigma() / schedule.sigma(schedule.t_max)
        return scale * schedule.prior(key, shape)

    return prior


def zero_terminal_snr(schedule: NoiseSchedule) -> NoiseSchedule:
    """The process whose alpha is shifted and scaled so that no signal of the data is left at t_max.

        alpha'(t) = alpha(t_min) (alpha(t) - alpha(t_max)) / (alpha(t_min) - alpha(t_max)),    sigma'^2 = 1 - alpha'^2

    for t >= t_min; below t_min nothing changes. Near t_max, alpha' is a small difference, whose error is about the
    effect of rounding t to float32. For a discrete process, whose first time is t_min, this is the paper's algorithm.
    Log-SNR, drift and loss weights are those of the new process. Train with v or another parameterization that is
    defined at alpha = 0, and sample on a grid that starts at t_max (`trailing`).

    Facts:
        alpha: alpha(t_min) (alpha(t) - alpha(t_max)) / (alpha(t_min) - alpha(t_max))
        sigma: sqrt(1 - alpha^2)
        end: alpha = 0, sigma = 1
        paper: Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed", algorithm 1

    Args:
        schedule: a schedule that preserves the variance, discrete or not.

    Raises:
        ValueError: if the schedule does not preserve the variance, because its sigma would then not end at 1.
    """
    check_schedule(schedule)
    if schedule.leaves:
        return _each(schedule, zero_terminal_snr)
    if not preserves_variance(schedule):
        raise ValueError(
            "zero_terminal_snr rescales alpha and sets sigma = sqrt(1 - alpha^2), so it needs a schedule that "
            "preserves the variance (linear_beta, scaled_linear, variance_preserving, ...)"
        )

    def constants(t):
        """(alpha(t_max), k, c) with 1 - alpha' = k (1 - alpha) + c, in the precision of t."""
        first, last = (jnp.asarray(end, t.dtype) for end in (schedule.t_min, schedule.t_max))
        alpha_first = schedule.alpha(first)
        alpha_last = schedule.alpha(last)
        k = alpha_first / (alpha_first - alpha_last)
        return alpha_last, k, -alpha_last * _complement(schedule, first) / (alpha_first - alpha_last)

    def alpha(t):
        t = as_float(t)
        alpha_last, k, _ = constants(t)
        above = schedule.alpha(t) - alpha_last
        # Rounding must not make it negative. A plain maximum would halve the derivative at t_max.
        rescaled = k * (above + jax.lax.stop_gradient(jnp.maximum(above, 0) - above))
        return jnp.where(t < schedule.t_min, schedule.alpha(t), rescaled)

    def changed(t):
        before = t < schedule.t_min
        _, k, c = constants(t)
        # The argument of the root is replaced too, since the root of a negative number must not be differentiated.
        later = jnp.where(before, schedule.t_max, t)
        squared = (k * _complement(schedule, later) + c) * (1 + alpha(later))
        return jnp.where(before, schedule.sigma(t), jnp.sqrt(jnp.where(before, 1, squared)))

    def sigma(t):
        data = _data(t)
        rate = jax.jvp(schedule.sigma, (data,), (jnp.ones_like(data),))[1]
        scale = jnp.sqrt(constants(data)[1]) if schedule.t_min == 0 else 1
        return with_data_end(changed, 0.0, rate * scale)(t)

    def inverse_log_snr(log_snr):
        log_snr = as_float(log_snr)
        alpha_last, k, c = constants(log_snr)
        alpha_new = jnp.sqrt(jax.nn.sigmoid(log_snr))
        alpha_old = alpha_new / k + alpha_last
        complement = (jax.nn.sigmoid(-log_snr) / (1 + alpha_new) - c) / k
        before = 2 * jnp.log(alpha_old) - jnp.log(complement * (1 + alpha_old))
        unchanged = log_snr > schedule.log_snr(jnp.asarray(schedule.t_min, log_snr.dtype))
        return schedule.inverse_log_snr(jnp.where(unchanged, log_snr, before))

    def drift(t):
        t = as_float(t)
        alpha_old = schedule.alpha(t)
        alpha_last = constants(t)[0]
        scale = alpha_old / jnp.maximum(alpha_old - alpha_last, 0)
        return schedule.drift(t) * jnp.where((t < schedule.t_min) | (alpha_last == 0), 1, scale)

    return schedule._replace(
        alpha=alpha,
        sigma=sigma,
        log_snr=lambda t: 2 * (jnp.log(alpha(t)) - jnp.log(sigma(t))),
        inverse_log_snr=inverse_log_snr,
        drift=drift,
        diffusion=lambda t: jnp.sqrt(-2 * drift(t)),
        trained=_trained(schedule, zero_terminal_snr),
    )


def ending_at(schedule: NoiseSchedule, t_max: float) -> NoiseSchedule:
    """The schedule up to an earlier end, for a parameterization that is not defined at the schedule's end.

        alpha'(t) = alpha(t),    sigma'(t) = sigma(t),    t <= t_max;    x(t_max) ~ N(0, sigma(t_max)^2 I)

    Epsilon and score predictions need alpha(t_max) > 0. Sampling starts from the distribution at the new end, which is
    N(0, I) if the variance is preserved. `_replace(t_max=...)` would keep the prior of the old end.

    Facts:
        alpha: alpha
        sigma: sigma
        end: alpha and sigma at the earlier end
        paper: none

    Args:
        schedule: any schedule.
        t_max: the new end, in (t_min, the schedule's t_max].

    Raises:
        ValueError: if t_max is out of range.
    """
    check_schedule(schedule)
    if not traced(t_max, schedule.t_min, schedule.t_max):
        if not schedule.t_min < t_max <= schedule.t_max:
            raise ValueError(
                f"ending_at: t_max = {t_max:g} must be in ({schedule.t_min:g}, {schedule.t_max:g}], the times of the "
                "schedule"
            )
    if schedule.leaves:
        return _each(schedule, lambda leaf: ending_at(leaf, t_max))
    return schedule._replace(
        t_max=t_max,
        prior=_scaled_prior(schedule, lambda: schedule.sigma(t_max)),
        trained=_trained(schedule, lambda base: ending_at(base, t_max)),
    )


def _each(schedule: NoiseSchedule, change: Callable[[NoiseSchedule], NoiseSchedule]) -> NoiseSchedule:
    """Applies the change to the schedule of each leaf."""
    return joined([(size, change(leaf)) for size, leaf in schedule.leaves])


def _complement(schedule, t):
    """1 - alpha(t) without cancellation, for a schedule that preserves the variance."""
    return schedule.sigma(t) ** 2 / (1 + schedule.alpha(t))


def _data(t: ArrayLike) -> Array:
    """The time of the data, 0, in the precision of t."""
    return jnp.zeros([], as_float(t).dtype)


def _trained(schedule: NoiseSchedule, change: Callable[[NoiseSchedule], NoiseSchedule]) -> Trained | None:
    """The field `trained` of a changed schedule: the same parameters, from which the changed schedule is built."""
    base = schedule.trained
    return None if base is None else base._replace(build=lambda params: change(base.build(params)))
