"""Exact solutions of the diffusion process for Gaussian and Gaussian-mixture data, written from the definitions.

Everything follows from one line: x_t = alpha x_0 + sigma eps with eps ~ N(0, I) independent of x_0. The oracles use
nothing of the library. They take the numbers alpha and sigma, so that a test fails if the library's conversions, steps
or losses are wrong. The data are a mixture sum_k w_k N(mu_k, S_k) in D dimensions; a Gaussian is a mixture with one
component. The functions use jax.numpy, so that a sampler around them can be compiled; under x64 they are in float64.

Notation: component k has the mean m_k = alpha mu_k and the covariance C_k = alpha^2 S_k + sigma^2 I at time t.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
from jax import Array
from jax.scipy.special import logsumexp


class Mixture(NamedTuple):
    """sum_k weights[k] N(means[k], axes[k] diag(variances[k]) axes[k]^T).

    Attributes:
        weights: the weights of the components, `[K]`, which sum to 1.
        means: the means of the components, `[K, D]`.
        axes: the orthonormal eigenvectors of the covariances, in columns, `[K, D, D]`.
        variances: the eigenvalues of the covariances, `[K, D]`, >= 0.
    """

    weights: np.ndarray | Array
    means: np.ndarray | Array
    axes: np.ndarray | Array
    variances: np.ndarray | Array


def mixture(weights, means, covariances) -> Mixture:
    """A mixture from full covariances `[K, D, D]`."""
    variances, axes = np.linalg.eigh(np.asarray(covariances, np.float64))
    return Mixture(np.asarray(weights, np.float64), np.asarray(means, np.float64), axes, np.maximum(variances, 0.0))


def gaussian(mean, covariance) -> Mixture:
    """N(mean, covariance)."""
    return mixture([1.0], [mean], [covariance])


def covariance(data: Mixture, k: int = 0) -> np.ndarray:
    """S_k, `[D, D]`."""
    return np.asarray((data.axes[k] * data.variances[k]) @ data.axes[k].T)


def _left(coefficient, rank: int):
    """A coefficient `[]` or `[B]`, in a shape that broadcasts against an array of `rank` axes whose first one is B."""
    coefficient = jnp.asarray(coefficient)
    if coefficient.ndim == 0:
        return coefficient
    return coefficient.reshape(coefficient.shape + (1,) * (rank - coefficient.ndim))


def _whitened(data: Mixture, alpha, sigma, x):
    """alpha and sigma, the eigenvalues of C_k, and axes_k^T (x - alpha mu_k), which broadcast to `[B, K, D]`."""
    # JAX may cache a numpy constant in the precision of its first use, so the arrays are converted here.
    data = jax.tree.map(jnp.asarray, data)
    alpha = _left(alpha, 3)
    sigma = _left(sigma, 3)
    difference = x[:, None, :] - alpha * data.means
    rotated = jnp.einsum("kij,bki->bkj", data.axes, difference)
    return alpha, sigma, alpha**2 * data.variances + sigma**2, rotated


def log_density(data: Mixture, alpha, sigma, x) -> Array:
    """log p_t(x), `[B]`, of x_t = alpha x_0 + sigma eps at x `[B, D]`."""
    return logsumexp(_joint(data, alpha, sigma, x), axis=1)


def _joint(data: Mixture, alpha, sigma, x) -> Array:
    _, _, variance, rotated = _whitened(data, alpha, sigma, x)
    quadratic = (rotated**2 / variance + jnp.log(2 * jnp.pi * variance)).sum(-1)
    return jnp.log(jnp.asarray(data.weights)) - quadratic / 2


def _responsibilities(data: Mixture, alpha, sigma, x) -> Array:
    joint = _joint(data, alpha, sigma, x)
    return jnp.exp(joint - logsumexp(joint, axis=1, keepdims=True))


def _mean_over_components(data: Mixture, alpha, sigma, x, values) -> Array:
    """sum_k p(k | x) axes_k values[b, k]."""
    return jnp.einsum("bk,kij,bkj->bi", _responsibilities(data, alpha, sigma, x), jnp.asarray(data.axes), values)


def score(data: Mixture, alpha, sigma, x) -> Array:
    """grad log p_t(x) = -sum_k p(k | x) C_k^{-1} (x - alpha mu_k), `[B, D]`."""
    _, _, variance, rotated = _whitened(data, alpha, sigma, x)
    return -_mean_over_components(data, alpha, sigma, x, rotated / variance)


def mean_eps(data: Mixture, alpha, sigma, x) -> Array:
    """E[eps | x_t = x], `[B, D]`: given k, eps and x_t are jointly Gaussian with Cov(eps, x_t) = sigma I."""
    _, s, variance, rotated = _whitened(data, alpha, sigma, x)
    return _mean_over_components(data, alpha, sigma, x, s * rotated / variance)


def mean_x0(data: Mixture, alpha, sigma, x) -> Array:
    """E[x_0 | x_t = x] = sum_k p(k | x) (mu_k + alpha S_k C_k^{-1} (x - alpha mu_k)), without division by alpha."""
    a, _, variance, rotated = _whitened(data, alpha, sigma, x)
    centred = _mean_over_components(data, alpha, sigma, x, a * jnp.asarray(data.variances) * rotated / variance)
    return centred + _responsibilities(data, alpha, sigma, x) @ jnp.asarray(data.means)


def posterior_covariance(data: Mixture, alpha: float, sigma: float) -> np.ndarray:
    """Cov(x_0 | x_t) of one Gaussian, `[D, D]`: S - alpha^2 S C^{-1} S at every x_t."""
    values = data.variances[0] * sigma**2 / (alpha**2 * data.variances[0] + sigma**2)
    return np.asarray((data.axes[0] * values) @ data.axes[0].T)


def marginal(data: Mixture, alpha: float, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """The mean `[D]` and covariance `[D, D]` of x_t for one Gaussian."""
    return alpha * data.means[0], alpha**2 * covariance(data) + sigma**2 * np.eye(data.means.shape[1])


def flow(data: Mixture, start: tuple[float | Array, float | Array], end: tuple[float, float], x) -> Array:
    """The probability-flow solution of one Gaussian from (alpha, sigma) = start to end, for x `[B, D]`.

    x_s = alpha_s mu + C_s^{1/2} C_t^{-1/2} (x_t - alpha_t mu): along an eigenvector with variance c(t) the flow is
    dy/dt = (c'/2c) y, because f y - g^2/2 (-y / c) = (2 f c + g^2) y / 2c and c' = 2 f c + g^2.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = start, end
    variances = data.variances[0]
    ratio = jnp.sqrt((alpha_s**2 * variances + sigma_s**2) / (alpha_t**2 * variances + sigma_t**2))
    rotated = (x - alpha_t * data.means[0]) @ data.axes[0]
    return alpha_s * data.means[0] + (rotated * ratio) @ data.axes[0].T


def flow_by_integration(data: Mixture, start: tuple[float, float], end: tuple[float, float], x) -> np.ndarray:
    """The probability-flow solution of any mixture, by an integrator of order 8 with a relative tolerance of 1e-12.

    In y = x / alpha and r = sigma / alpha, the flow of every schedule is dy/dr = E[eps | y]. It is integrated over
    log r. Neither start nor end may have alpha = 0 or sigma = 0.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = start, end
    x = np.asarray(x, np.float64)
    span = (np.log(sigma_t / alpha_t), np.log(sigma_s / alpha_s))
    solution = scipy.integrate.solve_ivp(
        lambda log_ratio, y: np.asarray(_slope(data, log_ratio, y.reshape(x.shape))).ravel(),
        span,
        (x / alpha_t).ravel(),
        method="DOP853",
        rtol=1e-12,
        atol=1e-13,
    )
    if not solution.success:
        raise RuntimeError(solution.message)
    return alpha_s * solution.y[:, -1].reshape(x.shape)


@jax.jit
def _slope(data: Mixture, log_ratio, y) -> Array:
    """dy / d log r."""
    ratio = jnp.exp(log_ratio)
    return ratio * mean_eps(data, 1.0, ratio, y)


def ancestral(start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float, float]:
    """q(x_s | x_t, x_0) = N(a x_t + b x_0, c) for s < t, by conditioning the joint Gaussian of (x_s, x_t) given x_0.

    Given x_0: Var(x_s) = sigma_s^2, Var(x_t) = sigma_t^2, Cov(x_s, x_t) = (alpha_t / alpha_s) sigma_s^2.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = start, end
    cross = alpha_t / alpha_s * sigma_s**2
    a = cross / sigma_t**2
    return a, alpha_s - a * alpha_t, sigma_s**2 - cross**2 / sigma_t**2


def _edm_target(alpha, sigma, alpha_dot, sigma_dot, x0, eps, sigma_data=0.5):
    """Karras et al. 2022, eq. 8: (x0 - c_skip y) / c_out, where y = x_t / alpha has the noise level sigma / alpha."""
    level = sigma / alpha
    c_skip = sigma_data**2 / (level**2 + sigma_data**2)
    c_out = level * sigma_data / np.sqrt(level**2 + sigma_data**2)
    return (x0 - c_skip * (x0 + level * eps)) / c_out


def _clipped_x0_target(alpha, sigma, alpha_dot, sigma_dot, x0, eps):
    """x0, except where sigma / w < 0.05: there the x0 of a velocity whose error is divided by 0.05, not sigma / w."""
    w = alpha * sigma_dot - sigma * alpha_dot
    below = sigma_dot / w * (alpha * x0 + sigma * eps) - 0.05 * (alpha_dot * x0 + sigma_dot * eps)
    return np.where(sigma / w < 0.05, below, x0)


# The published outputs of a perfect network, {parameterization: (alpha, sigma, alpha', sigma', x0, eps) -> output}.
TARGETS = {
    "epsilon": lambda alpha, sigma, alpha_dot, sigma_dot, x0, eps: eps,
    "x0": lambda alpha, sigma, alpha_dot, sigma_dot, x0, eps: x0,
    "clipped_x0": _clipped_x0_target,
    "v": lambda alpha, sigma, alpha_dot, sigma_dot, x0, eps: alpha * eps - sigma * x0,
    "score": lambda alpha, sigma, alpha_dot, sigma_dot, x0, eps: -eps / sigma,
    "velocity": lambda alpha, sigma, alpha_dot, sigma_dot, x0, eps: alpha_dot * x0 + sigma_dot * eps,
    "edm": _edm_target,
}


def three_gaussians() -> Mixture:
    """A mixture of three unequal, tilted components in the plane, without any symmetry."""
    return mixture(
        [0.5, 0.3, 0.2],
        [[0.8, -0.3], [-0.7, 0.6], [0.1, 1.1]],
        [[[0.30, 0.10], [0.10, 0.15]], [[0.12, -0.05], [-0.05, 0.25]], [[0.2, 0.0], [0.0, 0.1]]],
    )


def tilted_gaussian() -> Mixture:
    """One Gaussian with very different variances along tilted axes, and a mean away from zero."""
    return gaussian([0.7, -0.4], [[0.9, 0.35], [0.35, 0.25]])


def padded(data: Mixture, components: int) -> Mixture:
    """The same distribution with added components of weight 0, so that mixtures share a shape and a compilation."""
    more = components - len(data.weights)
    repeat = lambda a: np.concatenate([a, np.repeat(a[:1], more, axis=0)])
    return Mixture(np.concatenate([data.weights, np.zeros(more)]), *map(repeat, data[1:]))


def monotone_network() -> dict:
    """The parameters of a learned schedule with a bend; some weights, and the range, are negative."""
    return {
        "log_snr_max": 11.0,
        "range": -15.0,
        "slope": -0.4,
        "inner": np.array([2.0, -5.0, 1.0]),
        "bias": np.array([0.5, -1.0, 3.0]),
        "outer": np.array([1.0, 2.0, -0.7]),
    }
