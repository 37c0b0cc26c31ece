"""Conformance of every objective: a new one is one line in OBJECTIVES, with its optimum and its least value.

Expectations are exact, without Monte Carlo: on Gaussian data with a linear network a loss is a quadratic in (x_0, eps),
so a weighted mean over a few examples whose weighted first and second moments are the true ones is its expectation.
The noise that an objective draws for its keys is read off from what its network is given.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffusion import couplings, objectives, parameterizations, schedules, timesteps, weightings
from tests import oracles

SCHEDULES = {
    "linear_beta": schedules.linear_beta(),
    "cosine": schedules.cosine(),
    "rectified_flow": schedules.rectified_flow(),
    "edm": schedules.edm(),
}
DATA = oracles.tilted_gaussian()


def at(t):
    """The density of one time, as an objective takes any density."""
    return timesteps.Density(
        init=tuple,
        sample=lambda state, keys, index: (jnp.full(len(keys), t), jnp.ones(len(keys))),
        update=lambda state, t, losses: state,
    )


class Case(NamedTuple):
    """An objective, the name of its network's output in the oracle, and the weight on the squared error of x_0."""

    make: Callable[[timesteps.Density], objectives.Objective]
    output: str
    weight: Callable[[float, float, float, float], float]  # of (alpha, sigma, alpha', sigma')


def _denoising(name, weighting, weight):
    p = getattr(parameterizations, name)()
    return Case(lambda density: objectives.denoising(p, weighting, density), name, weight)


OBJECTIVES = {
    "ddpm": _denoising("epsilon", weightings.constant(parameterizations.epsilon()), lambda a, s, *_: a**2 / s**2),
    "x0": _denoising("x0", weightings.constant(parameterizations.x0()), lambda a, s, *_: 1.0),
    "v, min-snr": _denoising("v", weightings.min_snr(5.0), lambda a, s, *_: min(a**2 / s**2, 5.0)),
    "score": _denoising("score", weightings.truncated_snr(), lambda a, s, *_: max(a**2 / s**2, 1.0)),
    "edm": _denoising("edm", weightings.edm(0.5), lambda a, s, *_: ((s / a) ** 2 + 0.25) / (0.5 * s / a) ** 2),
    "velocity": _denoising("velocity", weightings.edm(0.5), lambda a, s, *_: a**2 / s**2 + 4.0),
    "flow_matching": Case(  # u = alpha' x_0 + sigma' (x_t - alpha x_0) / sigma
        objectives.flow_matching, "velocity", lambda a, s, a_dot, s_dot: (a_dot - s_dot * a / s) ** 2
    ),
}
every_objective = pytest.mark.parametrize("name", list(OBJECTIVES))


def _run(objective, network, schedule, keys, x, **batch):
    batch = {"x": x, "condition": None, "index": jnp.arange(len(x)), **batch}
    return objective({"model": network}, schedule, keys, batch, 0)


def _spy(seen):
    def network(x, clock, condition):
        seen.append((x, clock, condition))
        return jnp.zeros_like(x)

    return network


def _coefficients(schedule, t, h=1e-6):
    """alpha, sigma and their numerical derivatives, in float64."""
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    rates = [float(f(t + h) - f(t - h)) / (2 * h) for f in (schedule.alpha, schedule.sigma)]
    return alpha, sigma, *rates


def _moment_weights(x0, eps):
    """Weights of the examples that give (1, x0, eps) exactly the first and second moments that it has."""
    z = np.concatenate([np.ones((len(x0), 1)), x0, eps], axis=1)
    D = x0.shape[1]
    mean = np.concatenate([[1.0], DATA.means[0], np.zeros(D)])
    second = np.outer(mean, mean)
    second[1 : D + 1, 1 : D + 1] += oracles.covariance(DATA)
    second[D + 1 :, D + 1 :] += np.eye(D)
    rows, columns = np.triu_indices(2 * D + 1)
    weights = np.linalg.lstsq((z[:, rows] * z[:, columns]).T, second[rows, columns], rcond=None)[0]
    np.testing.assert_allclose((z[:, rows] * z[:, columns]).T @ weights, second[rows, columns], atol=1e-10)
    return weights


