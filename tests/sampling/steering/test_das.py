"""DAS on Gaussian data: its constant is unbiased, and two of its steps by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import samplers, steering, timesteps
from diffusion.samplers.sample import keys_of_step
from tests.sampling.steering import test_twisted as gaussian

NEVER = lambda key, log_weights: (jnp.arange(len(log_weights)), log_weights)
AFRESH = lambda key, log_weights: (jnp.arange(len(log_weights)), jnp.zeros_like(log_weights))


def _das(log_reward, groups, number, steps=gaussian.STEPS, **more):
    @jax.jit
    def run(keys):
        start, walk = jax.vmap(jax.random.split, out_axes=1)(keys)
        x = samplers.prior(gaussian.SCHEDULE, start, (2,))
        plan = timesteps.plan(np.linspace(1, gaussian.END, steps + 1))
        arguments = (gaussian.EXACT, gaussian.DENOISE, gaussian.SCHEDULE, x, plan, walk, log_reward)
        return steering.das(*arguments, number=number, **more)

    return run(jax.random.split(jax.random.key(0), groups * number))


@pytest.mark.extended
@pytest.mark.parametrize("reward, gamma", [(gaussian.linear, None), (gaussian.quadratic, None), (gaussian.linear, 3.0)])
def test_the_constant_is_unbiased_and_the_mean_is_the_tilted_law_s(reward, gamma):
    """4,000 groups of eight; a gamma of 3 reaches the whole reward in the first step."""
    mean, variance, log_constant = gaussian._tilted(reward)
    particles = _das(reward, 4000, 8, gamma=gamma)
    weights = np.exp(np.asarray(particles.log_weights, np.float64) - log_constant)[..., None]
    x = np.asarray(particles.x, np.float64).reshape(-1, 8, 2)
    for value, truth in ((1, 1), (x, mean), ((x - mean) ** 2, variance)):
        values = np.mean(weights * value, axis=1)
        error = values.std(0, ddof=1) / len(values) ** 0.5
        assert error.max() < 0.05
        np.testing.assert_array_less(np.abs(values.mean(0) - truth), 4.5 * error)


@pytest.mark.extended
@pytest.mark.parametrize("gamma, weights", [(None, [0, 2**0.5 - 1, 1]), (0.3, [0, 0.3, 0.69]), (2.0, [0, 1, 1])])
def test_two_steps_are_those_of_the_paper(gamma, weights):
    """The data is N(0.4, 0.25 I), whose estimate is linear in x, so that the gradient of a linear reward is known."""
    grid, slope = np.array([0.9, 0.6, 0.2]), gaussian.SLOPE.astype(float)
    key = jax.random.split(jax.random.key(3), 1)
    start = np.array([[0.4, -1.1]])
    schedule, plan = gaussian.SCHEDULE, timesteps.plan(grid)
    arguments = (samplers.ddpm(), gaussian.DENOISE, schedule, jnp.asarray(start, jnp.float32), plan, key)
    more = {} if gamma is None else {"gamma": gamma}
    found = steering.das(*arguments, gaussian.linear, number=1, resample=NEVER, **more)
    afresh = steering.das(*arguments, gaussian.linear, number=1, resample=AFRESH, **more)
    alpha, sigma = (np.array([float(f(t)) for t in grid]) for f in (schedule.alpha, schedule.sigma))
    spread = 0.25 * alpha**2 + sigma**2
    estimate = lambda x, k: 0.4 + 0.25 * alpha[k] / spread[k] * (x - alpha[k] * 0.4)
    x, added = start, []
    for k in range(2):
        ratio = (alpha[k] * sigma[k + 1] / (alpha[k + 1] * sigma[k])) ** 2
        mean = alpha[k + 1] * ((1 - ratio) * estimate(x, k) + ratio * x / alpha[k])
        std = sigma[k + 1] * np.sqrt(1 - ratio)
        noise = np.asarray(jax.random.normal(keys_of_step(key, k)[0][0], (2,)), float)
        aim = mean + std**2 * weights[k + 1] * 0.25 * alpha[k] / spread[k] * slope
        after = aim + std * noise
        log_ratio = (((after - aim) ** 2).sum() - ((after - mean) ** 2).sum()) / (2 * std**2)
        last = (after if k == 1 else weights[k + 1] * estimate(after, k + 1)) @ slope
        added.append(float((log_ratio + last - weights[k] * estimate(x, k) @ slope)[0]))
        x = after
    np.testing.assert_allclose(found.x, x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.log_weights[0, 0], sum(added), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(afresh.log_weights[0, 0], added[1], rtol=1e-4, atol=1e-4)


def test_without_a_gamma_the_first_of_two_steps_has_the_strength_of_sqrt_2_less_1():
    """A constant reward pulls nothing: after weights that begin afresh, the last step adds 1 - lambda_1."""
    x, plan = jnp.ones((2, 2)), timesteps.plan([0.9, 0.6, 0.2])
    constant = lambda x: 0 * x[:, 0] + 1
    arguments = (gaussian.DENOISE, gaussian.SCHEDULE, x, plan, jax.random.split(jax.random.key(0), 2), constant)
    with jax.disable_jit():
        log_weights = steering.das(samplers.ddpm(), *arguments, number=2, resample=AFRESH).log_weights
    np.testing.assert_allclose(log_weights, np.full((1, 2), 2 - 2**0.5), rtol=1e-5)


@pytest.mark.extended
def test_its_pull_keeps_the_weights_more_even_than_particles_without_one():
    even = _das(gaussian.linear, 64, 64, steps=16, resample=NEVER).effective_sizes[-1].mean()
    plain = gaussian._run(steering.tilt(gaussian.linear), 64, 64, steps=16, resample=NEVER).effective_sizes[-1].mean()
    assert even > 1.3 * plain


def test_a_reward_of_minus_infinity_counts_for_nothing_while_the_strength_is_zero():
    x = jnp.ones((2, 3))
    log_psi, _ = steering.tilt(lambda x: jnp.full(len(x), -jnp.inf), lambda t: 0.0).apply((), x, 1.0, x)
    np.testing.assert_array_equal(log_psi, 0)


def test_a_gamma_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match=r"gamma = 0\.0 must be positive"):
        _das(gaussian.linear, 1, 2, gamma=0.0)
