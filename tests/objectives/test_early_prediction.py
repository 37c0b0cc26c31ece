"""A prediction from the middle of a network: its loss, its head, and guidance by it, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import guidance, objectives, parameterizations, schedules, timesteps, weightings
from diffusion.objectives import projectors

SCHEDULE = schedules.rectified_flow()
BASE = objectives.flow_matching(timesteps.uniform_density(SCHEDULE))
KEYS = jax.random.split(jax.random.key(0), 3)
X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 6, 2)), jnp.float32)


def patches(x):
    """[B, 6, 8], patches of 2 x 2, row by row."""
    return x.reshape(3, 2, 2, 3, 2, 2).transpose(0, 1, 3, 2, 4, 5).reshape(3, 6, 8)


@pytest.mark.parametrize(
    "make", [pytest.param(parameterizations.velocity, marks=pytest.mark.slow), parameterizations.clipped_x0]
)
def test_the_term_is_the_velocitys_error_of_what_the_head_predicts(make):
    parameterization = make()
    noise = np.random.default_rng(1).normal(size=X.shape).astype(np.float32)

    def model(x, t, condition, features=()):
        return (0.0 * x, (jnp.sin(patches(x)),)) if features else 0.0 * x

    objective = objectives.added(BASE, objectives.early_prediction(parameterization, layer=1, weight=2.0))
    assert objective.blocks.early == ("term", 1) and objective.heads["term"].target == 0
    networks = {"model": model, "term": lambda h, shape: h}
    losses, metrics = jax.jit(lambda: objective(networks, SCHEDULE, KEYS, {"x": X, "noise": noise}, 0))()
    t = np.asarray(metrics["t"])[:, None, None, None]
    x_t = (1 - t) * X + t * noise
    v = (x_t - np.asarray(X)) / t  # eps - x_0
    output = np.sin(x_t)
    early = output if make is parameterizations.velocity else (x_t - output) / np.maximum(t, 0.05)
    np.testing.assert_allclose(metrics["term"], np.square(early - v).mean((1, 2, 3)), rtol=1e-3)
    np.testing.assert_allclose(losses, np.square(v).mean((1, 2, 3)) + 2 * metrics["term"], rtol=1e-3)


@pytest.mark.parametrize(
    "t", [0.4, np.float32([0.2, 0.4, 0.9]), np.linspace(0.1, 0.9, 12, dtype=np.float32).reshape(3, 4)]
)
def test_guidance_goes_from_the_early_prediction_through_the_networks_own(t):
    """One time for all, or one for each example or row of it."""
    calls = []

    def network(x, clock, condition, features=()):
        calls.append(features)
        return 0.5 * x, (jnp.cos(patches(x)),)

    head = lambda h, shape: projectors.untokens(h, shape)
    branches = guidance.depth_branches(network, SCHEDULE, parameterizations.velocity(), None, 3, head)
    guided = guidance.internal(branches, 1.7)(X, t)
    t = np.reshape(t, np.shape(t) + (1,) * (X.ndim - np.ndim(t)))
    v = np.cos(X) + 1.7 * (0.5 * X - np.cos(X))
    np.testing.assert_allclose(guided.x0, X - t * v, rtol=1e-4, atol=1e-5)
    assert calls == [(3,)]


def test_the_last_layer_begins_with_zeros_and_is_modulated_by_what_it_reads():
    layer = projectors.final_layer()
    params = layer.init(jax.random.key(0), 4, 3)
    h = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 4)), jnp.float32)
    np.testing.assert_array_equal(layer.apply(params, h, (1, 5, 3)), np.zeros((2, 5, 3)))
    drawn = np.random.default_rng(2)
    params = jax.tree.map(lambda leaf: jnp.asarray(drawn.normal(size=leaf.shape), jnp.float32), params)
    silu = lambda x: x / (1 + np.exp(-x))
    c = silu(np.asarray(h))
    shift, scale = np.split(silu(c) @ params["modulation"]["kernel"] + params["modulation"]["bias"], 2, axis=-1)
    normed = c / np.sqrt(np.square(c).mean(-1, keepdims=True) + 1e-6) * params["norm"]["scale"]
    expected = (normed * (1 + scale) + shift) @ params["dense"]["kernel"] + params["dense"]["bias"]
    np.testing.assert_allclose(layer.apply(params, h, (1, 5, 3)), expected, rtol=1e-4, atol=1e-4)


def test_tokens_become_pictures_again_and_others_are_refused():
    np.testing.assert_array_equal(projectors.untokens(patches(X), (4, 6, 2)), X)
    with pytest.raises(ValueError, match="tokens with 7 values cannot be patches of 2 x 2"):
        projectors.untokens(patches(X)[..., :7], (4, 6, 2))
    with pytest.raises(ValueError, match="layer = 0 must be at least 1"):
        objectives.early_prediction(parameterizations.velocity(), layer=0)
    for unbounded in (parameterizations.x0(), parameterizations.epsilon(), parameterizations.score()):
        with pytest.raises(
            ValueError, match=f"predicts {unbounded.name}, its output is divided by a coefficient that vanishes"
        ):
            objectives.early_prediction(unbounded)
    assert objectives.early_prediction(parameterizations.edm()).predicts


def test_a_network_of_scaled_inputs_is_read_at_what_was_noised():
    """EDM's network receives x_t over its size; features that are its exact target predict the velocity exactly."""
    p = parameterizations.edm(clock=parameterizations.time())
    noise = np.random.default_rng(1).normal(size=X.shape).astype(np.float32)
    targets = lambda t: p.target(SCHEDULE, t, X, noise)
    half = lambda state, keys, index: (jnp.full(3, 0.5), jnp.ones(3))
    base = objectives.denoising(p, weightings.constant(p), BASE.density._replace(sample=half))
    objective = objectives.added(base, objectives.early_prediction(p, layer=1))

    def model(x, t, condition, features=()):
        output = targets(jnp.full(3, 0.5))
        return (output, (patches(output),)) if features else output

    networks = {"model": model, "term": lambda h, shape: h}
    _, metrics = jax.jit(lambda: objective(networks, SCHEDULE, KEYS, {"x": X, "noise": noise}, 0))()
    assert np.max(metrics["term"]) < 1e-8