def _expectation(case, schedule, t):
    """(parameters) -> exact expected loss of the linear network y = A x + b at time t, and the optimal parameters."""
    B, D = 64, 2
    keys = jax.random.split(jax.random.key(1), B)
    x0 = jnp.asarray(np.random.default_rng(0).standard_normal((B, D)))
    objective, seen = case.make(at(t)), []
    _run(objective, _spy(seen), schedule, keys, x0)
    alpha, sigma, alpha_dot, sigma_dot = _coefficients(schedule, t)
    c_in = 1 / np.sqrt(0.25 * alpha**2 + sigma**2) if case.output == "edm" else 1.0
    eps = (np.asarray(seen[0][0]) / c_in - alpha * np.asarray(x0)) / sigma
    weights = _moment_weights(np.asarray(x0), eps)

    def expected_loss(parameters):
        network = lambda x, clock, condition: x @ parameters["A"].T + parameters["b"]
        losses, _ = _run(objective, network, schedule, keys, x0)
        assert losses.shape == (B,)
        return (weights * losses).sum()

    def output(x):
        x0, eps = oracles.mean_x0(DATA, alpha, sigma, x), oracles.mean_eps(DATA, alpha, sigma, x)
        return oracles.TARGETS[case.output](alpha, sigma, alpha_dot, sigma_dot, x0, eps)

    b = output(jnp.zeros((1, D)))[0]
    A = (output(jnp.eye(D)) - b).T / c_in
    least = case.weight(alpha, sigma, alpha_dot, sigma_dot)
    least *= np.trace(oracles.posterior_covariance(DATA, alpha, sigma)) / D
    return expected_loss, {"A": A, "b": b}, least


@every_objective
@pytest.mark.parametrize("schedule_name, t", [("cosine", 0.2), ("rectified_flow", 0.7)])
def test_exact_denoiser_is_the_optimum_with_the_known_least_value(name, schedule_name, t, x64):
    """The expected gradient vanishes there, and nowhere near it."""
    expected_loss, optimum, least = _expectation(OBJECTIVES[name], SCHEDULES[schedule_name], t)
    value, gradient = jax.value_and_grad(expected_loss)(optimum)
    np.testing.assert_allclose(value, least, rtol=1e-6)  # the oracle's derivatives of alpha are numerical
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_allclose(leaf, 0, atol=1e-6 * max(least, 1))
    elsewhere = jax.grad(expected_loss)(jax.tree.map(lambda a: a + 0.01, optimum))
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(elsewhere)) > 1e-4 * max(least, 1)


@pytest.mark.slow
@every_objective
@pytest.mark.parametrize("schedule_name", list(SCHEDULES))
@pytest.mark.parametrize("t", [0.0104, 0.0504, 0.5004, 0.9504])
def test_exact_denoiser_is_the_optimum_everywhere(name, schedule_name, t, x64):
    expected_loss, optimum, least = _expectation(OBJECTIVES[name], SCHEDULES[schedule_name], t)
    value, gradient = jax.value_and_grad(expected_loss)(optimum)
    np.testing.assert_allclose(value, least, rtol=1e-5)
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_allclose(leaf, 0, atol=1e-5 * max(least, 1))


@every_objective
@pytest.mark.parametrize("shape", [(), (2, 3, 1, 2)])
def test_losses_are_per_example_float32_for_any_rank(name, shape):
    keys, x = jax.random.split(jax.random.key(0), 5), jnp.ones((5, *shape))
    objective = OBJECTIVES[name].make(timesteps.uniform_density(SCHEDULES["linear_beta"]))
    losses, metrics = _run(objective, lambda x, clock, condition: 0.5 * x, SCHEDULES["linear_beta"], keys, x)
    assert losses.shape == (5,)
    assert losses.dtype == jnp.float32
    assert np.isfinite(losses).all()
    assert metrics["t"].shape == (5,)
    assert all(value.shape == (5,) for value in metrics.values())


@every_objective
def test_half_precision_networks_give_float32_losses(name):
    """bfloat16 outputs cost digits once, not again in the loss."""
    keys, x = jax.random.split(jax.random.key(0), 5), jnp.ones((5, 8))
    objective = OBJECTIVES[name].make(timesteps.uniform_density(SCHEDULES["linear_beta"]))
    half = lambda x, clock, condition: (0.5 * x).astype(jnp.bfloat16)
    rounded = lambda x, clock, condition: half(x, clock, condition).astype(jnp.float32)
    losses, _ = _run(objective, half, SCHEDULES["linear_beta"], keys, x)
    assert losses.dtype == jnp.float32
    np.testing.assert_array_equal(losses, _run(objective, rounded, SCHEDULES["linear_beta"], keys, x)[0])


