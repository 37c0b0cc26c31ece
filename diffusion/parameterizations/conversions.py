"""A denoiser that was trained under one schedule, used under another."""

__all__ = ["denoiser_under"]

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.package import public
from diffusion.parameterizations.network_outputs import Denoiser, Prediction
from diffusion.parameterizations.sampled_process import belonging_to, check_process
from diffusion.schedules import NoiseSchedule, check_schedule, left_broadcast


def denoiser_under(denoise: Denoiser, trained: NoiseSchedule, sampled: NoiseSchedule) -> Denoiser:
    """The denoiser of the process `sampled`, from a denoiser of the process `trained`.

        denoise'(x_t, t) = denoise(alpha_trained(s) / alpha_sampled(t) x_t, s),
        log-SNR_trained(s) = log-SNR_sampled(t)

    Two processes differ only in the time variable and in the scale of x. At equal log-SNR their samples hold the same
    information, and the estimates of x_0 and eps are equal. A network trained on one process can therefore be sampled
    on any other without further training, for example a DDPM network along EDM's noise levels or along straight lines.
    A discrete process is then also evaluated between its steps. Outside the range of log-SNRs from t_min to t_max of
    `trained`, the denoiser is evaluated at the nearer end. Its x_0 is kept where x_t has more noise than this end, its
    eps where x_t has less, and the other estimate follows from x_t.

    Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", section 4 and appendix C.

    Args:
        denoise: (x_t, t) -> `Prediction`, under `trained`.
        trained: the schedule that the denoiser belongs to.
        sampled: the schedule that the sampler uses.

    Returns:
        denoise'(x_t, t), where t has a shape that is a prefix of x_t's.

    Raises:
        TypeError: if a schedule is not a `NoiseSchedule`.
        ValueError: if the denoiser was made for another process than `trained`.
    """

    check_schedule(sampled)
    check_process(denoise, trained)

    def converted(x_t: Array, t: ArrayLike) -> Prediction:
        log_snr = sampled.log_snr(t)
        s = jnp.clip(trained.inverse_log_snr(log_snr), trained.t_min, trained.t_max)
        alpha, sigma = (left_broadcast(f(t), x_t) for f in (sampled.alpha, sampled.sigma))
        # Equal ratios of alpha and of sigma; their sum never vanishes.
        scale = left_broadcast(trained.alpha(s) + trained.sigma(s), x_t) / (alpha + sigma)
        x0, eps, variance = denoise(scale * x_t, s)
        noisier = left_broadcast(log_snr < trained.log_snr(trained.t_max), x_t)
        cleaner = left_broadcast(log_snr > trained.log_snr(trained.t_min), x_t)
        return Prediction(
            jnp.where(cleaner, (x_t - sigma * eps) / jnp.where(cleaner, alpha, 1), x0),
            jnp.where(noisier, (x_t - alpha * x0) / jnp.where(noisier, sigma, 1), eps),
            variance,
        )

    return belonging_to(sampled, converted)


public.declare(__name__)
