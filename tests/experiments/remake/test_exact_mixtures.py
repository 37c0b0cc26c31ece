"""Mixtures of Gaussians against scipy's densities, quadrature, and the moments of their samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffusion import schedules
from diffusion.experiments.remake import exact_mixtures

COVARIANCES = np.array([[[0.5, 0.2], [0.2, 0.3]], [[0.1, -0.05], [-0.05, 0.4]]])
KEY = jax.random.key(0)
MEANS = np.array([[-1.0, 0.5], [0.7, -0.2]])


def two(weights=(3.0, 1.0)):
    return exact_mixtures.mixture(weights, MEANS, COVARIANCES)


def density(x, alpha, sigma):
    parts = [
        weight * scipy.stats.multivariate_normal(alpha * mean, alpha**2 * covariance + sigma**2 * np.eye(2)).pdf(x)
        for weight, mean, covariance in zip((0.75, 0.25), MEANS, COVARIANCES)
    ]
    return np.sum(parts, axis=0)


def test_the_density_is_that_of_the_noised_components():
    x = np.random.default_rng(0).normal(size=(5, 2))
    with jax.enable_x64(True):
        clean = exact_mixtures.log_density(two(), jnp.asarray(x))
        noised = exact_mixtures.log_density(two(), jnp.asarray(x), 0.6, 0.8)
    np.testing.assert_allclose(clean, np.log(density(x, 1, 0)), rtol=1e-10)
    np.testing.assert_allclose(noised, np.log(density(x, 0.6, 0.8)), rtol=1e-10)


def test_the_denoiser_follows_the_score_by_tweedie():
    """alpha E[x_0] = x + sigma^2 grad ln p and E[eps] = -sigma grad ln p, the gradient by central differences."""
    x, t, h = np.random.default_rng(1).normal(size=(4, 2)), 0.4, 1e-5
    schedule = schedules.rectified_flow()
    with jax.enable_x64(True):
        prediction = exact_mixtures.denoiser(two(), schedule)(jnp.asarray(x), jnp.asarray(t))
    ends = lambda axis, sign: np.log(density(x + sign * h * np.eye(2)[axis], 1 - t, t))
    score = np.stack([(ends(axis, 1) - ends(axis, -1)) / (2 * h) for axis in (0, 1)], -1)
    np.testing.assert_allclose(prediction.eps, -t * score, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(prediction.x0, (x + t**2 * score) / (1 - t), rtol=1e-6, atol=1e-8)


@pytest.mark.extended
def test_covariances_without_axes_are_diagonal():
    diagonal = np.array([[0.5, 2.0], [1.0, 0.1]])
    full = exact_mixtures.mixture([1, 1], MEANS, [np.diag(row) for row in diagonal])
    short = exact_mixtures.Mixture(np.array([0.5, 0.5]), MEANS, diagonal)
    x, schedule = jnp.asarray(np.random.default_rng(2).normal(size=(3, 2))), schedules.rectified_flow()
    t = jnp.array([0.1, 0.5, 0.9])
    for a, b in zip(*(exact_mixtures.denoiser(data, schedule)(x, t)[:2] for data in (full, short))):
        np.testing.assert_allclose(a, b, rtol=2e-5)


def test_samples_have_the_moments_of_the_mixture():
    points = np.asarray(exact_mixtures.draw(two(), jax.random.key(0), 40000), np.float64)
    mean = 0.75 * MEANS[0] + 0.25 * MEANS[1]
    second = sum(w * (S + np.outer(m, m)) for w, m, S in zip((0.75, 0.25), MEANS, COVARIANCES))
    np.testing.assert_allclose(points.mean(0), mean, atol=0.025)  # five standard errors
    np.testing.assert_allclose(points.T @ points / len(points), second, atol=0.05)
    assert points[:, 0].var() == pytest.approx((second - np.outer(mean, mean))[0, 0], rel=0.04)


def test_the_posterior_of_components_is_bayes_rule():
    x = np.random.default_rng(3).normal(size=(5, 2))
    normal = scipy.stats.multivariate_normal
    parts = [
        w * normal(0.6 * m, 0.36 * S + 0.64 * np.eye(2)).pdf(x) for w, m, S in zip((0.75, 0.25), MEANS, COVARIANCES)
    ]
    with jax.enable_x64(True):
        shares = exact_mixtures.posterior(two(), jnp.asarray(x), 0.6, 0.8)
    np.testing.assert_allclose(shares, np.stack(parts, 1) / np.sum(parts, 0)[:, None], rtol=1e-10)


def test_samples_of_three_dimensions_lie_along_the_axes_of_their_covariance():
    """Whose eigenvectors are no symmetric matrix; the covariance has rank two, of which rounding makes a third."""
    spread = np.array([[1.0, 0.2], [-0.7, 0.5], [0.3, 1.1]])
    covariance = spread @ spread.T
    points = np.asarray(exact_mixtures.draw(exact_mixtures.mixture([1], np.zeros((1, 3)), [covariance]), KEY, 40000))
    np.testing.assert_allclose(np.cov(points.T), covariance, atol=0.04)  # five standard errors
    sizes = [exact_mixtures.mixture([1], np.zeros((1, 3)), [np.outer(v, v)]).variances for v in spread @ spread.T]
    assert np.min(sizes) >= 0
