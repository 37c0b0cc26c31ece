"""Every objective has its optimum and its least value where its paper puts them.

Expectations are exact, without Monte Carlo: on Gaussian data with a linear network a loss is a quadratic in (x_0, eps),
so a weighted mean over a few examples whose weighted first and second moments are the true ones is its expectation.
The inputs of the network show the noise that an objective draws for its keys.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from tests import oracles
from tests.objectives.objective_cases import (
    DATA,
    OBJECTIVES,
    SCHEDULES,
    at,
    every_objective,
    losses_of,
    network_of,
    spy,
)


def _coefficients(schedule, t, h=1e-6):
    """alpha, sigma, their numerical derivatives, and t, in float64."""
    alpha = float(schedule.alpha(t))
    sigma = float(schedule.sigma(t))
    rates = [float(f(t + h) - f(t - h)) / (2 * h) for f in (schedule.alpha, schedule.sigma)]
    return alpha, sigma, *rates, t


def _moments(kinds):
    """Mean and covariance of the draws, one after the other."""
    D = 2
    mean = np.concatenate([DATA.means[0] if kind == "data" else np.zeros(D) for kind in kinds])
    blocks = [oracles.covariance(DATA) if kind == "data" else np.eye(D) for kind in kinds]
    return mean, scipy.linalg.block_diag(*blocks)


def _moment_weights(draws, mean, covariance):
    """Weights of the examples that give (1, draws) exactly the first and second moments that they have."""
    z = np.concatenate([np.ones((len(draws), 1)), draws], axis=1)
    mean = np.append(1.0, mean)
    second = np.outer(mean, mean)
    second[1:, 1:] += covariance
    rows, columns = np.triu_indices(len(mean))
    weights = np.linalg.lstsq((z[:, rows] * z[:, columns]).T, second[rows, columns], rcond=None)[0]
    np.testing.assert_allclose((z[:, rows] * z[:, columns]).T @ weights, second[rows, columns], atol=1e-10)
    return weights


def _read_draws(case, state, x0, x_t, batch):
    """The draws of each example's keys, from the inputs of the network: `[B, draws D]`."""
    known = [x0, *([np.asarray(batch["noise"])] if "noise" in batch else [])][: len(case.draws) - 1]
    known = known + [(x_t - sum(c * u for c, u in zip(state, known))) / state[len(known)]]
    if len(case.draws) > len(known):  # the next example of each pair
        known += [u.reshape(-1, 2, u.shape[1])[:, ::-1].reshape(u.shape) for u in known]
    return np.concatenate(known, axis=1)


def _expectation(case, schedule, t):
    """(parameters) -> exact expected loss of the linear network y = A x + b at time t, the best parameters, and the
    least value."""
    B, D = 96, 2
    keys = jax.random.split(jax.random.key(1), B)
    x0 = jnp.asarray(np.random.default_rng(0).standard_normal((B, D)))
    batch = case.batch(x0)
    objective = case.make(at(t))
    seen = []
    coefficients = _coefficients(schedule, t)
    alpha, sigma = coefficients[:2]
    c_in = case.input_scale(*coefficients)
    state = np.array([alpha, sigma] if case.state is None else case.state(*coefficients))
    targets = np.array(case.targets(*coefficients))

    losses_of(objective, network_of(case, spy(seen)), schedule, keys, x0, **batch)
    draws = _read_draws(case, state, np.asarray(x0), np.asarray(seen[0][0]) / c_in, batch)
    mean, covariance = _moments(case.draws)
    weights = _moment_weights(draws, mean, covariance)

    def expected_loss(parameters):
        def network(x, clock, condition, features=()):
            y = x @ parameters["A"].T + parameters["b"]
            return (y, (case.features(x),) * len(features)) if features else y

        losses, metrics = losses_of(objective, network, schedule, keys, x0, **batch)
        assert losses.shape == (B,)
        return (weights * (losses if case.part is None else metrics[case.part])).sum()

    L, T = (np.kron(np.atleast_2d(a), np.eye(D)) for a in (state, targets))
    variance = L @ covariance @ L.T
    cross = T @ covariance @ L.T
    A = cross @ np.linalg.inv(variance)
    optimum = {"A": jnp.asarray(A / c_in), "b": jnp.asarray(T @ mean - A @ L @ mean)}
    total = np.trace(T @ covariance @ T.T) / D
    least = case.weight(*coefficients) * (total - np.trace(A @ cross.T) / D) + case.offset(*coefficients) * total
    return expected_loss, optimum, least


def _check_optimum(name, schedule_name, t, rtol):
    expected_loss, optimum, least = _expectation(OBJECTIVES[name], SCHEDULES[schedule_name], t)
    value, gradient = jax.value_and_grad(expected_loss)(optimum)
    size = max(abs(least), 1)
    np.testing.assert_allclose(value, least, rtol=rtol, atol=rtol)  # the oracle's derivatives of alpha are numerical
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_allclose(leaf, 0, atol=rtol * size)
    return expected_loss, optimum, size


@pytest.mark.extended
@every_objective
@pytest.mark.parametrize("schedule_name, t", [("cosine", 0.2), ("rectified_flow", 0.7)])
def test_exact_network_is_the_optimum_with_the_known_least_value(name, schedule_name, t, x64):
    """The expected gradient vanishes there, and nowhere near it."""
    expected_loss, optimum, size = _check_optimum(name, schedule_name, t, rtol=1e-6)
    elsewhere = jax.grad(expected_loss)(jax.tree.map(lambda a: a + 0.01, optimum))
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(elsewhere)) > 1e-4 * size


@pytest.mark.slow
@every_objective
@pytest.mark.parametrize("schedule_name", list(SCHEDULES))
@pytest.mark.parametrize("t", [0.0104, 0.0504, 0.5004, 0.9504])
def test_exact_network_is_the_optimum_everywhere(name, schedule_name, t, x64):
    _check_optimum(name, schedule_name, t, rtol=1e-5)
