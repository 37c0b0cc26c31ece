"""The oracles against quadrature, finite differences and each other: what proves the library must itself be proven."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles

pytestmark = pytest.mark.usefixtures("x64")

POINTS = np.array([[0.3, -0.2], [1.5, 0.4], [-0.8, 0.9]])
LEVELS = [(0.9, 0.2), (0.5, 0.6), (1.0, 3.0)]


def _by_quadrature(data, alpha, sigma, x):
    """E[x_0 | x_t = x], log p_t(x) by summing over a fine grid of x_0."""
    axis = np.linspace(-9, 9, 301)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    prior = np.zeros(len(grid))
    for weight, mean, axes, variances in zip(*data, strict=True):
        whitened = (grid - mean) @ axes / np.sqrt(variances)
        prior += weight * np.exp(-0.5 * (whitened**2).sum(1)) / (2 * np.pi * np.sqrt(variances.prod()))
    likelihood = np.exp(-0.5 * ((x - alpha * grid) ** 2).sum(1) / sigma**2) / (2 * np.pi * sigma**2)
    joint = prior * likelihood
    return joint @ grid / joint.sum(), np.log(joint.sum() * (axis[1] - axis[0]) ** 2)


@pytest.mark.parametrize("data", [oracles.tilted_gaussian(), oracles.three_gaussians()], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("alpha, sigma", LEVELS)
def test_posterior_mean_and_density_equal_quadrature(data, alpha, sigma):
    x0 = oracles.mean_x0(data, alpha, sigma, jnp.asarray(POINTS))
    log_density = oracles.log_density(data, alpha, sigma, jnp.asarray(POINTS))
    for i, x in enumerate(POINTS):
        mean, log_p = _by_quadrature(data, alpha, sigma, x)
        np.testing.assert_allclose(x0[i], mean, atol=1e-7)
        np.testing.assert_allclose(log_density[i], log_p, atol=1e-7)


@pytest.mark.extended
@pytest.mark.parametrize("data", [oracles.tilted_gaussian(), oracles.three_gaussians()], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("alpha, sigma", LEVELS)
def test_score_eps_and_x0_agree(data, alpha, sigma):
    x = jnp.asarray(POINTS)
    x0 = oracles.mean_x0(data, alpha, sigma, x)
    eps = oracles.mean_eps(data, alpha, sigma, x)
    gradient = jax.grad(lambda x: oracles.log_density(data, alpha, sigma, x).sum())(x)
    np.testing.assert_allclose(oracles.score(data, alpha, sigma, x), gradient, atol=1e-12)
    np.testing.assert_allclose(eps, -sigma * gradient, atol=1e-12)
    np.testing.assert_allclose(alpha * x0 + sigma * eps, x, atol=1e-12)


def test_flow_of_a_gaussian_equals_integration():
    data = oracles.tilted_gaussian()
    start = (0.3, 0.95)
    end = (0.9, 0.2)
    by_formula = oracles.flow(data, start, end, jnp.asarray(POINTS))
    np.testing.assert_allclose(by_formula, oracles.flow_by_integration(data, start, end, POINTS), atol=1e-10)


def test_flow_of_a_mixture_carries_probability():
    """log p_s(x_s) + log |dx_s / dx_t| = log p_t(x_t), the change of variables, by finite differences of the flow."""
    data = oracles.three_gaussians()
    start = (0.5, 0.8)
    end = (0.95, 0.3)
    x = POINTS[0]
    h = 1e-4
    around = np.stack([x, x + [h, 0], x - [h, 0], x + [0, h], x - [0, h]])
    moved = oracles.flow_by_integration(data, start, end, around)
    jacobian = np.stack([moved[1] - moved[2], moved[3] - moved[4]], axis=1) / (2 * h)
    before = oracles.log_density(data, *start, jnp.asarray(x[None]))[0]
    after = oracles.log_density(data, *end, jnp.asarray(moved[:1]))[0]
    np.testing.assert_allclose(after + np.log(np.linalg.det(jacobian)), before, atol=1e-6)


def test_ancestral_moments_give_the_marginal():
    """Drawing x_t from q(x_t | x_0) and then x_s from q(x_s | x_t, x_0) must give q(x_s | x_0)."""
    start, end = (0.4, 0.7), (0.8, 0.5)
    a, b, c = oracles.ancestral(start, end)
    np.testing.assert_allclose(a * start[0] + b, end[0], rtol=1e-14)
    np.testing.assert_allclose(a**2 * start[1] ** 2 + c, end[1] ** 2, rtol=1e-14)


@pytest.mark.extended
def test_posterior_covariance_by_the_law_of_total_variance():
    data = oracles.tilted_gaussian()
    alpha = 0.6
    sigma = 0.5
    gain = jax.jacobian(lambda x: oracles.mean_x0(data, alpha, sigma, x[None])[0])(jnp.zeros(2))
    _, total = oracles.marginal(data, alpha, sigma)
    explained = gain @ total @ gain.T
    expected = oracles.covariance(data) - explained
    np.testing.assert_allclose(oracles.posterior_covariance(data, alpha, sigma), expected, atol=1e-12)
