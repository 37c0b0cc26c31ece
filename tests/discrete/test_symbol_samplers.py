"""Samplers of symbols: their laws on data that can be enumerated, by products of exact kernels."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete, timesteps
from diffusion.discrete import flow_paths, parallel_unmasking, remasking_steps, steps
from tests.discrete.enumerated import PROCESSES, Enumerated

SAMPLERS = {
    "ancestral": discrete.ancestral(),
    "euler": discrete.euler(),
    "tau_leaping": discrete.tau_leaping(),
    "theta_trapezoidal": discrete.theta_trapezoidal(),
    "confident": discrete.unmasking(discrete.confident(0.8)),
    "low_entropy": discrete.unmasking(discrete.low_entropy(0.3)),
    "surest": discrete.unmasking(discrete.surest(1)),
    "blockwise": discrete.unmasking(discrete.blockwise(discrete.surest(2), 2)),
    "remasking": discrete.remasking(discrete.capped(0.1)),
    "flow": discrete.flow(0.5),
    "corrected": discrete.corrected(1),
}
LAWS = {
    "confident": parallel_unmasking.unmasking_law(discrete.confident(0.8)),
    "low_entropy": parallel_unmasking.unmasking_law(discrete.low_entropy(0.3)),
    "surest": parallel_unmasking.unmasking_law(discrete.surest(1)),
    "blockwise": parallel_unmasking.unmasking_law(discrete.blockwise(discrete.surest(2), 2)),
    "remasking": remasking_steps.remasking_law(discrete.capped(0.1)),
    "flow": flow_paths.flow_law(0.5),
}
FIRST_ORDER = {"ancestral": steps.ancestral_law, "euler": steps.euler_law, "tau_leaping": steps.tau_leaping_law}


def grid(number, begin=1.0, end=0.0):
    return np.linspace(begin, end, number + 1)


def distance(found, exact):
    assert abs(found.sum() - 1) < 1e-4
    return np.abs(found - exact).sum() / 2


def order(errors):
    return np.log2(errors[0] / errors[1])


@pytest.mark.parametrize("name", PROCESSES)
def test_one_position_is_drawn_exactly_in_any_number_of_ancestral_steps(name):
    data = Enumerated(PROCESSES[name], positions=1)
    for number in (1, 3):
        np.testing.assert_allclose(data.stepped_law(steps.ancestral_law, grid(number)), data.p, atol=3e-6)


@pytest.mark.parametrize("name", ["euler", "tau_leaping"])
def test_one_position_is_filled_at_last(name):
    """Given the mask, one position has the law of the data at every time, and no mask is left at t = 0."""
    data = Enumerated(discrete.absorbing(discrete.cosine(), 4), positions=1)
    np.testing.assert_allclose(data.stepped_law(FIRST_ORDER[name], grid(3)), data.p, atol=3e-6)


def test_the_second_stage_to_the_end_fills_masks_alone():
    data = Enumerated(PROCESSES["absorbing"], positions=1)
    x, t = jnp.asarray(data.states, jnp.int32), jnp.full(4, 0.1)
    rates = steps._rates(data.predictor(), data.process, x, t)
    law = lambda s: steps.second_stage(0.5, rates, rates, data.process, x, t, jnp.full(4, s))[:, 0]
    np.testing.assert_allclose(law(0.0), np.vstack([np.eye(4)[:3], data.p]), atol=1e-6)
    assert law(0.05)[3, 3] > 0.5


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_samplers_of_positions_by_themselves_are_of_first_order_for_masks(name):
    data = Enumerated(PROCESSES["absorbing"])
    errors = [
        distance(data.stepped_law(FIRST_ORDER[name], grid(number, 1.0, 0.1)), data.at(0.1)) for number in (24, 48)
    ]
    assert 0.85 < order(errors) < 1.2, errors


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_samplers_are_of_first_order_for_uniform_processes(name):
    """From the law at t = 0.9, where the rates are finite, to that at t = 0.1."""
    data = Enumerated(PROCESSES["uniform"])
    data.prior = lambda: data.at(0.9)
    errors = [
        distance(data.stepped_law(FIRST_ORDER[name], grid(number, 0.9, 0.1)), data.at(0.1)) for number in (24, 48)
    ]
    assert 0.8 < order(errors) < 1.25, errors


@pytest.mark.extended
@pytest.mark.parametrize("theta", [0.5, 0.3])
def test_the_trapezoidal_sampler_is_of_second_order(theta):
    """The law of both stages, over every middle state, of data in which no rate is cut off."""
    data = Enumerated(PROCESSES["absorbing"], positions=2, concentration=20.0)
    x = jnp.asarray(data.states, jnp.int32)
    predict, process = data.predictor(), data.process
    rates_at = jax.jit(lambda x, t: steps._rates(predict, process, x, t))
    first_stage = jax.jit(lambda *arguments: steps.first_stage(theta, *arguments))
    second_stage = jax.jit(lambda *arguments: steps.second_stage(theta, *arguments[:2], process, *arguments[2:]))
    number = len(x)

    def law(times):
        current = data.prior()
        for t, s in itertools.pairwise(times):
            time, end = jnp.full(number, t, jnp.float32), jnp.full(number, s, jnp.float32)
            rates = rates_at(x, time)
            first = data.kernel(np.asarray(first_stage(rates, x, time, end), np.float64))
            later = rates_at(x, time - theta * (time - end))
            total = np.zeros(number)
            for i in range(number):
                if current[i] > 0:
                    same = jnp.broadcast_to(rates[i], rates.shape)
                    second = second_stage(same, later, x, time, end)
                    total += current[i] * first[i] @ data.kernel(np.asarray(second, np.float64))
            current = total
        return current

    errors = [distance(law(grid(number, 1.0, 0.3)), data.at(0.3)) for number in (4, 8)]
    assert 1.7 < order(errors) < 2.6, errors


def test_at_constant_rates_each_position_jumps_once_at_most():
    """1 - exp(-Lambda) of a position's own rates, in proportion to them; a position without rates stays."""
    leaps = np.array([[[0.0, 0.3, 0.9], [0.2, 0.0, 0.1]], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.0]]])
    x = np.array([[0, 1], [1, 2]])
    total = leaps.sum(-1, keepdims=True)
    expected = leaps * (1 - np.exp(-total)) / np.where(total > 0, total, 1) + np.exp(-total) * np.eye(3)[x]
    np.testing.assert_allclose(steps.at_constant_rates(jnp.asarray(leaps), jnp.asarray(x)), expected, atol=1e-6)


