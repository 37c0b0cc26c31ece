"""Drifting: with a Gaussian kernel the drift is a difference of smoothed scores, exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, parameterizations
from diffusion.objectives.drift import drift
from tests import oracles
from tests.objectives.few_step_cases import FLOW, V

N = 6
X, DATA = np.random.default_rng(3).standard_normal((2, N, 2))
LABELS = np.array([0, 1, 0, 0, 1, 0])


@jax.jit
def smoothed_scores(weights, of, x, temperature):
    """For each x `[N, D]` the score at x of points with its weights `[N, N]`, smoothed."""

    def score(weights, x):
        mixture = oracles.Mixture(weights, of, jnp.broadcast_to(jnp.eye(2), (N, 2, 2)), jnp.zeros((N, 2)))
        return oracles.score(mixture, 1.0, temperature, x[None])[0]

    return jax.vmap(score)(weights, x)


@pytest.mark.parametrize("condition", [None, LABELS])
def test_with_a_gaussian_kernel_it_is_a_difference_of_smoothed_scores(condition, x64):
    """temperature^2 (score of the data - score of the other samples), each of its own condition."""
    alike = np.ones((N, N)) if condition is None else np.equal.outer(condition, condition).astype(float)
    others = alike - np.eye(N)
    equal = lambda rows: rows / rows.sum(1, keepdims=True)
    expected = smoothed_scores(equal(alike), DATA, X, 0.7) - smoothed_scores(equal(others), X, X, 0.7)
    found = jax.jit(lambda: drift(X, DATA, 0.7, "gaussian", None if condition is None else {"label": condition}))()
    np.testing.assert_allclose(found, 0.49 * expected, rtol=1e-6)


def test_with_a_laplace_kernel_it_is_a_mean_shift(x64):
    """Weights exp(-|x - y| / tau), normalised over the data, and over the other samples."""
    distance = lambda x, y: np.linalg.norm(x[:, None] - y[None], axis=-1)
    near, far = np.exp(-distance(X, DATA) / 0.4), np.exp(-distance(X, X) / 0.4)
    np.fill_diagonal(far, 0)
    shift = lambda weights, y: weights / weights.sum(1, keepdims=True) @ y
    np.testing.assert_allclose(drift(X, DATA, 0.4), shift(near, DATA) - shift(far, X), rtol=1e-6)


def test_the_drift_is_differentiable_where_a_sample_meets_itself(x64):
    """By central differences, also if no other sample acts on one."""
    condition = np.arange(N) % 4
    weights = np.random.default_rng(4).standard_normal(X.shape)
    value = jax.jit(lambda x: jnp.sum(weights * drift(x, DATA, 0.4, condition=condition)))
    steps = 1e-6 * np.eye(X.size).reshape(-1, *X.shape)
    expected = [(float(value(X + step)) - float(value(X - step))) / 2e-6 for step in steps]
    np.testing.assert_allclose(np.ravel(jax.grad(value)(jnp.asarray(X))), expected, atol=1e-7)


def test_a_sample_without_others_of_its_condition_stays(x64):
    """Attraction alone would move samples of the data too, all to their mean."""
    condition = np.array([0, 1, 0, 2, 3, 0])
    V = drift(X, DATA, 0.4, condition=condition)
    alone = np.array([1, 3, 4])
    np.testing.assert_array_equal(V[alone], 0)
    assert (np.abs(np.delete(V, alone, 0)).max(1) > 0.01).all()


@pytest.mark.extended
def test_points_act_on_each_other_if_every_entry_of_every_condition_is_equal(x64):
    """Pairs of a label and a text of two numbers: as with one number for each combination that occurs."""
    label, text = np.array([0, 0, 0, 1, 0, 1]), np.array([[1, 2], [1, 2], [1, 3], [1, 2], [1, 3], [1, 2]])
    found = drift(X, DATA, 0.4, condition={"label": label, "text": text})
    np.testing.assert_allclose(found, drift(X, DATA, 0.4, condition=np.array([0, 0, 1, 2, 1, 2])), rtol=1e-12)
    assert np.abs(found - drift(X, DATA, 0.4, condition=label)).max() > 0.01
    assert np.abs(found - drift(X, DATA, 0.4, condition=text)).max() > 0.01


def test_loss_moves_each_sample_along_its_drift_in_its_block(x64):
    """The loss is mean |V|^2, and its gradient in x is -2 V / D: the target and the drift have none."""
    objective = objectives.drifting(V, 0.7, 3, "gaussian")
    keys = jax.random.split(jax.random.key(0), N)
    batch = {"x": jnp.asarray(DATA), "condition": jnp.asarray(LABELS)}
    run = lambda x: objective({"model": lambda z, t, c: -x}, FLOW, keys, batch, 0)[0]
    blocks = [drift(X[rows], DATA[rows], 0.7, "gaussian", LABELS[rows]) for rows in (slice(0, 3), slice(3, 6))]
    expected = np.concatenate(blocks)
    losses, slope = jax.jit(lambda x: (run(x), jax.grad(lambda x: run(x).sum())(x)))(jnp.asarray(X))
    np.testing.assert_allclose(losses, np.square(expected).mean(1), rtol=1e-6)
    np.testing.assert_allclose(slope, -expected, rtol=1e-6)


def test_settings_that_move_nothing_are_refused():
    read = parameterizations.x0()
    with pytest.raises(ValueError, match="block = 1"):
        objectives.drifting(read, 0.5, 1)
    with pytest.raises(ValueError, match="temperature = 0"):
        objectives.drifting(read, 0, 2)
    with pytest.raises(ValueError, match=r"similarity = 'box'\. Valid: laplace, gaussian"):
        objectives.drifting(read, 0.5, 2, "box")


def test_points_of_which_one_entry_of_the_condition_differs_do_not_act():
    x, data = np.float32([[0.0], [1.0], [3.0]]), np.float32([[1.0], [2.0], [5.0]])
    condition = np.array([[0, 1], [0, 1], [0, 2]])
    both = jax.jit(lambda: (drift(x, data, 1.0, condition=jnp.asarray(condition)), drift(x[:2], data[:2], 1.0)))
    found, two = both()
    np.testing.assert_allclose(found[:2], two, rtol=1e-5)
    np.testing.assert_array_equal(found[2], 0)
