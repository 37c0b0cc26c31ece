"""Classifier guidance of symbols against conditional laws by sums over all states, and against its series by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete, timesteps
from diffusion.discrete.steps import ancestral_law, euler_law
from diffusion.discrete.symbol_classifier import GuidedJumps, first_order_changes, log_changes
from tests.discrete.enumerated import PROCESSES, Enumerated
from tests.discrete.test_rate_processes import PROCESSES as RATE_PROCESSES, EnumeratedRates, generator

MASKED = PROCESSES["absorbing"]
CASES = PROCESSES | {"token_masks": discrete.token_masks(np.array([0.5, 1.0, 3.0]))}
CHANCES = (0.9, 0.2, 0.6, 0.05)  # p(c | first symbol), times a factor of the second


class Classified(Enumerated):
    """Data whose class c depends on the first two symbols, and its exact classifier and conditional law."""

    def __init__(self, process, positions=2):
        super().__init__(process, 3, positions, concentration=1.0)
        first, last = self.states[:, 0], self.states[:, -1]
        self.chance = np.array(CHANCES)[first] * np.where(first == last, 1.0, 0.5)

    def conditional(self):
        data = type(self)(self.process, self.positions)
        data.p = data.p * data.chance / np.sum(data.p * data.chance)
        return data

    def joint(self, x, t):
        """p(x_0) q(x_t | x_0) of all x_0, `[B, S]`."""
        states = jnp.asarray(self.states)
        q = self.process.marginal(jnp.broadcast_to(states, (len(x), *states.shape)), t)
        here = jnp.take_along_axis(q, x[:, None, :, None], -1)[..., 0]
        return jnp.asarray(self.p, jnp.float32) * jnp.prod(here, -1)

    def log_probability(self, x, t):
        """log p(c | x_t) of symbols; at t = 1 no symbol shows under masks, and t is 0.9999."""
        joint = self.joint(x, jnp.minimum(t, 0.9999 if self.process.mask is not None else 1.0))
        return jnp.log(joint @ jnp.asarray(self.chance, jnp.float32)) - jnp.log(joint.sum(-1))


@pytest.mark.extended
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("t", [0.2, 0.7, 1.0])
def test_with_the_exact_classifier_and_a_scale_of_one_it_is_the_conditional_predictor(name, t):
    data = Classified(CASES[name])
    x = jnp.asarray(data.states, jnp.int32)
    times = jnp.full(len(x), t, jnp.float32)
    guided = discrete.classifier(data.predictor(), data.process, data.log_probability, 1.0, exact=True)
    exact = np.exp(data.conditional().predictor()(x, times))
    possible = np.asarray(data.joint(x, times).sum(-1) > 0)
    found = np.exp(np.asarray(jax.jit(guided)(x, times)))
    assert possible.any()
    plain = np.exp(np.asarray(data.predictor()(x, times)))
    assert np.abs(plain - exact)[possible].max() > 0.05
    error = 5e-3 if t == 1 else 1e-4  # at the noise the ratios are those of alpha = 1e-3
    np.testing.assert_allclose(found[possible], exact[possible], atol=error)


@pytest.mark.extended
@pytest.mark.parametrize("name", ["absorbing", "uniform"])
def test_samples_of_one_position_have_the_conditional_law_in_any_number_of_steps(name):
    data = Classified(PROCESSES[name], positions=1)
    guided = discrete.classifier(data.predictor(), data.process, data.log_probability, 1.0, exact=True)
    exact = data.conditional().p
    sampled = Classified(PROCESSES[name], positions=1)
    sampled.predictor = lambda: guided
    for number in (1, 4):
        np.testing.assert_allclose(sampled.stepped_law(ancestral_law, np.linspace(1, 0, number + 1)), exact, atol=2e-3)
    assert np.abs(exact - data.p).max() > 0.05


@pytest.mark.extended
def test_first_hitting_samples_have_the_conditional_law():
    """Three positions under masks, one mask a step."""
    data, number = Classified(MASKED, positions=3), 5_000
    guided = discrete.classifier(data.predictor(), MASKED, data.log_probability, 1.0, exact=True)
    keys = jax.random.split(jax.random.key(7), number)
    start, plan = jnp.full((number, 3), 3), timesteps.plan(np.linspace(1, 0, 4))
    run = jax.jit(lambda keys: discrete.sample(discrete.first_hitting(), guided, MASKED, start, plan, keys))
    found = np.bincount(np.asarray(data.index(run(keys))), minlength=len(data.p)) / number
    exact = data.conditional().p
    assert np.abs(found - exact).sum() / 2 < 1.5 * np.sum(np.sqrt(exact / number)) / 2
    assert np.abs(exact - data.p).sum() / 2 > 0.1


WEIGHTS = np.random.default_rng(5).normal(size=(2, 4)).astype(np.float32)


def smooth(x, t):
    """log sigmoid of a sum over positions of numbers of their symbols, of symbols or of one-hot rows."""
    soft = x if x.ndim == 3 else jax.nn.one_hot(x, 4)
    return jax.nn.log_sigmoid(jnp.sum(soft * WEIGHTS, (1, 2)) + t)


def test_changes_are_those_of_every_replacement_and_of_their_first_order():
    """By hand: log sigmoid(a + W[i, y] - W[i, x_i]) - log sigmoid(a), and sigmoid(-a) (W[i, y] - W[i, x_i])."""
    x, t = np.array([[0, 3], [2, 1]]), np.array([0.3, 0.8])
    here = np.take_along_axis(WEIGHTS[None], x[..., None], -1)
    step = WEIGHTS[None] - here
    a = here.sum((1, 2)) + t
    log_sigmoid = lambda a: -np.log1p(np.exp(-a))
    exact = log_sigmoid(a[:, None, None] + step) - log_sigmoid(a)[:, None, None]
    np.testing.assert_allclose(log_changes(smooth, jnp.asarray(x), jnp.asarray(t), 4), exact, atol=2e-6)
    first = step / (1 + np.exp(a))[:, None, None]
    np.testing.assert_allclose(first_order_changes(smooth, jnp.asarray(x), jnp.asarray(t), 4), first, atol=2e-6)
    assert np.abs(first - exact).max() > 0.05


@pytest.mark.extended
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("process", [discrete.uniform(discrete.linear(), 4), MASKED], ids=["uniform", "absorbing"])
def test_the_rates_of_the_reversed_jumps_change_by_the_ratio_of_the_classifier(process, exact):
    """Nisonoff et al.: R(x, y) (p(c | y) / p(c | x))^w; from a mask they sum to what they did."""
    x, t, scale = jnp.array([[0, 3], [2, 1], [3, 3]]), jnp.array([0.3, 0.8, 0.5]), 0.5
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2, 4)), jnp.float32)

    @jax.jit
    def rates(logits, x, t):
        predict = lambda x, t: discrete.from_context(process, logits, x, t)
        guided = discrete.classifier(predict, process, smooth, scale, exact)
        change = (log_changes if exact else first_order_changes)(smooth, x, t, 4)
        return *(process.reverse_rates(x, jnp.exp(p(x, t)), t) for p in (predict, guided)), change

    plain, found, change = (np.asarray(array, np.float64) for array in rates(logits, x, t))
    expected = plain * np.exp(scale * change)
    if process.mask is not None:
        expected = expected * plain.sum(-1, keepdims=True) / np.maximum(expected.sum(-1, keepdims=True), 1e-30)
    np.testing.assert_allclose(found, expected, rtol=3e-4, atol=1e-6)
    assert np.abs(found / np.maximum(plain, 1e-30) - 1)[plain > 0].max() > 0.05


class ClassifiedRates(Classified, EnumeratedRates):
    """The same data under a process of rates, or under one of the special ones."""

    def matrix(self, alpha):
        return (EnumeratedRates if isinstance(self.process, discrete.RateProcess) else Enumerated).matrix(self, alpha)


RATE_CASES = {name: RATE_PROCESSES[name] for name in ("gaussian", "not reversible")} | {
    name: CASES[name] for name in ("uniform", "mixture", "absorbing")
}


@pytest.mark.extended
@pytest.mark.parametrize("name", RATE_CASES)
def test_guided_rates_are_the_reversed_rates_of_the_class(name):
    """beta R(y, x) p_t(y | c) / p_t(x | c), in float64; a square root of the ratio for a scale of 1 / 2."""
    data = ClassifiedRates(RATE_CASES[name])
    process, t = data.process, 0.6
    x, times = jnp.asarray(data.states, jnp.int32), jnp.full(len(data.states), t, jnp.float32)
    table = jnp.exp(data.predictor()(x, times))

    def rates(of):
        at, size, index = of.at(t), process.size, np.arange(len(of.states))
        one = generator(process) if isinstance(process, discrete.RateProcess) else np.tile(process.prior, (size, 1))
        found = np.zeros((len(index), of.positions, size))
        for state, i, y in itertools.product(index, range(of.positions), range(size)):
            other = of.states[state].copy()
            other[i] = y
            if y != of.states[state, i] and at[state] > 0:
                ratio = at[(of.states == other).all(1)][0] / at[state]
                found[state, i, y] = float(process.keeping.rate(t)) * one[y, of.states[state, i]] * ratio
        return found

    plain, conditional = rates(data), rates(data.conditional())
    assert np.abs(conditional / np.maximum(plain, 1e-9) - 1)[plain > 0].max() > 0.2
    for scale, expected in ((1.0, conditional), (0.5, np.sqrt(plain * conditional))):
        guided = GuidedJumps(process, data.log_probability, scale, exact=True)
        np.testing.assert_allclose(guided.reverse_rates(x, table, times), expected, rtol=2e-3, atol=1e-5)


def test_guided_rates_without_exact_take_the_slope_of_the_classifier():
    """Of log p(c | x) = (a . x)^2, in one-hot symbols x: the change at a position is 2 (a . x) (a_y - a_x)."""
    process, t = discrete.uniform(discrete.linear(), 3), jnp.full(1, 0.5)
    a, x = np.array([[0.1, 0.5, -0.3], [0.2, -0.4, 0.6]]), jnp.array([[0, 1]])
    table = jnp.full((1, 2, 3), 1 / 3)
    log_probability = lambda x, t: jnp.sum(a * x, (1, 2)) ** 2
    there = np.array([[0.1], [-0.4]])
    change = 2 * there.sum() * (a - there)
    plain = process.reverse_rates(x, table, t)
    guided = GuidedJumps(process, log_probability, 0.7, exact=False).reverse_rates(x, table, t)
    np.testing.assert_allclose(guided[0], plain[0] * np.exp(0.7 * change), rtol=1e-5)
    extreme = GuidedJumps(process, log_probability, 1e6, exact=False).reverse_rates(x, table, t)
    assert np.isfinite(extreme).all()


def test_near_the_noise_the_change_at_alpha_1e_3_is_used():
    """Of a predictor that is the same at all times: the same result at t = 1 and 0.999, and another at 0.998."""
    process = discrete.uniform(discrete.linear(), 4)
    log_p = jax.nn.log_softmax(jnp.asarray(np.random.default_rng(2).normal(size=(1, 2, 4)), jnp.float32))
    guided = jax.jit(discrete.classifier(lambda x, t: log_p, process, smooth, 1e-3, exact=True))
    end, last, before = (np.exp(guided(jnp.array([[0, 3]]), jnp.full(1, t))) for t in (1.0, 0.999, 0.998))
    np.testing.assert_allclose(end, last, atol=1e-3)
    assert np.abs(before - last).max() > 0.05


@pytest.mark.extended
def test_large_changes_of_the_class_are_neither_lost_nor_infinite():
    """A symbol that makes the class e^20 times as likely has e^20 times the rate; e^(10^6) is still finite."""
    process, x, t = discrete.uniform(discrete.linear(), 3), jnp.array([[0, 1]]), jnp.full(1, 0.5)
    table = jnp.full((1, 2, 3), 1 / 3)
    log_probability = lambda x, t: 20.0 * jnp.sum(x == 2, 1)
    found = GuidedJumps(process, log_probability, 1.0, exact=True).reverse_rates(x, table, t)
    plain = process.reverse_rates(x, table, t)
    np.testing.assert_allclose(found[..., 2], np.exp(20.0) * plain[..., 2], rtol=1e-5)
    extreme = discrete.classifier(lambda x, t: jnp.log(table), process, log_probability, 1e6, exact=True)
    np.testing.assert_allclose(np.exp(extreme(x, t)).sum(-1), 1, rtol=1e-5)


@pytest.mark.extended
def test_a_sampler_of_guided_rates_takes_their_scale():
    """The logarithm of the class's probability times 0.5 is the same as a scale of 0.5."""
    process, keys = discrete.uniform(discrete.linear(), 4), jax.random.split(jax.random.key(0), 64)
    x, plan = jnp.zeros((64, 2), int), timesteps.plan(np.array([0.8, 0.4]))
    predict = lambda x, t: jnp.full((*x.shape, 4), -np.log(4.0))
    strong = lambda x, t: 4 * smooth(x, t)

    @jax.jit
    def run():
        samplers = (
            discrete.guided_rates(discrete.euler(), strong, 0.5),
            discrete.guided_rates(discrete.euler(), lambda x, t: 0.5 * strong(x, t)),
            discrete.guided_rates(discrete.euler(), strong),
        )
        return [discrete.sample(sampler, predict, process, x, plan, keys) for sampler in samplers]

    scaled, expected, unscaled = run()
    np.testing.assert_array_equal(scaled, expected)
    assert (scaled != unscaled).any()


