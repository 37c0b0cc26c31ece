"""Resampling: schemes that choose the surviving particles and their new weights."""

__all__ = [
    "USUAL",
    "Resampling",
    "effective_size",
    "log_normaliser",
    "multinomial",
    "partial",
    "stratified",
    "systematic",
    "where_uneven",
]

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp

from diffusion.package import public

Resampling = Callable[[Array, Array], tuple[Array, Array]]
"""(key, log-weights `[K]`) -> (ancestors Int `[K]`, log-weights `[K]` of the offspring), unbiased:
E[sum_k exp(offspring's weight k) f(ancestor k)] = sum_k exp(weight k) f(k) for every f."""


def effective_size(log_weights: Array) -> Array:
    """The effective sample size (sum w)^2 / sum w^2, from 1 (one particle has all the weight) to K (equal weights).

    Args:
        log_weights: log-weights `[..., K]`, float; they need not be normalised.

    Returns:
        Effective sizes `[...]`; 0 if all weights are zero.

    Reference: Kong et al. 1994, "Sequential Imputations and Bayesian Missing Data Problems", section 4.
    """
    weights = jnp.exp(log_weights - _top(log_weights)[..., None])
    squares = (weights**2).sum(-1)
    return jnp.where(squares > 0, weights.sum(-1) ** 2 / jnp.where(squares > 0, squares, 1), 0)


def log_normaliser(log_weights: Array) -> Array:
    """log(1/K sum_k exp(log w_k)): the logarithm of an unbiased estimate of the target's normalising constant.

    Args:
        log_weights: log-weights `[..., K]` of `Particles`.

    Returns:
        Estimates `[...]`, one for each group.

    Reference: Del Moral 2004, "Feynman-Kac Formulae", proposition 7.4.1.
    """
    return logsumexp(log_weights, axis=-1) - math.log(log_weights.shape[-1])


def multinomial(key: Array, log_weights: Array) -> tuple[Array, Array]:
    """Draws each offspring's ancestor independently, particle k with probability w_k / sum w.

    All offspring have the mean weight.

    Args:
        key: random key.
        log_weights: log-weights `[K]`, float; -inf for a particle that dies.

    Returns:
        (ancestors Int `[K]`, log-weights `[K]`).

    Reference: Douc et al. 2005, "Comparison of Resampling Schemes for Particle Filtering", section 3.
    """
    return _offspring(jax.random.uniform(key, log_weights.shape, log_weights.dtype), log_weights)


def stratified(key: Array, log_weights: Array) -> tuple[Array, Array]:
    """Draws offspring j = 0 .. K - 1 as the quantile (j + u_j) / K of the weights, u_j uniform in [0, 1).

    Args:
        key: random key.
        log_weights: log-weights `[K]`, float; -inf for a particle that dies.

    Returns:
        (ancestors Int `[K]`, log-weights `[K]`); all offspring have the mean weight.
    """
    uniform = jax.random.uniform(key, log_weights.shape, log_weights.dtype)
    return _offspring(_strata(uniform, log_weights), log_weights)


def systematic(key: Array, log_weights: Array) -> tuple[Array, Array]:
    """Draws offspring j = 0 .. K - 1 as the quantile (j + u) / K of the weights, with one u in [0, 1) for all.

    Particle k has floor(K w_k / sum w) offspring, or one more.

    Args:
        key: random key.
        log_weights: log-weights `[K]`, float; -inf for a particle that dies.

    Returns:
        (ancestors Int `[K]`, log-weights `[K]`); all offspring have the mean weight.
    """
    uniform = jax.random.uniform(key, (), log_weights.dtype)
    return _offspring(_strata(uniform, log_weights), log_weights)


def where_uneven(resample: Resampling, below: float = 0.5) -> Resampling:
    """Resamples only if the effective size is less than a share of the particles.

    Args:
        resample: the resampling, such as `systematic`.
        below: share of the K particles, in (0, 1]; 1/2 is usual.

    Raises:
        ValueError: if the share is out of range.
    """
    if not 0 < below <= 1:
        raise ValueError(f"where_uneven: below = {below} must be in (0, 1], a share of the particles")

    def resample_where_uneven(key, log_weights):
        """The ancestors `[K]` and log-weights `[K]` of the offspring."""
        ancestors, offspring = resample(key, log_weights)
        uneven = effective_size(log_weights) < below * log_weights.shape[0]
        itself = jnp.arange(log_weights.shape[0], dtype=ancestors.dtype)
        return jnp.where(uneven, ancestors, itself), jnp.where(uneven, offspring, log_weights)

    return resample_where_uneven


USUAL: Resampling = where_uneven(systematic)
"""Systematic resampling if the effective size is below half of the particles, as in most papers."""


def partial(resample: Resampling, share: float = 0.5) -> Resampling:
    """Resamples a random subset of the particles among themselves; the others keep their positions and weights.

    Args:
        resample: the resampling of the subset, such as `systematic`.
        share: share of the particles that are resampled, in (0, 1].

    Raises:
        ValueError: if the share is out of range.

    Reference: Martino et al. 2016, "Weighting a Resampled Particle in Sequential Monte Carlo".
    """
    if not 0 < share <= 1:
        raise ValueError(f"partial: share = {share} must be in (0, 1], a share of the particles")

    def resample_part(key, log_weights):
        number = log_weights.shape[0]
        choice, draw = jax.random.split(key)
        part = jax.random.permutation(choice, number)[: max(1, round(share * number))]
        ancestors, offspring = resample(draw, log_weights[part])
        return jnp.arange(number, dtype=part.dtype).at[part].set(part[ancestors]), log_weights.at[part].set(offspring)

    return resample_part


def _strata(uniform: Array, log_weights: Array) -> Array:
    """The quantiles (j + u_j) / K."""
    number = log_weights.shape[0]
    return (jnp.arange(number, dtype=log_weights.dtype) + uniform) / number


def _offspring(quantiles: Array, log_weights: Array) -> tuple[Array, Array]:
    """The particles at these quantiles in [0, 1] of the weights, each with the mean weight."""
    total = jnp.cumsum(jnp.exp(log_weights - _top(log_weights)))
    last = jnp.searchsorted(total, total[-1])  # the last particle with a positive weight
    ancestors = jnp.minimum(jnp.searchsorted(total, quantiles * total[-1], side="right"), last)
    alive = jnp.where(total[-1] > 0, ancestors, jnp.arange(log_weights.shape[0], dtype=ancestors.dtype))
    return alive, jnp.full_like(log_weights, log_normaliser(log_weights))


def _top(log_weights: Array) -> Array:
    """The largest log-weight, or 0 if all are -inf."""
    top = log_weights.max(-1)
    return jax.lax.stop_gradient(jnp.where(jnp.isneginf(top), 0, top))


public.declare(__name__)
