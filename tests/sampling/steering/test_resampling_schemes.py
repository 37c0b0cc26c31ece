"""Resampling: expectations of the offspring, their spread, the dead, and effective sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import steering
from diffusion.sampling.steering import particles

WEIGHTS = np.array([0.4, 0.0, 1.7, 0.9, 0.05, 2.1, 0.6], np.float32)
PLAIN = {"multinomial": steering.multinomial, "stratified": steering.stratified, "systematic": steering.systematic}
ALL = PLAIN | {
    "where uneven": steering.where_uneven(steering.multinomial, 0.9),
    "where uneven, even": steering.where_uneven(steering.multinomial, 0.1),
    "partial": steering.partial(steering.systematic, 0.6),
}
DRAWS = 20_000


def _offspring(resample, weights=WEIGHTS):
    """The ancestors and the weights of the offspring of many draws, `[DRAWS, K]` each."""
    keys = jax.random.split(jax.random.key(0), DRAWS)
    ancestors, logs = jax.jit(jax.vmap(resample, (0, None)))(keys, jnp.log(jnp.asarray(weights)))
    return np.asarray(ancestors), np.exp(np.asarray(logs, np.float64))


def test_a_group_is_resampled_by_a_key_that_no_step_draws_its_noise_by():
    """The key of the draw is returned as the offspring's weight, and those of the step as its sample."""
    number = lambda key: jax.random.bits(key, (), "uint16").astype(jnp.float32)
    move = lambda carry, i, keys: ((jax.vmap(number)(keys),), jnp.zeros(4))
    resample = lambda key, log_weights: (jnp.arange(2), jnp.full(2, number(key)))
    begin = ((jnp.zeros(4),), jnp.zeros(4))
    (drawn,), chosen, _ = particles.advance(begin, move, jax.random.split(jax.random.key(0), 4), 1, 1, 2, resample)
    assert len({*np.asarray(drawn).tolist(), *np.asarray(chosen)[:, 0].tolist()}) == 6


@pytest.mark.extended
@pytest.mark.parametrize("name", ALL)
def test_the_weights_of_the_offspring_are_in_the_mean_those_of_the_particles(name):
    ancestors, weights = _offspring(ALL[name])
    held = np.stack([(weights * (ancestors == k)).sum(1) for k in range(len(WEIGHTS))], axis=1)
    error = held.std(0, ddof=1) / DRAWS**0.5
    np.testing.assert_array_less(np.abs(held.mean(0) - WEIGHTS), 4.5 * error + 1e-6)
    assert not (weights * (ancestors == 1)).any()  # the particle without a weight


def test_the_spread_of_the_numbers_of_offspring_is_each_scheme_s_own():
    """Multinomial: K p (1 - p). Systematic: floor or ceiling of K p, f (1 - f). Stratified: one draw a stratum."""
    p = WEIGHTS / WEIGHTS.sum()
    expected = len(p) * p
    fraction = expected % 1
    counts = {}
    for name, resample in PLAIN.items():
        ancestors, _ = _offspring(resample)
        counts[name] = np.stack([(ancestors == k).sum(1) for k in range(len(p))], axis=1)
    np.testing.assert_allclose(counts["multinomial"].var(0), expected * (1 - p), rtol=0.05)
    np.testing.assert_allclose(counts["systematic"].var(0), fraction * (1 - fraction), rtol=0.05, atol=1e-6)
    assert set((counts["systematic"] - np.floor(expected)).ravel()) <= {0, 1}
    edges = len(p) * np.concatenate([[0], np.cumsum(p)])
    shares = np.clip(edges[1:, None] - np.arange(len(p)), 0, 1) - np.clip(edges[:-1, None] - np.arange(len(p)), 0, 1)
    np.testing.assert_allclose(counts["stratified"].var(0), (shares * (1 - shares)).sum(1), rtol=0.05, atol=1e-6)


