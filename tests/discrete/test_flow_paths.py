"""Discrete flow matching: its rates by Kolmogorov's equation, its steps by sums over the clean symbol, its loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete
from diffusion.discrete import flow_paths
from tests.discrete.enumerated import PROCESSES, Enumerated

every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


def one_position(process, seed=4):
    p = np.random.default_rng(seed).dirichlet(np.ones(process.size))
    if process.mask is not None:
        p[process.mask] = 0
        p /= p.sum()
    return p


@every_process
@pytest.mark.parametrize("stochasticity", [0.0, 0.7])
def test_the_rates_move_the_marginal_as_time_does(process, stochasticity):
    """sum_x p_t(x) u(x, y) - p_t(y) sum of its rates = -dp_t(y) / dt = decay (p_0 - prior), at both ends of t too."""
    p = one_position(process)
    for t in (0.05, 0.6, 1.0):
        alpha = float(process.keeping.alpha(t))
        q = alpha * np.eye(process.size) + (1 - alpha) * process.prior
        at = p @ q
        given = np.where(at > 0, p[:, None] * q / np.where(at > 0, at, 1), 1 / process.size).T
        rates = np.asarray(
            discrete.flow_rates(process, jnp.arange(process.size), jnp.asarray(given), t, stochasticity), np.float64
        )
        assert (np.diag(rates) == 0).all() and (rates >= 0).all() and np.isfinite(rates).all()
        flow = at @ rates - at * rates.sum(1)
        np.testing.assert_allclose(flow, float(process.keeping.decay(t)) * (p - process.prior), atol=1e-5)


def test_a_step_is_the_sum_over_the_clean_symbol_that_it_draws():
    """Each x_0 has constant rates towards it and towards the noise; the jump that comes first is taken."""
    process = discrete.mixture(discrete.polynomial(2.0), [0.5, 0.3, 0.2, 0.0])
    p, c, t, s = np.random.default_rng(1).dirichlet(np.ones(4)), 1.5, 0.7, 0.4
    predict = lambda x, t: jnp.log(jnp.broadcast_to(jnp.asarray(p, jnp.float32), (*x.shape, 4)))
    x = jnp.arange(4)[:, None]
    found = flow_paths.flow_law(c)(predict, process, x, jnp.full(4, t), jnp.full(4, s))[:, 0]
    alpha, decay = 1 - t**2, 2 * t
    for z in range(4):
        law = np.zeros(4)
        for x0 in range(4):
            rates = c * decay * process.prior + (1 + c * alpha) * decay / (1 - alpha) * np.eye(4)[x0]
            rates[z] = 0
            gone = 1 - np.exp(-(t - s) * rates.sum())
            law += p[x0] * (gone * rates / rates.sum() + (1 - gone) * np.eye(4)[z])
        np.testing.assert_allclose(found[z], law, atol=2e-6)
    last = flow_paths.flow_law(c)(predict, process, x, jnp.full(4, t), jnp.zeros(4))[:, 0]
    np.testing.assert_allclose(last, np.tile(p, (4, 1)), atol=1e-6)


@pytest.mark.extended
@pytest.mark.parametrize("name, stochasticity", [("absorbing", 0.0), ("uniform", 0.0), ("uniform", 0.5)])
def test_the_sampler_is_of_first_order_from_the_noise_on(name, stochasticity):
    data = Enumerated(PROCESSES[name], positions=2)
    law = flow_paths.flow_law(stochasticity)
    errors = [np.abs(data.stepped_law(law, np.linspace(1, 0.1, n + 1)) - data.at(0.1)).sum() for n in (24, 48)]
    assert 0.8 < np.log2(errors[0] / errors[1]) < 1.25, errors


@pytest.mark.extended
def test_the_mean_of_the_loss_is_the_entropy_of_each_symbol_given_the_noised_ones():
    """Over all pairs (x_0, x_t) with their probabilities; a predictor without x_t has the entropy of each symbol."""
    data, t = Enumerated(PROCESSES["uniform"], positions=2), 0.4
    joint = data.p[:, None] * data.likelihood(t)  # [x_0, x_t]
    given = data.table(t)
    exact = -sum(joint.sum(0)[:, None] * (given * np.log(np.where(given > 0, given, 1))).sum(-1)).sum()
    x0, x_t = (
        jnp.asarray(np.repeat(data.states[:, None], 9, 1).reshape(-1, 2)),
        jnp.asarray(np.tile(data.states, (9, 1))),
    )
    mean = lambda predict: float(
        np.sum(joint.reshape(-1) * np.asarray(discrete.flow_cross_entropy(predict, x0, x_t, jnp.full(81, t))))
    )
    np.testing.assert_allclose(mean(data.predictor()), exact, rtol=1e-4)
    one_hot = np.eye(3)[data.states]
    single = np.einsum("a,alk->lk", data.p, one_hot)
    blind = mean(lambda x, t: jnp.broadcast_to(jnp.log(jnp.asarray(single, jnp.float32)), (len(x), 2, 3)))
    np.testing.assert_allclose(blind, -(single * np.log(single)).sum(), rtol=1e-4)
    assert blind > exact + 0.01


def test_a_path_has_each_symbol_of_one_of_its_ends_as_often_as_alpha_says():
    keeping = discrete.power(2.0)
    keys = jax.random.split(jax.random.key(0), 300)
    x0, x1 = jnp.full((300, 40), 5), jnp.full((300, 40), 7)
    x_t = np.asarray(discrete.between(keeping, keys, x0, x1, jnp.full(300, 0.4)))
    assert set(np.unique(x_t)) == {5, 7} and abs((x_t == 5).mean() - 0.6**2) < 4 * 0.48 / np.sqrt(12_000)
    assert (discrete.between(keeping, keys, x0, x1, jnp.zeros(300)) == 5).all()
    assert (discrete.between(keeping, keys, x0, x1, jnp.ones(300)) == 7).all()
    one = discrete.between(keeping, keys[3:4], x0[:1], x1[:1], jnp.full(1, 0.4))
    np.testing.assert_array_equal(one[0], x_t[3])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"flow: stochasticity = -1\. Valid: a number of at least 0"):
        discrete.flow(-1)
    keys = jax.random.split(jax.random.key(0), 2)
    with pytest.raises(ValueError, match=r"the ends x0 and x1 have the shapes \(2, 3\) and \(2, 4\)"):
        discrete.between(discrete.linear(), keys, jnp.zeros((2, 3), int), jnp.zeros((2, 4), int), jnp.zeros(2))
    with pytest.raises(ValueError, match=r"power: power = 0\.5. Valid"):
        discrete.power(0.5)
