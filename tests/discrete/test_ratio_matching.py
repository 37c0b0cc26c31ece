"""Categorical ratio matching on data that can be enumerated: its optimum, and the analytical sampler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete, models, objectives, schedules, timesteps
from diffusion.discrete import steps
from tests.discrete.test_context import DATA, context

LINE = schedules.rectified_flow()
every = pytest.mark.parametrize("name", ["uniform", "rates"])


def conditional_entropy(data, t):
    """The sum over positions of H(x_t^i | the other positions of x_t), from the law of x_t alone."""
    law = data.at(t).reshape((data.process.size,) * data.positions)
    total = 0.0
    for position in range(data.positions):
        p = law / law.sum(position, keepdims=True)
        total -= np.sum(law * np.log(np.where(p > 0, p, 1)))
    return total


@every
@pytest.mark.parametrize("t", [0.05, 0.6])
def test_the_exact_context_reaches_the_conditional_entropy(name, t):
    data = DATA[name]
    x, times, law = jnp.asarray(data.states), jnp.full(len(data.states), t), jnp.asarray(data.at(t))
    mean = jax.jit(
        lambda log_p: law @ discrete.marginal_cross_entropy(data.process, jax.nn.log_softmax(log_p), x, times)
    )
    exact = jnp.asarray(np.log(context(data, t)), jnp.float32)
    found = mean(exact)
    np.testing.assert_allclose(found, conditional_entropy(data, t), rtol=2e-5)
    assert mean(jnp.zeros_like(exact)) > found + 1e-3


@pytest.mark.extended
def test_the_exact_context_is_a_minimum_among_networks_of_the_others():
    """Logits that states with the same other positions share have a slope of 0 there."""
    data, t = DATA["uniform"], 0.3
    x, times, law = jnp.asarray(data.states), jnp.full(len(data.states), t), jnp.asarray(data.at(t))
    others = np.unique(data.states[:, 1:], axis=0, return_inverse=True)[1].ravel()
    rows = np.array([np.flatnonzero(others == i)[0] for i in range(others.max() + 1)])
    exact = jnp.asarray(np.log(context(data, t)), jnp.float32)

    def mean(first):
        log_p = jax.nn.log_softmax(exact.at[:, 0].set(first[others]))
        return law @ discrete.marginal_cross_entropy(data.process, log_p, x, times)

    at = exact[rows, 0]
    assert np.abs(jax.grad(mean)(at)).max() < 1e-6
    assert np.abs(jax.grad(mean)(at + jnp.array([0.5, 0.0, -0.3]))).max() > 1e-3


@pytest.mark.extended
@every
def test_ancestral_steps_of_a_context_are_the_analytical_sampler(name):
    """p(x_s = y) in proportion to the sum over a of p(a | others) q(y | a) q(x_t | y), the matrices in float64."""
    data, t, s = DATA[name], 0.7, 0.4
    logits = np.log(context(data, t))
    keeping = data.process.keeping
    from_data = data.matrix(float(keeping.alpha(s)))
    on = data.matrix(float(keeping.alpha(t)) / float(keeping.alpha(s)))
    exact = np.exp(logits) @ from_data * np.moveaxis(on[:, data.states], 0, -1)
    exact /= exact.sum(-1, keepdims=True)
    predict = lambda x, t: discrete.from_context(data.process, jnp.asarray(logits, jnp.float32), x, t)
    at = lambda time: jnp.full(len(data.states), time)
    found = steps.ancestral_law(predict, data.process, jnp.asarray(data.states, jnp.int32), at(t), at(s))
    np.testing.assert_allclose(found, exact, atol=3e-6)


def test_the_objective_is_that_of_noised_symbols_and_needs_a_hollow_network():
    data, density = DATA["uniform"], timesteps.uniform_density(LINE)
    objective = discrete.ratio_matching(data.process, density)
    network = models.SymbolTransformer(3, width=8, depth=1, heads=2, hollow=True)
    objective.check_network(network)
    with pytest.raises(
        ValueError, match=r"in this network a position sees itself\. Valid: a network with hollow = True"
    ):
        objective.check_network(network.clone(hollow=False))
    x0, keys = jnp.array([[0, 1, 2], [2, 2, 0]]), jax.random.split(jax.random.key(0), 2)
    table = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)), jnp.float32)
    losses, parts = objective({"model": lambda x, t, c: table[jnp.roll(x, 1, 1)]}, LINE, keys, {"x": x0}, 0)
    x_t = discrete.noised(data.process, objectives.inputs.split(keys, 2)[1], x0, parts["t"])
    for i in range(2):
        alpha = float(data.process.keeping.alpha(parts["t"][i]))
        p = np.exp(np.asarray(table, np.float64))[np.roll(x_t[i], 1)]
        p /= p.sum(-1, keepdims=True)
        law = alpha * p + (1 - alpha) / 3
        np.testing.assert_allclose(losses[i], -np.log(law[range(3), x_t[i]]).mean(), rtol=1e-5)
    with pytest.raises(ValueError, match="ratio_matching: symbols that others cannot replace have no ratios"):
        discrete.ratio_matching(DATA["absorbing"].process, density)
    with pytest.raises(ValueError, match="ratio_matching: token_masks has no ratios"):
        discrete.ratio_matching(discrete.token_masks([1.0, 2.0]), density)
