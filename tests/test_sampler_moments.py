"""Every step of the stochastic samplers, by exact moments: mean and covariance, not Monte Carlo, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import samplers, timesteps
from diffusion.parameterizations import Prediction
from tests import oracles
from tests.conformance import (
    DATA,
    SAMPLERS,
    SCHEDULES,
    STOCHASTIC,
    every_schedule,
    exact_denoiser,
    level,
    slow_but,
)

pytestmark = pytest.mark.usefixtures("x64")


def _one_step(sampler, denoise, schedule, t, s):
    """(x `[B, D]`, noise `[draws, B, D]`) -> the sample after one step from t to s."""
    plan = timesteps.Plan(jnp.asarray([t]), jnp.asarray([s]), jnp.zeros(1, bool))

    def step(x, noise):
        return sampler.step(sampler.init(x, schedule, plan), denoise, schedule, plan, 0, noise).x

    return step


@functools.cache
def _moments(name, schedule_name):
    """Compiled propagation of mean and covariance along a padded grid: each step is affine in (x, noise)."""
    sampler, schedule = SAMPLERS[name], SCHEDULES[schedule_name]

    @jax.jit
    def propagate(data, grid, steps, mean, covariance):
        denoise = exact_denoiser(data, schedule)

        def advance(i, moments):
            mean, covariance = moments
            step = _one_step(sampler, denoise, schedule, grid[i], grid[i + 1])
            flat = lambda x, noise: step(x[None], noise[:, None])[0]
            silence = jnp.zeros((sampler.draws, mean.size))
            from_x, from_noise = jax.jacfwd(flat, argnums=(0, 1))(mean, silence)
            from_noise = from_noise.reshape(mean.size, -1)
            return flat(mean, silence), from_x @ covariance @ from_x.T + from_noise @ from_noise.T

        return jax.lax.fori_loop(0, steps, advance, (mean, covariance))

    return propagate


def _moment_error(name, schedule_name, grid, longest=256):
    schedule = SCHEDULES[schedule_name]
    start = oracles.marginal(DATA["gaussian"], *level(schedule, grid[0]))
    padded = np.concatenate([grid, np.full(longest + 1 - grid.size, grid[-1])])
    mean, covariance = _moments(name, schedule_name)(DATA["gaussian"], padded, grid.size - 1, *start)
    exact_mean, exact_covariance = oracles.marginal(DATA["gaussian"], *level(schedule, grid[-1]))
    return max(np.abs(mean - exact_mean).max(), np.abs(covariance - exact_covariance).max())



@pytest.mark.parametrize(
    "name, schedule_name",
    slow_but(
        [
            ("ddpm", "cosine"), ("ddpm", "edm"), ("ddpm(large)", "cosine"), ("ddpm(learned)", "edm"),
            ("ddim(0.5)", "cosine"),
        ],
        [(name, schedule_name) for name in STOCHASTIC for schedule_name in ("cosine", "edm")],
    ),
)
def test_mean_and_covariance_converge_to_the_marginals(name, schedule_name):
    """From the prior to the data, t_max to 0; then, on an interior interval, with weak order 1."""
    schedule = SCHEDULES[schedule_name]
    grid = {
        "cosine": lambda steps: timesteps.uniform(schedule, steps),
        "edm": lambda steps: timesteps.karras(schedule, steps, 0.002, 80.0),
    }[schedule_name]
    errors = [_moment_error(name, schedule_name, np.asarray(grid(steps))) for steps in (32, 64, 128, 256)]
    assert errors[-1] < 0.05
    assert errors[-1] < errors[0] / 4

    counts = (32, 64, 128, 256)
    # sigma / alpha from 4 to 1/4, uniform in log-SNR.
    interior = lambda steps: np.asarray(schedule.inverse_log_snr(-2 * np.log(np.geomspace(4.0, 0.25, steps + 1))))
    errors = [_moment_error(name, schedule_name, interior(steps)) for steps in counts]
    order = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert order > 0.8, f"weak order {order:.2f}; errors {errors}"


@pytest.mark.parametrize("name", ["ddpm", "ddim(0.5)", "ddim(1)", "ddim"])
@every_schedule
def test_one_point_of_data_gives_exact_marginals_in_any_step(name, schedule_name):
    """With x_0 known, q(x_s | x_t, x_0) of any eta is exact however far the step (Song et al. 2021, lemma 1)."""
    schedule, point = SCHEDULES[schedule_name], jnp.array([[0.7, -0.4]])

    def denoise(x, t):
        return Prediction(jnp.broadcast_to(point, x.shape), (x - schedule.alpha(t) * point) / schedule.sigma(t))

    for t, s in ((1.0, 0.5), (0.8, 0.3003), (0.02, 0.01)):
        step = _one_step(SAMPLERS[name], denoise, schedule, t, s)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = level(schedule, t), level(schedule, s)
        draws = SAMPLERS[name].draws
        silence, one = jnp.zeros((draws, 1, 2)), jnp.ones((draws, 1, 2))
        mean = step(alpha_t * point, silence)
        np.testing.assert_allclose(mean, alpha_s * point, rtol=1e-9)
        from_x = (step(alpha_t * point + 1.0, silence) - mean)[0, 0]
        from_noise = (step(alpha_t * point, one) - mean)[0, 0] if draws else 0.0
        np.testing.assert_allclose(from_x**2 * sigma_t**2 + from_noise**2, sigma_s**2, rtol=1e-8)


@pytest.mark.parametrize("schedule_name", ["linear_beta", "cosine"])
def test_large_variance_is_exact_for_standard_normal_data(schedule_name):
    """Of the two extreme choices of Ho et al. 2020, section 3.2, beta is right for x_0 ~ N(0, I)."""
    schedule, data = SCHEDULES[schedule_name], oracles.gaussian([0.0, 0.0], np.eye(2))
    for t, s in ((0.9, 0.5), (0.3003, 0.1)):
        step = _one_step(samplers.ddpm("large"), exact_denoiser(data, schedule), schedule, t, s)
        from_x = (step(jnp.ones((1, 2)), jnp.zeros((1, 1, 2))))[0, 0]
        from_noise = step(jnp.zeros((1, 2)), jnp.ones((1, 1, 2)))[0, 0]
        np.testing.assert_allclose(from_x**2 + from_noise**2, 1, rtol=1e-10)


@pytest.mark.parametrize("name", ["ddpm", "ddpm(large)", "ddpm(learned)"])
@every_schedule
def test_ddpm_step_is_the_posterior(name, schedule_name):
    """N(a x_t + b x0, c) from the definition of the process; the variance as the three choices say."""
    schedule = SCHEDULES[schedule_name]
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2)))
    noise = jnp.asarray(np.random.default_rng(1).standard_normal((1, 3, 2)))
    for t, s in ((0.99, 0.5), (0.6, 0.599), (0.02, 0.01)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = start, end = level(schedule, t), level(schedule, s)
        a, b, small = oracles.ancestral(start, end)
        large = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2
        variance = {"ddpm": small, "ddpm(large)": large, "ddpm(learned)": large**0.3 * small**0.7}[name]
        x0 = oracles.mean_x0(DATA["mixture"], alpha_t, sigma_t, x)
        step = _one_step(SAMPLERS[name], exact_denoiser(DATA["mixture"], schedule), schedule, t, s)
        np.testing.assert_allclose(step(x, noise), a * x + b * x0 + np.sqrt(variance) * noise[0], rtol=1e-7, atol=1e-9)


@every_schedule
def test_ddim_step_is_equation_12(schedule_name):
    """alpha_s x0 + sqrt(sigma_s^2 - c^2) eps + c z; for variance-preserving processes c is Song et al.'s eq. 16."""
    schedule, eta = SCHEDULES[schedule_name], 0.5
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2)))
    noise = jnp.asarray(np.random.default_rng(1).standard_normal((1, 3, 2)))
    for t, s in ((0.99, 0.5), (0.02, 0.01)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = start, end = level(schedule, t), level(schedule, s)
        c = eta * np.sqrt(oracles.ancestral(start, end)[2])
        if schedule_name in ("linear_beta", "scaled_linear", "cosine"):
            bar_t, bar_s = alpha_t**2, alpha_s**2
            published = eta * np.sqrt((1 - bar_s) / (1 - bar_t)) * np.sqrt(1 - bar_t / bar_s)
            np.testing.assert_allclose(c, published, rtol=1e-6)
        x0, eps = (f(DATA["mixture"], alpha_t, sigma_t, x) for f in (oracles.mean_x0, oracles.mean_eps))
        denoise = exact_denoiser(DATA["mixture"], schedule)
        expected = alpha_s * x0 + np.sqrt(sigma_s**2 - c**2) * eps + c * noise[0]
        stochastic = _one_step(samplers.ddim(eta), denoise, schedule, t, s)
        np.testing.assert_allclose(stochastic(x, noise), expected, rtol=1e-7)
        plain = alpha_s * x0 + sigma_s * eps
        np.testing.assert_allclose(_one_step(samplers.ddim(), denoise, schedule, t, s)(x, noise[:0]), plain, rtol=1e-9)


@every_schedule
def test_ddim_with_eta_1_is_ddpm(schedule_name):
    schedule = SCHEDULES[schedule_name]
    x, noise = jnp.asarray([[0.3, -1.2]]), jnp.asarray([[[0.7, 0.1]]])
    for t, s in ((1.0, 0.7), (0.6, 0.2), (0.02, 0.0)):
        denoise = exact_denoiser(DATA["mixture"], schedule)
        ddpm, ddim = (_one_step(SAMPLERS[name], denoise, schedule, t, s) for name in ("ddpm", "ddim(1)"))
        np.testing.assert_allclose(ddpm(x, noise), ddim(x, noise), rtol=1e-8, atol=1e-10)


def test_dpmpp_2m_step_is_the_published_one():
    """Lu et al. 2022, algorithm 2, written out for two steps with lambda = log(alpha / sigma)."""
    schedule = SCHEDULES["cosine"]
    times = np.array([0.8, 0.55, 0.4])
    x = np.array([[0.9, -0.5]])
    (a0, s0), (a1, s1), (a2, s2) = (level(schedule, t) for t in times)
    l0, l1, l2 = np.log(a0 / s0), np.log(a1 / s1), np.log(a2 / s2)
    first = oracles.mean_x0(DATA["mixture"], a0, s0, x)
    x1 = s1 / s0 * x - a1 * np.expm1(-(l1 - l0)) * first
    second = oracles.mean_x0(DATA["mixture"], a1, s1, x1)
    r = (l1 - l0) / (l2 - l1)
    d = (1 + 1 / (2 * r)) * second - 1 / (2 * r) * first
    x2 = s2 / s1 * x1 - a2 * np.expm1(-(l2 - l1)) * d
    keys = jax.random.split(jax.random.key(0), 1)
    plan = timesteps.plan(times)
    denoise = exact_denoiser(DATA["mixture"], schedule)
    ours = samplers.sample(samplers.dpmpp_2m(), denoise, schedule, jnp.asarray(x), plan, keys)
    np.testing.assert_allclose(ours, x2, rtol=1e-10)
