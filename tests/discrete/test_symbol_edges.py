"""Ends of what symbols can be: two, one position, all or nothing masked, both ends of t, rare ones and many."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete, timesteps
from diffusion.discrete import steps
from diffusion.discrete.bounds import score_entropy_at
from tests.discrete.enumerated import PROCESSES, Enumerated
from tests.discrete.test_rate_processes import PROCESSES as RATE_PROCESSES, RATES, EnumeratedRates, generator
from tests.discrete.test_symbol_samplers import SAMPLERS

LINE = discrete.linear()
TWO = {
    "masks": discrete.absorbing(LINE, 2),
    "uniform": discrete.uniform(discrete.cosine(), 2),
    "mixture": discrete.mixture(discrete.polynomial(2.0), np.array([0.7, 0.3])),
}
MASKED = PROCESSES["absorbing"]


def blind(process):
    """The predictor of a network that knows nothing."""
    return lambda x, t: discrete.from_context(process, jnp.zeros((*x.shape, process.size)), x, t)


@pytest.mark.extended
@pytest.mark.parametrize("name", TWO)
def test_two_symbols_are_drawn_exactly_and_their_ratios_cycle(name):
    data = Enumerated(TWO[name], positions=1)
    np.testing.assert_allclose(data.stepped_law(steps.ancestral_law, np.linspace(1, 0, 4)), data.p, atol=3e-6)
    x, t = jnp.arange(2)[:, None], 0.4
    given = jnp.asarray(data.table(t), jnp.float32)
    ratios = data.process.ratios(x, given, t)
    at = data.at(t)
    np.testing.assert_allclose(ratios[at > 0, 0], at[None] / at[at > 0, None], rtol=2e-5)
    np.testing.assert_allclose(data.process.x0_of_ratios(x, ratios, t), given, atol=2e-6)


@pytest.mark.extended
@pytest.mark.parametrize("name", [*SAMPLERS, "first_hitting"])
def test_one_position_of_one_symbol_and_the_mask_has_that_symbol_alone(name):
    sampler = discrete.first_hitting() if name == "first_hitting" else SAMPLERS[name]
    process, keys = TWO["masks"], jax.random.split(jax.random.key(0), 3)
    plan = timesteps.plan(np.linspace(1, 0, 2 if name == "first_hitting" else 65))
    run = jax.jit(lambda x: discrete.sample(sampler, blind(process), process, x, plan, keys))
    found = np.asarray(run(jnp.array([[1], [0], [1]])))
    assert (found == 0).all()


@pytest.mark.extended
@pytest.mark.parametrize("t, weight", [(0.0, 0.0), (1.0, 2.0)])
def test_the_bound_of_masks_is_finite_where_nothing_and_where_all_is_masked(t, weight):
    """alpha = 1 - t^2: at t = 0 no mask and 0 nats; at t = 1 all masks, and twice their nats: -alpha' / (1 - alpha)."""
    process = discrete.absorbing(discrete.polynomial(2.0), 4)
    keys, x0 = jax.random.split(jax.random.key(0), 2), jnp.array([[0, 1, 2], [2, 2, 0]])
    logits = jnp.array([0.5, 0.2, -1.0, 9.0])

    def losses(logits):
        predict = lambda x, t: discrete.from_logits(process, jnp.broadcast_to(logits, (*x.shape, 4)), x, t)
        return discrete.masked_bound(predict, process, keys, x0, jnp.full(2, t))

    nats = np.log(np.exp([0.5, 0.2, -1.0]).sum()) - np.array([0.5, 0.2, -1.0])
    np.testing.assert_allclose(losses(logits), weight * nats[np.asarray(x0)].sum(1), rtol=1e-6)
    assert np.isfinite(jax.grad(lambda logits: losses(logits).sum())(logits)).all()
    block = discrete.block_bound(lambda x, t: blind(process)(x, t), process, keys, x0, jnp.full(2, t), 3)
    np.testing.assert_allclose(block, weight * 3 * np.log(3) * np.ones(2), rtol=1e-6)


NEAR_THE_NOISE = {
    "masks": discrete.absorbing(LINE, 4),
    "uniform": discrete.uniform(LINE, 4),
    "mixture": discrete.mixture(LINE, [0.5, 0.3, 0.2, 0.0]),
    "rates": RATE_PROCESSES["gaussian"],
    "rates that cannot be reversed": RATE_PROCESSES["not reversible"],
}