def test_flow_matching_is_its_formula():
    """mean |u - (eps - x_0)|^2 on x_t = (1 - t) x_0 + t eps (Liu et al. 2023, eq. 1), from what the network saw."""
    schedule, seen = schedules.rectified_flow(), []
    keys, x0 = jax.random.split(jax.random.key(0), 6), jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (6, 4)))
    objective = objectives.flow_matching(timesteps.logit_normal(schedule))
    losses, metrics = _run(objective, _spy(seen), schedule, keys, x0)
    t, x_t = np.asarray(metrics["t"])[:, None], np.asarray(seen[0][0])
    eps = (x_t - (1 - t) * np.asarray(x0)) / t
    np.testing.assert_allclose(losses, np.square(eps - np.asarray(x0)).mean(1), rtol=1e-4)
    np.testing.assert_array_equal(seen[0][1], metrics["t"])


def test_ddpm_loss_is_its_formula():
    """mean |eps - eps_theta|^2 (Ho et al. 2020, eq. 14): with a network that says 0 it is mean |eps|^2."""
    schedule, seen = schedules.linear_beta(), []
    keys, x0 = jax.random.split(jax.random.key(0), 6), jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (6, 4)))
    objective = OBJECTIVES["ddpm"].make(timesteps.discrete_density(schedule))
    losses, metrics = _run(objective, _spy(seen), schedule, keys, x0)
    alpha, sigma = (np.asarray(f(metrics["t"]))[:, None] for f in (schedule.alpha, schedule.sigma))
    eps = (np.asarray(seen[0][0]) - alpha * np.asarray(x0)) / sigma
    np.testing.assert_allclose(losses, np.square(eps).mean(1), rtol=1e-3)


def test_coupling_decides_the_pairs():
    schedule, seen = schedules.rectified_flow(), []
    keys, x0 = jax.random.split(jax.random.key(0), 6), jnp.zeros((6, 3))
    drawn = []

    def reversed_pairs(x0, eps):
        drawn.append(eps)
        return eps[::-1]

    objective = objectives.flow_matching(at(1.0), coupling=reversed_pairs)
    _run(objective, _spy(seen), schedule, keys, x0)
    np.testing.assert_array_equal(seen[0][0], drawn[0][::-1])  # at t = 1 the network sees eps itself
    seen.clear()
    _run(objectives.flow_matching(at(1.0), coupling=couplings.independent()), _spy(seen), schedule, keys, x0)
    np.testing.assert_array_equal(seen[0][0], drawn[0])


def test_clock_and_condition_reach_the_network():
    schedule, seen = schedules.rectified_flow(), []
    keys, labels = jax.random.split(jax.random.key(0), 4), jnp.arange(4)
    objective = objectives.flow_matching(at(0.25), clock=parameterizations.steps())
    _run(objective, _spy(seen), schedule, keys, jnp.ones((4, 2)), condition=labels)
    np.testing.assert_allclose(seen[0][1], 249.0)
    np.testing.assert_array_equal(seen[0][2], labels)


@every_objective
def test_importance_multiplies_and_the_density_gets_its_state(name):
    """An adaptive density keeps its state in the batch, and its importance undoes its preference."""
    keys, x = jax.random.split(jax.random.key(0), 3), jnp.ones((3, 2))

    def with_importance(state, keys, index):
        return jnp.full(3, 0.5), jnp.broadcast_to(state, 3)

    density = timesteps.Density(lambda: jnp.float32(1.0), with_importance, lambda state, t, losses: state)
    objective = OBJECTIVES[name].make(density)
    network = lambda x, clock, condition: 0.5 * x
    plain, _ = _run(objective, network, SCHEDULES["cosine"], keys, x)
    tripled, _ = _run(objective, network, SCHEDULES["cosine"], keys, x, density=jnp.float32(3.0))
    np.testing.assert_allclose(tripled, 3 * plain, rtol=1e-6)


# Randomness: every decision has a key of its own, and an example's draws are its own.

MANY = 4096


def _draws(make, index=None, keys=None, rate=0.25):
    """What an objective with condition dropout decides: t, eps and whether the condition was dropped, per example."""
    schedule, seen = schedules.rectified_flow(), []
    keys = jax.random.split(jax.random.key(5), MANY) if keys is None else keys
    index = jnp.arange(len(keys)) if index is None else index
    objective = objectives.with_condition_dropout(make(timesteps.uniform_density(schedule)), null=-1, rate=rate)
    x, labels = jnp.zeros((len(keys), 2)), jnp.zeros(len(keys), int)
    _, metrics = _run(objective, _spy(seen), schedule, keys, x, condition=labels, index=index)
    t = np.asarray(metrics["t"], np.float64)
    (x_t, _, condition), = seen
    return t, np.asarray(x_t, np.float64) / t[:, None], np.asarray(condition) == -1


