"""Terms on a network's features, against their formulas in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, schedules, timesteps

SCHEDULE = schedules.rectified_flow()
BASE = objectives.flow_matching(timesteps.uniform_density(SCHEDULE))
KEYS = jax.random.split(jax.random.key(0), 6)
X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
FEATURES = np.random.default_rng(1).normal(size=(6, 4, 5)).astype(np.float32)
TARGETS = np.random.default_rng(2).normal(size=(6, 4, 5)).astype(np.float32)


def run(objective, features, /, **networks):
    networks = {"model": lambda x, t, c: (0.5 * x, features), **networks}
    return objective(networks, SCHEDULE, KEYS, {"x": jnp.asarray(X), "condition": None}, 0)


def plain():
    return BASE({"model": lambda x, t, c: 0.5 * x}, SCHEDULE, KEYS, {"x": jnp.asarray(X)}, 0)[0]


def test_alignment_is_minus_the_mean_cosine_to_the_encoder_of_clean_data():
    calls = []

    def encoder(x, clock, condition):
        calls.append((x, clock))
        return jnp.asarray(TARGETS)

    losses, metrics = run(objectives.added(BASE, objectives.alignment(), 0.5), jnp.asarray(FEATURES), features=encoder)
    norms = np.linalg.norm(FEATURES, axis=-1) * np.linalg.norm(TARGETS, axis=-1)
    cosines = (FEATURES * TARGETS).sum(-1) / norms
    np.testing.assert_allclose(metrics["term"], -cosines.mean(1), rtol=1e-5)
    np.testing.assert_allclose(losses, plain() - 0.5 * cosines.mean(1), rtol=1e-5)
    np.testing.assert_array_equal(calls[0][0], X)
    np.testing.assert_array_equal(calls[0][1], np.zeros(6))


def test_alignment_is_least_along_the_targets_and_moves_features_alone():
    def term(features, targets):
        return objectives.alignment()(features, {"features": lambda x, t, c: targets}, {"x": X}).sum()

    along = jnp.asarray(3 * TARGETS)
    np.testing.assert_allclose(term(along, jnp.asarray(TARGETS)), -6, rtol=1e-6)
    by_features, by_targets = jax.grad(term, (0, 1))(along, jnp.asarray(TARGETS))
    np.testing.assert_allclose(by_features, 0, atol=1e-6)
    assert np.abs(jax.grad(term)(jnp.asarray(FEATURES), jnp.asarray(TARGETS))).max() > 1e-2
    np.testing.assert_array_equal(by_targets, 0)
    assert np.isfinite(jax.grad(term)(jnp.zeros((6, 4, 5)), jnp.asarray(TARGETS))).all()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_dispersive_is_its_formula_within_each_block(temperature):
    """The log of the mean of exp(-|h_i - h_j|^2 / (D temperature)) over the full matrix of pairs."""
    term = objectives.dispersive(3, temperature)
    _, metrics = run(objectives.added(BASE, term, 0.25), jnp.asarray(FEATURES))
    flat = FEATURES.reshape(6, -1)
    for block in (slice(0, 3), slice(3, 6)):
        h = flat[block]
        distances = [((a - b) ** 2).sum() / 20 for a in h for b in h]
        expected = np.log(np.mean(np.exp(-np.array(distances) / temperature)))
        np.testing.assert_allclose(metrics["term"][block], expected, rtol=1e-5)


def test_dispersive_pushes_features_apart():
    value = lambda h: objectives.dispersive(2)(h, {}, {}).sum()
    h = jnp.array([[1.0], [2.0]])
    slope = jax.grad(value)(h)
    assert slope[0, 0] > 0 > slope[1, 0]  # descending moves them away from each other
    np.testing.assert_allclose(slope.sum(), 0, atol=1e-6)


@pytest.mark.parametrize("call, message", [
    (lambda: objectives.dispersive(1), "block = 1"),
    (lambda: objectives.dispersive(2, 0.0), "temperature = 0"),
    (lambda: run(objectives.added(BASE, objectives.dispersive(4), 1.0), jnp.asarray(FEATURES)), "number of blocks"),
    (lambda: run(objectives.added(BASE, objectives.alignment(), 1.0), jnp.asarray(FEATURES)), 'network "features"'),
    (lambda: run(objectives.added(BASE, objectives.alignment(), 1.0), jnp.asarray(FEATURES),
                 features=lambda x, t, c: jnp.zeros((6, 4, 7))), "have shape"),
    (lambda: objectives.added(BASE, objectives.dispersive(2), 1.0)(
        {"model": lambda x, t, c: x}, SCHEDULE, KEYS, {"x": X}, 0), r"\(output, features\)"),
    (lambda: objectives.added(
        objectives.Objective(lambda networks, *_: (networks["model"](X, X, None), networks["model"](X, X, None))),
        objectives.dispersive(2), 1.0)(
        {"model": lambda x, t, c: (x, x)}, SCHEDULE, KEYS, {"x": X}, 0), "2 times"),
])  # fmt: skip
def test_impossible_terms_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
