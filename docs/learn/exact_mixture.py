"""Data with known exact answers: a mixture of isotropic Gaussians, noised by any Gaussian process.

If x_0 is drawn from sum_k w_k N(mu_k, s_k^2 I) and x_t = alpha x_0 + sigma eps, then x_t given k is
N(alpha mu_k, (alpha^2 s_k^2 + sigma^2) I), and every function below is a sum over k.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffusion.parameterizations import Denoiser, Prediction
from diffusion.schedules import NoiseSchedule


class Mixture(NamedTuple):
    """The distribution sum_k weights[k] N(means[k], scales[k]^2 I).

    Attributes:
        weights: probabilities of the components, `[K]`; they sum to one.
        means: means of the components, `[K, D]`.
        scales: standard deviation of each component in every direction, `[K]`.
    """

    weights: jax.Array
    means: jax.Array
    scales: jax.Array

    def sample(self, key, number: int):
        """Samples `[number, D]`."""
        which, noise = jax.random.split(key)
        k = jax.random.choice(which, len(self.weights), (number,), p=self.weights)
        return self.means[k] + self.scales[k, None] * jax.random.normal(noise, (number, self.means.shape[1]))

    def log_density(self, x, alpha=1.0, sigma=0.0):
        """log p_t(x) `[B]` at x `[B, D]`; alpha and sigma are numbers or `[B]`."""
        return jax.nn.logsumexp(self._joint(x, *_columns(alpha, sigma))[0], axis=1)

    def score(self, x, alpha, sigma):
        """The gradient of log p_t(x) with respect to x, `[B, D]`: by the formula, without automatic differentiation."""
        return -self.denoise(x, alpha, sigma).eps / jnp.reshape(sigma, (-1, 1))

    def denoise(self, x, alpha, sigma) -> Prediction:
        """E[x_0 | x_t = x] and E[eps | x_t = x]."""
        alpha, sigma = _columns(alpha, sigma)
        joint, offset, variance = self._joint(x, alpha, sigma)
        share = jax.nn.softmax(joint, axis=1)[..., None]  # p(k | x)
        gain = (self.scales**2 / variance)[..., None]
        x0 = self.means + alpha[..., None] * gain * offset
        eps = (sigma / variance)[..., None] * offset
        return Prediction((share * x0).sum(1), (share * eps).sum(1))

    def denoiser(self, schedule: NoiseSchedule) -> Denoiser:
        """(x_t, t) -> Prediction, the optimal denoiser for a schedule."""
        return lambda x, t: self.denoise(x, schedule.alpha(jnp.asarray(t)), schedule.sigma(jnp.asarray(t)))

    def _joint(self, x, alpha, sigma):
        """log w_k N(x; alpha mu_k, c_k I) `[B, K]`, x - alpha mu_k `[B, K, D]`, and c_k `[B, K]` (or `[1, K]`)."""
        variance = alpha**2 * self.scales**2 + sigma**2
        offset = x[:, None, :] - alpha[..., None] * self.means
        log_normal = -((offset**2).sum(-1) / variance + x.shape[1] * jnp.log(2 * jnp.pi * variance)) / 2
        return jnp.log(self.weights) + log_normal, offset, variance


def _columns(alpha, sigma):
    return jnp.reshape(jnp.asarray(alpha, float), (-1, 1)), jnp.reshape(jnp.asarray(sigma, float), (-1, 1))


def mixture(weights, means, scales) -> Mixture:
    """Builds a mixture from lists."""
    return Mixture(*(jnp.asarray(part, float) for part in (weights, means, scales)))


TWO_MODES = mixture([0.4, 0.6], [[-1.0], [1.0]], [0.25, 0.35])
"""One-dimensional: two unequal modes."""

THREE_CLUSTERS = mixture([0.5, 0.3, 0.2], [[1.2, -0.4], [-1.0, 0.8], [0.2, 1.6]], [0.35, 0.3, 0.25])
"""Two-dimensional: three unequal clusters."""
