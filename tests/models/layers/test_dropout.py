"""Dropout by one key an example: its mean, its share, and what its draws depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.layers.dropout import dropped, keys_of

KEYS = jax.random.split(jax.random.key(0), 6)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_a_share_is_zero_and_the_mean_stays(rate):
    """Of 60,000 features, within five standard errors of the binomial distribution."""
    h = jnp.full((6, 100, 100), 3.0)
    y = np.asarray(dropped(h, KEYS, rate))
    np.testing.assert_allclose(np.unique(y), [0, 3 / (1 - rate)], rtol=1e-6)
    assert abs((y == 0).mean() - rate) < 5 * (rate * (1 - rate) / y.size) ** 0.5


@pytest.mark.extended
def test_an_example_depends_on_its_own_key_alone():
    h = jax.random.normal(jax.random.key(1), (6, 5, 4), jnp.bfloat16)
    y = dropped(h, KEYS, 0.5)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(dropped(h[2:4], KEYS[2:4], 0.5), y[2:4])
    assert ((y[0] == 0) != (y[1] == 0)).any()


def test_blocks_draw_differently_and_nothing_is_drawn_without_keys_or_rate():
    h = jnp.ones((6, 50))
    first, second = (dropped(h, keys_of(KEYS, i), 0.5) for i in (0, 1))
    assert (first != second).any()
    assert keys_of(None, 1) is None
    assert dropped(h, None, 0.5) is h and dropped(h, KEYS, 0.0) is h


def test_what_is_kept_alone_has_a_gradient():
    h = jnp.ones((6, 50))
    slope = jax.grad(lambda h: dropped(h, KEYS, 0.5).sum())(h)
    np.testing.assert_array_equal(slope, dropped(h, KEYS, 0.5))
