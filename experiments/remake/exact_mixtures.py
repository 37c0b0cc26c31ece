"""Mixtures of Gaussians as data: their densities, denoisers and samples are exact at every time of a process.

Component k of x_t = alpha x_0 + sigma eps has the mean alpha m_k and the covariance C_k = alpha^2 S_k + sigma^2 I.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike

from diffusion.parameterizations import Denoiser, Prediction
from diffusion.schedules import NoiseSchedule


class Mixture(NamedTuple):
    """sum_k weights[k] N(means[k], axes[k] diag(variances[k]) axes[k]^T).

    Attributes:
        weights: weights of the components, `[K]`, which sum to 1.
        means: means of the components, `[K, D]`.
        variances: eigenvalues of the covariances, `[K, D]`, >= 0.
        axes: eigenvectors of the covariances in columns, `[K, D, D]`; None for diagonal covariances.
    """

    weights: Array | np.ndarray
    means: Array | np.ndarray
    variances: Array | np.ndarray
    axes: Array | np.ndarray | None = None


def mixture(weights: ArrayLike, means: ArrayLike, covariances: ArrayLike) -> Mixture:
    """The mixture of weights `[K]`, which are scaled to sum to 1, means `[K, D]` and covariances `[K, D, D]`."""
    variances, axes = np.linalg.eigh(np.asarray(covariances, np.float64))
    weights = np.asarray(weights, np.float64)
    return Mixture(weights / weights.sum(), np.asarray(means, np.float64), np.maximum(variances, 0), axes)


def log_density(data: Mixture, x: Array, alpha: ArrayLike = 1.0, sigma: ArrayLike = 0.0) -> Array:
    """The log-density `[B]` of x_t = alpha x_0 + sigma eps at x `[B, D]`; alpha and sigma are `[]` or `[B]`."""
    return logsumexp(_joint(data, x, _over_components(alpha, x), _over_components(sigma, x))[0], axis=1)


def posterior(data: Mixture, x: Array, alpha: ArrayLike = 1.0, sigma: ArrayLike = 0.0) -> Array:
    """The probability `[B, K]` of each component if x_t equals x `[B, D]`; alpha and sigma are `[]` or `[B]`."""
    return jax.nn.softmax(_joint(data, x, _over_components(alpha, x), _over_components(sigma, x))[0], axis=1)


def denoiser(data: Mixture, schedule: NoiseSchedule) -> Denoiser:
    """The exact denoiser of a mixture: E[x_0 | x_t] and E[eps | x_t] for x_t `[B, D]`."""

    def denoise(x, t):
        alpha, sigma = (_over_components(coefficient(t), x) for coefficient in (schedule.alpha, schedule.sigma))
        joint, whitened = _joint(data, x, alpha, sigma)
        weights = jax.nn.softmax(joint, axis=1)
        variances = jnp.asarray(data.variances, x.dtype).T[:, None]
        x0 = weights @ jnp.asarray(data.means, x.dtype) + _turned(data, weights * alpha * variances * whitened)
        return Prediction(x0, _turned(data, weights * sigma * whitened))

    return denoise


def draw(data: Mixture, key: Array, number: int) -> Array:
    """Samples `[number, D]` of a mixture."""
    choice, noise = jax.random.split(key)
    ends = jnp.cumsum(jnp.asarray(data.weights))
    k = jnp.searchsorted(ends[:-1], ends[-1] * jax.random.uniform(choice, (number,)), side="right")
    means, variances = jnp.asarray(data.means), jnp.asarray(data.variances)
    z = jnp.sqrt(variances)[k] * jax.random.normal(noise, (number, means.shape[1]))
    return means[k] + (z if data.axes is None else jnp.einsum("bij,bj->bi", jnp.asarray(data.axes)[k], z))


def _over_components(coefficient: ArrayLike, x: Array) -> Array:
    """A coefficient `[]` or `[B]` as an array `[]` or `[B, 1]` with the type of x."""
    coefficient = jnp.asarray(coefficient, x.dtype)
    return coefficient[:, None] if coefficient.ndim else coefficient


def _joint(data: Mixture, x: Array, alpha: Array, sigma: Array) -> tuple[Array, Array]:
    """log(w_k N(x; alpha m_k, C_k)) `[B, K]`, and C_k^-1 (x - alpha m_k) in the axes of component k, `[D, B, K]`."""
    data = jax.tree.map(lambda leaf: jnp.asarray(leaf, x.dtype), data)
    if data.axes is None:
        point, center = x.T[:, :, None], data.means.T[:, None]
    else:
        point = jnp.einsum("bi,kij->jbk", x, data.axes)
        center = jnp.einsum("ki,kij->jk", data.means, data.axes)[:, None]
    difference = point - alpha * center
    precision = 1 / (alpha**2 * data.variances.T[:, None] + sigma**2)
    whitened = precision * difference
    terms = difference * whitened - jnp.log(precision / (2 * jnp.pi))
    return jnp.log(data.weights) - terms.sum(0) / 2, whitened


def _turned(data: Mixture, parts: Array) -> Array:
    """The sum `[B, D]` over components of vectors `[D, B, K]`, each in the axes of its component."""
    if data.axes is None:
        return parts.sum(2).T
    return jnp.einsum("jbk,kij->bi", parts, jnp.asarray(data.axes, parts.dtype))
