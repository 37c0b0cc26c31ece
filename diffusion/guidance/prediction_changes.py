"""Changes of a prediction that keep alpha x0 + sigma eps = x_t."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.square_roots import root
from diffusion.parameterizations import Prediction
from diffusion.schedules import NoiseSchedule, left_broadcast


def extrapolate(prediction: Prediction, others: Sequence[Prediction], strengths: Sequence[Array]) -> Prediction:
    """prediction + sum_k strengths_k (prediction - others_k), for x0 and eps alike; exact where strengths are 0."""
    x0, eps = prediction.x0, prediction.eps
    for other, strength in zip(others, strengths, strict=True):
        x0 = x0 + strength * (prediction.x0 - other.x0)
        eps = eps + strength * (prediction.eps - other.eps)
    return prediction._replace(x0=x0, eps=eps)


def slide(prediction: Prediction, schedule: NoiseSchedule, t: ArrayLike, c: Array) -> Prediction:
    """x0 - sigma c and eps + alpha c: every prediction with the same x_t has this form, which needs no division.

    c changes v = alpha eps - sigma x0 by (alpha^2 + sigma^2) c, the velocity by (alpha sigma' - sigma alpha') c and the
    score by -alpha / sigma c.
    """
    alpha = left_broadcast(schedule.alpha(t), c)
    sigma = left_broadcast(schedule.sigma(t), c)
    return prediction._replace(x0=prediction.x0 - sigma * c, eps=prediction.eps + alpha * c)


def replace_x0(prediction: Prediction, schedule: NoiseSchedule, t: ArrayLike, x0: Array) -> Prediction:
    """The prediction with this x0, and eps + alpha / sigma (old x0 - new x0); at sigma = 0 eps is unchanged."""
    alpha = left_broadcast(schedule.alpha(t), x0)
    sigma = left_broadcast(schedule.sigma(t), x0)
    noisy = sigma > 0
    ratio = jnp.where(noisy, alpha / jnp.where(noisy, sigma, 1), 0)
    return prediction._replace(x0=x0, eps=prediction.eps + ratio * (prediction.x0 - x0))


def inner(a: Array, b: Array) -> Array:
    """<a, b> of each example, `[B, 1, ...]`."""
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)), keepdims=True)


def deviation_ratio(a: Array, b: Array, real: Array | None = None) -> Array:
    """std(a) / std(b) over the values of each example, `[B, 1, ...]`; 1 where b is constant.

    Args:
        a, b: arrays `[B, ...]`.
        real: mask of the values that count, which broadcasts against a and b; None for all.
    """
    deviation = lambda x: root(jnp.var(x, axis=tuple(range(1, x.ndim)), keepdims=True, where=real))
    wide = deviation(b)
    return jnp.where(wide > 0, deviation(a) / jnp.where(wide > 0, wide, 1), 1)