def test_a_mask_survives_both_stages_of_the_trapezoidal_sampler_independently():
    """Rates of p / t: 1 - exp(-L) disappear in each stage, of L_1 = theta h / t and L_2 = (1 - theta) h mu."""
    theta, t, s, number = 0.3, 0.8, 0.4, 2000
    p = np.array([0.25, 0.75, 0.0])
    process, sampler = discrete.absorbing(discrete.linear(), 3), discrete.theta_trapezoidal(theta)
    predict = lambda x, t: jnp.where((x == 2)[..., None], jnp.log(p), jnp.log(jnp.eye(3))[x])
    plan, keys = timesteps.plan([t, s]), jax.random.split(jax.random.key(0), number)
    state = sampler.init(jnp.full((number, 1), 2), process, plan)
    x = np.asarray(sampler.step(state, predict, process, plan, 0, keys)[0])
    a, r = 1 / (2 * theta * (1 - theta)), t - theta * (t - s)
    stays = np.exp(-(t - s) * (theta / t + (1 - theta) * (a / r - (a - 1) / t)))
    shares = np.bincount(x.ravel(), minlength=3) / number
    expected = np.append((1 - stays) * p[:2], stays)
    assert (np.abs(shares - expected) < 4 * np.sqrt(expected * (1 - expected) / number)).all()


