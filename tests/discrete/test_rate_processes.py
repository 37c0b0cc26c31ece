"""Processes of general rates against matrix exponentials in float64, and against the special process that they hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

from diffusion import discrete, timesteps
from diffusion.discrete import steps
from tests.discrete.enumerated import Enumerated

RATES = {
    "neighbour": 12 * discrete.banded_rates(5),
    "banded": discrete.banded_rates(5, 2),
    "gaussian": 3 * discrete.gaussian_rates(4, 0.8),
    "not reversible": np.random.default_rng(0).uniform(0.05, 0.9, (4, 4)),
}
PROCESSES = {name: discrete.rate_process(discrete.linear(), rates) for name, rates in RATES.items()}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


def generator(process):
    """R by its definition, from the table of rates that the process was made of."""
    (rates,) = (RATES[name] for name, other in PROCESSES.items() if other is process)
    off = rates * (1 - np.eye(len(rates)))
    return off - np.diag(off.sum(1))


def matrix(process, replaced):
    return expm(-np.log1p(-np.float64(np.float32(replaced))) * generator(process))


class EnumeratedRates(Enumerated):
    def matrix(self, alpha):
        return matrix(self.process, 1 - alpha) if alpha > 0 else np.tile(self.process.prior, (self.process.size, 1))


@pytest.mark.extended
@every_process
def test_marginals_and_transitions_are_matrix_exponentials(process):
    symbols = jnp.arange(process.size)
    for t in (1e-6, 0.01, 0.3, 0.9, 0.9999):
        exact = matrix(process, t)
        np.testing.assert_allclose(process.marginal(symbols, t), exact, atol=1e-12, rtol=2e-5)
        each = process.marginal(jnp.stack([symbols, symbols[::-1]]), jnp.array([t, 0.5]))
        np.testing.assert_allclose(each, [exact, matrix(process, 0.5)[::-1]], atol=1e-12, rtol=2e-5)
    between = matrix(process, (0.8 - 0.35) / (1 - 0.35))
    np.testing.assert_allclose(process.transition(symbols, 0.35, 0.8), between, atol=2e-6)
    np.testing.assert_array_equal(process.marginal(symbols, 0.0), np.eye(process.size))
    end = process.marginal(symbols, 1.0)
    np.testing.assert_allclose(end, np.tile(process.prior, (process.size, 1)), atol=2e-6)
    np.testing.assert_allclose(process.prior @ generator(process), 0, atol=1e-12)


def test_the_elapsed_time_has_its_digits_near_the_noise():
    """-log alpha is 20.7 at t = 0.999 with a power of 3, where 1 - alpha is 1 in float32; slow rates go on there."""
    rates = discrete.banded_rates(8) * (1 - np.eye(8))
    process, flow = discrete.rate_process(discrete.power(3.0), rates), rates - np.diag(rates.sum(1))
    elapsed = lambda t: -3 * np.log(1 - np.float64(np.float32(t)))
    symbols = jnp.arange(8)
    for t in (0.3, 0.9, 0.999, 0.99999):
        np.testing.assert_allclose(process.marginal(symbols, t), expm(elapsed(t) * flow), atol=2e-6)
    step = (elapsed(0.9995) - elapsed(0.999)) * flow
    np.testing.assert_allclose(process.transition(symbols, 0.999, 0.9995), expm(step), atol=2e-6)


def test_the_matrices_of_neighbours_and_of_the_gaussian_are_those_of_the_paper():
    np.testing.assert_array_equal(RATES["neighbour"] > 0, np.abs(np.subtract.outer(np.arange(5), np.arange(5))) <= 1)
    assert RATES["banded"][0, 2] == 1 / 5 and RATES["banded"][0, 3] == 0
    shape = lambda n: np.exp(-4 * n**2 / (9 * 0.8))
    total = shape(0) + 2 * (shape(1) + shape(2) + shape(3))
    np.testing.assert_allclose(
        discrete.gaussian_rates(4, 0.8)[1], np.array([shape(1), shape(0), shape(1), shape(2)]) / total
    )


@pytest.mark.extended
def test_equal_rates_are_the_uniform_process():
    special = discrete.uniform(discrete.cosine(), 3)
    general = discrete.rate_process(discrete.cosine(), np.full((3, 3), 1 / 3))
    x, x0 = (
        jnp.array([[0, 1], [2, 2]]),
        jnp.asarray(np.random.default_rng(1).dirichlet(np.ones(3), (2, 2)), jnp.float32),
    )
    for t, s in ((0.6, 0.2), (np.array([0.9, 0.4], np.float32), np.array([0.1, 0.3], np.float32))):
        for found in (
            lambda p, t=t: p.marginal(x, t), lambda p, t=t, s=s: p.transition(x, s, t),
            lambda p, t=t, s=s: p.posterior(x, x0, t, s), lambda p, t=t: p.ratios(x, x0, t),
            lambda p, t=t: p.reverse_rates(x, x0, t), lambda p, t=t: p.rates_into(x, t),
        ):  # fmt: skip
            np.testing.assert_allclose(found(general), found(special), rtol=2e-5, atol=1e-6)


@pytest.mark.extended
@every_process
@pytest.mark.parametrize("t, s", [(0.7, 0.3), (1.0, 0.4), (0.2, 0.0)])
def test_the_posterior_is_bayes_rule(process, t, s):
    first = matrix(process, s)
    then = matrix(process, (t - s) / (1 - s)) if t < 1 else np.tile(process.prior, (process.size, 1))
    whole = first @ then
    for a in range(process.size):
        for z in range(process.size):
            found = process.posterior(jnp.array([z]), jnp.eye(process.size)[None, a], t, s)[0]
            np.testing.assert_allclose(found, then[:, z] * first[a] / whole[a, z], atol=2e-5)


def test_ratios_near_the_prior_are_read_as_far_as_float32_holds_them():
    """Rates of which deviations decay as alpha^2.2 to alpha^3.3: 4e-5 at t = 0.99, and nothing in float32 later."""
    rates = np.random.default_rng(0).uniform(0.1, 1, (5, 5)) * (1 - np.eye(5))
    process = discrete.rate_process(discrete.linear(), rates)
    p, x = np.array([0.1, 0.2, 0.3, 0.25, 0.15]), jnp.arange(5)[:, None]
    q = expm(-np.log(0.01) * (rates - np.diag(rates.sum(1))))
    at = p @ q
    read = lambda ratios, t: np.exp(discrete.from_ratios(process, jnp.log(ratios), x, jnp.full(5, t)))[:, 0]
    np.testing.assert_allclose(read(at / at[:, None, None], 0.99), (p[:, None] * q / at).T, atol=0.01)
    anything = np.exp(np.random.default_rng(1).standard_normal((5, 1, 5)))
    for t in (0.999, 0.9999, 0.99999, 1 - 2.0**-24):
        np.testing.assert_allclose(read(anything, t).sum(1), 1, rtol=1e-5)


@pytest.mark.extended
@every_process
def test_ratios_cycle_and_reverse_rates_move_the_marginal_backwards(process):
    """sum_x p_t(x) rate(x, y) - p_t(y) sum of its rates = -dp_t(y) / dt = -beta (p_t R)(y)."""
    p = np.random.default_rng(2).dirichlet(np.ones(process.size))
    for t in (0.15, 0.6):
        q = matrix(process, t)
        at = p @ q
        given = jnp.asarray((p[:, None] * q / at).T)  # [x_t, x_0]
        x = jnp.arange(process.size)
        ratios = process.ratios(x, given, t)
        np.testing.assert_allclose(ratios, at / at[:, None], rtol=5e-5)
        np.testing.assert_allclose(process.x0_of_ratios(x, ratios, t), given, atol=1e-4)
        rates = np.asarray(process.reverse_rates(x, given, t), np.float64)
        flow = at @ rates - at * rates.sum(1)
        np.testing.assert_allclose(flow, -float(process.keeping.rate(t)) * at @ generator(process), atol=2e-5)


@pytest.mark.extended
def test_samplers_of_the_special_processes_take_it():
    one = EnumeratedRates(PROCESSES["gaussian"], positions=1)
    np.testing.assert_allclose(one.stepped_law(steps.ancestral_law, np.linspace(1, 0, 4)), one.p, atol=5e-6)
    data = EnumeratedRates(PROCESSES["not reversible"], positions=2)
    data.prior = lambda: data.at(0.9)
    errors = [
        np.abs(data.stepped_law(steps.euler_law, np.linspace(0.9, 0.1, n + 1)) - data.at(0.1)).sum() for n in (24, 48)
    ]
    assert 0.8 < np.log2(errors[0] / errors[1]) < 1.25, errors


@pytest.mark.extended
def test_the_score_entropy_of_the_exact_predictor_is_the_entropy_of_the_data():
    data, number = EnumeratedRates(PROCESSES["gaussian"], positions=2), 20_000
    rng = np.random.default_rng(0)
    x0 = jnp.asarray(data.states[rng.choice(len(data.p), number, p=data.p)], jnp.int32)
    t = jnp.asarray((rng.permutation(number) + 0.5) / number, jnp.float32)
    keys = jax.random.split(jax.random.key(0), number)
    bound = jax.jit(lambda *arguments: discrete.score_entropy_bound(data.predictor(), data.process, *arguments))
    losses = np.asarray(bound(keys, x0, t), np.float64)
    error = losses.std() / np.sqrt(number)
    assert error < 0.08 and abs(losses.mean() - data.entropy) < 4 * error, (losses.mean(), error, data.entropy)


def test_the_flow_of_a_mixture_is_refused():
    """Its velocity moves a mixture of data and noise; at t near 0 the marginals leave x_0 to its neighbours alone."""
    process, t = PROCESSES["neighbour"], 1e-3
    marginal = np.asarray(process.marginal(jnp.array([0]), t))[0]
    assert marginal[1] > 100 * marginal[2] > 0  # in a mixture with the prior, which is uniform, they are equal
    with pytest.raises(ValueError, match="a RateProcess are not a mixture of the data"):
        discrete.flow_rates(process, jnp.array([1]), jnp.ones((1, 5)) / 5, t)
    predict, keys = lambda x, t: jnp.zeros((*x.shape, 5)), jax.random.split(jax.random.key(0), 1)
    plan = timesteps.plan(np.linspace(1, 0, 3))
    with pytest.raises(ValueError, match="flow: the marginals of a RateProcess"):
        discrete.sample(discrete.flow(), predict, process, jnp.zeros((1, 2), jnp.int32), plan, keys)


@pytest.mark.extended
def test_the_loop_takes_it_and_refuses_infinite_rates():
    process = PROCESSES["gaussian"]
    predict = lambda x, t: discrete.from_logits(process, jnp.zeros((*x.shape, 4)), x, t)
    keys = jax.random.split(jax.random.key(0), 2)
    start = discrete.prior(process, keys, (3,))
    found = discrete.sample(discrete.ancestral(), predict, process, start, timesteps.plan(np.linspace(1, 0, 4)), keys)
    assert found.shape == (2, 3) and found.dtype == jnp.int32
    with pytest.raises(ValueError, match="rates of this process are infinite at t = 1"):
        discrete.sample(discrete.euler(), predict, process, start, timesteps.plan(np.linspace(1, 0, 4)), keys)


def test_deviations_from_the_prior_decay_by_the_eigenvalues_of_the_rates():
    """Of three symbols in a row, with a rate of 1 to each neighbour, they are 1 and 3; the middle one jumps by 2."""
    process = discrete.rate_process(discrete.linear(), [[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    np.testing.assert_allclose([process.fastest, process.slowest, process.quickest], [2, 1, 3], rtol=1e-12)


def test_what_is_no_matrix_of_rates_is_refused():
    linear = discrete.linear()
    with pytest.raises(ValueError, match=r"rates have the shape \(2, 3\). Valid: \[K, K\]"):
        discrete.rate_process(linear, np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"rates lie between -1 and 0\. Valid: finite numbers of at least 0"):
        discrete.rate_process(linear, -np.ones((2, 2)))
    with pytest.raises(ValueError, match="cannot reach all others and return"):
        discrete.rate_process(linear, [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]])
    with pytest.raises(ValueError, match="cannot reach all others and return"):
        discrete.rate_process(linear, [[0, 1], [0, 0]])
    with pytest.raises(ValueError, match=r"band = 3 for 3 symbols\. Valid: 1 \.\. 2"):
        discrete.banded_rates(3, 3)
    with pytest.raises(ValueError, match="gaussian_rates: 3 symbols, width = 0"):
        discrete.gaussian_rates(3, 0)
