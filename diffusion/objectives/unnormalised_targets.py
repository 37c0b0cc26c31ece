"""Benchmark densities for samplers of unnormalised densities, with known normalisers where possible."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import logsumexp

from diffusion.arrays.parameters import functions_of, traced


class Target(NamedTuple):
    """An unnormalised density.

    Attributes:
        log_density: x `[B, *shape]` -> log gamma `[B]`, differentiable.
        shape: shape of one sample.
        log_normaliser: the logarithm of the integral of gamma; None if it is not known.
        draw: keys `[B]` -> exact samples `[B, *shape]`; None if there is no such function.
    """

    log_density: Callable[[Array], Array]
    shape: tuple[int, ...]
    log_normaliser: float | None = None
    draw: Callable[[Array], Array] | None = None


def gaussian_mixture(number: int = 40, dimension: int = 2, side: float = 80.0, seed: int = 0) -> Target:
    """GMM-40: isotropic Gaussians of equal weight, whose means are uniform in a cube around 0; the integral is 1.

    Their standard deviation is log(1 + e) = 1.31, as in the paper's code. The means come from another random generator.

    Facts:
        paper: Midgley et al. 2023, "Flow Annealed Importance Sampling Bootstrap", section 4.1

    Args:
        number: number of Gaussians, >= 1.
        dimension: number of dimensions, >= 1.
        side: side of the cube, > 0.
        seed: seed of the means.

    Raises:
        ValueError: if number or dimension is below 1, or side is not positive.
    """
    if number < 1 or dimension < 1 or not (traced(side) or side > 0):
        raise ValueError(
            f"gaussian_mixture: number = {number} and dimension = {dimension} must be at least 1, and side = {side} "
            "positive"
        )
    means = side * (np.random.default_rng(seed).random((number, dimension)).astype(np.float32) - 0.5)
    std = math.log1p(math.e)
    constant = math.log(number) + dimension * math.log(std * math.sqrt(2 * math.pi))

    def log_density(x):
        return logsumexp(-jnp.sum((x[:, None] - means) ** 2, -1) / (2 * std**2), axis=1) - constant

    def one(key):
        which, noise = jax.random.split(key)
        return jnp.asarray(means)[jax.random.randint(which, (), 0, number)] + std * jax.random.normal(
            noise, (dimension,)
        )

    return Target(log_density, (dimension,), 0.0, jax.vmap(one))


def funnel(dimension: int = 10, std: float = 3.0) -> Target:
    """Neal's funnel, whose integral is 1: x_1 ~ N(0, std^2), and the others ~ N(0, exp(x_1)) given x_1.

    Facts:
        paper: Neal 2003, "Slice Sampling", section 8

    Args:
        dimension: number of dimensions, >= 2.
        std: standard deviation of x_1, > 0.

    Raises:
        ValueError: if dimension is below 2, or std is not positive.
    """
    if dimension < 2 or not (traced(std) or std > 0):
        raise ValueError(f"funnel: dimension = {dimension} must be at least 2, std = {std} positive")
    log_root = math.log(2 * math.pi) / 2

    def log_density(x):
        neck, rest = x[:, 0], x[:, 1:]
        wide = -((neck / std) ** 2) / 2 - functions_of(std).log(std)
        return wide - jnp.sum(jnp.exp(-neck[:, None]) * rest**2 + neck[:, None], -1) / 2 - dimension * log_root

    def one(key):
        z = jax.random.normal(key, (dimension,))
        return jnp.concatenate([std * z[:1], jnp.exp(std * z[0] / 2) * z[1:]])

    return Target(log_density, (dimension,), 0.0, jax.vmap(one))


def many_well(wells: int = 16) -> Target:
    """Many-well: pairs (a, b) with log gamma = sum of -a^4 + 6 a^2 + a/2 - b^2/2, which has 2^wells modes.

    The normaliser of each pair is computed by a sum over a fine grid.

    Facts:
        paper: Noe et al. 2019, "Boltzmann Generators"; Midgley et al. 2023, "Flow Annealed Importance Sampling
            Bootstrap", section 4.2, where wells = 16

    Args:
        wells: number of pairs, >= 1.

    Raises:
        ValueError: if wells is below 1.
    """
    if wells < 1:
        raise ValueError(f"many_well: wells = {wells} must be at least 1")
    log_first = lambda a: -(a**4) + 6 * a**2 + a / 2
    grid, step = np.linspace(-5, 5, 20_001, retstep=True)
    density = np.exp(log_first(grid)) * step
    below = np.cumsum(density) / density.sum()

    def log_density(x):
        pairs = x.reshape(-1, wells, 2)
        return jnp.sum(log_first(pairs[..., 0]) - pairs[..., 1] ** 2 / 2, -1)

    def one(key):
        first, second = jax.random.split(key)
        a = jnp.interp(jax.random.uniform(first, (wells,)), jnp.asarray(below), jnp.asarray(grid + step / 2))
        return jnp.stack([a, jax.random.normal(second, (wells,))], -1).ravel()

    log_normaliser = wells * (math.log(density.sum()) + math.log(2 * math.pi) / 2)
    return Target(log_density, (2 * wells,), log_normaliser, jax.vmap(one))