@pytest.mark.extended
def test_samples_of_guided_rates_come_to_the_law_of_the_class_by_first_order():
    data = ClassifiedRates(RATE_PROCESSES["not reversible"])
    exact, guided = data.conditional(), GuidedJumps(data.process, data.log_probability, 1.0, exact=True)
    data.prior = lambda: exact.at(0.9)
    law = lambda predict, process, *arguments: euler_law(predict, guided, *arguments)
    errors = [np.abs(data.stepped_law(law, np.linspace(0.9, 0.1, n + 1)) - exact.at(0.1)).sum() for n in (24, 48)]
    assert 0.8 < np.log2(errors[0] / errors[1]) < 1.25, errors
    assert np.abs(exact.at(0.1) - data.at(0.1)).sum() > 10 * errors[1]


@pytest.mark.extended
def test_a_sampler_of_guided_rates_draws_the_class():
    data, number = ClassifiedRates(RATE_PROCESSES["gaussian"], positions=1), 2000
    keys = jax.random.split(jax.random.key(3), (2, number))
    plan = timesteps.plan(np.linspace(0.98, 0.0, 41))

    def run(sampler):
        start = discrete.prior(data.process, keys[0], (1,))
        made = jax.jit(lambda x: discrete.sample(sampler, data.tabled(), data.process, x, plan, keys[1]))(start)
        return np.bincount(np.asarray(made).ravel(), minlength=4) / number

    found = run(discrete.guided_rates(discrete.tau_leaping(), data.log_probability, exact=True))
    exact = data.conditional().p
    assert np.abs(found - exact).max() < 0.05 < 0.1 < np.abs(run(discrete.tau_leaping()) - exact).max()


