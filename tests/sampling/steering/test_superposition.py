"""Mixtures of models on Gaussians and on mixtures of them, beside the sum of their scores, which is no mixture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import guidance, samplers, schedules, steering, timesteps
from diffusion.parameterizations import Prediction
from diffusion.samplers.sample import keys_of_step
from tests import oracles
from tests.conformance import exact_denoiser, round_denoiser
from tests.sampling.steering import groups

SCHEDULE = schedules.cosine()
MEANS, SHARES, END = np.array([[-0.9, 0.4], [0.7, -0.5]], np.float32), (0.3, 0.7), 0.1
EXACT = samplers.ddpm("analytic", lambda log_snr: 0.25 / (1 + 0.25 * jnp.exp(log_snr)))


def _gaussian(mean):
    def denoise(x, t):
        alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
        scaled = (x - alpha * mean) / (0.25 * alpha**2 + sigma**2)
        return Prediction(mean + 0.25 * alpha * scaled, sigma * scaled)

    return denoise


BRANCHES = guidance.separately(*(_gaussian(mean) for mean in MEANS))


@pytest.mark.extended
@pytest.mark.parametrize("number, steps, resample", [
    (1, 3, steering.systematic), (8, 3, steering.systematic), (8, 6, steering.multinomial),
])  # fmt: skip
def test_of_gaussians_weights_are_unbiased_in_any_number_of_steps(number, steps, resample):
    """Ancestral steps are exact for each of them: E[w f] is the mean of f under the mixture, within 4.5 errors."""
    plan = timesteps.plan(np.linspace(1, END, steps + 1))

    @jax.jit
    def run(keys):
        start, walk = jax.vmap(jax.random.split, out_axes=1)(keys)
        x = samplers.prior(SCHEDULE, start, (2,))
        return steering.mixed(EXACT, BRANCHES, SHARES, SCHEDULE, x, plan, walk, number=number, resample=resample)

    count = 6000
    particles = run(jax.random.split(jax.random.key(0), count * number))
    weights = np.exp(np.asarray(particles.log_weights, np.float64))[..., None]
    x = np.asarray(particles.x, np.float64).reshape(count, number, 2)
    alpha, sigma = float(SCHEDULE.alpha(END)), float(SCHEDULE.sigma(END))
    variance, means, shares = 0.25 * alpha**2 + sigma**2, alpha * MEANS, np.array(SHARES)
    second = shares @ (means**2 + variance)
    for value, truth in ((np.ones_like(x), 1), (x, shares @ means), (x**2, second)):
        values = np.mean(weights * value, axis=1)
        error = values.std(0, ddof=1) / count**0.5
        assert error.max() < 0.1
        np.testing.assert_array_less(np.abs(values.mean(0) - truth), 4.5 * error + 1e-9)


@pytest.mark.extended
def test_of_mixtures_each_component_has_its_share_and_the_sum_of_scores_has_another_law():
    """Two models of two narrow Gaussians each, by 48 steps onto t = 0: the masses of four intervals."""
    first = oracles.mixture([0.25, 0.75], [[-3.0], [0.5]], [[[0.04]], [[0.04]]])
    second = oracles.mixture([0.6, 0.4], [[-1.2], [2.5]], [[[0.04]], [[0.04]]])
    branches = guidance.separately(exact_denoiser(first, SCHEDULE), exact_denoiser(second, SCHEDULE))
    plan, count, number = timesteps.plan(timesteps.uniform(SCHEDULE, 48)), 128, 16

    @jax.jit
    def run(keys):
        start, walk = jax.vmap(jax.random.split, out_axes=1)(keys)
        x = samplers.prior(SCHEDULE, start, (1,))
        mixed = steering.mixed(samplers.ddpm(), branches, (0.4, 0.6), SCHEDULE, x, plan, walk, number=number)
        summed = guidance.product(branches, SCHEDULE, (0.4, 0.6))
        return mixed, samplers.sample(samplers.ddpm(), summed, SCHEDULE, x, plan, walk)

    particles, naive = run(jax.random.split(jax.random.key(0), count * number))
    inside = lambda x: np.stack([np.abs(x - mean) < 0.8 for mean in (-3.0, -1.2, 0.5, 2.5)], -1)
    weights = np.exp(np.asarray(particles.log_weights, np.float64))[..., None]
    masses = (weights * inside(np.asarray(particles.x)[:, 0]).reshape(count, number, 4)).mean(1)
    truth = np.array([0.4 * 0.25, 0.6 * 0.6, 0.4 * 0.75, 0.6 * 0.4])
    error = masses.std(0, ddof=1) / count**0.5
    np.testing.assert_array_less(np.abs(masses.mean(0) - truth), 4.5 * error + 0.01)
    assert error.max() < 0.03
    assert np.abs(inside(np.asarray(naive)[:, 0]).mean(0) - truth).max() > 0.15


@pytest.mark.extended
def test_a_step_without_noise_takes_each_model_with_its_share():
    """One step onto the data, of models that put out 0, 1 and 2, has their numbers alone."""
    constant = lambda value: lambda x, t: Prediction(jnp.full_like(x, value), x)
    branches = guidance.separately(*(constant(value) for value in (0.0, 1.0, 2.0)))
    count, shares = 4096, np.array([0.2, 0.5, 0.3])
    keys = jax.random.split(jax.random.key(0), count)
    plan = timesteps.plan(np.array([1.0, 0.0]))
    x = jnp.zeros((count, 1))
    particles = steering.mixed(samplers.ddpm(), branches, shares.tolist(), SCHEDULE, x, plan, keys, number=1)
    found = np.bincount(np.round(np.asarray(particles.x)[:, 0]).astype(int), minlength=3) / count
    np.testing.assert_array_less(np.abs(found - shares), 4.5 * np.sqrt(shares * (1 - shares) / count))
    np.testing.assert_allclose(particles.x, np.round(particles.x), atol=1e-5)


@pytest.mark.extended
def test_one_model_is_sample():
    keys = jax.random.split(jax.random.key(0), 12)
    x = samplers.prior(SCHEDULE, jax.random.split(jax.random.key(1), 12), (2,))
    plan = timesteps.plan(np.linspace(1, END, 4))
    alone = guidance.separately(round_denoiser(SCHEDULE))
    particles = steering.mixed(samplers.ddpm(), alone, (1.0,), SCHEDULE, x, plan, keys, number=4)
    np.testing.assert_array_equal(particles.log_weights, 0)
    expected = samplers.sample(samplers.ddpm(), round_denoiser(SCHEDULE), SCHEDULE, x, plan, keys)
    np.testing.assert_allclose(particles.x, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.extended
def test_the_last_group_stands_alone():
    keys = jax.random.split(jax.random.key(0), 24)
    x = samplers.prior(SCHEDULE, jax.random.split(jax.random.key(1), 24), (2,))
    plan = timesteps.plan(np.linspace(0.9, 0, 4))
    groups.assert_the_last_stands_alone(
        jax.jit(lambda x, keys: steering.mixed(EXACT, BRANCHES, SHARES, SCHEDULE, x, plan, keys, number=8)), x, keys
    )


@pytest.mark.parametrize("shares, message", [
    ((0.5, 0.6), r"shares \(0\.5, 0\.6\) must be positive and sum to 1"),
    ((1.5, -0.5), "must be positive and sum to 1"),
    ((0.2, 0.3, 0.5), "of the 3 shares, one each; got 2 branches"),
])  # fmt: skip
def test_other_shares_are_refused(shares, message):
    plan, keys = timesteps.plan(np.array([1.0, 0.5])), jax.random.split(jax.random.key(0), 2)
    with pytest.raises(ValueError, match=message):
        steering.mixed(EXACT, BRANCHES, shares, SCHEDULE, jnp.ones((2, 2)), plan, keys, number=1)


def test_the_first_branch_determines_the_width_of_a_step():
    """Of two branches with the estimate 0 at 0: std = large^f small^(1 - f), in each a share 1 - SNR_t / SNR_s."""
    flow, keys = schedules.rectified_flow(), jax.random.split(jax.random.key(0), 3)
    branches = lambda x, t: tuple(Prediction(0 * x, x / t, jnp.full_like(x, f)) for f in (0.7, 0.1))
    arguments = (flow, jnp.zeros((3, 2)), timesteps.plan([0.9, 0.5]), keys)
    particles = steering.mixed(samplers.ddpm("learned"), branches, (0.3, 0.7), *arguments, number=1)
    lost = 1 - (0.1 / 0.9) ** 2
    noise = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys_of_step(keys, 0)[0]))
    np.testing.assert_allclose(particles.x, 0.9**0.7 * 0.5**0.3 * lost**0.5 * noise, rtol=1e-4)


def test_one_step_weighs_by_the_mixture_of_the_steps_over_the_step_to_their_mean():
    """The step of `ddpm` from 0.8 to 0.5 on the rectified flow, written out for two constant estimates."""
    flow, shares, estimates = schedules.rectified_flow(), np.array([0.3, 0.7]), np.array([[1.0, -2.0], [-0.5, 0.4]])
    branches = lambda x, t: tuple(
        Prediction(jnp.float32(e) + 0 * x, (x - (1 - t) * jnp.float32(e)) / t) for e in estimates
    )
    keys = jax.random.split(jax.random.key(0), 3)
    plan = timesteps.plan([0.8, 0.5])
    particles = steering.mixed(samplers.ddpm(), branches, shares, flow, jnp.ones((3, 2)), plan, keys, number=1)
    lost = 0.8**2 - 0.4**2 * 0.5**2
    means = 0.4 * 0.5**2 / 0.8**2 + 0.5 * lost / 0.8**2 * estimates
    log_law = lambda mean: -((particles.x - mean) ** 2).sum(1) / (2 * 0.5**2 * lost / 0.8**2)
    ratio = sum(b * np.exp(log_law(mean) - log_law(shares @ means)) for b, mean in zip(shares, means))
    np.testing.assert_allclose(particles.log_weights[:, 0], np.log(ratio), rtol=1e-3, atol=1e-5)
