"""The two trees, the network's score, and the statistics of samples whose outliers are counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffusion import schedules
from diffusion.experiments.remake import autoguidance_toy as toy


def test_the_trees_have_their_branches_and_their_trunks():
    data = toy.trees()
    assert len(data.weights) == 2 * 8 * (2**7 - 1) and set(data.branches) == set(range(2 * 127))
    first = np.random.RandomState(2).randn()  # of the first trunk's length, along 45 degrees
    length = 0.292 * (1 + 0.2 * first)
    np.testing.assert_allclose(data.means[0], (toy.ORIGIN + 0.07 * length * 0.5**0.5) * toy.SCALE)
    assert data.weights[0] == pytest.approx(length)
    second = data.classes == 1
    away = (data.means[second][:8] / toy.SCALE - toy.ORIGIN) @ [-1, -1] / 2**0.5
    assert np.all(away > 0)  # the other trunk points the other way


def test_components_lie_along_their_branch():
    """The larger axis of a trunk's covariance, without the picture's scale, has its direction."""
    data = toy.trees()
    covariance = data.covariances[0] / np.outer(toy.SCALE, toy.SCALE)
    values, axes = np.linalg.eigh(covariance)
    length = data.weights[0]
    assert values[1] == pytest.approx((0.06 * length) ** 2)
    assert values[0] / values[1] == pytest.approx((0.2 / length) ** 2)
    np.testing.assert_allclose(np.abs(axes[:, 1]), 0.5**0.5)


def test_a_network_without_gain_is_a_gaussian():
    """At gain 0 the density is N(0, sigma_data^2 + sigma^2), whose score is -x / (sigma_data^2 + sigma^2)."""
    params = toy.init(jax.random.key(0), 8)
    x, sigma = jnp.array([[0.3, -0.2], [1.0, 0.5]]), jnp.array([0.1, 2.0])
    np.testing.assert_allclose(toy.score(params, x, sigma), -x / (0.25 + sigma[:, None] ** 2), rtol=1e-6)


def test_weights_are_normalised_by_column():
    params = toy.normalized(toy.init(jax.random.key(1), 8))
    assert [w.shape for w in params["weights"]] == [(4, 8), *[(8, 8)] * 4]
    for w in params["weights"]:
        np.testing.assert_allclose(jnp.sqrt(jnp.mean(w**2, 0)), 1, rtol=1e-3)


def test_the_denoiser_is_tweedie_of_the_score():
    params, schedule = toy.init(jax.random.key(0), 8), schedules.edm(0.002, 5.0)
    x = jnp.array([[0.3, -0.2], [1.0, 0.5]])
    prediction = toy.denoiser(params, schedule)(x, jnp.array(0.2))  # sigma = 1
    np.testing.assert_allclose(prediction.x0, x * (1 - 1 / 1.25), rtol=1e-5)
    np.testing.assert_allclose(prediction.eps, x / 1.25, rtol=1e-5)


@pytest.mark.slow
def test_the_contour_lies_below_the_largest_density():
    data = toy.trees().chosen((0,))
    means = np.asarray(data.means)
    density = sum(
        w * scipy.stats.multivariate_normal(m, (a * v) @ a.T).pdf(means)
        for w, m, v, a in zip(data.weights, means, data.variances, data.axes)
    )
    assert toy.contour(data) + 2.12**2 == pytest.approx(np.log(density.max()), abs=0.05)  # a grid, not the means


@pytest.mark.slow
def test_statistics_by_hand():
    """All of the first branch's means, and as many far points: half are outside, one branch is covered."""
    data = toy.trees()
    trunk = data.means[:8]
    rows = toy.statistics(np.concatenate([trunk, np.full((8, 2), 50.0)]).astype(np.float32))
    first = data.classes == 0
    share = data.weights[:8].sum() / data.weights[first].sum()
    assert rows["outliers"] == 0.5
    assert rows["coverage"] >= share - 1e-9 and rows["coverage"] < share + 0.2


def test_claims_compare_the_samplers():
    row = lambda outliers, coverage, density: {"outliers": outliers, "coverage": coverage, "log-density": density}
    rows = dict(zip(toy.SAMPLERS, [row(0.01, 1, 0), row(0.1, 1, -1), row(0.0, 0.5, 1), row(0.02, 0.96, 0.5)]))
    figures = toy.claims(rows)
    assert figures.pop(toy.MASS) == 0.99
    assert all(figures.values())
    rows["autoguidance"] = row(0.2, 0.9, -2)
    assert not any(toy.claims(rows)[name] for name in (toy.AUTO_OUTLIERS, toy.AUTO_DENSITY, toy.AUTO_COVERAGE))
