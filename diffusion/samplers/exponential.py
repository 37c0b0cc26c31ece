"""The two exact forms of the probability flow, and the functions shared by their integrators.

    x_s = (alpha_s / alpha_t) x_t + alpha_s int eps d(sigma / alpha)
        = (sigma_s / sigma_t) x_t + sigma_s int x0 d(alpha / sigma)

If eps, or x0, is held at its value at t, both become the DDIM step alpha_s x0 + sigma_s eps, which is finite for all t
and s. Every method here is this step plus coefficients times differences of network outputs. At a singular end (alpha_t
= 0, sigma_s = 0), terms with a coefficient that is not finite are left out. Lu et al. 2022, "DPM-Solver", proposition
3.1, and "DPM-Solver++", proposition 4.1.
"""

import jax.numpy as jnp
from jax import Array

from diffusion.parameterizations import Prediction
from diffusion.schedules import NoiseSchedule


def ddim_step(schedule: NoiseSchedule, s: Array, prediction: Prediction) -> Array:
    """alpha_s x0 + sigma_s eps."""
    return schedule.alpha(s) * prediction.x0 + schedule.sigma(s) * prediction.eps


def noise_gain(schedule: NoiseSchedule, t: Array, s: Array) -> Array:
    """sigma_s (e^h - 1) = alpha_s sigma_t / alpha_t - sigma_s: minus the weight of eps in x_s; 0 where alpha_t = 0."""
    alpha = schedule.alpha(t)
    ratio = schedule.sigma(t) / jnp.where(alpha > 0, alpha, 1)
    return jnp.where(alpha > 0, schedule.alpha(s) * ratio - schedule.sigma(s), 0)


def data_gain(schedule: NoiseSchedule, t: Array, s: Array) -> Array:
    """alpha_s (1 - e^-h) = alpha_s - alpha_t sigma_s / sigma_t, the coefficient of x0 in x_s; 0 where sigma_t = 0."""
    sigma = schedule.sigma(t)
    ratio = schedule.sigma(s) / jnp.where(sigma > 0, sigma, 1)
    return jnp.where(sigma > 0, schedule.alpha(s) - schedule.alpha(t) * ratio, 0)


def log_ratio(schedule: NoiseSchedule, t: Array) -> Array:
    """log(alpha_t / sigma_t), lambda in the papers."""
    return schedule.log_snr(t) / 2


def between(schedule: NoiseSchedule, t: Array, s: Array, fraction: float) -> Array:
    """The time at which lambda has covered this fraction of its change from t to s.

    If lambda starts at an infinite value, the fraction refers to e^lambda (from noise) or e^-lambda (from data).
    """
    start = log_ratio(schedule, t)
    end = log_ratio(schedule, s)
    h = end - start
    regular = jnp.isfinite(h)
    middle = jnp.where(regular, start + fraction * jnp.where(regular, h, 0), end + jnp.sign(h) * jnp.log(fraction))
    return schedule.inverse_log_snr(2 * middle)
