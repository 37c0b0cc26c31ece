"""Stochastic interpolants: paths between any two distributions, with noise in between.

    x_t = I(t, x_0, x_1) + gamma(t) z,    I(0, ..) = x_0 (data),  I(1, ..) = x_1,  gamma(0) = gamma(1) = 0,  z ~ N(0, I)

Albergo et al. 2023, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions", whose data is at t = 1.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from diffusion.arrays.parameters import traced


class Interpolant(NamedTuple):
    """A path of pairs.

    Attributes:
        mean: (t, x_0, x_1) -> I(t, x_0, x_1), where t broadcasts against x_0 and x_1.
        gamma: t -> the noise's coefficient, elementwise.
    """

    mean: Callable[[Array, Array, Array], Array]
    gamma: Callable[[Array], Array]


def brownian_bridge(sigma: float = 1.0) -> Interpolant:
    """(1 - t) x_0 + t x_1 + sigma sqrt(t (1 - t)) z, whose velocity is not square integrable at the ends.

    Albergo et al. 2023, section 4, with a = sigma^2; Tong et al. 2024, "Simulation-Free Schroedinger Bridges via Score
    and Flow Matching".

    Args:
        sigma: the bridge's diffusion, > 0.

    Raises:
        ValueError: if sigma is not positive.
    """
    if not traced(sigma) and not sigma > 0:
        raise ValueError(f"brownian_bridge: sigma = {sigma} must be positive; without noise it is flow matching")
    return Interpolant(_linear, lambda t: sigma * jnp.sqrt(t * (1 - t)))


def smooth_bridge() -> Interpolant:
    """(1 - t) x_0 + t x_1 + sin^2(pi t) z, smooth at both ends. Albergo et al. 2023, section 4."""
    return Interpolant(_linear, lambda t: jnp.sin(math.pi * t) ** 2)


def encoding_decoding() -> Interpolant:
    """cos^2(pi t) x_0 up to t = 1/2, then cos^2(pi t) x_1, plus sin^2(pi t) z: at t = 1/2 there is only noise.

    Albergo et al. 2023, section 4.
    """

    def mean(t, x_0, x_1):
        return jnp.cos(math.pi * t) ** 2 * jnp.where(t < 0.5, x_0, x_1)

    return Interpolant(mean, lambda t: jnp.sin(math.pi * t) ** 2)


def _linear(t, x_0, x_1):
    return (1 - t) * x_0 + t * x_1
