"""Groups of particles with padding: it stays zero, and neither the denoiser, the reward nor the weights see it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import guidance, samplers, schedules, steering, timesteps
from diffusion.parameterizations import Prediction

SCHEDULE = schedules.cosine()
REAL = jnp.array([[True, True, False], [True, False, False]])[jnp.array([0, 0, 1, 1])]
PLAN = timesteps.plan(np.array([0.9, 0.5, 0.1]))
KEYS = jax.random.split(jax.random.key(0), 4)


def leaking(x, t):
    """A denoiser whose estimate of each number depends on all of them, and which predicts 5 on padding."""
    x0 = jnp.where(REAL, x.sum(-1, keepdims=True) / 3, 5.0)
    return Prediction(x0, (x - SCHEDULE.alpha(t) * x0) / SCHEDULE.sigma(t))


REWARD = lambda x: (x**2).sum(-1)
WAYS = {
    "twisted": lambda sampler, *a: steering.twisted(
        sampler, leaking, *a, steering.tilt(REWARD), proposal=lambda x, t: leaking(x + 0.1, t), number=2
    ),
    "das": lambda sampler, *a: steering.das(sampler, leaking, *a, REWARD, number=2),
    "corrected": lambda sampler, *a: steering.corrected(sampler, guidance.separately(leaking), (1.5,), *a, number=2),
    "mixed": lambda sampler, *a: steering.mixed(
        sampler, guidance.separately(leaking, lambda x, t: leaking(x + 0.1, t)), (0.5, 0.5), *a, number=2
    ),
}


@pytest.mark.parametrize("way", ["twisted", *(pytest.param(way, marks=pytest.mark.extended) for way in list(WAYS)[1:])])
def test_padding_is_zero_and_changes_nothing(way):
    run = jax.jit(lambda x: WAYS[way](samplers.padded(samplers.ddpm(), REAL), SCHEDULE, x, PLAN, KEYS))
    x = jax.random.normal(jax.random.key(1), (4, 3))
    particles, other = run(x), run(jnp.where(REAL, x, 9.0))
    assert not np.asarray(particles.x)[~np.asarray(REAL)].any() and np.asarray(particles.x)[:, 0].all()
    np.testing.assert_array_equal(particles.x, other.x)
    np.testing.assert_array_equal(particles.log_weights, other.log_weights)


def test_rewards_and_dimensions_are_those_of_what_is_real():
    """Without noise predicted, `corrected` adds (B - 1) D ln(alpha_t / alpha_s), D = 2 and 1 here."""
    x = jax.random.normal(jax.random.key(1), (4, 3))
    sampler = samplers.padded(samplers.ddpm(), REAL)
    still = lambda x, t: Prediction(x / SCHEDULE.alpha(t), jnp.zeros_like(x))
    keep = lambda key, log_weights: (jnp.arange(2), log_weights)
    run = lambda x: steering.corrected(
        sampler, guidance.separately(still), (1.5,), SCHEDULE, x, PLAN, KEYS, number=2, resample=keep
    )
    particles = jax.jit(run)(x)
    expected = 0.5 * np.array([2, 1])[:, None] * np.log(SCHEDULE.alpha(0.9) / SCHEDULE.alpha(0.1))
    np.testing.assert_allclose(particles.log_weights, np.broadcast_to(expected, (2, 2)), rtol=1e-5)


def test_a_measurement_takes_no_padding():
    x = jnp.zeros((4, 3))
    with pytest.raises(ValueError, match="reads all of x"):
        sampler = samplers.padded(samplers.ddpm(), REAL)
        measurement = guidance.measurements.masked(jnp.ones(3, bool))
        steering.mcgdiff(sampler, leaking, SCHEDULE, x, PLAN, KEYS, measurement, x, number=2)
