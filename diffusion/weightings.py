"""Loss weights, all stated as one thing: the weight on the squared error of x0.

Multiplying by `error_scale` turns such a weight into the weight on the squared error of a network's own output, so
that one weighting means the same loss under every parameterization (the mistake that min-SNR implementations make).
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.parameterizations import Parameterization
from diffusion.schedules import NoiseSchedule

Weighting = Callable[[NoiseSchedule, ArrayLike], Array]


def error_scale(schedule: NoiseSchedule, t: ArrayLike, parameterization: Parameterization) -> Array:
    """The factor between squared errors: |x0_hat - x0|^2 = error_scale |output - target|^2.

    Every parameterization is linear in its output, so the factor is (d x0 / d output)^2.

    Args:
      schedule: the process.
      t: times of any shape.
      parameterization: what the output means.

    Returns:
      Array of t's shape.

    Raises:
      ValueError: for a parameterization with learned variance, which has two outputs.
    """
    if parameterization.name == "learned_variance":
        raise ValueError("a network with learned variance has two outputs and no single error: train it with "
                         "objectives.hybrid, or give the parameterization of its first half here")
    t = jnp.asarray(t)
    one = jnp.ones_like(schedule.alpha(t))
    return parameterization.to_prediction(schedule, t, 0 * one, one).x0 ** 2


def constant(parameterization: Parameterization) -> Weighting:
    """Weight one on the squared error of `parameterization`'s own output.

    The epsilon loss of Ho et al. 2020, eq. 14, is constant(epsilon()), whose weight on x0 is the SNR; the v loss of
    Salimans and Ho 2022 is constant(v()), SNR + 1; flow matching is constant(velocity()).

    Args:
      parameterization: the space in which the weight is one.
    """
    return lambda schedule, t: 1 / error_scale(schedule, t, parameterization)


def truncated_snr() -> Weighting:
    """max(SNR, 1). Salimans and Ho 2022, section 4."""
    return lambda schedule, t: jnp.maximum(_snr(schedule, t), 1)


def min_snr(gamma: float = 5.0) -> Weighting:
    """min(SNR, gamma): divided by SNR it is the weight for epsilon, by SNR + 1 for v.

    Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy", section 3.4.

    Args:
      gamma: > 0; 5 in the paper.

    Raises:
      ValueError: if gamma is not positive.
    """
    if not gamma > 0:
        raise ValueError(f"min_snr: gamma = {gamma} must be positive (5 in the paper)")
    return lambda schedule, t: jnp.minimum(_snr(schedule, t), gamma)


def edm(sigma_data: float = 0.5) -> Weighting:
    """(s^2 + sigma_data^2) / (s sigma_data)^2 with s = sigma / alpha, that is SNR + 1 / sigma_data^2.

    Karras et al. 2022, table 1, lambda(sigma).

    Args:
      sigma_data: standard deviation of the data, > 0.

    Raises:
      ValueError: if sigma_data is not positive.
    """
    if not sigma_data > 0:
        raise ValueError(f"edm weighting: sigma_data = {sigma_data} must be positive (0.5 in the paper)")
    return lambda schedule, t: _snr(schedule, t) + 1 / sigma_data**2


def _snr(schedule: NoiseSchedule, t: ArrayLike) -> Array:
    return jnp.exp(schedule.log_snr(t))