def score_entropy(data, p, alpha):
    """The score entropy of one position in float64 at alpha = 1 - t, for every x_t and x_0: `[K, K]`."""
    process, q = data.process, data.matrix(alpha)
    rates = generator(process) if isinstance(process, discrete.RateProcess) else np.tile(process.prior, (4, 1))
    found = np.zeros((4, 4))
    for x, x0, y in itertools.product(range(4), repeat=3):
        if y != x and rates[y, x] > 0:
            s, r = p @ (q[:, y] / q[:, x]), q[x0, y] / q[x0, x]
            found[x, x0] += rates[y, x] / alpha * (s - r + (r * np.log(r / s) if r > 0 else 0.0))
    return found


@pytest.mark.extended
@pytest.mark.parametrize("process", NEAR_THE_NOISE.values(), ids=NEAR_THE_NOISE)
@pytest.mark.parametrize("t", [1 - 2**-20, 1.0])
def test_the_score_entropy_is_exact_near_the_noise_and_finite_at_it(process, t):
    """At t = 1 it is that of alpha = 1e-7, which is 2 * 2^-24 in times of float32."""
    data = (EnumeratedRates if isinstance(process, discrete.RateProcess) else Enumerated)(process, positions=1)
    p = np.array([0.2, 0.5, 0.3, 0.0 if process.mask is not None else 0.4])
    p = p / p.sum()
    x, x0 = (part.ravel() for part in np.meshgrid(range(4), range(3), indexing="ij"))
    held = np.asarray(process.prior)[x] > 0
    x, x0 = x[held], x0[held]

    def losses(logits):
        log_p = jnp.broadcast_to(jax.nn.log_softmax(logits), (len(x), 1, 4))
        return score_entropy_at(process, log_p, jnp.asarray(x)[:, None], jnp.asarray(x0)[:, None], jnp.full(len(x), t))

    logits = jnp.log(jnp.asarray(p, jnp.float32))
    expected = score_entropy(data, p, 1 - t if t < 1 else 2**-23)[x, x0]
    np.testing.assert_allclose(losses(logits), expected, rtol=1e-3, atol=5e-5)
    assert np.isfinite(jax.grad(lambda logits: losses(logits).sum())(jnp.maximum(logits, -30.0))).all()


def test_the_truth_that_a_prediction_excludes_costs_what_float32_can_say():
    """Not 0 nats: -log 2^-126 = 87.3, at a rate of 2 for a mask at t = 1 / 2, and twice for the first of two steps."""
    keys, x0, t = jax.random.split(jax.random.key(0), 64), jnp.zeros((64, 1), int), jnp.full(64, 0.5)
    never = lambda x, t: discrete.from_logits(
        MASKED, jnp.broadcast_to(jnp.array([-jnp.inf, 0, 0, 0]), (64, 1, 4)), x, t
    )
    masked = np.asarray(discrete.noised(MASKED, keys, x0, t) == MASKED.mask)[:, 0]
    assert masked.any() and not masked.all()
    found = np.asarray(discrete.score_entropy_bound(never, MASKED, keys, x0, t))
    np.testing.assert_allclose(found, np.where(masked, 2 * 126 * np.log(2), 0), rtol=0.01)
    found = np.asarray(discrete.discrete_time_bound(never, MASKED, keys, x0, jnp.full(64, 0), 2))
    np.testing.assert_allclose(found, np.where(masked, 2 * 126 * np.log(2), 0), rtol=0.01)


EVERY = {
    **PROCESSES,
    **{f"two, {name}": process for name, process in TWO.items()},
    **{name: discrete.rate_process(LINE, RATES[name]) for name in ("banded", "not reversible")},
    "token_masks": discrete.token_masks(np.array([0.5, 1.0, 3.0])),
}


