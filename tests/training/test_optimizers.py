import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion.training.optimizers import OPTIMIZERS, adamw


def test_first_two_updates_by_hand():
    """Loshchilov & Hutter, algorithm 2, in NumPy; the gradient's norm 5 is clipped to 1."""
    optimizer = adamw(learning_rate=0.1, weight_decay=0.01, b1=0.9, b2=0.99, clip=1.0)
    params = {"w": jnp.asarray([1.0, -2.0])}
    state = optimizer.init(params)
    w, m, v = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for k in (1, 2):
        updates, state = optimizer.update({"w": jnp.asarray([3.0, 4.0])}, state, params)
        params = optax.apply_updates(params, updates)
        g = np.array([3.0, 4.0]) / 5.0
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
        w = w - 0.1 * (m / (1 - 0.9**k) / (np.sqrt(v / (1 - 0.99**k)) + 1e-8) + 0.01 * w)
        np.testing.assert_allclose(params["w"], w, rtol=1e-5)


def test_small_gradients_are_not_clipped():
    for clip in (None, 1.0):
        optimizer = adamw(clip=clip, learning_rate=1.0, b1=0.0, b2=0.0)
        params = jnp.asarray([0.3])
        updates, _ = optimizer.update(jnp.asarray([1e-3]), optimizer.init(params), params)
        np.testing.assert_allclose(updates, [-1.0], rtol=1e-4)


def test_learning_rate_warms_up_then_decays():
    rate = adamw(learning_rate=2.0, warmup=4, decay="cosine", steps=14).learning_rate
    np.testing.assert_allclose([rate(k) for k in range(4)], [0.5, 1.0, 1.5, 2.0], rtol=1e-6)
    expected = [np.cos(np.pi * (k - 4) / 10) + 1 for k in range(4, 15)]
    np.testing.assert_allclose([rate(k) for k in range(4, 15)], expected, atol=1e-6)


def test_run_that_ends_within_its_warmup():
    rate = adamw(learning_rate=1.0, warmup=10, decay="cosine", steps=5).learning_rate
    np.testing.assert_allclose([rate(k) for k in range(5)], [0.1, 0.2, 0.3, 0.4, 0.5], rtol=1e-6)


def test_constant_rate_stays():
    rate = adamw(learning_rate=3.0, warmup=1).learning_rate
    np.testing.assert_allclose([rate(k) for k in (0, 1, 1000)], 3.0)


def test_the_rate_told_is_the_rate_used():
    """With b1 = b2 = 0 an update is -rate * sign of the gradient."""
    optimizer = adamw(learning_rate=0.5, warmup=3, decay="cosine", steps=9, b1=0.0, b2=0.0)
    params = jnp.asarray([0.0])
    state = optimizer.init(params)
    for k in range(9):
        updates, state = optimizer.update(jnp.asarray([2.0]), state, params)
        np.testing.assert_allclose(-updates[0], optimizer.learning_rate(k), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_rate": 0.0}, "learning_rate = 0.0"),
        ({"warmup": -1}, "warmup = -1"),
        ({"decay": "linear"}, '"constant" and "cosine"'),
        ({"decay": "cosine"}, "not None"),
        ({"decay": "cosine", "steps": 0}, "not 0"),
        ({"b1": 1.0}, "b1 = 1.0"),
        ({"b2": -0.5}, "b2 = -0.5"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0"),
        ({"clip": 0.0}, "clip = 0.0"),
    ],
)
def test_values_out_of_range(changes, words):
    with pytest.raises(ValueError, match=words):
        adamw(**changes)


def test_state_is_float32():
    state = OPTIMIZERS["adamw"]().init({"w": jnp.ones(3)})
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32"), jnp.dtype("int32")}
