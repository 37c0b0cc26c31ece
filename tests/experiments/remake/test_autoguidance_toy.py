"""The two trees, the network's score, and the statistics of samples whose outliers are counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffusion import schedules
from diffusion.experiments.remake import autoguidance_toy as toy
from diffusion.parameterizations import Prediction


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


@pytest.mark.parametrize("number, turns", [(1, [(1, 1)]), (2, [(1, 1), (1, 3)]), (64, [(-1, 191)])])
def test_branches_shrink_and_turn_by_generation(number, turns):
    """A branch draws its length and two turns: the trunk's second child comes after 63 branches of its first."""
    data, drawn = toy.trees(), 1 + 0.2 * np.random.RandomState(2).randn(193)
    start, angle, length = toy.ORIGIN, np.pi / 4, 0.292 * drawn[0]
    for generation, (sign, draw) in enumerate(turns):
        start = start + length * np.array([np.cos(angle), np.sin(angle)])
        angle += sign * 0.7**generation * drawn[draw]
        length = 0.292 * 0.8 ** (generation + 1) * drawn[draw + 1]
    direction = np.array([np.cos(angle), np.sin(angle)])
    rows = np.flatnonzero(data.branches == number)
    expected = (start + np.linspace(0.07, 0.93, 8)[:, None] * length * direction) * toy.SCALE
    np.testing.assert_allclose(data.means[rows], expected)
    np.testing.assert_allclose(data.weights[rows], length * 0.5 ** len(turns))
    values = np.linalg.eigvalsh(data.covariances[rows[0]] / np.outer(toy.SCALE, toy.SCALE))
    np.testing.assert_allclose(np.sort(values), np.sort([(0.06 * length) ** 2, (0.06 * 0.2 * 0.8 ** len(turns)) ** 2]))


def test_components_lie_along_their_branch():
    """The larger axis of a trunk's covariance, without the picture's scale, has its direction."""
    data = toy.trees()
    covariance = data.covariances[0] / np.outer(toy.SCALE, toy.SCALE)
    values, axes = np.linalg.eigh(covariance)
    length = data.weights[0]
    assert values[1] == pytest.approx((0.06 * length) ** 2)
    assert values[0] / values[1] == pytest.approx((0.2 / length) ** 2)
    np.testing.assert_allclose(np.abs(axes[:, 1]), 0.5**0.5)


@pytest.mark.extended
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


@pytest.mark.extended
def test_the_denoiser_is_tweedie_of_the_score():
    params, schedule = toy.init(jax.random.key(0), 8), schedules.edm(0.002, 5.0)
    x = jnp.array([[0.3, -0.2], [1.0, 0.5]])
    prediction = toy.denoiser(params, schedule)(x, jnp.array(0.2))  # sigma = 1
    np.testing.assert_allclose(prediction.x0, x * (1 - 1 / 1.25), rtol=1e-5)
    np.testing.assert_allclose(prediction.eps, x / 1.25, rtol=1e-5)


@pytest.mark.extended
def test_the_samplers_of_a_seed_are_those_of_the_figure(monkeypatch):
    """Networks state x0 = 1, 2 and 3: guidance gives 1 + 3 (1 - 3) and 1 + 2 (1 - 2)."""
    trained, started = [], []

    def train(key, width, classes, steps):
        trained.append((width, classes, steps))
        return len(trained)

    def sample(sampler, denoise, schedule, start, plan, keys):
        started.append(np.asarray(start))
        sigmas = np.asarray(schedule.sigma(jnp.append(plan.t, plan.s[-1])))
        assert len(plan.t) == 32 and sigmas[[0, 31, 32]] == pytest.approx([5, 0.002, 0])
        return denoise(start[:1], plan.t[0]).x0 + jnp.zeros_like(start)

    constant = lambda params, schedule: lambda x, t: Prediction(jnp.full_like(x, params), jnp.zeros_like(x))
    monkeypatch.setattr(toy, "SAMPLES", 5000)
    monkeypatch.setattr(toy, "train", train)
    monkeypatch.setattr(toy, "denoiser", constant)
    monkeypatch.setattr(toy.samplers, "sample", sample)
    monkeypatch.setattr(
        toy, "statistics", lambda points: {"outliers": 0.25, "coverage": 0.5, "log-density": float(points[0, 0])}
    )
    values = toy.measure("seed 0", False)
    assert trained == [(64, (0,), 4096), (32, (0,), 512), (32, (0, 1), 512)]
    for name, x0 in (("no guidance", 1), ("classifier-free guidance", -5), ("autoguidance", -1)):
        assert values[f"{name}: log-density"] == x0 and values[name].shape == (4096, 2)
    truth = values["ground truth"]
    noise = (started[0][:4096] - truth) / 5
    assert np.abs(noise.mean(0)).max() < 0.08 and noise.std(0) == pytest.approx([1, 1], abs=0.05)
    assert values[toy.MASS] == 0.75 and values[toy.AUTO_COVERAGE] and not values[toy.AUTO_DENSITY]
    assert all((start == started[0]).all() for start in started)


