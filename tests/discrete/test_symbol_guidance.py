"""Guidance and infilling of symbols against conditional laws by sums over all states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete, timesteps
from diffusion.discrete import steps
from tests.discrete.enumerated import PROCESSES, Enumerated

MASKED = PROCESSES["absorbing"]
KEYS = jax.random.split(jax.random.key(0), 4)


@pytest.mark.extended
@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_one_mask_is_drawn_from_the_tempered_ratio_of_both_laws(name, scale):
    """One position: p(x_0 | c)^scale p(x_0)^(1 - scale), for masks in any number of steps; else of the posterior."""
    cond, uncond = Enumerated(PROCESSES[name], 1, positions=1), Enumerated(PROCESSES[name], 2, positions=1)
    predict = discrete.classifier_free(discrete.separately(cond.predictor(), uncond.predictor()), scale)
    x, t = jnp.arange(cond.process.size)[:, None], 0.6
    found = np.exp(predict(x, jnp.full(len(x), t)))[:, 0]
    first, second = cond.table(t)[:, 0], uncond.table(t)[:, 0]
    possible = (cond.at(t) > 0) & (uncond.at(t) > 0)
    ratio = np.where((first > 0) & (second > 0), first, 1) / np.where((first > 0) & (second > 0), second, 1)
    exact = first * ratio ** (scale - 1)
    exact = exact / exact.sum(-1, keepdims=True)
    assert possible.sum() >= 2
    np.testing.assert_allclose(found[possible], exact[possible], atol=2e-5)
    if name == "absorbing":
        cond.predictor = lambda: predict
        law = cond.stepped_law(steps.ancestral_law, np.linspace(1, 0, 4))
        tempered = np.where(cond.p > 0, cond.p**scale * np.where(uncond.p > 0, uncond.p, 1) ** (1 - scale), 0)
        np.testing.assert_allclose(law, tempered / tempered.sum(), atol=1e-5)


def test_both_branches_are_one_call_and_a_scale_of_one_changes_no_bit():
    sizes = []

    def network(x, t, condition):
        sizes.append(len(x))
        return jax.nn.one_hot(condition["label"], 4)[:, None] * 2 + jnp.zeros((*x.shape, 1)) + t[:, None, None]

    conditions = ({"label": jnp.array([0, 1])}, {"label": jnp.array([3, 3])})
    branches = discrete.together(network, MASKED, discrete.from_logits, conditions)
    x, t = jnp.array([[3, 1], [3, 3]]), jnp.array([0.4, 0.9])
    cond, uncond = branches(x, t)
    assert sizes == [4]
    for found, condition in ((cond, conditions[0]), (uncond, conditions[1])):
        alone = discrete.predictor(network, MASKED, discrete.from_logits, condition)(x, t)
        np.testing.assert_array_equal(found, alone)
    np.testing.assert_array_equal(discrete.classifier_free(branches, 1.0)(x, t), cond)
    guided = discrete.classifier_free(branches, 2.5)(x, t)
    np.testing.assert_array_equal(guided[0, 1], cond[0, 1])  # a symbol that shows stays
    assert guided[0, 0, 0] > cond[0, 0, 0] and guided[0, 0, 3] == -jnp.inf
    with pytest.raises(ValueError, match="takes two branches, one with the condition and one without; got 1"):
        discrete.classifier_free(discrete.separately(lambda x, t: cond), 2.0)(x, t)


def infilled(data, sampler, values, known, number, plan):
    """Shares of all states among samples of one infilling."""
    keys = jax.random.split(jax.random.key(7), number)
    values, known = (jnp.tile(jnp.asarray(row), (number, 1)) for row in (values, known))

    @jax.jit
    def run(keys):
        sampling = discrete.infilling(sampler, values, known)
        start = discrete.prior(data.process, jax.vmap(lambda key: jax.random.fold_in(key, 99))(keys), (data.positions,))
        return discrete.sample(sampling, data.predictor(), data.process, start, plan, keys)

    return np.bincount(np.asarray(data.index(run(keys))), minlength=len(data.p)) / number


@pytest.mark.extended
def test_masked_infilling_has_the_conditional_law():
    """The middle position is known; the first and the last have p(x | middle)."""
    data, number = Enumerated(MASKED), 20_000
    agrees = data.states[:, 1] == 2
    exact = np.where(agrees, data.p, 0) / data.p[agrees].sum()
    plan = timesteps.plan(np.linspace(1, 0, 4))
    found = infilled(data, discrete.first_hitting(), [0, 2, 0], [False, True, False], number, plan)
    assert np.abs(found - exact).sum() / 2 < 1.5 * np.sum(np.sqrt(exact / number)) / 2
    assert np.abs(exact - data.p).sum() > 0.2


@pytest.mark.extended
def test_infilling_of_independent_positions_leaves_the_others_their_law():
    data, number = Enumerated(PROCESSES["uniform"], positions=2), 10_000
    single = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]])
    data.p = np.prod([single[i][data.states[:, i]] for i in range(2)], 0)
    found = infilled(data, discrete.ancestral(), [2, 0], [True, False], number, timesteps.plan(np.linspace(1, 0, 4)))
    exact = np.where(data.states[:, 0] == 2, single[1][data.states[:, 1]], 0)
    assert np.abs(found - exact).sum() / 2 < 1.5 * np.sum(np.sqrt(exact / number)) / 2


@pytest.mark.parametrize("sampler", [discrete.remasking(discrete.rescaled(1.0)), discrete.flow(2.0)])
def test_known_symbols_show_at_every_step_of_a_sampler_that_masks_again(sampler):
    seen = []

    def predict(x, t):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), x, ordered=True)
        return discrete.from_logits(MASKED, jnp.zeros((*x.shape, 4)), x, t)

    values = jnp.tile(jnp.array([[1, 0, 2, 0, 0, 0]]), (4, 1))
    known = jnp.tile(jnp.array([[True, False, True, False, False, False]]), (4, 1))
    start = jnp.full((4, 6), 3)
    plan = timesteps.plan(np.linspace(1, 0, 9))
    found = discrete.sample(discrete.infilling(sampler, values, known), predict, MASKED, start, plan, KEYS)
    jax.effects_barrier()
    states = np.stack([*seen, np.asarray(found)])
    assert (states[:, :, 0] == 1).all() and (states[:, :, 2] == 2).all()
    others = states[:, :, [1, 3, 4, 5]]
    assert ((others[:-1] != 3) & (others[1:] == 3)).any()  # which masked some again
    assert (found != 3).all()


def test_under_another_process_known_symbols_are_their_values_at_the_end():
    """After one step from noise: 64 draws of the noise at its start would all agree once in 4^64 times."""
    process = discrete.uniform(discrete.linear(), 4)
    predict = lambda x, t: discrete.from_logits(process, jnp.zeros((*x.shape, 4)), x, t)
    values = np.random.default_rng(0).integers(4, size=(4, 16))
    sampler = discrete.infilling(discrete.ancestral(), values, np.ones((4, 16), bool))
    plan = timesteps.plan(np.array([1.0, 0.0]))
    found = discrete.sample(sampler, predict, process, jnp.zeros((4, 16), jnp.int32), plan, KEYS)
    np.testing.assert_array_equal(found, values)


@pytest.mark.extended
def test_under_another_process_known_symbols_have_the_noise_of_their_time():
    process, number, seen = discrete.uniform(discrete.linear(), 4), 4_000, []

    def predict(x, t):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), x, ordered=True)
        return discrete.from_logits(process, jnp.zeros((*x.shape, 4)), x, t)

    keys = jax.random.split(jax.random.key(1), number)
    values, known = jnp.full((number, 2), 2), jnp.tile(jnp.array([True, False]), (number, 1))
    sampler = discrete.infilling(discrete.ancestral(), values, known)
    start = discrete.prior(process, jax.random.split(jax.random.key(2), number), (2,))
    found = discrete.sample(sampler, predict, process, start, timesteps.plan(np.array([1.0, 0.5, 0.0])), keys)
    jax.effects_barrier()
    assert (found[:, 0] == 2).all() and len(np.unique(found[:, 1])) == 4
    assert abs((seen[1][:, 0] == 2).mean() - (0.5 + 0.5 / 4)) < 4 * np.sqrt(0.625 * 0.375 / number)


def test_nothing_known_is_the_sampler_itself_and_what_does_not_fit_is_refused():
    predict = lambda x, t: discrete.from_logits(MASKED, jnp.zeros((*x.shape, 4)), x, t)
    start, plan, nothing = jnp.full((4, 3), 3), timesteps.plan(np.linspace(1, 0, 4)), jnp.zeros((4, 3), bool)
    values = jnp.zeros((4, 3), jnp.int32)
    found = discrete.sample(
        discrete.infilling(discrete.ancestral(), values, nothing), predict, MASKED, start, plan, KEYS
    )
    np.testing.assert_array_equal(found, discrete.sample(discrete.ancestral(), predict, MASKED, start, plan, KEYS))
    by_numbers = discrete.infilling(
        discrete.ancestral(), values.at[:, 0].set(3), jnp.tile(jnp.array([0, 1, 1]), (4, 1))
    )
    assert (discrete.sample(by_numbers, predict, MASKED, start, plan, KEYS)[:, 1:] == 0).all()
    with pytest.raises(ValueError, match=r"values has.*\(4, 3\) and known \(4, 2\).*have one shape"):
        discrete.infilling(discrete.ancestral(), values, nothing[:, :2])
    short = discrete.infilling(discrete.ancestral(), values[:, :2], nothing[:, :2])
    with pytest.raises(ValueError, match=r"has the shape \(4, 3\), but the values have \(4, 2"):
        discrete.sample(short, predict, MASKED, start, plan, KEYS)
    with pytest.raises(ValueError, match="known value is the mask symbol, 3"):
        discrete.sample(
            discrete.infilling(discrete.ancestral(), values + 3, ~nothing), predict, MASKED, start, plan, KEYS
        )
    uniform = discrete.uniform(discrete.linear(), 4)
    for process, wrong in ((MASKED, 4), (MASKED, -1), (uniform, 99)):
        outside = discrete.infilling(discrete.ancestral(), np.full((4, 3), wrong), ~nothing)
        with pytest.raises(ValueError, match=rf"infilling: values has symbols {wrong} \.\. {wrong}\. Valid: 0 \.\. 3"):
            discrete.sample(outside, predict, process, jnp.zeros((4, 3), int), plan, KEYS)


def test_known_values_may_be_traced_alone_or_with_what_is_known():
    """Symbols that are not known at compile time are not checked; the others are."""
    plan, start = timesteps.plan(np.array([1.0, 0.0])), jnp.full((2, 3), MASKED.mask)
    init = lambda values, known: discrete.infilling(discrete.ancestral(), values, known).init(start, MASKED, plan)[0]
    values, known = np.array([2, 0, 1]), np.array([True, False, True])
    expected = np.broadcast_to(np.where(known, values, MASKED.mask), (2, 3))
    np.testing.assert_array_equal(jax.jit(lambda values: init(values, known))(values), expected)
    np.testing.assert_array_equal(jax.jit(lambda known: init(values, known))(known), expected)
    np.testing.assert_array_equal(jax.jit(init)(values, known), expected)
    with pytest.raises(ValueError, match="a known value is the mask symbol"):
        init(np.array([MASKED.mask, 0, 1]), known)
