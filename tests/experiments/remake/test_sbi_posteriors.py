"""The exact posteriors against the simulators that they belong to, and the classifier on clouds that are known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import sklearn.model_selection

from diffusion import samplers
from diffusion.experiments.remake import sbi_posteriors
from diffusion.experiments.remake.sbi_tasks import TASKS, classifier_accuracy


@pytest.mark.parametrize("name", ["two_moons", "gaussian_linear"])
def test_posterior_draws_have_the_ranks_of_the_parameters_behind_the_data(name):
    """Parameters from the prior lie anywhere among draws of the posterior of their own data: uniform ranks."""
    task, rng = TASKS[name], np.random.default_rng(3)
    parameters = task.prior(rng, 150)
    draws = np.stack([task.posterior(rng, observation, 99) for observation in task.simulate(rng, parameters)])
    ranks = (draws < parameters[:, None]).mean(1) + rng.uniform(0, 0.01, parameters.shape)
    for column in ranks.T:
        assert scipy.stats.kstest(column, "uniform").pvalue > 1e-3


def test_the_network_reads_the_clock_by_sines_and_cosines_of_its_octaves():
    """Only the clock's projection is left: kernel . (t, sin t, cos t, ..., sin 16 t, cos 16 t), and the last norm."""
    network, rng = sbi_posteriors.ConditionalResidual(width=4), np.random.default_rng(0)
    x, t, condition = rng.normal(size=(3, 2)), np.array([0.1, 0.5, 2.0]), rng.normal(size=(3, 5))
    params = jax.tree.map(jnp.zeros_like, network.init(jax.random.key(0), x, t, condition))["params"]
    kernel, last = rng.normal(size=(11, 4)), rng.normal(size=(4, 2))
    params["Dense_1"]["kernel"], params["LayerNorm_3"]["scale"] = kernel, np.ones(4)
    params[max(params, key=lambda name: (name.startswith("Dense"), int(name.split("_")[1])))]["kernel"] = last
    waves = np.stack([t] + [f(2**k * t) for k in range(5) for f in (np.sin, np.cos)], -1)
    y = waves @ kernel
    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(network.apply({"params": params}, x, t, condition), y @ last, rtol=1e-4, atol=1e-5)


def test_the_simulators_by_their_moments():
    rng = np.random.default_rng(0)
    still = TASKS["two_moons"].simulate(rng, np.zeros((40_000, 2)))
    assert still.mean(0) == pytest.approx([0.25 + 0.1 * 2 / np.pi, 0], abs=2e-3)
    assert TASKS["two_moons"].simulate(rng, np.full((9, 2), 0.5))[:, 0].max() < 0.25 + 0.15 - 1 / np.sqrt(2)
    points = TASKS["slcp"].simulate(rng, np.tile([1.0, -2.0, 1.5, -0.5, 0.4], (40_000, 1))).reshape(-1, 2)
    first, second, correlation = 1.5**2, 0.5**2, np.tanh(0.4)
    cross = first * second * correlation
    assert points.mean(0) == pytest.approx([1, -2], abs=0.02)
    assert np.cov(points.T).ravel() == pytest.approx([first**2, cross, cross, second**2], rel=0.03)


def test_the_posterior_of_slcp_has_the_density_of_its_simulator():
    """E[log p(data | parameters)] over the posterior against importance weights of draws of the prior."""
    rng = np.random.default_rng(5)
    observation = TASKS["slcp"].simulate(rng, np.array([[0.5, -1.0, 1.6, 1.7, 0.3]]))[0]
    points = observation.reshape(4, 2)

    def log_likelihood(theta):
        first, second = theta[:, 2] ** 2, theta[:, 3] ** 2
        rho = np.tanh(theta[:, 4])
        a, b = ((points[None] - theta[:, None, :2]) / np.stack([first, second], -1)[:, None]).transpose(2, 0, 1)
        inside = (a**2 + b**2 - 2 * rho[:, None] * a * b).sum(1) / (1 - rho**2)
        return -inside / 2 - 4 * np.log(first * second) - 2 * np.log(1 - rho**2)

    prior = TASKS["slcp"].prior(rng, 200_000)
    values = log_likelihood(prior)
    weights = np.exp(values - values.max())
    weights /= weights.sum()
    effective = 1 / (weights**2).sum()
    draws = TASKS["slcp"].posterior(rng, observation, 4000)
    for statistic in (log_likelihood, lambda t: np.abs(t[:, 2]), lambda t: t[:, 3] ** 2, lambda t: t[:, 4]):
        expected = (weights * statistic(prior)).sum()
        spread = statistic(draws).std() * np.sqrt(1 / 4000 + 1 / effective)
        assert abs(statistic(draws).mean() - expected) < 4 * spread


