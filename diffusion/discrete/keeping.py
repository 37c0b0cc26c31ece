"""Schedules of discrete processes: the probability alpha(t) that a symbol still has its value at time t."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.parameters import traced
from diffusion.schedules.noise_schedule import as_float


class Keeping(NamedTuple):
    """The schedule of a discrete process, t = 0 data and t = 1 noise.

    Attributes:
        alpha: t in [0, 1] -> probability that a symbol has not been replaced, decreasing from 1 at t = 0 to 0 at t = 1.
        replaced: t -> 1 - alpha, exact where t is small.
        decay: t -> -d alpha / dt, at least 0.
        time: alpha in [0, 1] -> t, the inverse of `alpha`.
        log_decay: t -> -d log(alpha) / dt, for a schedule whose alpha underflows below t = 1; None for decay / alpha.
    """

    alpha: Callable[[ArrayLike], Array]
    replaced: Callable[[ArrayLike], Array]
    decay: Callable[[ArrayLike], Array]
    time: Callable[[ArrayLike], Array]
    log_decay: Callable[[ArrayLike], Array] | None = None

    def rate(self, t: ArrayLike) -> Array:
        """-alpha'(t) / alpha(t): replacements of a symbol per unit of time; infinite at t = 1."""
        if self.log_decay is not None:
            return self.log_decay(t)
        alpha = self.alpha(t)
        return jnp.where(alpha > 0, self.decay(t) / jnp.where(alpha > 0, alpha, 1.0), jnp.inf)

    def between(self, s: ArrayLike, t: ArrayLike) -> tuple[Array, Array]:
        """alpha(t) / alpha(s) and 1 - alpha(t) / alpha(s), for s < t: the shares that stay and that are replaced.

        Near the noise the numbers 1 - alpha have no digits of alpha. Where alpha(s) underflows, all are replaced.
        """
        alpha_s, alpha_t = self.alpha(s), self.alpha(t)
        left = jnp.where(alpha_s > 0, alpha_s, 1.0)
        lost = jnp.where(alpha_s < 0.5, alpha_s - alpha_t, self.replaced(t) - self.replaced(s))
        return alpha_t / left, jnp.where(alpha_s > 0, lost / left, 1.0)

    def unmasking_rate(self, t: ArrayLike) -> Array:
        """-alpha'(t) / (1 - alpha(t)): the rate at which a mask disappears as t decreases; 0 at t = 0."""
        replaced = self.replaced(t)
        return jnp.where(replaced > 0, self.decay(t) / jnp.where(replaced > 0, replaced, 1.0), 0.0)


def linear() -> Keeping:
    """alpha(t) = 1 - t: the same share of symbols is replaced in each unit of time.

    Facts:
        alpha: 1 - t
        paper: Austin et al. 2021, "Structured Denoising Diffusion Models in Discrete State-Spaces", section 3.1, whose
            absorbing rates 1 / (T - t + 1) give it; Sahoo et al. 2024, "Simple and Effective Masked Diffusion
            Language Models", its log-linear schedule
    """
    return polynomial(1.0)


def polynomial(power: float) -> Keeping:
    """alpha(t) = 1 - t^power.

    Facts:
        alpha: 1 - t^power
        paper: Shi et al. 2024, "Simplified and Generalized Masked Diffusion for Discrete Data"

    Args:
        power: exponent, at least 1; with a larger power, symbols are replaced later.

    Raises:
        ValueError: if power is below 1 or not finite.
    """
    if not traced(power) and not 1 <= power < math.inf:
        raise ValueError(f"polynomial: power = {power}. Valid: a finite number of at least 1 (1 is linear)")
    return Keeping(
        alpha=lambda t: -jnp.expm1(power * jnp.log1p(as_float(t) - 1)),
        replaced=lambda t: as_float(t) ** power,
        decay=lambda t: power * as_float(t) ** (power - 1),
        time=lambda alpha: (1 - as_float(alpha)) ** (1 / power),
    )


def power(power: float) -> Keeping:
    """alpha(t) = (1 - t)^power.

    Facts:
        alpha: (1 - t)^power
        paper: Gat et al. 2024, "Discrete Flow Matching", whose kappa(1 - t) is alpha(t); power 1 is linear

    Args:
        power: exponent, at least 1; with a larger power, symbols are replaced earlier.

    Raises:
        ValueError: if power is below 1 or not finite.
    """
    if not traced(power) and not 1 <= power < math.inf:
        raise ValueError(f"power: power = {power}. Valid: a finite number of at least 1 (1 is linear)")
    return Keeping(
        alpha=lambda t: (1 - as_float(t)) ** power,
        replaced=lambda t: -jnp.expm1(power * jnp.log1p(-as_float(t))),
        decay=lambda t: power * (1 - as_float(t)) ** (power - 1),
        time=lambda alpha: 1 - as_float(alpha) ** (1 / power),
        log_decay=lambda t: power / (1 - as_float(t)),
    )


def cosine() -> Keeping:
    """alpha(t) = 1 - cos(pi (1 - t) / 2): few symbols are replaced near t = 1, so sampling begins slowly.

    Facts:
        alpha: 1 - cos(pi (1 - t) / 2)
        paper: Chang et al. 2022, "MaskGIT", section 3.2; Shi et al. 2024
    """
    angle = lambda t: math.pi / 2 * (1 - as_float(t))
    return Keeping(
        alpha=lambda t: 2 * jnp.sin(angle(t) / 2) ** 2,
        replaced=lambda t: jnp.sin(math.pi / 2 * as_float(t)),
        decay=lambda t: math.pi / 2 * jnp.sin(angle(t)),
        time=lambda alpha: 1 - 4 / math.pi * jnp.arcsin(jnp.sqrt(as_float(alpha) / 2)),
    )