def test_a_part_is_resampled_and_the_rest_stays():
    ancestors, weights = _offspring(steering.partial(steering.multinomial, 0.4))  # three of seven
    stays = (ancestors == np.arange(7)) & np.isclose(weights, WEIGHTS, rtol=1e-6)
    assert stays.sum(1).min() >= 4


def test_a_part_of_one_particle_changes_nothing():
    """The smallest part, of a share below one of K."""
    log_weights = jnp.array([0.3, -1.0, 2.0, 0.0])
    ancestors, offspring = steering.partial(steering.systematic, 0.01)(jax.random.key(0), log_weights)
    np.testing.assert_array_equal(ancestors, np.arange(4))
    np.testing.assert_allclose(offspring, log_weights, rtol=1e-6, atol=1e-6)


def test_even_weights_are_left_alone():
    even, uneven = jnp.zeros(8), jnp.array([0.0] + [-9.0] * 7)
    resample = steering.where_uneven(steering.multinomial)
    ancestors, logs = resample(jax.random.key(0), even)
    np.testing.assert_array_equal(ancestors, np.arange(8))
    np.testing.assert_array_equal(logs, 0)
    assert (resample(jax.random.key(0), uneven)[0] == 0).sum() > 6


def test_effective_sizes():
    logs = jnp.array([[0.0, 0.0, 0.0, 0.0], [500.0, -jnp.inf, -jnp.inf, 0.0], [-900.0, -900.0, -jnp.inf, -jnp.inf]])
    np.testing.assert_allclose(steering.effective_size(logs), [4, 1, 2], rtol=1e-6)
    assert steering.effective_size(jnp.full(4, -jnp.inf)) == 0
    np.testing.assert_allclose(steering.effective_size(jnp.log(jnp.array([1.0, 2.0]))), 9 / 5, rtol=1e-6)


@pytest.mark.parametrize("name", PLAIN)
def test_where_all_die_none_is_alive(name):
    """The normalising constant is 0 then, and no number is made up."""
    ancestors, logs = PLAIN[name](jax.random.key(0), jnp.full(5, -jnp.inf))
    np.testing.assert_array_equal(ancestors, np.arange(5))
    assert np.isneginf(logs).all() and np.isneginf(steering.log_normaliser(logs))


def test_the_last_quantile_is_that_of_the_last_that_lives(monkeypatch):
    """(3 + u) / 4 rounds to 1 for the largest u, where all of the weights lie before the last particle."""
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype: jnp.full(shape, 1 - 2.0**-24, dtype))
    ancestors, _ = steering.systematic(jax.random.key(0), jnp.log(jnp.array([1.0, 1.0, 1.0, 0.0])))
    np.testing.assert_array_equal(ancestors[-1], 2)


def test_the_first_quantile_is_that_of_the_first_that_lives(monkeypatch):
    """At u = 0, a particle without a weight before all others has no offspring."""
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype: jnp.zeros(shape, dtype))
    log_weights = jnp.log(jnp.array([0.0, 1.0, 1.0]))
    for resample in PLAIN.values():
        ancestors, _ = resample(jax.random.key(0), log_weights)
        assert ancestors[0] == 1


def test_the_normaliser_is_the_mean_of_weights_of_any_size():
    logs = jnp.array([[800.0, 800.0 + np.log(3)], [-jnp.inf, 0.0]])
    np.testing.assert_allclose(steering.log_normaliser(logs), [800 + np.log(2), -np.log(2)], rtol=1e-6)


@pytest.mark.parametrize("share", [0, -0.5, 1.01, np.nan])
def test_shares_out_of_range_are_refused(share):
    with pytest.raises(ValueError, match=r"where_uneven: below = .* in \(0, 1\]"):
        steering.where_uneven(steering.systematic, share)
    with pytest.raises(ValueError, match=r"partial: share = .* in \(0, 1\]"):
        steering.partial(steering.systematic, share)
    assert steering.where_uneven(steering.systematic, 1) and steering.partial(steering.systematic, 1)