@pytest.mark.extended
@pytest.mark.parametrize("process", EVERY.values(), ids=EVERY)
def test_both_ends_of_time_are_the_data_and_the_prior_and_a_step_between_them_draws_the_prediction(process):
    size = process.size
    symbols = jnp.arange(size)
    np.testing.assert_allclose(process.marginal(symbols, 0.0), np.eye(size), atol=1e-7)
    np.testing.assert_allclose(process.marginal(symbols, 1.0), np.tile(process.prior, (size, 1)), atol=2e-6)
    p = np.random.default_rng(0).dirichlet(np.ones(size)).astype(np.float32)
    if process.mask is not None:
        p[process.mask] = 0
        p /= p.sum()
    z = np.flatnonzero(np.asarray(process.prior) > 0)
    found = process.posterior(jnp.asarray(z), jnp.tile(p, (len(z), 1)), 1.0, 0.0)
    np.testing.assert_allclose(found, np.tile(p, (len(z), 1)), atol=2e-6)
    for t in (1e-6, 1 - 1e-6, 1.0) if process.mask is not None else (0.0, 1e-6, 1 - 1e-6, 1.0):
        log_p = blind(process)(jnp.asarray(z)[None], jnp.full(1, t))
        np.testing.assert_allclose(jnp.exp(log_p).sum(-1), 1, rtol=1e-5)


RARE = np.array([1 - 3e-6, 1e-6, 1e-6, 1e-6])


@pytest.mark.parametrize("t, s", [(1e-6, 0.0), (0.5, 0.499), (1.0, 1 - 1e-6)])
def test_symbols_of_a_probability_of_one_in_a_million_keep_it(t, s):
    """Bayes in float64 at x_t = 0, of one position; the log-probabilities, the posterior and its mask."""
    log_p = discrete.from_logits(MASKED, jnp.asarray(np.log(RARE[:3]), jnp.float32)[None, None] @ jnp.eye(3, 4),
                                 jnp.array([[3]]), jnp.ones(1))  # fmt: skip
    np.testing.assert_allclose(np.exp(log_p[0, 0, :3]), RARE[:3] / RARE[:3].sum(), rtol=2e-6)
    process = discrete.uniform(LINE, 4)
    t, s = np.float64(np.float32(t)), np.float64(np.float32(s))
    q = lambda t: (1 - t) * np.eye(4) + t / 4
    between = lambda: (1 - t) / (1 - s) * np.eye(4) + (t - s) / (1 - s) / 4
    joint = RARE[:, None] * q(s) * between()[:, 0] / q(t)[:, [0]]  # [x_0, x_s], of p(x_0 | x_t = 0) = RARE
    found = process.posterior(jnp.array([0]), jnp.asarray(RARE, jnp.float32)[None], np.float32(t), np.float32(s))[0]
    np.testing.assert_allclose(found, joint.sum(0), rtol=2e-4)


@pytest.mark.extended
@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("replaced", [1e-6, 0.3, 1 - 1e-3])
def test_readings_cycle_as_exactly_as_float32_can(name, replaced):
    """Ratios and rates of a prediction are read as that prediction, to C 2^-24 max(1 / alpha, 1 / (1 - alpha))."""
    process = PROCESSES[name]
    t = float(process.keeping.time(1 - replaced))
    z = np.flatnonzero(np.asarray(process.prior) > 0)
    x, times = jnp.asarray(z)[None], jnp.full(1, t, jnp.float32)
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(1, len(z), process.size)), jnp.float32)
    log_p = discrete.from_context(process, logits, x, times)
    ratios = discrete.from_ratios(process, jnp.log(process.ratios(x, jnp.exp(log_p), times)), x, times)
    rates = discrete.from_rates(process, jnp.log(process.reverse_rates(x, jnp.exp(log_p), times)), x, times)
    error = 16 * 2**-24 * max(1 / (1 - replaced), 1 / replaced if process.mask is None else 1)
    np.testing.assert_allclose(np.exp(ratios), np.exp(log_p), atol=error)
    np.testing.assert_allclose(np.exp(rates), np.exp(log_p), atol=error)


@pytest.mark.parametrize("name", ["uniform", "rates"])
def test_the_exact_rates_are_read_as_the_exact_posterior(name):
    """beta R(y, x) p_t(y) / p_t(x) of one position, in float64."""
    process = PROCESSES["uniform"] if name == "uniform" else RATE_PROCESSES["not reversible"]
    into = np.full((3, 3), 1 / 3) if name == "uniform" else RATES["not reversible"]
    data = Enumerated(process, positions=1) if name == "uniform" else EnumeratedRates(process, positions=1)
    t = 0.4
    at, size = data.at(t), process.size
    rates = float(process.keeping.rate(t)) * into.T * at[None] / at[:, None]  # [x, y]
    x = jnp.arange(size)[:, None]
    found = discrete.from_rates(process, jnp.log(jnp.asarray(rates, jnp.float32))[:, None], x, jnp.full(size, t))
    np.testing.assert_allclose(np.exp(found), data.table(t), atol=3e-5)