@pytest.mark.parametrize("name", ["x0", "flow_matching"])
def test_decisions_share_no_key(name):
    """Given that the condition was dropped, t is still uniform and eps still normal; t says nothing of eps."""
    t, eps, dropped = _draws(OBJECTIVES[name].make)
    assert scipy.stats.binomtest(int(dropped.sum()), MANY, 0.25).pvalue > 1e-3
    for chosen in (dropped, ~dropped):
        assert scipy.stats.kstest(t[chosen], "uniform").pvalue > 1e-3
        assert scipy.stats.kstest(eps[chosen].ravel(), "norm").pvalue > 1e-3
    for column in eps.T:
        assert abs(scipy.stats.spearmanr(t, column).statistic) < 4 / np.sqrt(MANY)
        assert abs(scipy.stats.spearmanr(t, np.abs(column)).statistic) < 4 / np.sqrt(MANY)
    assert abs(scipy.stats.spearmanr(eps[:, 0], eps[:, 1]).statistic) < 4 / np.sqrt(MANY)


@pytest.mark.parametrize("name", ["x0", "flow_matching"])
def test_draws_of_an_example_do_not_depend_on_the_batch(name):
    keys = jax.random.split(jax.random.key(5), 12)
    t, eps, dropped = _draws(OBJECTIVES[name].make, keys=keys)
    part_t, part_eps, part_dropped = _draws(OBJECTIVES[name].make, keys=keys[3:5], index=jnp.arange(3, 5))
    np.testing.assert_array_equal(part_t, t[3:5])
    np.testing.assert_array_equal(part_eps, eps[3:5])
    np.testing.assert_array_equal(part_dropped, dropped[3:5])


@every_objective
def test_loss_of_an_example_does_not_depend_on_the_others(name):
    schedule = SCHEDULES["cosine"]
    keys, x = jax.random.split(jax.random.key(2), 6), jnp.asarray(np.random.default_rng(0).standard_normal((6, 3)))
    objective = OBJECTIVES[name].make(timesteps.uniform_density(schedule))
    network = lambda x, clock, condition: jnp.tanh(x)
    whole, _ = _run(objective, network, schedule, keys, x)
    changed, _ = _run(objective, network, schedule, keys.at[0].set(keys[1]), x.at[0].set(9.0))
    np.testing.assert_allclose(changed[1:], whole[1:], rtol=1e-6)
    assert changed[0] != whole[0]


@pytest.mark.parametrize("rate, share", [(0.0, 0.0), (0.999, 0.999)])
def test_dropout_rate_is_a_share(rate, share):
    _, _, dropped = _draws(objectives.flow_matching, rate=rate)
    np.testing.assert_allclose(dropped.mean(), share, atol=3e-3)


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_bad_dropout_rates_are_refused(rate):
    with pytest.raises(ValueError, match="rate"):
        objectives.with_condition_dropout(objectives.flow_matching(at(0.5)), null=0, rate=rate)


def test_dropout_replaces_every_leaf_of_a_pytree():
    """A condition of several parts is dropped as a whole."""
    keys = jax.random.split(jax.random.key(0), 200)
    condition = {"label": jnp.arange(200), "text": jnp.ones((200, 3, 2))}
    null = {"label": jnp.asarray(1000), "text": jnp.zeros((3, 2))}
    dropped = objectives.drop_condition(keys, condition, null, 0.5)
    gone = np.asarray(dropped["label"]) == 1000
    assert 60 < gone.sum() < 140
    np.testing.assert_array_equal(np.asarray(dropped["text"]) == 0, np.broadcast_to(gone[:, None, None], (200, 3, 2)))
    np.testing.assert_array_equal(np.asarray(dropped["label"])[~gone], np.arange(200)[~gone])


def test_hybrid_is_finite_with_gradients_at_every_time():
    """Improved DDPM's objective, whose values have tests of their own, from the first step to the last."""
    schedule, keys = schedules.linear_beta(), jax.random.split(jax.random.key(0), 4)
    x0 = jnp.asarray(np.array([[-1.0, 1.0, 0.0039]] * 4, np.float32))

    @jax.jit
    @jax.value_and_grad
    def loss(parameters, t):
        network = lambda x, clock, condition: jnp.concatenate([parameters[0] * x, parameters[1] + 0 * x], axis=-1)
        return _run(objectives.hybrid(parameterizations.epsilon(), at(t)), network, schedule, keys, x0)[0].sum()

    for t in (0.001, 0.002, 0.5, 1.0):
        for parameters in ([0.1, 0.1], [3.0, -1.0], [-2.0, 1.0]):
            value, gradient = loss(jnp.array(parameters), t)
            assert np.isfinite(value), (t, parameters)
            assert np.isfinite(gradient).all(), (t, parameters)
