"""Searches over the first noise, through flows that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion import steering

SIZE = 4096
NOISE = jax.random.normal(jax.random.key(0), (SIZE, 2))
KEYS = jax.random.split(jax.random.key(1), SIZE)
FIRST = lambda x: x[:, 0]
MAXIMUM_OF_9 = 1.4850131  # E max of nine standard normal numbers (Harter 1961, "Expected Values of Normal Order
# Statistics", table 1)


def _search(**more):
    return jax.jit(lambda noise, keys: steering.searched_noise(lambda z: z, FIRST, noise, keys, **more))(NOISE, KEYS)


def test_at_distance_1_it_is_best_of_all():
    best, reward = _search(rounds=4, trials=2, distance=1.0)
    np.testing.assert_array_equal(reward, best[:, 0])
    np.testing.assert_allclose(reward.mean(), MAXIMUM_OF_9, atol=4.5 * 0.6 / SIZE**0.5)
    np.testing.assert_allclose(best[:, 1].var(), 1, atol=4.5 * (2 / SIZE) ** 0.5)  # what has no reward is as before


@pytest.mark.extended
def test_neighbours_are_near_the_pivot_which_moves_where_a_round_ends():
    """One trial a round is a walk: what the second step adds to the pivot is standard normal, scaled by d."""
    d = 0.3
    best, reward = _search(rounds=1, trials=3, distance=d)
    changed = np.asarray(reward > NOISE[:, 0])
    step = (np.asarray(best) - (1 - d**2) ** 0.5 * np.asarray(NOISE)) / d
    np.testing.assert_array_equal(best[~changed], NOISE[~changed])
    np.testing.assert_allclose(step[changed, 1].var(), 1, atol=0.1)
    assert np.abs(np.asarray(best - NOISE)).max() < 2  # three trials began at the same pivot
    further, _ = _search(rounds=3, trials=1, distance=d)
    assert np.linalg.norm(further - NOISE, axis=1).mean() > np.linalg.norm(best - NOISE, axis=1).mean()


@pytest.mark.extended
def test_the_search_of_a_sample_depends_on_its_own_key():
    one = steering.searched_noise(lambda z: z, FIRST, NOISE[7:8], KEYS[7:8], rounds=2, trials=2, distance=0.5)
    best, reward = _search(rounds=2, trials=2, distance=0.5)
    np.testing.assert_allclose(one[0], best[7:8], rtol=1e-6)
    np.testing.assert_allclose(one[1], reward[7:8], rtol=1e-6)


def test_gradient_ascent_through_a_linear_flow():
    """For the reward -|A z - y|^2 / 2 a step is z - h A^T (A z - y)."""
    A, y, h = np.array([[1.0, 0.5], [0.0, 0.8]], np.float32), np.array([0.3, -1.0], np.float32), 0.2
    flow, reward = lambda z: z @ A.T, lambda x: -jnp.sum((x - y) ** 2, -1) / 2
    best, value = steering.optimised_noise(flow, reward, NOISE[:5], optax.sgd(h), steps=3)
    z = np.asarray(NOISE[:5])
    for _ in range(3):
        z = z - h * (z @ A.T - y) @ A
    np.testing.assert_allclose(best, z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(value, reward(flow(z)), rtol=1e-4, atol=1e-6)


def test_the_best_noise_is_kept_where_the_ascent_overshoots():
    best, value = steering.optimised_noise(
        lambda z: z, lambda x: -jnp.sum(x**2, -1) / 2, NOISE[:5], optax.sgd(3.0), steps=4
    )
    np.testing.assert_allclose(best, NOISE[:5])
    np.testing.assert_allclose(value, -np.sum(np.asarray(NOISE[:5]) ** 2, -1) / 2, rtol=1e-6)


def test_the_prior_keeps_the_norm():
    """Without a reward, the norm goes to its mode sqrt(D - 1)."""
    noise = jax.random.normal(jax.random.key(2), (3, 4, 4))
    best, _ = steering.optimised_noise(
        lambda z: z, lambda x: jnp.zeros(x.shape[0]), noise, optax.sgd(0.2), steps=60, prior=1.0
    )
    np.testing.assert_allclose(np.linalg.norm(best.reshape(3, -1), axis=1), 15**0.5, rtol=1e-3)


def test_noise_of_half_precision_is_searched_in_float32():
    noise = jax.ShapeDtypeStruct((2, 3), jnp.bfloat16)
    search = lambda noise: (
        steering.searched_noise(lambda z: z, FIRST, noise, KEYS[:2], rounds=1, trials=1, distance=0.5),
        steering.optimised_noise(lambda z: z, FIRST, noise, optax.sgd(0.1), steps=1, prior=1.0),
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(search, noise))} == {np.dtype(np.float32)}


def test_numbers_out_of_range_are_refused():
    search = lambda **more: steering.searched_noise(
        lambda z: z, FIRST, NOISE[:2], KEYS[:2], **({"rounds": 1, "trials": 1, "distance": 1.0} | more)
    )
    for more in ({"rounds": 0}, {"trials": 0}, {"distance": 0.0}, {"distance": 1.1}):
        with pytest.raises(ValueError, match="searched_noise: rounds"):
            search(**more)
    with pytest.raises(ValueError, match="the search needs one key for each sample"):
        steering.searched_noise(lambda z: z, FIRST, NOISE[:2], KEYS[:3], rounds=1, trials=1, distance=1.0)
    for more in ({"steps": 0}, {"steps": 1, "prior": -1.0}):
        with pytest.raises(ValueError, match="optimised_noise: steps"):
            steering.optimised_noise(lambda z: z, FIRST, NOISE[:2], optax.sgd(0.1), **more)


def test_a_noise_whose_reward_is_nan_is_left_out():
    """As one whose reward is -inf."""

    def searched(bad):
        reward = lambda x: jnp.where(x[:, 0] > 1, bad, x[:, 0])
        return steering.searched_noise(lambda z: z, reward, NOISE[:64], KEYS[:64], rounds=9, trials=1, distance=1)

    found, highest = searched(jnp.nan)
    np.testing.assert_array_equal(highest, found[:, 0])
    assert highest.max() <= 1
    np.testing.assert_array_equal(highest, searched(-jnp.inf)[1])