def test_rates_that_say_nothing_of_the_ratios_are_refused():
    banded = discrete.rate_process(LINE, discrete.banded_rates(4))
    with pytest.raises(
        ValueError, match=r"from_rates: some rates of this process are 0.*Valid: rates above 0, or from_"
    ):
        discrete.from_rates(banded, jnp.zeros((1, 1, 4)), jnp.zeros((1, 1), int), jnp.full(1, 0.5))


def sizes_of(jaxpr):
    """The sizes of all arrays of a traced function, those of loops and branches among them."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.size for variable in equation.outvars)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from sizes_of(inner)


MANY = 50_000
CALLS = {
    **{f"sampler {name}": sampler for name, sampler in SAMPLERS.items()},
    "sampler first_hitting": discrete.first_hitting(),
    "masked_bound": discrete.masked_bound,
    "score_entropy_bound": discrete.score_entropy_bound,
    "from_ratios": discrete.from_ratios,
    "from_rates": discrete.from_rates,
}


@pytest.mark.extended
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("process", [discrete.absorbing(LINE, MANY), discrete.uniform(LINE, MANY)],
                         ids=["absorbing", "uniform"])  # fmt: skip
def test_no_call_has_an_array_of_all_pairs_of_many_symbols(name, process):
    """Traced alone: the largest array holds a few numbers for each symbol at each position."""
    x, keys, t = jnp.zeros((2, 3), jnp.int32), jax.random.split(jax.random.key(0), 2), jnp.full(2, 0.5)
    logits = jax.ShapeDtypeStruct((2, 3, MANY), jnp.float32)
    call = CALLS[name]
    if name.startswith("sampler"):
        if process.mask is None and call.masked:
            return
        plan = timesteps.plan(np.linspace(0.9, 0, 4))
        predict = lambda logits: lambda x, t: discrete.from_logits(process, logits, x, t)
        traced = jax.make_jaxpr(lambda logits: discrete.sample(call, predict(logits), process, x, plan, keys))(logits)
    elif name.endswith("bound"):
        if process.mask is None and name == "masked_bound":
            return
        predict = lambda logits: lambda x, t: discrete.from_logits(process, logits, x, t)
        traced = jax.make_jaxpr(lambda logits: call(predict(logits), process, keys, x, t))(logits)
    else:
        traced = jax.make_jaxpr(lambda logits: call(process, logits, x, t))(logits)
    largest = max(sizes_of(traced.jaxpr))
    assert 6 * MANY <= largest <= 2 * 6 * MANY


def test_a_general_prior_that_comes_near_to_the_mask_comes_near_to_masks():
    """Of marginals, posteriors, ratios and rates of a prior of eps / 4 beside the mask; a rate matrix likewise."""
    special, x0 = discrete.absorbing(LINE, 4), jnp.array([[0.5, 0.3, 0.2, 0.0]])
    x, t, s = jnp.array([3]), 0.6, 0.25
    quantities = {
        "marginal": lambda process: process.marginal(jnp.arange(4), t),
        "transition": lambda process: process.transition(jnp.arange(4), s, t),
        "posterior": lambda process: process.posterior(x, x0, t, s),
        "ratios": lambda process: process.ratios(x, x0, t),
        "reverse_rates": lambda process: process.reverse_rates(x, x0, t),
    }
    prior = lambda eps: np.eye(4)[3] * (1 - eps) + eps / 4
    general = {
        "mixture": lambda eps: discrete.mixture(LINE, prior(eps)),
        "rate_process": lambda eps: discrete.rate_process(LINE, np.tile(prior(eps), (4, 1))),
    }
    for name, make in general.items():
        for what, of in quantities.items():
            exact = np.asarray(of(special))
            far, near = (np.abs(np.asarray(of(make(eps))) - exact).max() for eps in (1e-2, 1e-4))
            assert 0 < near < 5e-4 and far > 20 * near, (name, what, far, near)
