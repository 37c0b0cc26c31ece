"""A mixture of Gaussians with its denoiser, measurements and posteriors in closed form."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusion.parameterizations import Denoiser, Prediction
from diffusion.schedules import NoiseSchedule, left_broadcast


class Mixture(NamedTuple):
    """sum_k w_k N(m_k, C).

    Attributes:
        weights: weights w `[K]`, which sum to 1.
        means: means m `[K, D]`.
        covariance: covariance C of every component `[D, D]`.
    """

    weights: np.ndarray
    means: np.ndarray
    covariance: np.ndarray


def random_mixture(seed: int, number: int, dimension: int, std: float) -> Mixture:
    """A mixture of components of equal width, with standard normal means and unequal weights."""
    random = np.random.default_rng(seed)
    weights = random.dirichlet(np.ones(number))
    return Mixture(weights, random.standard_normal((number, dimension)), std**2 * np.eye(dimension))


def draw(mixture: Mixture, number: int, seed: int) -> np.ndarray:
    """Samples `[number, D]`."""
    random = np.random.default_rng(seed)
    component = random.choice(len(mixture.weights), number, p=mixture.weights)
    noise = random.multivariate_normal(np.zeros(mixture.means.shape[1]), mixture.covariance, number)
    return mixture.means[component] + noise


def moments(mixture: Mixture) -> tuple[np.ndarray, np.ndarray]:
    """The mean `[D]` and the covariance `[D, D]` of a mixture."""
    mean = mixture.weights @ mixture.means
    around = mixture.means - mean
    return mean, mixture.covariance + np.einsum("k,ki,kj->ij", mixture.weights, around, around)


def denoiser(mixture: Mixture, schedule: NoiseSchedule) -> Denoiser:
    """The exact denoiser of a mixture of round components, C = s^2 I."""
    variance = float(mixture.covariance[0, 0])
    means, weights = jnp.asarray(mixture.means, jnp.float32), jnp.asarray(mixture.weights, jnp.float32)

    def denoise(x: Array, t: ArrayLike) -> Prediction:
        alpha = left_broadcast(schedule.alpha(t), x)
        sigma = left_broadcast(schedule.sigma(t), x)
        spread = alpha**2 * variance + sigma**2
        away = x[:, None] - alpha[..., None] * means
        share = jax.nn.softmax(jnp.log(weights) - jnp.sum(away**2, -1) / (2 * spread.reshape(-1, 1)), -1)
        scaled = jnp.einsum("bk,bkd->bd", share, away) / spread
        return Prediction(share @ means + alpha * variance * scaled, sigma * scaled)

    return denoise


def posterior(mixture: Mixture, A: np.ndarray, y: np.ndarray, noise_std: float) -> Mixture:
    """p(x_0 | y) of y = A x_0 + sigma_y n, again a mixture.

    Args:
        mixture: the mixture of the data.
        A: the operator `[M, D]`.
        y: the measurement `[M]`.
        noise_std: standard deviation sigma_y of the noise, > 0.
    """
    total = A @ mixture.covariance @ A.T + noise_std**2 * np.eye(len(A))
    gain = mixture.covariance @ A.T @ np.linalg.inv(total)
    residual = y - mixture.means @ A.T
    log = np.log(mixture.weights) - np.einsum("ki,ij,kj->k", residual, np.linalg.inv(total), residual) / 2
    weights = np.exp(log - log.max())
    covariance = mixture.covariance - gain @ A @ mixture.covariance
    return Mixture(weights / weights.sum(), mixture.means + residual @ gain.T, covariance)
