"""The Gaussian transitions between two times s < t of a process, in terms of its log-SNR.

q(x_t | x_s) and q(x_s | x_t, x_0) as in Kingma et al. 2021, "Variational Diffusion Models", section 3.1 and appendix A;
exact at both ends (alpha_t = 0, s = 0), because 1 - SNR_t / SNR_s is computed from the difference of log-SNRs.
"""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.parameters import is_number, traced
from diffusion.arrays.square_roots import root
from diffusion.schedules import NoiseSchedule, left_broadcast


def transition_variance(schedule: NoiseSchedule, t: ArrayLike, s: ArrayLike) -> Array:
    """Variance of q(x_t | x_s): sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2 = sigma_t^2 (1 - SNR_t / SNR_s)."""
    return schedule.sigma(t) ** 2 * _lost(schedule, t, s)


def posterior_variance(schedule: NoiseSchedule, t: ArrayLike, s: ArrayLike) -> Array:
    """Variance of q(x_s | x_t, x_0): sigma_s^2 (1 - SNR_t / SNR_s)."""
    return schedule.sigma(s) ** 2 * _lost(schedule, t, s)


def posterior_weight(schedule: NoiseSchedule, t: ArrayLike, s: ArrayLike) -> Array:
    """The weight of x_0 in the mean of q(x_s | x_t, x_0): alpha_s (1 - SNR_t / SNR_s)."""
    return schedule.alpha(s) * _lost(schedule, t, s)


def posterior_mean(schedule: NoiseSchedule, t: ArrayLike, s: ArrayLike, x_t: Array, x_0: Array) -> Array:
    """Mean of q(x_s | x_t, x_0): (alpha_t sigma_s^2) / (alpha_s sigma_t^2) x_t + alpha_s (1 - SNR_t / SNR_s) x_0."""
    x_t_weight = schedule.alpha(t) / schedule.alpha(s) * (schedule.sigma(s) / schedule.sigma(t)) ** 2
    return left_broadcast(x_t_weight, x_t) * x_t + left_broadcast(posterior_weight(schedule, t, s), x_t) * x_0


def forward(schedule: NoiseSchedule, t: ArrayLike, s: ArrayLike, x_t: Array, noise: Array) -> Array:
    """A sample of q(x_s | x_t) for s > t: alpha_s / alpha_t x_t + sqrt(variance) noise."""
    std = root(transition_variance(schedule, s, t))
    return left_broadcast(schedule.alpha(s) / schedule.alpha(t), x_t) * x_t + left_broadcast(std, x_t) * noise


def split_noise(sigma_s: ArrayLike, h: ArrayLike, eta: float) -> tuple[Array, Array]:
    """(down, up): standard deviations of the old and the new noise at s after a step of length h in log(alpha / sigma).

        up^2 = eta^2 Var q(x_s | x_t, x_0) = eta^2 sigma_s^2 (1 - e^-2h),    down^2 = sigma_s^2 - up^2

    Song et al. 2021, "Denoising Diffusion Implicit Models", eq. 12 and 16, written so that neither cancels.
    """
    if is_number(eta, 0):  # also right for a step up from sigma = 0, where h is infinite
        return jnp.asarray(sigma_s), jnp.zeros_like(sigma_s)
    sigma_s = jnp.asarray(sigma_s)
    h = jnp.asarray(h)
    down = sigma_s * root(1 - eta**2 + eta**2 * jnp.exp(-2 * h))
    up = sigma_s * eta * root(-jnp.expm1(-2 * h))
    return down, up


def check_eta(name: str, eta: float) -> None:
    """Refuses a share of the posterior's noise that is not in [0, 1]."""
    if not traced(eta) and not 0 <= eta <= 1:
        raise ValueError(f"{name}: eta = {eta} must be in [0, 1]; 0 is deterministic, 1 has the posterior's noise")


def _lost(schedule: NoiseSchedule, t: ArrayLike, s: ArrayLike) -> Array:
    """1 - SNR_t / SNR_s, the share of the signal that is lost from s to t."""
    return -jnp.expm1(schedule.log_snr(t) - schedule.log_snr(s))