def drawn(data, sampler, plan, number, predictor=Enumerated.tabled):
    keys = jax.random.split(jax.random.key(7), number)
    start = discrete.prior(data.process, jax.random.split(jax.random.key(8), number), (data.positions,))
    run = jax.jit(lambda start, keys: discrete.sample(sampler, predictor(data), data.process, start, plan, keys))
    return np.bincount(np.asarray(data.index(run(start, keys))), minlength=len(data.p)) / number


@pytest.mark.extended
def test_first_hitting_has_the_law_of_the_data_in_as_many_steps_as_positions():
    data = Enumerated(PROCESSES["absorbing"])
    number = 30_000
    found = drawn(data, discrete.first_hitting(), timesteps.plan(grid(3)), number, Enumerated.predictor)
    assert distance(found, data.p) < 1.5 * np.sum(np.sqrt(data.p / number)) / 2
    one = drawn(data, discrete.ancestral(), timesteps.plan(grid(3)), number)
    assert distance(one, data.p) > 5 * distance(found, data.p)  # what three steps of all positions at once miss


def test_first_hitting_asks_at_the_times_at_which_masks_go():
    """Of n masks under alpha = 1 - t the next goes at t u^(1/n), whose mean is t n / (n + 1)."""
    process, number = PROCESSES["absorbing"], 4_000
    times = []

    def predict(x, t):
        jax.debug.callback(lambda t: times.append(np.asarray(t)), t, ordered=True)
        return discrete.from_logits(process, jnp.zeros((*x.shape, 4)), x, t)

    keys = jax.random.split(jax.random.key(1), number)
    start = jnp.full((number, 3), 3)
    discrete.sample(discrete.first_hitting(), predict, process, start, timesteps.plan(grid(3)), keys)
    jax.effects_barrier()
    means = [time.mean() for time in times]
    np.testing.assert_allclose(means, [3 / 4, 3 / 4 * 2 / 3, 3 / 4 * 2 / 3 / 2], atol=4 * 0.25 / np.sqrt(number))


@pytest.mark.extended
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_loop_draws_the_law_of_its_steps(name):
    data = Enumerated(PROCESSES["absorbing"])
    number, times = 20_000, grid(8)
    found = drawn(data, SAMPLERS[name], timesteps.plan(times), number)
    if name in FIRST_ORDER | LAWS:
        exact = data.stepped_law((FIRST_ORDER | LAWS)[name], times)
        assert distance(found, exact) < 1.5 * np.sum(np.sqrt(exact / number)) / 2
    else:
        assert distance(found, data.p) < 0.1


@pytest.mark.extended
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sample_depends_on_its_own_start_and_key_alone(name):
    data = Enumerated(PROCESSES["absorbing"])
    keys = jax.random.split(jax.random.key(3), 5)
    start = jnp.array([[3, 3, 3], [3, 0, 3], [3, 3, 3], [3, 3, 3], [0, 1, 2]])
    plan = timesteps.plan(grid(6))
    run = jax.jit(
        lambda start, keys: discrete.sample(SAMPLERS[name], data.predictor(), data.process, start, plan, keys)
    )
    whole, strangers = run(start, keys), jax.random.split(jax.random.key(4), 5)
    for i in range(5):  # last, behind others
        beside = run(jnp.roll(start, -i - 1, 0).at[:4].set(i % 4), strangers.at[4].set(keys[i]))
        np.testing.assert_array_equal(beside[4], whole[i])
    np.testing.assert_array_equal(run(start[2:3], keys[2:3]), whole[2:3])
    if name not in ("remasking", "flow", "corrected"):  # which may mask any symbol
        np.testing.assert_array_equal(whole[4], start[4])  # nothing is masked
    assert int((whole == 3).sum()) == 0


