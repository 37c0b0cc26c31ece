"""Clocks: the time that a network receives, as a function of the process and of t."""

__all__ = ["log_sigma", "noise_level", "reversed_time", "steps", "time"]

import jax.numpy as jnp

from diffusion.arrays.parameters import is_number
from diffusion.package import public
from diffusion.parameterizations.network_outputs import Clock


def time(scale: float = 1.0) -> Clock:
    """The network receives scale t.

    Args:
        scale: factor of t; 1000 in flow transformers (Esser et al. 2024).
    """
    return lambda schedule, t: jnp.asarray(t) if is_number(scale, 1) else scale * jnp.asarray(t)


def steps(T: int = 1000) -> Clock:
    """The network receives the index of a discrete process, T t - 1, from 0 at t = 1 / T to T - 1 at t = 1.

    Args:
        T: number of steps of the process; 1000 in Ho et al. 2020, "Denoising Diffusion Probabilistic Models".
    """
    return lambda schedule, t: T * jnp.asarray(t) - 1


def log_sigma(scale: float = 0.25) -> Clock:
    """The network receives scale ln(sigma / alpha).

    Args:
        scale: factor of the logarithm; 1/4 in Karras et al. 2022 (table 1, c_noise), 250 in the code of consistency
            models (Song et al. 2023).
    """
    return lambda schedule, t: -scale / 2 * schedule.log_snr(t)


def reversed_time() -> Clock:
    """The network receives 1 - t, for networks trained with the data at time 1 (SiT's code, Ma et al. 2024)."""
    return lambda schedule, t: 1 - jnp.asarray(t)


def noise_level() -> Clock:
    """The network receives alpha, the square root of alpha-bar: the noise level of WaveGrad (Chen et al. 2021)."""
    return lambda schedule, t: schedule.alpha(jnp.asarray(t))


public.declare(__name__)
