"""Reconstruction guidance without derivatives of the network, which changes only the estimate of the data."""

from collections.abc import Callable

import jax
from jax import Array

from diffusion.arrays.arguments import require_floats
from diffusion.arrays.parameters import is_number, traced
from diffusion.guidance.measurement_guidance import total
from diffusion.guidance.measurements import Measurement, require_measurement
from diffusion.guidance.prediction_changes import replace_x0
from diffusion.guidance.strength import Interval, Scale, check_interval, strength
from diffusion.parameterizations import Denoiser, checked
from diffusion.parameterizations.sampled_process import belonging_to, check_process
from diffusion.schedules import NoiseSchedule, left_broadcast


def proximal(
    denoise: Denoiser,
    schedule: NoiseSchedule,
    measurement: Measurement,
    y: Array,
    noise_std: float = 0.0,
    scale: Scale = 1.0,
) -> Denoiser:
    """DiffPIR, and DDNM at sigma_y = 0: the estimate nearest to x0 that agrees with the measurement.

        argmin_z |y - A z|^2 / sigma_y^2 + w (alpha / sigma)^2 |z - x0|^2
            = x0 + A^T (A A^T + w (alpha sigma_y / sigma)^2 I)^-1 (y - A x0).

    At sigma_y = 0 the estimate is A^+ y + (I - A^+ A) x0: the measured part comes from y, and the part in the null
    space of A comes from the network. The formula is Bayes' rule if p(x_0 | x_t) is N(x0, (sigma / alpha)^2 / w I), and
    is therefore exact for data N(mu, s^2 I) and w = 1 + (sigma / alpha)^2 / s^2. As in the papers, a stochastic sampler
    adds noise to the estimate: `ddpm()` for DDNM and `ddim(eta)` for DiffPIR.

    Facts:
        nfe: 1 call of the denoiser
        neutral: none
        paper: Zhu et al. 2023, "Denoising Diffusion Models for Plug-and-Play Image Restoration", eq. 12 and 13; Wang et
            al. 2023, "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model", eq. 10

    Args:
        denoise: the denoiser; it need not be differentiable.
        schedule: the process.
        measurement: the operator A, such as `measurements.masked(mask)`.
        y: the measurements `[B, ...]`, in the shape of A x; `[1, ...]` or `[...]` for one that all samples share.
        noise_std: standard deviation sigma_y of the noise, >= 0.
        scale: weight w > 0 of the estimate, DiffPIR's lambda: a number, `[B]` or a function of t.

    Raises:
        TypeError: if the measurement is no `Measurement`, or y is no array of floating-point numbers.
        ValueError: if noise_std is negative; when called, if y has another shape.
    """
    check_process(denoise, schedule)
    if not traced(noise_std) and not noise_std >= 0:
        raise ValueError(f"proximal: noise_std = {noise_std} must be at least 0")
    require_measurement(measurement)
    require_floats(y, "y")

    def guided(x_t, t):
        prediction = checked(denoise)(x_t, t)
        x0 = prediction.x0
        alpha = left_broadcast(schedule.alpha(t), x_t)
        sigma = left_broadcast(schedule.sigma(t), x_t)
        ratio = 0.0 if is_number(noise_std, 0) else strength(scale, 0, None, t, x_t) * (alpha * noise_std / sigma) ** 2
        change = measurement.inverse(measurement.residual(y, x0), x0, ratio)
        return replace_x0(prediction, schedule, t, x0 + change)

    return belonging_to(schedule, guided)


def manifold_preserving(
    denoise: Denoiser,
    schedule: NoiseSchedule,
    log_likelihood: Callable[[Array], Array],
    scale: Scale = 1.0,
    interval: Interval = None,
) -> Denoiser:
    """MPGD and FlowChef: a gradient step on the estimate, x0 + w grad_{x0} log p(y | x0).

    This is `posterior_sampling` without the derivative of the network, which would double memory and time. Any
    likelihood or negative loss can be used. For small w = (sigma / alpha)^2 the method agrees with `proximal` to first
    order. MPGD leaves eps unchanged, so that its step size c equals w (1 - sigma_s alpha_t / (sigma_t alpha_s)) for a
    step from t to s. Here eps changes together with x0, so that w is a rate, and the samples converge as the number of
    steps grows.

    Facts:
        nfe: 1 call of the denoiser
        neutral: w = 0, the denoiser exactly
        paper: He et al. 2024, "Manifold Preserving Guided Diffusion", algorithm 1; Patel et al. 2024, "Steering
            Rectified Flow Models in the Vector Field for Controlled Image Generation", algorithm 1

    Args:
        denoise: the denoiser; it need not be differentiable.
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
        prediction = checked(denoise)(x_t, t)
        gradient = jax.grad(total(log_likelihood))(prediction.x0)
        x0 = prediction.x0 + strength(scale, 0, interval, t, x_t) * gradient
        return replace_x0(prediction, schedule, t, x0)

    return belonging_to(schedule, guided)
