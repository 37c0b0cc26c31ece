"""Variance-preserving schedules defined by the shape of alpha: cosine and sigmoid."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusion.arrays.parameters import functions_of, traced
from diffusion.schedules.noise_schedule import NoiseSchedule, as_float, normal, with_data_end


def cosine(s: float = 0.008) -> NoiseSchedule:
    """The cosine schedule in continuous time, for t in [0, 1].

        alpha = cos(a(t)) / cos(a(0)),    a(t) = (pi / 2) (t + s) / (1 + s),    sigma^2 = 1 - alpha^2

    The paper's clipping of beta at 0.999 belongs to its discrete process and is not applied. For larger pictures see
    `shifted`.

    Facts:
        alpha: cos(a(t)) / cos(a(0)), a(t) = (pi / 2) (t + s) / (1 + s)
        sigma: sqrt(1 - alpha^2)
        end: alpha = 0, sigma = 1
        paper: Nichol and Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", eq. 17

    Args:
        s: offset that keeps the noise near t = 0 from vanishing too fast, > 0; 0.008 in the paper. The limit s = 0 is
            `trigonometric`.

    Raises:
        ValueError: if s is not positive.
    """
    if not traced(s) and not s > 0:
        raise ValueError(f"cosine schedule: s = {s} must be positive (0.008 in the paper)")
    rate = math.pi / 2 / (1 + s)
    a_0 = rate * s
    sin_a_0, cos_a_0 = functions_of(s).sin(a_0), functions_of(s).cos(a_0)

    # Both are written with differences of angles, which stay exact at the end where the coefficient vanishes.
    def alpha(t):
        return jnp.sin(rate * (1 - as_float(t))) / cos_a_0

    def sigma(t):
        d = rate * as_float(t)
        return jnp.sqrt(jnp.sin(d) * jnp.sin(d + 2 * a_0)) / cos_a_0

    def log_snr(t):
        return 2 * (jnp.log(alpha(t)) - jnp.log(sigma(t)))

    def inverse_log_snr(log_snr):
        log_snr = as_float(log_snr)
        sin_squared = jax.nn.sigmoid(-log_snr) * cos_a_0**2  # sigma^2 cos^2 a_0 = sin^2 a - sin^2 a_0
        cos = jnp.sqrt(jax.nn.sigmoid(log_snr)) * cos_a_0
        a = jnp.arctan2(jnp.sqrt(sin_squared + sin_a_0**2), cos)
        # sin(a - a_0) sin(a + a_0) = sin^2 a - sin^2 a_0 gives the small angle without cancellation.
        return jnp.arctan2(sin_squared / jnp.sin(a + a_0), jnp.cos(a - a_0)) / rate

    def drift(t):
        t = as_float(t)
        return -rate * jnp.sin(rate * t + a_0) / jnp.sin(rate * (1 - t))

    return _from_data_to_noise(alpha, sigma, log_snr, inverse_log_snr, drift)


def sigmoid(start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> NoiseSchedule:
    """alpha^2 is a segment of the logistic curve, rescaled to fall from 1 to 0, for t in [0, 1].

        alpha^2 = (S(end) - S(start + t (end - start))) / (S(end) - S(start)),    S(x) = 1 / (1 + exp(-x / tau))

    The clipping of alpha^2 at 1e-9 in the paper's code is not applied. alpha falls to zero as sqrt(1 - t), so that its
    derivative is infinite at t = 1: velocities in t are defined for t < 1 only. The samplers that integrate velocities
    (euler, heun, midpoint, rk4) use a DDIM step at t = 1.

    Facts:
        alpha: sqrt((S(end) - S(start + t (end - start))) / (S(end) - S(start)))
        sigma: sqrt(1 - alpha^2)
        end: alpha = 0, sigma = 1
        paper: Jabri et al. 2022, "Scalable Adaptive Computation for Iterative Generation", algorithm 3; Chen 2023, "On
            the Importance of Noise Scheduling for Diffusion Models", algorithm 1

    Args:
        start: start of the segment; -3 in the papers, or 0.
        end: end of the segment, > start; 3 in the papers.
        tau: temperature, > 0; 1 in the papers' code, 0.3 to 1.1 in the second paper.

    Raises:
        ValueError: if tau <= 0 or (end - start) / tau is not in (0, 80]; beyond 80, float32 overflows.
    """
    if not traced(start, end, tau) and not (tau > 0 and 0 < (end - start) / tau <= 80):
        raise ValueError(
            f"sigmoid schedule: start = {start}, end = {end}, tau = {tau}. Valid: tau > 0 and 0 < (end - start) / tau "
            "<= 80 (-3, 3 and 1 in the paper)"
        )
    width = (end - start) / tau
    # Beyond 40 the curve is exponential to the last digit of float64, and its shape is the same wherever it starts.
    clip = jnp.clip if traced(start, width) else lambda x, low, high: min(max(x, low), high)
    first = clip(start / tau, -40 - width, 40)
    last = first + width

    def risen(t, first):
        """The root of (S(x) - S(first)) / (S(first + width) - S(first)), x = first + t width, without cancellation."""
        t = as_float(t)
        tail = lambda t: jax.nn.softplus(-(first + width * t))  # -ln S(x)
        one = jnp.ones_like(t)
        return jnp.sqrt(jnp.expm1(-width * t) / jnp.expm1(-width * one)) * jnp.exp((tail(one) - tail(t)) / 2)

    def alpha(t):
        return risen(1 - as_float(t), -last)  # S(end) - S(x) = S(-x) - S(-end)

    def sigma(t):
        return risen(t, first)

    # (S(end) - S(x)) / (S(x) - S(start)) = e^rest (e^(-width t) - e^(-width)) / (1 - e^(-width t))
    functions = functions_of(first, last, width)
    softplus = lambda x: functions.log1p(functions.exp(-abs(x))) + (abs(x) + x) / 2
    rest = softplus(-first) - softplus(-last)

    def log_snr(t):
        t = as_float(t)
        return jnp.log(-jnp.expm1(-width * (1 - t))) - jnp.log(-jnp.expm1(-width * t)) + rest - width * t

    def inverse_log_snr(log_snr):
        ratio = jnp.exp(as_float(log_snr) - rest)
        return jnp.log1p(-functions.expm1(-width) / (ratio + functions.exp(-width))) / width

    def drift(t):
        t = as_float(t)
        return -width / 2 * (1 / jnp.expm1(width * (1 - t)) + jax.nn.sigmoid(first + width * t))

    return _from_data_to_noise(alpha, sigma, log_snr, inverse_log_snr, drift)


def _from_data_to_noise(
    alpha: Callable, sigma: Callable, log_snr: Callable, inverse_log_snr: Callable, drift: Callable
) -> NoiseSchedule:
    """The variance-preserving schedule of these functions, from sigma = 0 at t = 0 to alpha = 0 at t = 1."""
    return NoiseSchedule(
        alpha,
        with_data_end(sigma, 0.0, math.inf),
        with_data_end(log_snr, math.inf, -math.inf),
        inverse_log_snr,
        drift=drift,
        diffusion=lambda t: jnp.sqrt(-2 * drift(t)),
        t_min=0.0,
        t_max=1.0,
        prior=normal(1.0),
        norm=jnp.hypot,
    )