def test_a_class_does_not_change_the_velocity_of_a_path_by_the_ratio_of_its_probabilities():
    """Why a path of distances is refused: so guided, fine steps in float64 end away from the law of the class."""
    path = discrete.metric_path(discrete.line_distances(4, power=1.0), scale=1.0)
    p, chance, ends = np.array([0.4, 0.1, 0.2, 0.3]), np.array(CHANCES), np.linspace(0, 6, 2001)
    plain = guided = np.full(4, 0.25)
    for nearness, step in zip(ends, np.diff(ends)):
        q = np.exp(-nearness * path.distances.T)
        q /= q.sum(1, keepdims=True)
        given, seen = p[:, None] * q / (p @ q), (p * chance) @ q / (p @ q)  # p(x_0 | x_t), p(c | x_t)
        towards = np.maximum(path.distances.T[:, :, None] - path.distances.T[:, None], 0)  # [x_0, x, y]
        u = np.einsum("ax,ay,axy->xy", given, q, towards)
        v = u * seen / seen[:, None]
        plain = plain + step * (plain @ u - plain * u.sum(1))
        guided = guided + step * (guided @ v - guided * v.sum(1))
    of_class = p * chance / np.sum(p * chance)
    assert np.abs(plain - p @ q).sum() < 1e-3 and np.abs(guided - of_class @ q).sum() > 0.1


