"""Block diffusion on data that can be enumerated: its bound is the entropy, and its sampler's law that of the data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete, schedules, timesteps
from diffusion.discrete.block_by_block import semi_autoregressive_law
from tests.discrete.enumerated import PROCESSES, Enumerated

NUMBER = 16_384
DATA = Enumerated(PROCESSES["absorbing"])
EXACT = DATA.tabled()
TIMELESS = lambda x, t: EXACT(x, jnp.full(1, 0.5))  # under masks the exact prediction does not depend on t


def batch():
    rows = np.resize(np.repeat(np.arange(len(DATA.p)), np.round(DATA.p * NUMBER).astype(int)), NUMBER)
    rng = np.random.default_rng(0)
    t = (rng.permutation(NUMBER) + 0.5) / NUMBER
    x0 = jnp.asarray(DATA.states[rng.permutation(rows)], jnp.int32)
    return jax.random.split(jax.random.key(0), NUMBER), x0, jnp.asarray(t, jnp.float32)


@pytest.mark.extended
@pytest.mark.parametrize("block", [1, 2, 3])
def test_the_exact_predictor_reaches_the_entropy_with_blocks_of_any_size(block):
    losses = jax.jit(lambda *a: discrete.block_bound(TIMELESS, DATA.process, *a, block))(*batch())
    losses = np.asarray(losses, np.float64)
    error = losses.std() / np.sqrt(NUMBER)
    assert error < 0.08 and abs(losses.mean() - DATA.entropy) < 4 * error, (losses.mean(), error, DATA.entropy)


@pytest.mark.extended
def test_a_block_sees_those_before_it_alone():
    """The network sees clean symbols before the block, symbols or masks in it, and masks behind it."""
    seen = []

    def predict(x, t):
        seen.append(np.asarray(x))
        return jnp.full((*x.shape, 4), -np.log(4.0))

    keys, x0, _ = batch()
    discrete.block_bound(predict, DATA.process, keys[:500], x0[:500], jnp.full(500, 0.5), 1)
    (x,) = seen
    masked = x == 3
    first = np.where(masked.any(1), masked.argmax(1), 3)
    assert (masked == (np.arange(3) >= first[:, None])).all()  # from the first mask on all is masked
    assert (np.where(masked, 0, x) == np.where(masked, 0, x0[:500])).all()
    assert set(first.tolist()) == {0, 1, 2, 3}


def law(block, each):
    """The law of samples, `[S]`, of `each` steps for a block."""
    x = jnp.asarray(DATA.states, jnp.int32)
    current = DATA.prior()
    number = -(-3 // block)
    for now in range(number):
        for j in range(each):
            t, s = (jnp.full(len(x), 1 - (j + more) / each, jnp.float32) for more in (0, 1))
            step = semi_autoregressive_law(TIMELESS, DATA.process, x, t, s, block, now)
            current = current @ DATA.kernel(np.asarray(step, np.float64))
    return current


@pytest.mark.extended
def test_blocks_of_one_position_have_the_law_of_the_data_and_larger_ones_come_near_with_steps():
    np.testing.assert_allclose(law(1, 1), DATA.p, atol=1e-6)
    far, near, nearer = (np.abs(law(2, each) - DATA.p).sum() for each in (1, 8, 16))
    assert far > 0.05 and near < far / 4
    assert 1.6 < near / nearer < 2.4  # first order


@pytest.mark.extended
def test_the_sampler_takes_the_steps_of_its_law():
    number = 8000
    keys = jax.random.split(jax.random.key(1), number)
    masks = jnp.full((number, 3), 3)
    plan = timesteps.plan(np.linspace(1, 0, 4))
    sampled = lambda keys: discrete.sample(discrete.semi_autoregressive(1), TIMELESS, DATA.process, masks, plan, keys)
    x = jax.jit(sampled)(keys)
    shares = np.bincount(np.asarray(DATA.index(x)), minlength=len(DATA.p)) / number
    assert np.abs(shares - DATA.p).max() < 4 * np.sqrt(0.25 / number)


def test_what_does_not_fit_is_refused():
    keys, x0, t = (part[:2] for part in batch())
    plan = timesteps.plan(np.linspace(1, 0, 6))
    with pytest.raises(ValueError, match=r"semi_autoregressive: 5 steps cannot.*a multiple of 2"):
        discrete.sample(discrete.semi_autoregressive(2), TIMELESS, DATA.process, x0, plan, keys)
    with pytest.raises(ValueError, match=r"block = 4 of a sequence of 3 positions\. Valid: 1 \.\. 3"):
        discrete.block_bound(TIMELESS, DATA.process, keys, x0, t, 4)
    with pytest.raises(ValueError, match="block diffusion masks blocks, but this process has no mask"):
        discrete.block_bound(TIMELESS, PROCESSES["uniform"], keys, x0, t, 1)
    with pytest.raises(ValueError, match=r"semi_autoregressive: block = 0\. Valid: at least 1"):
        discrete.semi_autoregressive(0)
    density = timesteps.uniform_density(schedules.rectified_flow())
    with pytest.raises(ValueError, match="block_diffusion: the process has no mask"):
        discrete.block_diffusion(PROCESSES["uniform"], density)


def test_the_objective_of_a_masked_block_is_the_cross_entropy_of_a_symbol():
    """At t = 1 the block is all masks: log 2 nats for a symbol with the chance 1/2, and log 4 for one with 1/4."""
    end = lambda state, keys, index: (jnp.ones(len(keys)), jnp.ones(len(keys)))
    line = schedules.rectified_flow()
    objective = discrete.block_diffusion(DATA.process, timesteps.uniform_density(line)._replace(sample=end), block=1)
    network = lambda x, t, condition: jnp.log(jnp.broadcast_to(jnp.array([0.5, 0.25, 0.25, 1.0]), (*x.shape, 4)))
    x0, keys = jnp.array([[0, 0, 0], [1, 1, 1]]), jax.random.split(jax.random.key(0), 2)
    losses, _ = objective({"model": network}, line, keys, {"x": x0}, 0)
    np.testing.assert_allclose(losses, np.log([2, 4]), rtol=1e-5)


@pytest.mark.extended
def test_the_objective_is_the_bound_of_a_symbol():
    line = schedules.rectified_flow()
    objective = discrete.block_diffusion(DATA.process, timesteps.uniform_density(line, NUMBER), block=2)
    keys, x0, _ = batch()
    network = lambda x, t, condition: TIMELESS(x, t)
    losses = jax.jit(lambda keys: objective({"model": network}, line, keys, {"x": x0}, 0)[0])(keys)
    losses = np.asarray(losses, np.float64)
    error = losses.std() / np.sqrt(NUMBER)
    assert abs(losses.mean() - DATA.entropy / 3) < 4 * error and error < 0.03


def test_a_step_of_a_block_is_at_its_own_time_and_changes_that_block_alone():
    """Four steps of two blocks are at 1, 1/2, 1, 1/2; after its second one no position of a block is masked."""
    times = []

    def predict(x, t):
        times.append(np.asarray(t))
        return jnp.where(jnp.arange(4) == 1, 0.0, -jnp.inf) * jnp.ones((*x.shape, 1))

    sampler, plan = discrete.semi_autoregressive(2), timesteps.plan(np.linspace(1, 0, 5))
    keys = jax.random.split(jax.random.key(0), 64)
    state = sampler.init(jnp.full((64, 3), 3), DATA.process, plan)
    shown = []
    for i in range(4):
        state = sampler.step(state, predict, DATA.process, plan, i, keys)
        shown.append(np.mean(np.asarray(state[0]) == 1, 0))
    np.testing.assert_allclose(np.stack(times)[:, 0], [1, 0.5, 1, 0.5])
    half = 1 - float(DATA.process.keeping.replaced(0.5))
    for row, expected in zip(shown, ([half, half, 0], [1, 1, 0], [1, 1, half], [1, 1, 1])):
        np.testing.assert_allclose(row, expected, atol=4 * np.sqrt(0.25 / 64))
        assert [value in (0, 1) for value in row] == [value in (0, 1) for value in expected]
    assert sampler.nfe(4) == 4 and sampler.masked


def test_blocks_are_sampled_one_after_the_other_with_the_memory_of_the_earlier_ones():
    """By a loop over the blocks, whose keys have the number of the block; the memory counts the symbols."""
    table = jnp.asarray(np.random.default_rng(0).normal(size=(9, 4)), jnp.float32).at[:, 3].set(-jnp.inf)
    predict = lambda memory: lambda x, t: jax.nn.log_softmax(jnp.broadcast_to(table[memory][:, None], (*x.shape, 4)))
    remember = lambda x, memory: memory + x.sum(1)
    keys, masks = jax.random.split(jax.random.key(2), 5), jnp.full((5, 2), 3)
    sampler, plan = discrete.ancestral(), timesteps.plan(np.array([1.0, 0.5, 0.0]))
    memory, blocks = jnp.arange(5) % 2, []
    for i in range(2):
        own = jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys)
        blocks.append(discrete.sample(sampler, predict(memory), DATA.process, masks, plan, own))
        memory = remember(blocks[-1], memory)
    arguments = (sampler, predict, remember, DATA.process, jnp.full((5, 4), 3), plan, keys, jnp.arange(5) % 2)
    np.testing.assert_array_equal(discrete.sample_blocks(*arguments, block=2), jnp.concatenate(blocks, 1))
    for block in (0, 3):
        with pytest.raises(ValueError, match=rf"block = {block} does not divide 4 positions"):
            discrete.sample_blocks(*arguments, block=block)
