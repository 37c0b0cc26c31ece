"""Several seeds in one program: `jax.vmap` over the train step, with no function of its own needed.

The whole program:

    states = jax.vmap(lambda key: state.create(init(key), optimizer, ema))(keys)
    step   = jax.jit(jax.vmap(make_train_step(...), in_axes=(0, None, 0)), donate_argnums=0)
    states, metrics = step(states, batch, keys)
"""

import functools

import jax
import numpy as np
import pytest

from diffusion.training.step import make_train_step
from tests.training import toys

SEEDS = 2


@functools.cache
def together(accumulate):
    step = make_train_step(toys.objective, toys.apply, None, toys.optimizer(), toys.ema(), accumulate=accumulate)
    return jax.jit(jax.vmap(step, in_axes=(0, None, 0)))


@pytest.mark.extended
@pytest.mark.parametrize("accumulate", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_seeds_together_are_the_separate_runs(accumulate):
    keys = jax.vmap(jax.random.key)(np.arange(SEEDS))
    states = jax.vmap(toys.make_state)(np.arange(SEEDS))
    for k in range(4):
        states, metrics = together(accumulate)(states, toys.batch(k), keys)
    assert metrics["loss"].shape == (SEEDS,)
    assert len(np.unique(metrics["loss"])) == SEEDS
    for seed in range(SEEDS):
        alone = toys.make_state(seed)
        for k in range(4):
            alone, expected = toys.make_step(accumulate=accumulate)(alone, toys.batch(k), keys[seed])
        jax.tree.map(lambda a, b, i=seed: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-6), states, alone)
        np.testing.assert_allclose(metrics["loss"][seed], expected["loss"], rtol=1e-5)


@pytest.mark.extended
def test_a_failing_seed_freezes_alone():
    keys = jax.vmap(jax.random.key)(np.arange(SEEDS))
    states = jax.vmap(toys.make_state)(np.arange(SEEDS))
    sick = states._replace(params=jax.tree.map(lambda p: p.at[0].set(np.nan), states.params))
    for k in range(2):
        states, _ = together(1)(states, toys.batch(k), keys)
        sick, _ = together(1)(sick, toys.batch(k), keys)
    assert list(np.asarray(sick.failed_at)) == [0, -1]
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1:], b[1:]), states.params, sick.params)