@pytest.mark.extended
@pytest.mark.parametrize("name, sampler", [*SAMPLERS.items(), ("first_hitting", discrete.first_hitting())])
def test_evaluations_are_as_many_as_it_says(name, sampler):
    calls = []
    process = PROCESSES["absorbing"]

    def predict(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return discrete.from_logits(process, jnp.zeros((*x.shape, 4)), x, t)

    start = jnp.full((2, 3), 3)
    discrete.sample(sampler, predict, process, start, timesteps.plan(grid(3)), jax.random.split(jax.random.key(0), 2))
    jax.effects_barrier()
    assert len(calls) == sampler.nfe(3)


@pytest.mark.extended
@pytest.mark.parametrize(
    "sampler, process",
    [
        *((sampler, "absorbing") for sampler in SAMPLERS.values()),
        *((sampler, "uniform") for sampler in SAMPLERS.values() if not sampler.masked),
        (discrete.first_hitting(), "absorbing"),
        (discrete.metric_flow(), "metric"),
        (discrete.infilling(discrete.ancestral(), np.array([1, 0, 0]), np.array([True, False, False])), "absorbing"),
    ],
)
def test_an_example_whose_prediction_is_nan_has_no_symbols(sampler, process):
    """It had the first symbol of the vocabulary wherever the network returned NaN, as any other sample."""
    path = discrete.metric_path(discrete.line_distances(4)) if process == "metric" else PROCESSES[process]
    lost = jnp.array([False, True, False, True])
    begin = 0.9 if sampler.rates and path.mask is None else 1.0

    def predict(x, t):  # example 1 is lost early and example 3 late, each at one position
        nan = lost & jnp.where(jnp.arange(4) == 1, t > 0.5, t < 0.5)
        logits = jnp.zeros((*x.shape, path.size)).at[:, 2, 1].set(jnp.where(nan, jnp.nan, 0.0))
        return discrete.from_logits(path, logits, x, t)

    keys = jax.random.split(jax.random.key(3), 4)
    start = jnp.full((4, 3), path.mask) if path.mask is not None else jnp.ones((4, 3), int)
    x = np.asarray(discrete.sample(sampler, predict, path, start, timesteps.plan(grid(3, begin)), keys))
    if path.mask is None:  # each step predicts every position
        np.testing.assert_array_equal(x[1::2], -1)
    assert x[::2].min() >= 0 and x[::2].max() < path.size
    everywhere = lambda x, t: jnp.full((*x.shape, path.size), jnp.nan)
    x = discrete.sample(sampler, everywhere, path, start, timesteps.plan(grid(3, begin)), keys)
    np.testing.assert_array_equal(x, -1)


def test_unmasking_that_ends_by_itself_leaves_symbols_that_are_not_predicted():
    """One mask a step, and in the first also position 1, whose prediction is NaN; the loop ran forever."""
    process = PROCESSES["absorbing"]
    nan = jnp.where(jnp.arange(3) == 1, jnp.nan, 0.0)[:, None]
    predict = lambda x, t: discrete.from_logits(process, jnp.zeros((*x.shape, 4)) + nan, x, t)
    keys = jax.random.split(jax.random.key(0), 1)
    x, evaluations = discrete.until_unmasked(discrete.surest(1), predict, process, jnp.full((1, 3), 3), keys)
    np.testing.assert_array_equal(x[0] < 0, [False, True, False])
    assert int(evaluations[0]) == 2


LOGITS = lambda x, t: jnp.tile(jnp.array([0.0, 2.0, 1.0, -9.0]), (*x.shape, 1))


@pytest.mark.extended
@pytest.mark.parametrize("name", ["absorbing", "uniform"])
def test_a_predictor_that_returns_logits_gives_no_symbols(name):
    process, keys = PROCESSES[name], jax.random.split(jax.random.key(0), 2)
    logits = lambda x, t: LOGITS(x, t)[..., : process.size]
    plan, start = timesteps.plan(grid(3)), discrete.prior(process, jax.random.split(jax.random.key(1), 2), (3,))
    x = discrete.sample(discrete.ancestral(), logits, process, start, plan, keys)
    np.testing.assert_array_equal(x, -1)
    rounded = lambda x, t: jax.nn.log_softmax(logits(x, t)).astype(jnp.bfloat16)
    assert discrete.sample(discrete.ancestral(), rounded, process, start, plan, keys).min() >= 0


def test_unmasking_that_ends_by_itself_gives_no_symbols_of_logits():
    keys = jax.random.split(jax.random.key(0), 1)
    start = jnp.full((1, 3), 3)
    x, _ = discrete.until_unmasked(discrete.surest(1), LOGITS, PROCESSES["absorbing"], start, keys)
    np.testing.assert_array_equal(x, -1)


def test_a_law_of_ones_own_is_a_sampler():
    """All masks go at once to the likeliest symbol."""
    process = PROCESSES["absorbing"]
    greedy = lambda predict, process, x, t, s: jax.nn.one_hot(jnp.argmax(predict(x, t), -1), process.size)
    predict = lambda x, t: discrete.from_logits(process, jnp.tile(jnp.array([0.0, 2.0, 1.0, 9.0]), (*x.shape, 1)), x, t)
    keys = jax.random.split(jax.random.key(0), 2)
    start = jnp.array([[3, 0, 3], [2, 3, 3]])
    found = discrete.sample(discrete.stepped(greedy), predict, process, start, timesteps.plan(grid(1)), keys)
    np.testing.assert_array_equal(found, [[1, 0, 1], [2, 1, 1]])


def test_what_does_not_fit_is_refused_before_anything_is_compiled():
    keys, x = jax.random.split(jax.random.key(0), 2), jnp.zeros((2, 3), int)
    fine = (None, PROCESSES["uniform"], x, timesteps.plan(grid(4, 0.9)), keys)
    with pytest.raises(ValueError, match="this sampler fills in masks, but the process has none"):
        discrete.sample(discrete.first_hitting(), *fine)
    with pytest.raises(ValueError, match="rates of this process are infinite at t = 1"):
        discrete.sample(discrete.euler(), None, PROCESSES["uniform"], x, timesteps.plan(grid(4)), keys)
    with pytest.raises(ValueError, match=r"runs from time 0\.1 to 0\.9\..*: decreasing times in \[0, 1\]"):
        discrete.sample(discrete.ancestral(), *fine[:3], timesteps.plan(grid(4, 0.1, 0.9)), keys)
    with pytest.raises(ValueError, match=r"x has symbols 3 \.\. 3. Valid: 0 \.\. 2"):
        discrete.sample(discrete.ancestral(), None, PROCESSES["uniform"], x + 3, timesteps.plan(grid(4)), keys)
    with pytest.raises(ValueError, match=r"first_hitting: 4 steps\. Valid: 3, one for each position"):
        discrete.sample(discrete.first_hitting(), None, PROCESSES["absorbing"], x + 3, timesteps.plan(grid(4)), keys)
    with pytest.raises(TypeError, match=r"sampler must be a sampler of symbols such as discrete.ancestral\(\)"):
        discrete.sample(discrete.ancestral, *fine)
    with pytest.raises(ValueError, match="a sampler of symbols needs one key for each sample"):
        discrete.sample(discrete.ancestral(), None, PROCESSES["uniform"], x, timesteps.plan(grid(4)), keys[:1])
    with pytest.raises(ValueError, match=r"theta = 1. Valid: a share in \(0, 1\)"):
        discrete.theta_trapezoidal(1)


def test_a_prediction_of_another_number_of_symbols_is_refused():
    path = discrete.metric_path(discrete.line_distances(9))
    few = lambda x, t: jnp.log(jnp.full((*x.shape, 4), 0.25))  # a law of four symbols would be drawn from as it is
    keys, x = jax.random.split(jax.random.key(0), 2), jnp.zeros((2, 3), int)
    with pytest.raises(ValueError, match=r"a number for each symbol of the process, must have the shape \(2, 3, 9\)"):
        discrete.sample(discrete.metric_flow(), few, path, x, timesteps.plan(grid(4)), keys)


@pytest.mark.parametrize(
    "times, valid",
    [([1.0, 0.0], True), ([0.5, 0.5], True), ([1.01, 0.0], False), ([1.0, 0.5, -0.01], False), ([0.5, 0.6], False)],
)
def test_a_plan_of_symbols_stays_between_data_and_noise(times, valid):
    process = PROCESSES["absorbing"]
    plan = timesteps.Plan(np.array(times[:-1]), np.array(times[1:]), np.zeros(len(times) - 1, bool))
    predict = lambda x, t: discrete.from_logits(process, jnp.zeros((*x.shape, 4)), x, t)
    run = lambda: discrete.sample(
        discrete.ancestral(), predict, process, jnp.full((1, 1), 3), plan, jax.random.split(jax.random.key(0), 1)
    )
    if valid:
        assert run().shape == (1, 1)
    else:
        with pytest.raises(ValueError, match=r"decreasing times in \[0, 1\]"):
            run()


def test_rates_of_masks_are_finite_at_noise_and_thetas_are_between_the_ends():
    process = PROCESSES["absorbing"]
    predict = lambda x, t: discrete.from_logits(process, jnp.zeros((*x.shape, 4)), x, t)
    keys = jax.random.split(jax.random.key(0), 1)
    found = discrete.sample(discrete.euler(), predict, process, jnp.full((1, 2), 3), timesteps.plan(grid(4)), keys)
    assert found.shape == (1, 2)
    for theta in (0, 1, -0.1):
        with pytest.raises(ValueError, match=rf"theta = {theta}"):
            discrete.theta_trapezoidal(theta)
    alone = discrete.stepped(steps.ancestral_law)
    assert not alone.rates and not alone.masked and discrete.euler().rates and not discrete.euler().masked
    assert discrete.theta_trapezoidal().masked and discrete.theta_trapezoidal().rates
    assert discrete.semi_autoregressive(2).masked and not discrete.semi_autoregressive(2).rates
    assert discrete.first_hitting().masked and not discrete.first_hitting().rates


def test_a_step_too_long_for_its_rates_has_a_law_that_sums_to_one():
    """Rates of 1 / t in all, times t - s = 4 t: a step beyond t = 0, of which only the shares of the jumps count."""
    process = PROCESSES["absorbing"]
    predict = lambda x, t: discrete.from_logits(
        process, jnp.array([0.0, 1.0, 2.0, 0.0]) + jnp.zeros((*x.shape, 4)), x, t
    )
    x, t, s = jnp.array([[3, 1]]), jnp.array([0.2]), jnp.array([-0.6])
    law = steps.euler_law(predict, process, x, t, s)
    np.testing.assert_allclose(
        law[0, 0], np.append(np.exp([0.0, 1.0, 2.0]) / np.exp([0.0, 1.0, 2.0]).sum(), 0), rtol=1e-5
    )
    np.testing.assert_array_equal(law[0, 1], [0, 1, 0, 0])


def test_an_example_whose_network_once_returned_nan_has_no_symbols_at_the_end():
    """Also if the later steps draw all of its symbols again; the example beside it is as it would be alone."""
    process, plan = discrete.absorbing(discrete.linear(), 4), timesteps.plan(np.array([1.0, 0.5, 0.0]))
    keys, masks = jax.random.split(jax.random.key(0), 2), jnp.full((2, 3), 3)

    def predict(x, t, broken=True):
        log_p = jnp.log(jnp.array([0.5, 0.3, 0.2, 0.0])) * jnp.ones((*x.shape, 1))
        lost = broken & (t[:, None, None] == 1) & (jnp.arange(2) == 1)[:, None, None]
        return jnp.where(lost, jnp.nan, log_p)

    step = lambda state, predict, process, plan, i, keys: (
        jnp.where(jnp.isnan(predict(state[0], jnp.full(2, plan.t[i]))).any(-1), -1, 2),
    )
    sampler = discrete.ancestral()._replace(step=step)
    found = discrete.sample(sampler, predict, process, masks, plan, keys)
    np.testing.assert_array_equal(found, [[2, 2, 2], [-1, -1, -1]])