def test_no_strength_is_the_predictor_itself_and_what_does_not_fit_is_refused():
    data = Classified(MASKED)
    predict = data.predictor()
    assert discrete.classifier(predict, MASKED, data.log_probability, 0.0) is predict
    x, t = jnp.array([[3, 1]]), jnp.array([0.5])
    wrong = discrete.classifier(predict, MASKED, lambda x, t: jnp.zeros((len(x), 2)), exact=True)
    with pytest.raises(ValueError, match=r"log p\(c \| x_t\), one number for each example"):
        wrong(x, t)
    rates = discrete.rate_process(discrete.linear(), discrete.banded_rates(4))
    path = discrete.metric_path(discrete.line_distances(4))
    with pytest.raises(
        ValueError, match=r"do not give the law of x_0 near its noise\. Valid: .* discrete\.guided_rates"
    ):
        discrete.classifier(predict, rates, data.log_probability)
    with pytest.raises(ValueError, match="the jumps of a MetricPath do not reverse a process, and a class does not"):
        discrete.classifier(predict, path, data.log_probability)
    for sampler in (discrete.ancestral(), discrete.metric_flow(), discrete.corrected()):
        with pytest.raises(ValueError, match="guided_rates: this sampler does not read the rates of jumps"):
            discrete.guided_rates(sampler, data.log_probability)
    euler = discrete.euler()
    assert discrete.guided_rates(euler, data.log_probability, 0.0) is euler