@pytest.mark.extended
def test_the_classifier_tells_clouds_apart_as_well_as_the_best_test_can():
    """N(0, 1) and N(d, 1) in one coordinate of two: at best Phi(d / 2) is right."""
    rng = np.random.default_rng(1)
    same = classifier_accuracy(rng.normal(size=(300, 2)), rng.normal(size=(300, 2)))
    shifted = classifier_accuracy(rng.normal(size=(300, 2)), rng.normal(size=(300, 2)) + [1.5, 0])
    assert same == pytest.approx(0.5, abs=0.07)
    assert shifted == pytest.approx(scipy.stats.norm.cdf(0.75), abs=0.07)


def test_the_classifier_has_the_settings_of_the_benchmark(monkeypatch):
    """sbibm's metrics/c2st.py: two layers of 10 D, 10,000 iterations, five folds, clouds scaled by the first one."""
    seen = {}

    def scored(classifier, rows, labels, cv, scoring):
        seen.update(classifier.get_params(), rows=rows, labels=labels, folds=cv.get_n_splits(), shuffled=cv.shuffle)
        return np.array([0.5, 0.7])

    monkeypatch.setattr(sklearn.model_selection, "cross_val_score", scored)
    rng = np.random.default_rng(0)
    assert classifier_accuracy(rng.normal(3, 2, (9, 2)), rng.normal(size=(9, 2))) == pytest.approx(0.6)
    settings = ("hidden_layer_sizes", "max_iter", "activation", "solver", "folds", "shuffled")
    assert [seen[name] for name in settings] == [(20, 20), 10_000, "relu", "adam", 5, True]
    np.testing.assert_allclose(
        [seen["rows"][:9].mean(0), seen["rows"][:9].std(0, ddof=1)], [[0, 0], [1, 1]], atol=1e-12
    )
    np.testing.assert_array_equal(seen["labels"], [0] * 9 + [1] * 9)


@pytest.mark.extended
def test_the_network_sees_its_clock_as_waves_of_five_octaves():
    network = sbi_posteriors.ConditionalResidual(width=11)
    inputs = np.ones((2, 3)), np.float32([0.3, 0.9]), np.ones((2, 4))
    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    variables["params"]["Dense_1"]["kernel"] = jnp.eye(11)
    seen = network.apply(variables, *inputs, capture_intermediates=True)[1]
    (waves,) = seen["intermediates"]["Dense_1"]["__call__"]
    expected = [[t, *(f(2**k * t) for k in range(5) for f in (math.sin, math.cos))] for t in (0.3, 0.9)]
    np.testing.assert_allclose(waves, expected, atol=1e-6)


@pytest.mark.extended
@pytest.mark.parametrize("name", [sbi_posteriors.FLOW, sbi_posteriors.DIFFUSION])
def test_a_network_of_zeros_leaves_the_noise_on_the_scale_of_the_parameters(monkeypatch, name):
    """A flow of no velocity stays; a diffusion's is then that of data N(0, 1), from x at sigma = 80 to x / 80."""
    zeros = lambda objective, schedule, apply, params, *_: jax.tree.map(jnp.zeros_like, params)
    monkeypatch.setattr(sbi_posteriors, "train", zeros)
    sample = sbi_posteriors.posterior_sampler.__wrapped__("gaussian_linear", name, 50, 1)
    task, rng, key = TASKS["gaussian_linear"], np.random.default_rng(0), jax.random.key(3)
    parameters = task.prior(rng, 50)
    noise = samplers.prior(sbi_posteriors.method(name)[0], jax.random.split(key, 4), parameters.shape[1:])
    scale = 1.0 if name == sbi_posteriors.FLOW else 1 / math.hypot(80, 1)
    drawn = (sample(key, task.simulate(rng, parameters)[0], 4) - parameters.mean(0)) / parameters.std(0)
    np.testing.assert_allclose(drawn, scale * np.asarray(noise), rtol=0.02)


