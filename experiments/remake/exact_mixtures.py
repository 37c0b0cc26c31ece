"""Mixtures of Gaussians as data: their densities, denoisers and samples are exact at every time of a process.

Of x_t = alpha x_0 + sigma eps, component k has the mean alpha m_k and the covariance C_k = alpha^2 S_k + sigma^2.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike

from diffusion.parameterizations import Denoiser, Prediction
from diffusion.schedules import NoiseSchedule, left_broadcast


class Mixture(NamedTuple):
    """sum_k weights[k] N(means[k], axes[k] diag(variances[k]) axes[k]^T).

    Attributes:
        weights: `[K]` weights, which sum to 1.
        means: `[K, D]` means.
        variances: `[K, D]` eigenvalues of the covariances, >= 0.
        axes: `[K, D, D]` their eigenvectors in columns; None for covariances that are diagonal.
    """

    weights: ArrayLike
    means: ArrayLike
    variances: ArrayLike
    axes: ArrayLike | None = None


def mixture(weights: ArrayLike, means: ArrayLike, covariances: ArrayLike) -> Mixture:
    """The mixture of these weights, which are scaled to sum to 1, means and full covariances `[K, D, D]`."""
    variances, axes = np.linalg.eigh(np.asarray(covariances, np.float64))
    weights = np.asarray(weights, np.float64)
    return Mixture(weights / weights.sum(), np.asarray(means, np.float64), np.maximum(variances, 0), axes)


def log_density(data: Mixture, x: Array, alpha: ArrayLike = 1.0, sigma: ArrayLike = 0.0) -> Array:
    """`[B]` log-density of x_t = alpha x_0 + sigma eps at x `[B, D]`; alpha and sigma are `[]` or `[B]`."""
    return logsumexp(_joint(data, x, alpha, sigma)[0], axis=1)


def denoiser(data: Mixture, schedule: NoiseSchedule) -> Denoiser:
    """The exact denoiser of a mixture: E[x_0 | x_t] and E[eps | x_t] for x_t `[B, D]`."""

    def denoise(x, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        joint, whitened = _joint(data, x, alpha, sigma)
        weights = jax.nn.softmax(joint, axis=1)
        mean = lambda parts: jnp.einsum("bk,bkd->bd", weights, parts)
        alpha, sigma = (left_broadcast(jnp.asarray(value, x.dtype), x[:, None]) for value in (alpha, sigma))
        x0 = mean(data.means + _turned(data, alpha * data.variances * whitened))
        return Prediction(x0, mean(_turned(data, sigma * whitened)))

    return denoise


def draw(data: Mixture, key: Array, number: int) -> Array:
    """`[number, D]` samples of a mixture."""
    choice, noise = jax.random.split(key)
    k = jax.random.categorical(choice, jnp.log(jnp.asarray(data.weights)), shape=(number,))
    means, variances = jnp.asarray(data.means), jnp.asarray(data.variances)
    z = jnp.sqrt(variances)[k] * jax.random.normal(noise, (number, means.shape[1]))
    return means[k] + (z if data.axes is None else jnp.einsum("bij,bj->bi", jnp.asarray(data.axes)[k], z))


def _joint(data, x, alpha, sigma):
    """log(w_k N(x; alpha m_k, C_k)) `[B, K]`, and C_k^-1 (x - alpha m_k) in the axes of component k `[B, K, D]`."""
    data = jax.tree.map(jnp.asarray, data)
    alpha, sigma = (left_broadcast(jnp.asarray(value, x.dtype), x[:, None]) for value in (alpha, sigma))
    difference = x[:, None] - alpha * data.means
    if data.axes is not None:
        difference = jnp.einsum("kij,bki->bkj", data.axes, difference)
    variance = alpha**2 * data.variances + sigma**2
    whitened = difference / variance
    terms = difference * whitened + jnp.log(2 * jnp.pi * variance)
    return jnp.log(data.weights) - terms.sum(-1) / 2, whitened


def _turned(data, parts):
    return parts if data.axes is None else jnp.einsum("kij,bkj->bki", jnp.asarray(data.axes), parts)