@pytest.mark.extended
def test_a_class_that_no_replacement_has_leaves_the_prediction_finite():
    """p(c | x_t) = 0 whatever one symbol is: nothing is known of the class, and nothing changes."""
    never = lambda x, t: jnp.full(len(x), -jnp.inf)
    x, t = jnp.array([[3, 1]]), jnp.array([0.5])
    for process in (MASKED, discrete.uniform(discrete.linear(), 4)):
        predict = lambda x, t, process=process: discrete.from_context(process, jnp.zeros((*x.shape, 4)), x, t)
        guided = discrete.classifier(predict, process, never, 2.0, exact=True)
        np.testing.assert_allclose(np.exp(jax.jit(guided)(x, t)), np.exp(predict(x, t)), atol=1e-5)


@pytest.mark.parametrize("process", [MASKED, CASES["token_masks"]], ids=["absorbing", "token_masks"])
def test_a_class_that_is_certain_or_excluded_has_the_predictions_of_bayes_rule(process):
    """Classes of probability 0 and 1: a sequence with a 0, one without, and one of which only masks are members.

    With a 0: each mask is a 0, the only replacement that makes the class possible. Without: the rest of the prediction.
    No symbol makes the last class possible, so the prediction stays as it is.
    """
    p, x, t = np.array([0.2, 0.3, 0.5, 0.0]), jnp.array([[3, 1]]), jnp.array([0.5])
    predict = lambda x, t: jnp.where((x == 3)[..., None], jnp.log(jnp.asarray(p)), jnp.log(jax.nn.one_hot(x, 4)))
    classes = {
        "with a 0": (lambda x: (x == 0).any(-1), [1.0, 0.0, 0.0, 0.0]),
        "without a 0": (lambda x: (x != 0).all(-1), [0.0, 0.375, 0.625, 0.0]),
        "with a mask": (lambda x: (x == 3).any(-1), p),
    }
    for member, expected in classes.values():
        log_probability = lambda x, t, member=member: jnp.log(member(x).astype(jnp.float32))
        guided = np.exp(discrete.classifier(predict, process, log_probability, exact=True)(x, t))
        np.testing.assert_allclose(guided, [[expected, [0, 1, 0, 0]]], atol=1e-6)


def test_a_traced_scale_of_zero_is_no_guidance_where_a_class_is_impossible():
    """The changes are infinite there, and 0 times infinity is no number."""
    x, t = jnp.array([[3, 1]]), jnp.array([0.5])
    with_zero = lambda x, t: jnp.log((x == 0).any(-1).astype(jnp.float32))
    p = jnp.array([[0.2, 0.3, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0]])
    predict = lambda x, t: jnp.log(p)[None]
    guided = jax.jit(lambda scale: discrete.classifier(predict, MASKED, with_zero, scale, exact=True)(x, t))
    np.testing.assert_allclose(guided(0.0), predict(x, t), atol=1e-6)
    uniform, table = discrete.uniform(discrete.linear(), 4), jnp.full((1, 2, 4), 0.25)
    rates = jax.jit(lambda scale: GuidedJumps(uniform, with_zero, scale, exact=True).reverse_rates(x, table, t))
    np.testing.assert_allclose(rates(0.0), uniform.reverse_rates(x, table, t), rtol=1e-6)


