"""Interpolations of flow matching: straight lines, and quarter circles."""

import math

import jax
import jax.numpy as jnp

from diffusion.arrays.parameters import functions_of, is_number, traced
from diffusion.schedules.noise_schedule import NoiseSchedule, as_float, normal


def rectified_flow(noise_scale: float = 1.0) -> NoiseSchedule:
    """Straight lines between data and noise: alpha = 1 - t, sigma = noise_scale t, for t in [0, 1].

    The papers have the data at time 1. Eq. 20 of the second paper becomes this process with sigma_min = 0.

    Facts:
        alpha: 1 - t
        sigma: noise_scale t
        end: alpha = 0, sigma = noise_scale
        paper: Liu et al. 2023, "Flow Straight and Fast", eq. 1; Lipman et al. 2023, "Flow Matching for Generative
            Modeling", eq. 20; Li and He 2025, "Back to Basics", for a noise_scale above 1

    Args:
        noise_scale: standard deviation of the noise, > 0; d / 256 for pictures of d x d pixels in the third paper.

    Raises:
        ValueError: if noise_scale is not positive and finite.
    """
    if not traced(noise_scale) and not 0 < noise_scale < math.inf:
        raise ValueError(f"rectified_flow: noise_scale = {noise_scale} must be positive (1; 2 for JiT's 512 pixels)")
    plain = NoiseSchedule(
        alpha=lambda t: 1 - as_float(t),
        sigma=as_float,
        log_snr=lambda t: 2 * (jnp.log1p(-as_float(t)) - jnp.log(as_float(t))),
        inverse_log_snr=lambda log_snr: jax.nn.sigmoid(-as_float(log_snr) / 2),
        drift=lambda t: -1 / (1 - as_float(t)),
        diffusion=lambda t: jnp.sqrt(2 * as_float(t) / (1 - as_float(t))),
        t_min=0.0,
        t_max=1.0,
        prior=normal(1.0),
        norm=jnp.add,
    )
    if is_number(noise_scale, 1):
        return plain
    rise = 2 * functions_of(noise_scale).log(noise_scale)
    return plain._replace(
        sigma=lambda t: noise_scale * as_float(t),
        log_snr=lambda t: plain.log_snr(t) - rise,
        inverse_log_snr=lambda log_snr: plain.inverse_log_snr(as_float(log_snr) + rise),
        diffusion=lambda t: noise_scale * plain.diffusion(t),
        prior=normal(noise_scale),
        norm=lambda a, b: a + b / noise_scale,
    )


def trigonometric() -> NoiseSchedule:
    """Quarter circles between data and noise: alpha = cos(pi t / 2), sigma = sin(pi t / 2), for t in [0, 1].

    TrigFlow's time is pi t / 2, and it divides the data by sigma_data first. SiT calls this process the generalized
    variance-preserving interpolant; its code has the data at time 1.

    Facts:
        alpha: cos(pi t / 2)
        sigma: sin(pi t / 2)
        end: alpha = 0, sigma = 1
        paper: Lu and Song 2025, "Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models", section 3;
            Ma et al. 2024, "SiT", section 2.3; Albergo and Vanden-Eijnden 2023
    """
    rate = math.pi / 2
    alpha = lambda t: jnp.sin(rate * (1 - as_float(t)))  # exact at the end where it vanishes
    sigma = lambda t: jnp.sin(rate * as_float(t))
    drift = lambda t: -rate * sigma(t) / alpha(t)  # exact at both ends
    return NoiseSchedule(
        alpha,
        sigma,
        log_snr=lambda t: 2 * (jnp.log(alpha(t)) - jnp.log(sigma(t))),
        inverse_log_snr=lambda log_snr: jnp.arctan(jnp.exp(-as_float(log_snr) / 2)) / rate,
        drift=drift,
        diffusion=lambda t: jnp.sqrt(-2 * drift(t)),
        t_min=0.0,
        t_max=1.0,
        prior=normal(1.0),
        norm=jnp.hypot,
    )