def test_the_picture_has_the_samples_of_the_first_seed_and_means_over_all():
    rng = np.random.default_rng(0)
    parts = {}
    for seed, outliers in enumerate((0.1, 0.3)):
        parts[f"seed {seed}"] = {name: rng.uniform(-0.5, 1, (6, 2)) for name in toy.SAMPLERS}
        for name in toy.SAMPLERS:
            parts[f"seed {seed}"] |= {f"{name}: outliers": outliers, f"{name}: coverage": 0.5 + outliers}
    data = toy.trees()
    for axes, name in zip(toy.draw(parts).axes, toy.SAMPLERS, strict=True):
        other, own, points = (np.asarray(dots.get_offsets()) for dots in axes.collections)
        np.testing.assert_array_equal(other, data.means[data.classes == 1])
        np.testing.assert_array_equal(own, data.means[data.classes == 0])
        assert not len(axes.get_xticks()) and not len(axes.get_yticks())
        np.testing.assert_array_equal(points, parts["seed 0"][name])
        assert axes.get_title() == f"{name}\n20.00 % outside, 70 % covered"


@pytest.mark.parametrize("sign, largest", [(1, 3.0), (-1, 1.8)])
def test_the_contour_is_found_on_the_whole_grid(monkeypatch, sign, largest):
    monkeypatch.setattr(toy.exact_mixtures, "log_density", lambda data, x: sign * x.sum(-1))
    assert toy.contour(toy.trees().chosen((0,))) == pytest.approx(largest - 2.12**2, abs=1e-5)


def test_a_branch_is_covered_by_half_of_its_points(monkeypatch):
    """127 branches of 8 components, each of one weight: four points of 1,016 cover a branch, and three do not."""
    component = lambda data, x: (jnp.arange(1016) == x[:, :1].astype(int)).astype(jnp.float32)
    monkeypatch.setattr(toy.exact_mixtures, "posterior", component)
    data = toy.exact_mixtures.Mixture(*[np.full(1016, 1 / 1016)] * len(toy.exact_mixtures.Mixture._fields))
    of_branches = [(5, 4), (6, 3), (126, 8)]
    rows = [8 * branch + k % 8 for branch, number in of_branches for k in range(number)]
    points = np.full((1016, 2), 8 * 50.0)
    points[: len(rows), 0] = rows
    assert toy.coverage(data, points) == pytest.approx(3 / 127)  # the fifth, the last, and the one of all the rest


def test_the_statistics_are_of_the_first_class(monkeypatch):
    chosen = []

    def contour(data):
        chosen.append(len(data.weights))
        return 1.0

    monkeypatch.setattr(toy, "contour", contour)
    monkeypatch.setattr(toy, "coverage", lambda data, points: 0.5)
    monkeypatch.setattr(toy.exact_mixtures, "log_density", lambda data, x: x.sum(-1))
    rows = toy.statistics(np.array([[0.0, 0.5], [1.0, 0.0], [2.0, 0.5], [0.0, 3.0]]))
    assert rows == {"outliers": 0.25, "coverage": 0.5, "log-density": 1.75} and chosen == [1016]


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
