"""Reconstruction guidance: an unconditional network samples pictures that agree with y = A(x_0) + noise."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.arrays.arguments import require_floats, require_function, require_shape
from diffusion.arrays.parameters import is_number, traced
from diffusion.arrays.square_roots import root
from diffusion.guidance.classifier_gradient import shift_score
from diffusion.guidance.measurements import Measurement, check_measurement, require_measurement
from diffusion.guidance.prediction_changes import replace_x0
from diffusion.guidance.strength import Interval, Scale, check_interval, strength
from diffusion.parameterizations import Denoiser, checked
from diffusion.parameterizations.sampled_process import belonging_to, check_process
from diffusion.schedules import NoiseSchedule, left_broadcast


def posterior_sampling(
    denoise: Denoiser,
    schedule: NoiseSchedule,
    log_likelihood: Callable[[Array], Array],
    scale: Scale = 1.0,
    interval: Interval = None,
) -> Denoiser:
    """DPS: classifier guidance by the approximation p(y | x_t) ~ p(y | x0(x_t)).

    The guided score is score + w grad_{x_t} log p(y | x0(x_t)). The paper derives it for log p = -|y - A(x0)|^2 / (2
    sigma_y^2), `gaussian_likelihood`. The paper's algorithm and code use the gradient of -|y - A(x0)|,
    `negative_distance`, and subtract a constant step from x_s after the sampler's step. Here the score changes instead:
    w is a rate, not a step size. Any log-likelihood or negative loss of x0 can be used (Bansal et al. 2023, "Universal
    Guidance"). At alpha = 0 the denoiser is unchanged.

    Facts:
        nfe: 1 call of the denoiser and 1 of its transposed derivative
        neutral: w = 0, the denoiser exactly
        paper: Chung et al. 2023, "Diffusion Posterior Sampling for General Noisy Inverse Problems", eq. 11 and
            algorithm 1

    Args:
        denoise: the denoiser, differentiable.
        schedule: the process.
        log_likelihood: x0 `[B, ...]` -> log p(y_b | x0_b) `[B]`, where number b depends only on example b.
        scale: guidance scale w: a number, `[B]` or a function of t.
        interval: (t_low, t_high) outside which w = 0; None for all times.

    Raises:
        ValueError: if the interval is empty; when called, if the log-likelihoods are not one for each sample.
    """
    check_process(denoise, schedule)
    check_interval(interval, schedule)

    def guided(x_t, t):
        x0, pull, prediction = _differentiated(denoise, x_t, t)
        (gradient,) = pull(jax.grad(total(log_likelihood))(x0))
        return shift_score(prediction, schedule, t, strength(scale, 0, interval, t, x_t) * gradient)

    return belonging_to(schedule, guided)


def total(log_likelihood: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """x0 `[B, ...]` -> sum_b log p(y_b | x0_b), whose gradient with respect to a sample is the gradient of its term.

    A mean over the samples would divide this gradient by B, so that anything but one number for each sample is refused.

    Args:
        log_likelihood: x0 `[B, ...]` -> log p(y_b | x0_b) `[B]`.
    """

    def summed(x0):
        log_p = log_likelihood(x0)
        require_shape(log_p, x0.shape[:1], "log p(y | x0), one number for each sample,")
        return log_p.sum()

    return summed


def gaussian_likelihood(operator: Callable[[Array], Array], y: Array, noise_std: float) -> Callable[[Array], Array]:
    """log p(y | x0) = -|y - A(x0)|^2 / (2 sigma_y^2), up to a constant, for `posterior_sampling`.

    Args:
        operator: operator A: x0 `[B, ...]` -> `[B, ...]`; it may be nonlinear.
        y: the measurement, with the shape of A(x0); that of one example if all samples share it.
        noise_std: standard deviation sigma_y of the noise, > 0.

    Raises:
        ValueError: if noise_std is not positive; when called, if y has another shape.
    """
    if not traced(noise_std) and not noise_std > 0:
        raise ValueError(
            f"gaussian_likelihood: noise_std = {noise_std} must be positive; for exact measurements use "
            "negative_distance"
        )
    return lambda x0: -_squared(_residual(operator, y, x0)) / (2 * noise_std**2)


def negative_distance(operator: Callable[[Array], Array], y: Array) -> Callable[[Array], Array]:
    """-|y - A(x0)|, with the normalised gradient of DPS's code; arguments as in `gaussian_likelihood`."""

    def log_likelihood(x0):
        return -root(_squared(_residual(operator, y, x0)))

    return log_likelihood


def quantile_likelihood(
    operator: Callable[[Array], Array], y: Array, level: Array | float = 0.5
) -> Callable[[Array], Array]:
    """The asymmetric Laplace density of TSDiff's self-guidance, for `posterior_sampling`.

        log p(y | x0) = -sum max(k (y - A(x0)), (k - 1) (y - A(x0))) + constant

    This is minus the quantile loss of level k: its gradient with respect to A(x0) is k where A(x0) is below y, and k -
    1 above, at any distance. TSDiff uses a different level for each sample of a series, evenly spaced from 0 to 1, so
    that the samples are spread like a forecast.

    Args:
        operator: operator A: x0 `[B, ...]` -> `[B, ...]`; `lambda x0: jnp.where(mask, x0, 0)` for a partly known
            series.
        y: the measurement, with the shape of A(x0); that of one example if all samples share it.
        level: quantile level k in (0, 1), a number or one for each example `[B]`.

    Raises:
        ValueError: if level is out of range and not traced; when called, if y has another shape.

    Reference: Kollovieh et al., "Predict, Refine, Synthesize: Self-Guiding Diffusion Models for Probabilistic Time
    Series Forecasting", 2023.
    """
    if not traced(level) and not ((np.asarray(level) > 0) & (np.asarray(level) < 1)).all():
        raise ValueError(f"quantile_likelihood: level = {level} must lie strictly between 0 and 1")

    def log_likelihood(x0):
        residual = _residual(operator, y, x0)
        k = left_broadcast(jnp.asarray(level, residual.dtype), residual)
        return -jnp.sum(jnp.maximum(k * residual, (k - 1) * residual), axis=tuple(range(1, residual.ndim)))

    return log_likelihood


def pseudoinverse(
    denoise: Denoiser,
    schedule: NoiseSchedule,
    measurement: Measurement,
    y: Array,
    noise_std: float = 0.0,
    data_std: float = 1.0,
    scale: Scale = 1.0,
) -> Denoiser:
    """PiGDM: with p(x_0 | x_t) ~ N(x0, r^2 I), p(y | x_t) is exactly N(A x0, r^2 A A^T + sigma_y^2 I):

        score + (dx0 / dx_t)^T A^T (r^2 A A^T + sigma_y^2 I)^-1 (y - A x0),    1 / r^2 = 1 / s^2 + alpha^2 / sigma^2.

    r^2 is the posterior variance for data N(mu, s^2 I), for which the guidance is exact; the paper has s = 1. (The
    paper's algorithm multiplies the shift of x_s by alpha_t, which for small steps is alpha^2 times Bayes' rule.) At
    alpha = 0 the denoiser is unchanged.

    Facts:
        nfe: 1 call of the denoiser and 1 of its transposed derivative
        neutral: w = 0, the denoiser exactly
        paper: Song et al. 2023, "Pseudoinverse-Guided Diffusion Models for Inverse Problems", eq. 7 and 8

    Args:
        denoise: the denoiser, differentiable.
        schedule: the process.
        measurement: the operator A, such as `measurements.masked(mask)`.
        y: `[B, ...]` the measurement, in the shape of A x; that of one example if all samples share it.
        noise_std: standard deviation sigma_y of the noise, >= 0.
        data_std: standard deviation s of the data, > 0.
        scale: guidance scale w: a number, `[B]` or a function of t.

    Raises:
        TypeError: if the measurement is no `Measurement`, or y is no array of floating-point numbers.
        ValueError: if a standard deviation is out of range; when called, if y has another shape.
    """
    check_process(denoise, schedule)
    if not traced(noise_std, data_std) and not (noise_std >= 0 and data_std > 0):
        raise ValueError(f"pseudoinverse: noise_std = {noise_std} must be at least 0, data_std = {data_std} positive")
    require_measurement(measurement)
    require_floats(y, "y")

    def guided(x_t, t):
        x0, pull, prediction = _differentiated(denoise, x_t, t)
        alpha = left_broadcast(schedule.alpha(t), x_t)
        sigma = left_broadcast(schedule.sigma(t), x_t)
        variance = alpha**2 * data_std**2 + sigma**2  # r^2 = s^2 sigma^2 / variance
        exact = is_number(noise_std, 0)
        ratio = 0.0 if exact else variance * (noise_std / data_std) ** 2 / sigma**2
        (gradient,) = pull(measurement.inverse(measurement.residual(y, x0), x0, ratio))
        # sigma^2 / (alpha r^2), with sigma^2 cancelled by hand: finite as sigma vanishes.
        some = alpha > 0
        factor = jnp.where(some, variance / (jnp.where(some, alpha, 1) * data_std**2), 0)
        return replace_x0(prediction, schedule, t, x0 + strength(scale, 0, None, t, x_t) * factor * gradient)

    return belonging_to(schedule, guided)


def _differentiated(denoise, x_t, t):
    """(x0(x_t), the function v -> (dx0 / dx_t)^T v, the prediction), from one evaluation."""

    def estimate(x):
        prediction = checked(denoise)(x, t)
        return prediction.x0, prediction

    return jax.vjp(estimate, x_t, has_aux=True)


def _residual(operator, y, x0):
    require_function(operator, "operator", "a function x0 -> A(x0), such as the forward of a measurement")
    measured = operator(x0)
    check_measurement(y, measured)
    return jnp.asarray(y, measured.dtype) - measured


def _squared(residual):
    return jnp.sum(residual**2, axis=tuple(range(1, residual.ndim)))
