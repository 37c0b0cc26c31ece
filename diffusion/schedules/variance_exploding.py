"""Schedules with alpha = 1, which only add noise to the data: variance exploding and EDM."""

import math

import jax.numpy as jnp

from diffusion.arrays.parameters import functions_of, traced
from diffusion.schedules.noise_schedule import NoiseSchedule, as_float, normal


def variance_exploding(sigma_min: float = 0.01, sigma_max: float = 50.0) -> NoiseSchedule:
    """Noise in geometric progression: alpha = 1, sigma(t) = sigma_min (sigma_max / sigma_min)^t for t in (0, 1].

    sigma jumps from 0 at t = 0, the data, to sigma_min just after it (the paper's remark in appendix C), so t_min is
    the paper's 1e-5. The paper's images have values in [0, 1], and its sigma_max is about the largest distance between
    two images.

    Facts:
        alpha: 1
        sigma: sigma_min (sigma_max / sigma_min)^t
        end: alpha = 1, sigma = sigma_max
        paper: Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations", appendix C

    Args:
        sigma_min: smallest noise, > 0.
        sigma_max: largest noise, > sigma_min.

    Raises:
        ValueError: if 0 < sigma_min < sigma_max does not hold.
    """
    _check_noise_range("variance_exploding", sigma_min, sigma_max)
    functions = functions_of(sigma_min, sigma_max)
    log_ratio = functions.log(sigma_max / sigma_min)

    def log_sigma(t):
        t = as_float(t)
        return jnp.where(t > 0, functions.log(sigma_min) + log_ratio * t, -jnp.inf)

    def inverse_log_snr(log_snr):
        log_snr = as_float(log_snr)
        t = (-log_snr / 2 - functions.log(sigma_min)) / log_ratio
        return jnp.where(jnp.isposinf(log_snr), 0, t)

    def sigma(t):
        return jnp.exp(log_sigma(t))

    return NoiseSchedule(
        alpha=lambda t: jnp.ones_like(as_float(t)),
        sigma=sigma,
        log_snr=lambda t: -2 * log_sigma(t),
        inverse_log_snr=inverse_log_snr,
        drift=lambda t: jnp.zeros_like(as_float(t)),
        diffusion=lambda t: sigma(t) * functions.sqrt(2 * log_ratio),
        t_min=1e-5,
        t_max=1.0,
        prior=normal(sigma_max),
        norm=_first,
    )


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> NoiseSchedule:
    """EDM's schedule with its time scaled to [0, 1]: alpha = 1, sigma = t sigma_max.

    Networks are trained and evaluated for sigma in [sigma_min, sigma_max], that is t in [sigma_min / sigma_max, 1].

    Facts:
        alpha: 1
        sigma: t sigma_max
        end: alpha = 1, sigma = sigma_max
        paper: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", table 1

    Args:
        sigma_min: smallest noise at which the network is trained, > 0, in units of the data.
        sigma_max: largest noise, > sigma_min.

    Raises:
        ValueError: if 0 < sigma_min < sigma_max does not hold.
    """
    _check_noise_range("edm", sigma_min, sigma_max)
    functions = functions_of(sigma_max)
    return NoiseSchedule(
        alpha=lambda t: jnp.ones_like(as_float(t)),
        sigma=lambda t: sigma_max * as_float(t),
        log_snr=lambda t: -2 * (jnp.log(as_float(t)) + functions.log(sigma_max)),
        inverse_log_snr=lambda log_snr: jnp.exp(-as_float(log_snr) / 2) / sigma_max,
        drift=lambda t: jnp.zeros_like(as_float(t)),
        diffusion=lambda t: sigma_max * jnp.sqrt(2 * as_float(t)),
        t_min=sigma_min / sigma_max,
        t_max=1.0,
        prior=normal(sigma_max),
        norm=_first,
    )


def _first(a, b):
    return a


def _check_noise_range(name: str, sigma_min: float, sigma_max: float) -> None:
    if not traced(sigma_min, sigma_max) and not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(
            f"{name}: sigma_min = {sigma_min}, sigma_max = {sigma_max}. Valid: 0 < sigma_min < sigma_max < inf"
        )