def test_a_part_compares_the_posterior_of_its_observation(monkeypatch):
    sampled = []

    def posterior_sampler(task, name, simulations, steps):
        assert (task, name, simulations, steps) == ("slcp", sbi_posteriors.FLOW, 100_000, 20_000)

        def sample(key, observation, number):
            sampled.append((jax.random.key_data(key).tolist(), observation.tolist()))
            return np.full((number, 5), 7.0)

        return sample

    scored = lambda truth, samples: (truth.shape == samples.shape == (10_000, 5)) + np.abs(truth).max()
    task = TASKS["slcp"]._replace(posterior=lambda rng, observation, draws: np.full((draws, 5), observation[0]))
    monkeypatch.setitem(sbi_posteriors.TASKS, "slcp", task)
    monkeypatch.setattr(sbi_posteriors, "posterior_sampler", posterior_sampler)
    monkeypatch.setattr(sbi_posteriors, "classifier_accuracy", scored)
    observations = sbi_posteriors.observed.__wrapped__("slcp", sbi_posteriors.OBSERVATIONS)
    for number in (1, 10):
        values = sbi_posteriors.measure(sbi_posteriors.PART.format("slcp", sbi_posteriors.FLOW, number), False)
        first = observations[number - 1][0]
        assert values["slcp, flow matching: mean C2ST"] == pytest.approx(1 + abs(first))
        np.testing.assert_array_equal(values["truth"], np.full((1000, 2), first))
        np.testing.assert_array_equal(values["samples"], np.full((1000, 2), 7))
    assert sampled[0][0] != sampled[1][0]
    assert [observation for _, observation in sampled] == observations[[0, 9]].tolist()


def test_the_picture_has_both_methods_beside_the_exact_posterior():
    rng, parts = np.random.default_rng(0), {}
    for task in TASKS:
        truth = rng.uniform(-1, 1, (9, 2))
        for number, name in enumerate((sbi_posteriors.FLOW, sbi_posteriors.DIFFUSION)):
            figure = sbi_posteriors.FIGURE.format(task, name)
            clouds = {"truth": truth, "samples": truth + 0.01 * number + 0.01}
            parts[sbi_posteriors.PART.format(task, name, 1)] = clouds | {figure: 0.5 + number / 8}
    panels = np.reshape(sbi_posteriors.draw(parts).axes, (3, 3))
    for row, task in zip(panels, TASKS, strict=True):
        truth = parts[sbi_posteriors.PART.format(task, sbi_posteriors.FLOW, 1)]["truth"]
        for axes, shift in zip(row, (0, 0.01, 0.02), strict=True):
            np.testing.assert_allclose(axes.collections[0].get_offsets(), truth + shift)
            assert not len(axes.get_xticks()) and not len(axes.get_yticks())
            low, high = truth.min(0), truth.max(0)
            edge = (high - low) / 10
            np.testing.assert_allclose([axes.get_xlim(), axes.get_ylim()], np.stack([low - edge, high + edge], 1))
        titles = [axes.get_title() for axes in row]
        assert titles == ["exact", "flow matching: C2ST 0.500", "diffusion: C2ST 0.625"] and row[0].get_ylabel() == task


def test_the_training_is_the_one_that_the_page_states():
    stated = " ".join(sbi_posteriors.REMAKE.unstated)
    assert f"for {sbi_posteriors.STEPS:,} steps of {sbi_posteriors.BATCH} examples, by Adam" in stated
    assert f"We use {sbi_posteriors.SOLVER_STEPS} steps of Heun's method" in stated


@pytest.mark.slow
@pytest.mark.parametrize("pair", sbi_posteriors.PUBLISHED, ids=str)
def test_a_quick_part_measures_its_figure(pair):
    values = sbi_posteriors.measure(sbi_posteriors.PART.format(*pair, 1), True)
    assert 0.5 <= values[sbi_posteriors.FIGURE.format(*pair)] <= 1
    assert values["samples"].shape == values["truth"].shape == (100, 2)
