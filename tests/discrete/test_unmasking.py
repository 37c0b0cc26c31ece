"""Choices of masks, remasking and truncation, against sums over all states and numpy's sorting."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete, timesteps
from diffusion.discrete import parallel_unmasking, remasking_steps, steps
from tests.discrete.enumerated import PROCESSES, Enumerated

MASKED = PROCESSES["absorbing"]
LOGITS = np.random.default_rng(5).normal(size=(6, 9)) * 2


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def entropies(log_p):
    return -(np.exp(log_p) * log_p).sum(-1)


def test_the_masks_of_low_entropy_are_the_largest_set_under_the_bound():
    """By trying all sets of the first n in order of entropy."""
    log_p = log_softmax(LOGITS)
    entropy = entropies(log_p)
    masked = np.array([True, True, False, True, True, True])
    order = [i for i in np.argsort(entropy) if masked[i]]
    numbers = set()
    for bound in (0.0, 0.4, 1.0, 2.0, 3.0, 50.0):
        fits = [n for n in range(1, 6) if sum(entropy[order[:n]]) - max(entropy[order[:n]]) <= bound]
        expected = np.isin(np.arange(6), order[: max(fits)])
        found = discrete.low_entropy(bound)(jnp.asarray(log_p)[None], jnp.asarray(masked)[None])
        np.testing.assert_array_equal(found[0], expected)
        numbers.add(max(fits))
    assert len(numbers) >= 4 and {1, 5} <= numbers


def test_confident_masks_are_those_above_the_threshold_and_the_surest():
    log_p = log_softmax(LOGITS)
    best = np.exp(log_p).max(-1)
    masked = np.array([True, False, True, True, True, True])
    numbers = set()
    for threshold in (0.2, np.sort(best)[2] + 1e-3, 0.6, 1.0):
        expected = masked & ((best >= threshold) | (best == best[masked].max()))
        found = discrete.confident(threshold)(jnp.asarray(log_p)[None], jnp.asarray(masked)[None])
        np.testing.assert_array_equal(found[0], expected)
        numbers.add(int(expected.sum()))
    assert len(numbers) >= 3 and 1 in numbers


@pytest.mark.parametrize("choose", [discrete.low_entropy(0.1), discrete.confident(0.9)])
def test_nothing_masked_and_one_symbol_that_is_certain(choose):
    certain = jnp.where(jnp.arange(4) == 2, 0.0, -jnp.inf)
    log_p = jnp.stack([jnp.tile(certain, (3, 1)), jnp.full((3, 4), -np.log(4.0))])
    assert not choose(log_p, jnp.zeros((2, 3), bool)).any()
    np.testing.assert_array_equal(choose(log_p, jnp.ones((2, 3), bool)).sum(-1), [3, 1])


def test_one_mask_a_step_has_the_law_of_the_data():
    """A bound of 0 on data in which nothing is certain: the chain rule, in an order that the state decides."""
    data = Enumerated(MASKED, concentration=5.0)
    law = data.stepped_law(parallel_unmasking.unmasking_law(discrete.low_entropy(0.0)), np.linspace(1, 0, 4))
    np.testing.assert_allclose(law, data.p, atol=1e-6)
    joint = data.stepped_law(parallel_unmasking.unmasking_law(discrete.low_entropy(9.0)), np.linspace(1, 0, 4))
    assert np.abs(joint - data.p).sum() > 0.05  # all at once


@pytest.mark.extended
def test_until_unmasked_takes_the_steps_that_each_example_needs():
    """Two positions are copies of each other, and a third is certain: two evaluations for three masks."""
    process = MASKED
    pairs = {(a, a, 1): 1 / 3 for a in range(3)}
    data = Enumerated(process)
    data.p = np.array([pairs.get(tuple(state), 0.0) for state in data.states])
    number = 3_000
    start = jnp.tile(jnp.array([[3, 3, 3], [3, 3, 1], [2, 3, 3], [0, 0, 1]]), (number // 4, 1))
    keys = jax.random.split(jax.random.key(0), number)
    run = jax.jit(
        lambda x, keys: discrete.until_unmasked(discrete.low_entropy(0.5), data.predictor(), process, x, keys)
    )
    x, evaluations = (np.asarray(part) for part in run(start, keys))
    assert (x[:, 0] == x[:, 1]).all() and (x[:, 2] == 1).all()
    np.testing.assert_array_equal(evaluations.reshape(-1, 4), np.tile([2, 2, 1, 0], (number // 4, 1)))
    shares = np.bincount(x[::4, 0], minlength=3)[:3] / (number // 4)
    assert np.abs(shares - 1 / 3).max() < 4 * np.sqrt(2 / 9 / (number // 4))
    beside, _ = run(start.at[6:].set(3), keys.at[6:].set(keys[0]))
    np.testing.assert_array_equal(beside[:6], x[:6])  # whatever the others are
    alone, _ = run(start[5:6], keys[5:6])
    np.testing.assert_array_equal(alone, x[5:6])


def test_the_network_hears_the_time_of_its_share_of_masks():
    times = []

    def predict(x, t):
        jax.debug.callback(lambda t: times.append(np.asarray(t)), t, ordered=True)
        return discrete.from_logits(process, jnp.zeros((*x.shape, 4)), x, t)

    process = discrete.absorbing(discrete.polynomial(2.0), 4)
    start = jnp.array([[3, 3, 3, 3], [3, 0, 1, 2]])
    keys = jax.random.split(jax.random.key(0), 2)
    discrete.sample(
        discrete.unmasking(discrete.confident(1.0)), predict, process, start, timesteps.plan(np.linspace(1, 0, 4)), keys
    )
    jax.effects_barrier()
    expected = np.sqrt([[4 / 4, 1 / 4], [3 / 4, 0], [2 / 4, 0]])  # 1 - alpha = t^2
    np.testing.assert_allclose(times, expected, atol=2e-4)


SHARES = {"capped": discrete.capped(0.3), "rescaled": discrete.rescaled(0.7), "all": discrete.rescaled(1.0)}


@pytest.mark.parametrize("share", SHARES.values(), ids=SHARES)
def test_remasking_keeps_the_marginals_of_known_data(share):
    """sum over x_t of q(x_t | x_0) P(x_s | x_t) = q(x_s | x_0), with q written as alpha and 1 - alpha."""
    x_t = jnp.arange(4)[:, None]
    again = 0.0
    for x0, (t, s) in itertools.product((0, 2), [(1.0, 0.6), (0.7, 0.3), (0.3, 0.25), (0.4, 0.0)]):
        predict = lambda x, t, x0=x0: discrete.from_logits(
            MASKED, jnp.where(jnp.arange(4) == x0, 0.0, -jnp.inf) + jnp.zeros((*x.shape, 1)), x, t
        )
        times = (jnp.full(4, t, jnp.float32), jnp.full(4, s, jnp.float32))
        step = np.asarray(remasking_steps.remasking_law(share)(predict, MASKED, x_t, *times))[:, 0]
        at = lambda time, x0=x0: (1 - time) * np.eye(4)[x0] + time * np.eye(4)[3]
        assert (step >= -1e-6).all()
        np.testing.assert_allclose(at(t) @ step, at(s), atol=2e-6)
        again = max(again, step[x0, 3])
    assert again > 0.25


def test_remasking_draws_one_position_exactly_and_without_it_is_ancestral():
    data = Enumerated(MASKED, positions=1)
    for number in (1, 3, 8):
        found = data.stepped_law(remasking_steps.remasking_law(discrete.capped(0.2)), np.linspace(1, 0, number + 1))
        np.testing.assert_allclose(found, data.p, atol=3e-6)
    several, times = Enumerated(MASKED), np.linspace(1, 0, 5)
    np.testing.assert_allclose(
        several.stepped_law(remasking_steps.remasking_law(discrete.rescaled(0.0)), times),
        several.stepped_law(steps.ancestral_law, times),
        atol=1e-6,
    )


def test_top_k_and_nucleus_keep_the_likeliest_in_their_proportions():
    log_p = log_softmax(LOGITS)
    for row, values in enumerate(log_p):
        p, order = np.exp(values), np.argsort(-values)
        for number in (1, 4, 9):
            kept = np.where(np.isin(np.arange(9), order[:number]), p, 0.0)
            found = np.exp(discrete.top_k(jnp.asarray(log_p), number))[row]
            np.testing.assert_allclose(found, kept / kept.sum(), atol=1e-6)
        for share in (0.05, 0.5, 0.9, 1.0):
            number = next((n for n in range(1, 9) if p[order[:n]].sum() >= share), 9)
            kept = np.where(np.isin(np.arange(9), order[:number]), p, 0.0)
            found = np.exp(discrete.nucleus(jnp.asarray(log_p), share))[row]
            np.testing.assert_allclose(found, kept / kept.sum(), atol=1e-6)


def test_symbols_as_likely_as_the_last_remain_and_none_beyond_the_share():
    """Of 1/2, 1/4, 1/4 and 0: exact numbers, so that a sum is the share itself."""
    log_p = jnp.log(jnp.asarray([0.5, 0.25, 0.25, 0.0]))
    kept = lambda found: np.isfinite(found).tolist()
    assert kept(discrete.top_k(log_p, 1)) == [True, False, False, False]
    assert kept(discrete.top_k(log_p, 2)) == kept(discrete.top_k(log_p, 3)) == [True, True, True, False]
    assert kept(discrete.nucleus(log_p, 0.5)) == [True, False, False, False]
    for share in (0.51, 0.75, 0.76, 1.0):
        assert kept(discrete.nucleus(log_p, share)) == [True, True, True, False]


def test_a_nucleus_of_the_whole_probability_keeps_symbols_that_a_sum_of_the_others_hides():
    """In float32, 1/2 + 1/2 - 1e-8 is 1 already; a share of 1 still leaves the distribution as it is."""
    p = np.array([0.5, 0.5 - 1e-8, 1e-8])
    for change in (lambda log_p: discrete.nucleus(log_p, 1.0), jax.jit(lambda log_p: discrete.nucleus(log_p, 1.0))):
        np.testing.assert_allclose(np.exp(change(jnp.asarray(np.log(p), jnp.float32))), p, rtol=1e-6)
    traced = jax.jit(discrete.nucleus)(jnp.asarray(np.log(p), jnp.float32), 1.0)
    np.testing.assert_allclose(np.exp(traced), p, rtol=1e-6)


def test_a_nucleus_of_logits_is_refused():
    """Their exponentials were summed as if they were probabilities: 0.9 of 1, 2, 4 kept the largest alone."""
    logits = jnp.log(jnp.array([1.0, 2.0, 4.0]))
    with pytest.raises(ValueError, match=r"probabilities of a position sum to 7\. Valid: log-probabilities"):
        discrete.nucleus(logits, 0.9)
    assert np.isnan(jax.jit(lambda x: discrete.nucleus(x, 0.9))(logits)).all()
    np.testing.assert_allclose(np.exp(discrete.top_k(logits, 2)), [0, 1 / 3, 2 / 3], rtol=1e-6)


def test_temperature_is_a_power_and_impossible_symbols_stay_impossible():
    log_p = np.append(log_softmax(LOGITS[0]), -np.inf)
    p = np.exp(log_p)
    np.testing.assert_allclose(np.exp(discrete.tempered(jnp.asarray(log_p), 0.5)), p**2 / (p**2).sum(), atol=1e-6)
    for change in (
        lambda a: discrete.top_k(a, 10),
        lambda a: discrete.nucleus(a, 1.0),
        lambda a: discrete.tempered(a, 9.0),
    ):
        assert change(jnp.asarray(log_p))[-1] == -jnp.inf


def test_a_symbol_whose_logarithm_is_nan_is_not_taken_for_an_impossible_one():
    log_p = jnp.asarray(log_softmax(LOGITS[:2])).at[1, 3].set(jnp.nan)
    for change in (
        lambda a: discrete.top_k(a, 2),
        lambda a: discrete.nucleus(a, 0.5),
        lambda a: discrete.tempered(a, 2.0),
    ):
        np.testing.assert_array_equal(np.isnan(change(log_p)).any(-1), [False, True])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"confident: threshold = 0. Valid: a probability in \(0, 1\]"):
        discrete.confident(0)
    with pytest.raises(ValueError, match=r"low_entropy: bound = -0\.1\. Valid"):
        discrete.low_entropy(-0.1)
    with pytest.raises(ValueError, match=r"low_entropy: bound = inf\. Valid"):
        discrete.low_entropy(np.inf)
    with pytest.raises(ValueError, match=r"capped: limit = 1.5. Valid: a number in \[0, 1\]"):
        discrete.capped(1.5)
    with pytest.raises(ValueError, match=r"rescaled: factor = -1. Valid"):
        discrete.rescaled(-1)
    with pytest.raises(ValueError, match=r"top_k: number = 10. Valid: 1 \.\. 9"):
        discrete.top_k(jnp.asarray(LOGITS), 10)
    with pytest.raises(ValueError, match=r"nucleus: share = 0\. Valid"):
        discrete.nucleus(jnp.asarray(LOGITS), 0)
    with pytest.raises(ValueError, match=r"tempered: temperature = 0. Valid"):
        discrete.tempered(jnp.asarray(LOGITS), 0)
    keys, x = jax.random.split(jax.random.key(0), 2), jnp.zeros((2, 3), int)
    with pytest.raises(ValueError, match="until_unmasked fills in masks, but this process has none"):
        discrete.until_unmasked(discrete.confident(0.9), None, PROCESSES["uniform"], x, keys)
    with pytest.raises(ValueError, match="this sampler fills in masks, but the process has none"):
        plan = timesteps.plan(np.linspace(1, 0, 4))
        discrete.sample(discrete.remasking(discrete.capped(0.1)), None, PROCESSES["uniform"], x, plan, keys)


def test_the_surest_masks_are_filled_in_and_no_others():
    """By hand: confidences 0.9, 0.6, 0.8 of the masks at 1, 2 and 4."""
    p = np.full((1, 5, 3), 1 / 3)
    p[0, [1, 2, 4]] = [[0.9, 0.05, 0.05], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]]
    masked = jnp.array([[False, True, True, False, True]])
    chosen = lambda choose: np.flatnonzero(choose(jnp.log(jnp.asarray(p)), masked)[0]).tolist()
    assert chosen(discrete.surest(1)) == [1]
    assert chosen(discrete.surest(2)) == [1, 4]
    assert chosen(discrete.surest(9)) == [1, 2, 4]
    assert chosen(discrete.blockwise(discrete.surest(9), 2)) == [1]
    assert chosen(discrete.blockwise(discrete.surest(9), 3)) == [1, 2]
    assert chosen(discrete.blockwise(discrete.surest(1), 9)) == [1]
    nothing = jnp.zeros((1, 5), bool)
    assert not discrete.blockwise(discrete.surest(1), 2)(jnp.log(jnp.asarray(p)), nothing).any()
    with pytest.raises(ValueError, match=r"surest: number = 0\. Valid: at least 1"):
        discrete.surest(0)
    with pytest.raises(ValueError, match=r"blockwise: block = 0\. Valid: at least 1"):
        discrete.blockwise(discrete.surest(1), 0)


def test_any_symbol_may_be_the_mask():
    process = discrete.absorbing(discrete.linear(), 4, mask=1)
    assert process.mask == 1 and process.prior.tolist() == [0, 1, 0, 0]
    law = discrete.from_logits(process, jnp.zeros((1, 2, 4)), jnp.array([[1, 3]]), jnp.array([0.5]))
    np.testing.assert_allclose(np.exp(law[0]), [[1 / 3, 0, 1 / 3, 1 / 3], [0, 0, 0, 1]], atol=1e-6)
    with pytest.raises(ValueError, match=r"absorbing: mask = 4. Valid: a symbol, 0 \.\. 3"):
        discrete.absorbing(discrete.linear(), 4, mask=4)


def test_the_first_block_with_masks_is_that_of_each_example():
    """Three examples of four positions in blocks of two, whose first masks are in other blocks."""
    masked = jnp.array([[True, False, True, True], [False, False, True, False], [False, True, False, True]])
    everything = lambda log_x0, masked: masked
    found = discrete.blockwise(everything, 2)(jnp.zeros((3, 4, 2)), masked)
    np.testing.assert_array_equal(found, [[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]])
    discrete.blockwise(everything, 1)
    with pytest.raises(ValueError, match=r"blockwise: block = 0\. Valid: at least 1"):
        discrete.blockwise(everything, 0)
