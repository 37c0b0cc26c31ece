"""A watermark in the noise is read from what was sampled; where the model is exact, every bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import samplers, schedules, timesteps, watermarks
from diffusion.parameterizations import Prediction

KEY = "0123456789abcdef" * 4


@pytest.mark.extended
@pytest.mark.parametrize(
    "schedule",
    [schedules.rectified_flow(), pytest.param(schedules.cosine(), marks=pytest.mark.slow)],
    ids=["flow", "cosine"],
)
def test_the_noise_of_a_sample_is_found_and_its_bits_are_read(schedule):
    deviation = jnp.linspace(0.3, 1.5, 2 * 8 * 8).reshape(8, 8, 2)  # of Gaussian data

    def denoise(x, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        variance = (alpha * deviation) ** 2 + sigma**2
        return Prediction(alpha * deviation**2 * x / variance, sigma * x / variance)

    keys = jax.random.split(jax.random.key(0), 6)
    mark = watermarks.gaussian_shading(KEY, bits=16, nonces=4)
    noise = mark.embed(samplers.prior(schedule, keys, (8, 8, 2)), keys)
    grid = np.linspace(schedule.t_max, 0.0, 65)
    x = samplers.sample(samplers.ddim(), denoise, schedule, noise, timesteps.plan(grid), keys)
    found = watermarks.initial_noise(denoise, schedule, x, grid, keys, iterations=3)
    np.testing.assert_allclose(found, noise, atol=0.1)
    reading = mark.read(np.asarray(found))
    np.testing.assert_array_equal(reading.bits, np.tile(mark.message, (6, 1)))
    assert reading.p_value.max() < 1e-20


def test_noise_of_any_scale_comes_back_on_that_of_the_standard_normal():
    """Of exploding variances the flow of N(0, s^2) is x(t) = x(0) sqrt(s^2 + sigma(t)^2) / s, exactly."""
    schedule = schedules.variance_exploding(sigma_min=0.01, sigma_max=3.0)
    deviation = 2.0

    def denoise(x, t):
        sigma = schedule.sigma(t)
        variance = deviation**2 + sigma**2
        return Prediction(deviation**2 * x / variance, sigma * x / variance)

    x = np.random.default_rng(0).standard_normal((2, 3, 1)).astype(np.float32)
    grid = np.linspace(float(schedule.t_max), 0.0, 301)
    keys = jax.random.split(jax.random.key(0), 2)
    last = float(schedule.sigma(grid[0]))
    expected = x * np.sqrt(deviation**2 + last**2) / deviation / np.hypot(1, last)
    found = watermarks.initial_noise(denoise, schedule, jnp.asarray(x), grid, keys, iterations=3)
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.01)


@pytest.mark.extended
@pytest.mark.parametrize("largest", [0.7, 1.5])
def test_the_noise_of_a_sampler_that_clips_is_found_where_eps_follows_the_estimate(x64, largest):
    """Each step of DDIM is then solved exactly, also for the 2/5 of the values that it has clipped at the end."""
    schedule = schedules.cosine()
    deviation = jnp.linspace(0.3, 1.5, 48).reshape(4, 4, 3)

    def denoise(x, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        variance = (alpha * deviation) ** 2 + sigma**2
        return Prediction(alpha * deviation**2 * x / variance, sigma * x / variance)

    keys = jax.random.split(jax.random.key(0), 6)
    sampler = samplers.clipped(samplers.ddim(), largest, keeps_eps=False)
    assert sampler.clip == samplers.Clip(largest, False)
    grid = np.linspace(0.98, 0.05, 65)
    noise = np.random.default_rng(0).standard_normal((6, 4, 4, 3))
    x = samplers.sample(sampler, denoise, schedule, jnp.asarray(noise), timesteps.plan(grid), keys)
    recovered = watermarks.initial_noise(denoise, schedule, x, grid, keys, iterations=8, clip=sampler.clip)
    np.testing.assert_allclose(recovered, noise, atol=1e-4)
    unaware = watermarks.initial_noise(denoise, schedule, x, grid, keys, iterations=8)
    assert np.abs(unaware - noise).max() > 0.1


def test_a_sampler_that_keeps_eps_is_inverted_as_in_diffusers():
    """One step up of alpha = 1 - t, sigma = t with known noise: alpha_s clip(x0) + sigma_s eps, on N(0, 1)'s scale."""
    schedule = schedules.rectified_flow()
    eps = np.array([[0.5, -0.5], [0.1, 0.2]], np.float32)
    x = np.array([[1.5, 0.3], [-1.2, 0.6]], np.float32)
    keys = jax.random.split(jax.random.key(0), 2)
    clip = samplers.clipped(samplers.ddim(), 1.0).clip
    found = watermarks.initial_noise(
        lambda x, t: Prediction(x, jnp.asarray(eps)), schedule, jnp.asarray(x), [0.5, 0.2], keys, clip=clip
    )
    x0 = np.clip((x - 0.2 * eps) / 0.8, -1, 1)
    np.testing.assert_allclose(found, (0.5 * x0 + 0.5 * eps) / np.hypot(0.5, 0.5), rtol=1e-5)


def test_where_the_grid_begins_without_data_the_noise_is_the_predicted_one():
    """DDIM's step from alpha = 0 reads nothing of the noise but what the network says of it."""
    schedule = schedules.rectified_flow()  # alpha(1) = 0
    eps = jnp.array([[0.5, -0.5], [0.1, 0.2]])
    keys = jax.random.split(jax.random.key(0), 2)
    denoise = lambda x, t: Prediction((x - t**2 * eps) / (1 - t), t * eps)
    x = jnp.array([[1.5, 0.3], [-1.2, 0.6]])
    found = watermarks.initial_noise(denoise, schedule, x, [1.0, 0.6, 0.2], keys)
    np.testing.assert_allclose(found, 0.6 * eps, rtol=1e-6)  # at the noisiest time with data
