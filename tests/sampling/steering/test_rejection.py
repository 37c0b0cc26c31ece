"""Rejection on a mixture of Gaussians, which a bounded quadratic reward tilts into another one, by sums alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import steering

WEIGHTS, MEANS, STD = np.array([0.3, 0.7]), np.array([[-1.0, 0.5], [0.8, -0.2]], np.float32), 0.4
CENTRE, WIDTH, TOP = np.array([0.3, 0.6], np.float32), 0.7, 1.5


def draw(keys):
    def one(key):
        which, noise = jax.random.split(key)
        part = jax.random.categorical(which, jnp.log(WEIGHTS))
        return jnp.asarray(MEANS)[part] + STD * jax.random.normal(noise, (2,))

    return jax.vmap(one)(keys)


def log_reward(x):
    """At most TOP."""
    return TOP - jnp.sum((x - CENTRE) ** 2, -1) / (2 * WIDTH**2)


def tilted():
    """(weights, means, variance, E exp(log_reward)): products of Gaussians, component by component."""
    joint = STD**2 + WIDTH**2
    means = (WIDTH**2 * MEANS + STD**2 * CENTRE) / joint
    parts = WEIGHTS * WIDTH**2 / joint * np.exp(TOP - ((CENTRE - MEANS) ** 2).sum(1) / (2 * joint))
    return parts / parts.sum(), means, STD**2 * WIDTH**2 / joint, parts.sum()


@pytest.mark.extended
@pytest.mark.parametrize("bound", [TOP, TOP + 0.7])
def test_the_law_of_accepted_samples_is_the_tilted_mixture(bound):
    """Means, second moments and the share of one side within 4.5 standard errors; so is the rate of acceptance."""
    number = 20_000
    run = jax.jit(lambda keys: steering.rejected(draw, log_reward, keys, bound=bound))
    found = run(jax.random.split(jax.random.key(0), number))
    assert found.accepted.all() and (found.highest <= TOP).all()
    weights, means, variance, constant = tilted()
    x = np.asarray(found.x, np.float64)
    side = np.linspace(-6, 6, 60_001)
    density = np.exp(-((side[:, None] - means[:, 0]) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance) @ weights
    figures = (
        (x, weights @ means),
        (x**2, weights @ (means**2 + variance)),
        ((x[:, :1] < 0), density[side < 0].sum() * 12 / 60_000),
    )
    for values, truth in figures:
        error = values.std(0, ddof=1) / number**0.5
        np.testing.assert_array_less(np.abs(values.mean(0) - truth), 4.5 * error)
    share = constant / np.exp(bound)  # trials are geometric, with the mean 1 / share
    error = (1 - share) ** 0.5 / share / number**0.5
    assert abs(np.asarray(found.trials, np.float64).mean() - 1 / share) < 4.5 * error
    # The untilted mixture is another law by far.
    assert np.abs(weights @ means - WEIGHTS @ MEANS).max() > 0.15


@pytest.mark.extended
def test_a_sample_depends_on_its_own_key_alone():
    keys = jax.random.split(jax.random.key(1), 8)
    whole = steering.rejected(draw, log_reward, keys, bound=TOP)
    order = np.argsort(whole.trials)  # the first is accepted long before the last
    alone = steering.rejected(draw, log_reward, keys[order[:1]], bound=TOP)
    for field, part in zip(whole, alone):
        np.testing.assert_allclose(field[order[:1]], part, rtol=1e-6)
    assert len(np.unique(whole.x[:, 0])) == 8 and np.ptp(whole.trials) > 0


def test_rewards_at_the_bound_are_accepted_at_once():
    keys = jax.random.split(jax.random.key(1), 64)
    found = steering.rejected(draw, lambda x: jnp.full(len(x), 2.0), keys, bound=2.0)
    np.testing.assert_array_equal(found.trials, 1)


def test_a_trial_far_below_the_bound_is_not_accepted_where_a_float32_draw_is_zero():
    """One float32 draw in 8 million is exactly 0, whose logarithm is below every reward; e^-50 is one in 10^21."""
    keys = jax.random.key(55_054)[None]
    test = jax.random.split(jax.random.fold_in(keys[0], 0))[1]
    assert jax.random.uniform(test) == 0  # the draw by which the first trial was accepted
    with pytest.raises(ValueError, match="accepted in none of its 1 trials"):
        steering.rejected(lambda keys: jnp.ones((len(keys), 1)), lambda x: jnp.full(len(x), -50.0), keys, trials=1)


def test_a_trial_whose_reward_is_nan_is_an_error_and_no_refusal():
    """The first draws of some of the samples have such a reward, and a later one would be accepted."""
    keys = jax.random.split(jax.random.key(0), 32)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (1,)))
    with pytest.raises(ValueError, match=r"the reward of sample \d+ is nan\. Valid"):
        steering.rejected(uniform, lambda x: jnp.where(x[:, 0] > 0.5, jnp.nan, 0.0), keys)


@pytest.mark.extended
def test_what_cannot_be_rejected_is_refused():
    keys = jax.random.split(jax.random.key(0), 3)
    run = lambda log_reward, **more: steering.rejected(draw, log_reward, keys, **more)
    with pytest.raises(ValueError, match=r"the reward of sample 1 is 0\.5\. Valid: at most bound = 0"):
        run(lambda x: jnp.array([0.0, 0.5, -1.0]))
    with pytest.raises(ValueError, match=r"the reward of sample 2 is nan\. Valid"):
        run(lambda x: jnp.array([0.0, 0.0, np.nan]), trials=3)
    with pytest.raises(ValueError, match=r"sample 0 was accepted in none of its 4 trials"):
        run(lambda x: jnp.array([-np.inf, 0.0, 0.0]), trials=4)
    with pytest.raises(ValueError, match="trials = 0 must be at least 1"):
        run(log_reward, trials=0)
    with pytest.raises(ValueError, match="the rewards, one number for each sample,"):
        run(lambda x: x)
