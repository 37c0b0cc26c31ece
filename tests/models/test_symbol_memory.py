"""A block-causal network of symbols sees no later block, and samples by what it keeps as by all positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete, timesteps
from diffusion.models import SymbolTransformer, symbol_memory
from diffusion.models.layers import key_value_memory

SIZE, BLOCK, LENGTH, STEPS = 7, 2, 6, 3
NETWORK = SymbolTransformer(SIZE, 16, 2, 2, clock="none", num_classes=3, causal=BLOCK)
PROCESS = discrete.absorbing(discrete.linear(), SIZE)
LABELS = np.array([0, 2])
X = np.array([[5, 0, 3, 1, 2, 4], [2, 5, 5, 0, 4, 1]], np.int32)
PLAN = timesteps.plan(np.linspace(1, 0, STEPS + 1))
KEYS = jax.random.split(jax.random.key(0), 2)


@pytest.fixture(scope="module")
def variables():
    """Numbers that are nowhere zero, so that the symbols differ much."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(NETWORK.init, jax.random.key(0), X, None, LABELS)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.4, jnp.float32), shapes)


def test_a_block_sees_itself_and_earlier_ones(variables):
    apply = jax.jit(NETWORK.apply)
    before = apply(variables, X, None, LABELS)
    for position in (1, 3, 4):
        x = X.copy()
        x[:, position] = (x[:, position] + 1) % SIZE
        seen = np.abs(apply(variables, x, None, LABELS) - before).max(axis=(0, 2)) > 1e-5
        np.testing.assert_array_equal(seen, np.arange(LENGTH) >= position // BLOCK * BLOCK)


def by_memory(variables, sampler, masks, plan=PLAN):
    network = lambda memory: key_value_memory.reading(NETWORK, variables, memory)
    predict = lambda memory: discrete.predictor(network(memory), PROCESS, discrete.from_logits, LABELS)
    remember = lambda x, memory: symbol_memory.remembered(NETWORK, variables, x, LABELS, memory)
    memory = symbol_memory.empty(NETWORK, *masks.shape)
    return discrete.sample_blocks(sampler, predict, remember, PROCESS, masks, plan, KEYS, memory, BLOCK)


def by_all(variables, sampler, masks):
    """The same loop with the text so far as its memory: every evaluation is of all positions."""
    whole = discrete.predictor(lambda *a: NETWORK.apply(variables, *a), PROCESS, discrete.from_logits, LABELS)

    def predict(memory):
        text, first = memory
        cut = lambda values: jax.lax.dynamic_slice_in_dim(values, first, BLOCK, 1)
        write = lambda x: jax.lax.dynamic_update_slice_in_dim(text, x, first, 1)
        return lambda x, t: cut(whole(write(x), t))

    def remember(x, memory):
        text, first = memory
        return jax.lax.dynamic_update_slice_in_dim(text, x, first, 1), first + BLOCK

    memory = (masks, jnp.int32(0))
    return discrete.sample_blocks(sampler, predict, remember, PROCESS, masks, PLAN, KEYS, memory, BLOCK)


@pytest.mark.extended
def test_samples_by_what_is_kept_are_those_by_all_positions(variables):
    """The same symbols from the same keys; a block costs less than half of the text of three."""
    masks = jnp.full(X.shape, PROCESS.mask, jnp.int32).at[0, 3].set(5)
    expected = jax.jit(by_all, static_argnums=1)(variables, discrete.ancestral(), masks)
    np.testing.assert_array_equal(
        jax.jit(by_memory, static_argnums=1)(variables, discrete.ancestral(), masks), expected
    )
    assert expected[0, 3] == 5 and (np.asarray(expected) != PROCESS.mask).all()

    memory = symbol_memory.empty(NETWORK, *X.shape)
    flops = lambda f, *inputs: jax.jit(f).lower(*inputs).compile().cost_analysis()["flops"]
    part = flops(lambda v, x: key_value_memory.reading(NETWORK, v, memory)(x, None, LABELS), variables, X[:, :BLOCK])
    whole = flops(lambda v, x: NETWORK.apply(v, x, None, LABELS), variables, X)
    assert part < 0.5 * whole, (part, whole)


@pytest.mark.extended
@pytest.mark.parametrize("positions", ["rope", "sincos"])
def test_what_is_kept_has_the_logits_of_all_positions_and_a_full_memory_has_none(variables, positions):
    network = NETWORK.clone(positions=positions)
    read = jax.jit(lambda x, memory: key_value_memory.reading(network, variables, memory)(x, None, LABELS))
    remember = jax.jit(lambda x, memory: symbol_memory.remembered(network, variables, x, LABELS, memory))
    memory, rows = symbol_memory.empty(NETWORK, *X.shape), []
    for first in range(0, LENGTH, BLOCK):
        x = X[:, first : first + BLOCK]
        rows.append(read(x, memory))
        memory = remember(x, memory)
    expected = jax.jit(network.apply)(variables, X, None, LABELS)
    np.testing.assert_allclose(np.concatenate(rows, 1), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(expected).max() > 1 and int(memory.length) == LENGTH
    assert np.isnan(read(X[:, :BLOCK], memory)).all()


def test_what_does_not_fit_is_refused(variables):
    memory = symbol_memory.empty(NETWORK, 2, BLOCK)
    for number in (1, 4):
        with pytest.raises(ValueError, match=f"{number} frames or positions for a memory of 2 in chunks of causal=2"):
            jax.eval_shape(lambda x: symbol_memory.remembered(NETWORK, variables, x, LABELS, memory), X[:, :number])
    plain = NETWORK.clone(causal=0)
    with pytest.raises(ValueError, match=r"causal=0: a memory needs a network in which nothing sees what comes later"):
        symbol_memory.empty(plain, *X.shape)
    with pytest.raises(ValueError, match="a memory of earlier blocks needs a network with causal"):
        jax.eval_shape(lambda: plain.apply(variables, X, None, LABELS, memory=symbol_memory.empty(NETWORK, *X.shape)))
    with pytest.raises(ValueError, match="causal=2: the blocks before have no time"):
        NETWORK.clone(clock="time")
    with pytest.raises(ValueError, match="sample_blocks: block = 4 does not divide 6 positions"):
        discrete.sample_blocks(discrete.ancestral(), None, None, PROCESS, jnp.asarray(X), PLAN, KEYS, None, 4)