def test_a_classifier_that_returns_nan_is_not_passed_over():
    """It must not count as one that excludes every symbol, and leave samples without guidance."""
    x, t, broken = jnp.array([[3, 1]]), jnp.array([0.5]), lambda x, t: jnp.full(len(x), jnp.nan)
    predict = lambda x, t: jnp.log(jnp.array([[[0.2, 0.3, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0]]]))
    guided = jax.jit(discrete.classifier(predict, MASKED, broken, exact=True))(x, t)
    assert np.isnan(guided[0, 0]).any()


def test_a_symbol_that_neither_data_nor_noise_have_stays_impossible_where_it_alone_makes_the_class_possible():
    """A prior with a 0, as of the frequencies of a vocabulary: its ratio is 0, and that of the class infinite."""
    process, x, t = discrete.mixture(discrete.linear(), [0.5, 0.25, 0.25, 0.0]), jnp.array([[0, 1]]), jnp.array([0.5])
    predict = lambda x, t: jnp.log(jnp.broadcast_to(jnp.array([0.5, 0.25, 0.25, 0.0]), (*x.shape, 4)))
    with_symbol = lambda symbol: lambda x, t: jnp.log((x == symbol).any(-1).astype(jnp.float32))
    nowhere = np.exp(discrete.classifier(predict, process, with_symbol(3), exact=True)(x, t))
    np.testing.assert_allclose(nowhere, np.exp(predict(x, t)), atol=1e-6)
    drawn = np.exp(discrete.classifier(predict, process, with_symbol(2), exact=True)(x, t))
    np.testing.assert_allclose(drawn, [[[0, 0, 1, 0]] * 2], atol=1e-6)


@pytest.mark.parametrize("process", [discrete.uniform(discrete.linear(), 4), MASKED], ids=["uniform", "absorbing"])
def test_a_scale_for_each_example_is_that_of_its_example(process):
    x, t, scales = jnp.array([[0, 3], [2, 1], [3, 3]]), jnp.full(3, 0.5), [0.25, 1.0, 3.0]
    predict = lambda x, t: discrete.from_logits(process, jnp.tile(jnp.arange(4.0), (*x.shape, 1)), x, t)
    table = jnp.exp(predict(x, t))
    guided = lambda scale: discrete.classifier(predict, process, smooth, scale)(x, t)
    rates = lambda scale: GuidedJumps(process, smooth, scale, exact=False).reverse_rates(x, table, t)
    for change in (guided, rates):
        alone = np.stack([change(scale)[i] for i, scale in enumerate(scales)])
        np.testing.assert_allclose(change(jnp.array(scales)), alone, rtol=1e-6)
    with pytest.raises(ValueError, match="is not a prefix of the shape"):
        guided(jnp.array([0.25, 1.0, 3.0, 2.0]))


@pytest.mark.parametrize("exact", [True, False])
def test_a_sampler_of_guided_rates_steps_with_the_rates_of_the_class(exact):
    """A class whose logarithm is a sum over positions of a number for each symbol: exp(scale times its differences)."""
    process, number = discrete.uniform(discrete.linear(), 3), np.array([0.0, 1.5, -0.5])
    of_symbols = lambda x, t: jnp.sum(jnp.asarray(number)[x], 1) - t
    of_one_hot = lambda x, t: jnp.sum(x @ jnp.asarray(number, jnp.float32), 1)
    log_probability = of_symbols if exact else of_one_hot
    seen = []
    sampler = discrete.euler()._replace(step=lambda *arguments: seen.append(arguments))
    guided = discrete.guided_rates(sampler, log_probability, 0.5, exact)
    guided.step("state", "predict", process, "plan", 3, "keys")
    ((state, predict, with_rates, plan, i, keys),) = seen
    assert (state, predict, plan, i, keys) == ("state", "predict", "plan", 3, "keys") and with_rates.size == 3
    x, p, t = jnp.array([[0, 2], [1, 1]]), jnp.full((2, 2, 3), 1 / 3), jnp.array([0.4, 0.7])
    change = number - number[np.asarray(x)][..., None]
    expected = process.reverse_rates(x, p, t) * np.exp(0.5 * change)
    np.testing.assert_allclose(with_rates.reverse_rates(x, p, t), expected, rtol=1e-5)
    assert guided.init is sampler.init and discrete.guided_rates(sampler, log_probability, 0.0, exact) is sampler
