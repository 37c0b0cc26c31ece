"""Search over paths beside a plain loop over the candidates of one sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import samplers, schedules, steering, timesteps
from diffusion.parameterizations import Prediction
from diffusion.samplers.sample import keys_of_step
from tests.conformance import round_denoiser

SCHEDULE = schedules.cosine()
DENOISE = round_denoiser(SCHEDULE)
GRID = np.array([1.0, 0.7, 0.4, 0.0])
PLAN = timesteps.plan(GRID)
CENTRE = np.array([1.0, -0.3])


def log_reward(x):
    return -jnp.sum((x - CENTRE) ** 2, -1)


def _loop(x, keys, number, width):
    """The candidates at the end, of one sample: the DDPM posterior by hand, then the best `width` and their copies."""
    alpha, sigma = (np.array([float(f(t)) for t in GRID]) for f in (SCHEDULE.alpha, SCHEDULE.sigma))
    estimate = lambda x, k: 0.4 + 0.25 * alpha[k] / (0.25 * alpha[k] ** 2 + sigma[k] ** 2) * (x - alpha[k] * 0.4)
    for k in range(3):
        ratio = (alpha[k] * sigma[k + 1] / (alpha[k + 1] * sigma[k])) ** 2
        weight = alpha[k] * sigma[k + 1] ** 2 / (alpha[k + 1] * sigma[k] ** 2)  # of x_t, with no division by alpha_t
        noise = np.stack([np.asarray(jax.random.normal(key, (2,)), float) for key in keys_of_step(keys, k)[0]])
        x = alpha[k + 1] * (1 - ratio) * estimate(x, k) + weight * x + sigma[k + 1] * np.sqrt(1 - ratio) * noise
        if k < 1:  # the last step onto sigma = 0 draws nothing, so that copies of one candidate would stay equal
            reward = -((estimate(x, k + 1) - CENTRE) ** 2).sum(1)
            x = np.repeat(x[np.argsort(-reward)[:width]], number // width, axis=0)
    return x


@pytest.mark.parametrize(
    "number, width", [pytest.param(*case, marks=pytest.mark.extended) for case in [(1, 1), (4, 1), (6, 3)]] + [(6, 2)]
)
def test_the_search_is_the_loop_over_candidates(number, width):
    groups = 3
    first, keys = jax.random.split(jax.random.key(2), (2, groups * number))
    x = samplers.prior(SCHEDULE, first, (2,))
    arguments = (samplers.ddpm(), DENOISE, SCHEDULE, x, PLAN, keys, log_reward)
    with jax.disable_jit():
        found, reward = steering.searched_paths(*arguments, number=number, width=width)
    for g in range(groups):
        own = slice(g * number, (g + 1) * number)
        candidates = _loop(np.asarray(x[own], float), keys[own], number, width)
        rewards = -((candidates - CENTRE) ** 2).sum(1)
        np.testing.assert_allclose(found[g], candidates[rewards.argmax()], rtol=2e-4, atol=1e-5)
        np.testing.assert_allclose(reward[g], rewards.max(), rtol=1e-3, atol=1e-4)


def test_a_width_that_does_not_divide_the_candidates_is_refused():
    keys = jax.random.split(jax.random.key(0), 4)
    arguments = (samplers.ddpm(), DENOISE, SCHEDULE, jnp.ones((4, 2)), PLAN, keys, log_reward)
    for width in (0, 3):
        with pytest.raises(ValueError, match=rf"width = {width} must be at least 1 and divide number = 4"):
            steering.searched_paths(*arguments, number=4, width=width)


def test_the_reward_is_that_of_the_best_candidate_however_bad_the_early_estimates_are():
    """Early estimates are 10^4 from the centre, so that their rewards are -2 * 10^8, of which float32 holds 16ths."""

    def denoise(x, t):
        x0 = jnp.where(t > 0.3, 1e4, jnp.tanh(x))
        return Prediction(x0, (x - SCHEDULE.alpha(t) * x0) / SCHEDULE.sigma(t))

    keys = jax.random.split(jax.random.key(0), 8)
    plan = timesteps.plan(timesteps.uniform(SCHEDULE, steps=4))
    x = samplers.prior(SCHEDULE, keys, (2,))
    found, reward = steering.searched_paths(samplers.ddpm(), denoise, SCHEDULE, x, plan, keys, log_reward, number=4)
    np.testing.assert_allclose(reward, log_reward(found), rtol=1e-5)
