"""A replay buffer: the newest samples first, new ones at every K-th step, and draws of what is there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.objectives.replay_buffer import draw, replay_buffer

NUMBER = jax.ShapeDtypeStruct((), jnp.float32)


def test_it_holds_the_newest_examples_and_takes_new_ones_at_every_third_step():
    buffer = replay_buffer({"x": NUMBER}, 5, 3)
    state, counts = buffer.init(), []
    for step in range(7):
        batch = {"x": jnp.array([10.0 * step, 10.0 * step + 1])}
        state = jax.jit(buffer.update)(state, batch, step)
        counts.append(int(state["number"]))
    assert counts == [2, 2, 2, 4, 4, 4, 5]
    assert state["examples"]["x"].tolist() == [60, 61, 30, 31, 0]


def test_draws_are_uniform_over_what_is_there_and_depend_on_their_own_key():
    state = {"examples": {"x": jnp.arange(8.0)}, "number": jnp.int32(3)}
    keys = jax.random.split(jax.random.key(0), 3000)
    x = np.asarray(draw(state, keys)["x"])
    counts = np.bincount(x.astype(int), minlength=8)
    assert counts[3:].sum() == 0 and np.abs(counts[:3] - 1000).max() < 4.5 * (3000 * 2 / 9) ** 0.5
    np.testing.assert_array_equal(draw(state, keys[7:9])["x"], x[7:9])


@pytest.mark.parametrize("size, every", [(0, 2), (3, 0)])
def test_what_is_out_of_range_is_refused(size, every):
    with pytest.raises(ValueError, match=f"size = {size} and every = {every} must be at least 1"):
        replay_buffer({"x": NUMBER}, size, every)
