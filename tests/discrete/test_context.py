"""Logits that speak of a symbol by the other positions: Bayes' rule on data that can be enumerated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete
from tests.discrete.enumerated import PROCESSES, Enumerated
from tests.discrete.test_rate_processes import PROCESSES as RATE_PROCESSES, EnumeratedRates

DATA = {
    **{name: Enumerated(process) for name, process in PROCESSES.items()},
    "rates": EnumeratedRates(RATE_PROCESSES["not reversible"], positions=2),
}


def context(data, t):
    """p(x_0 = a | the other positions of x_t) for every state x_t, `[S, L, K]`."""
    one = data.matrix(float(data.process.keeping.alpha(t)))
    laws = np.empty((len(data.states), data.positions, data.process.size))
    for position in range(data.positions):
        others = [one[data.states[:, None, i], data.states[None, :, i]] for i in range(data.positions) if i != position]
        joint = data.p[:, None] * np.prod(others, 0)  # [x_0, x_t]
        for a in range(data.process.size):
            laws[:, position, a] = joint[data.states[:, position] == a].sum(0)
    return laws / laws.sum(-1, keepdims=True)


@pytest.mark.extended
@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("t", [0.05, 0.6])
def test_bayes_rule_adds_the_symbol_itself_to_its_context(name, t):
    data = DATA[name]
    with np.errstate(invalid="ignore", divide="ignore"):
        logits = np.log(context(data, t)) + 1.7  # a constant does not matter
    x, times = jnp.asarray(data.states, jnp.int32), jnp.full(len(data.states), t)
    found = np.exp(discrete.from_context(data.process, jnp.asarray(logits, jnp.float32), x, times))
    possible = data.at(t) > 1e-9
    np.testing.assert_allclose(found[possible], data.table(t)[possible], atol=2e-5)


@pytest.mark.extended
@pytest.mark.parametrize("name", ["uniform", "rates"])
def test_a_network_that_knows_nothing_is_charged_the_logarithm_of_the_number_of_symbols(name):
    """KL(symbols that are known || symbols all equally likely): log K of each, for a process that keeps that law."""
    rates = discrete.rate_process(discrete.linear(), discrete.banded_rates(3))
    process = {"uniform": discrete.uniform(discrete.cosine(), 3), "rates": rates}[name]
    number = 40_000
    x0 = jnp.asarray(np.random.default_rng(0).integers(0, 3, (number, 2)), jnp.int32)
    t = jnp.asarray((np.random.default_rng(1).permutation(number) + 0.5) / number, jnp.float32)
    keys = jax.random.split(jax.random.key(0), number)
    blind = lambda x, t: discrete.from_context(process, jnp.zeros((*x.shape, 3)), x, t)
    losses = np.asarray(jax.jit(lambda *args: discrete.score_entropy_bound(blind, process, *args))(keys, x0, t))
    error = losses.std() / np.sqrt(number)
    assert error < 0.06 and abs(losses.mean() - 2 * np.log(3)) < 4 * error, (losses.mean(), error)


@pytest.mark.parametrize("t", [1e-6, 0.5, 1.0])
def test_equal_logits_are_ratios_of_one_near_the_data_too(t):
    process, x, times = PROCESSES["uniform"], jnp.array([[0, 2]]), jnp.array([t])
    read = lambda logits: discrete.from_context(process, logits, x, times)
    law = jnp.exp(read(jnp.zeros((1, 2, 3))))
    np.testing.assert_allclose(process.ratios(x, law, times), 1, rtol=1e-4)
    assert np.isfinite(jax.grad(lambda logits: read(logits)[0, 0, 1])(jnp.zeros((1, 2, 3)))).all()


def test_under_masks_it_reads_what_logits_are_read_as():
    process, random = PROCESSES["absorbing"], np.random.default_rng(0)
    logits = jnp.asarray(random.normal(size=(2, 4, 4)), jnp.float32)
    x, t = jnp.array([[3, 0, 1, 3], [2, 2, 3, 0]]), jnp.array([0.0, 0.7])
    np.testing.assert_array_equal(
        discrete.from_context(process, logits, x, t), discrete.from_logits(process, logits, x, t)
    )
