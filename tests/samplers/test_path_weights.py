"""Weights of paths beside closed forms: constant for an exact denoiser of a Gaussian, unbiased for any other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import samplers, schedules, timesteps
from diffusion.parameterizations import Prediction

MEAN, STD = np.array([0.5, -1.0, 0.2], np.float32), 0.6
LOG_NORMALISER = 0.7 + 1.5 * np.log(2 * np.pi * STD**2)
FLOW = schedules.rectified_flow()


def log_density(x):
    return 0.7 - jnp.sum((x - MEAN) ** 2, -1) / (2 * STD**2)


def exact(schedule):
    """The denoiser of N(MEAN, STD^2 I)."""

    def denoise(x, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        residual = (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
        return Prediction(MEAN + alpha * STD**2 * residual, sigma * residual)

    return denoise


@pytest.mark.extended
@pytest.mark.parametrize("grid", [(1.0, 0.0), (1.0, 0.8, 0.3, 0.1, 0.0)])
def test_every_weight_of_the_exact_denoiser_is_the_constant(grid):
    keys = jax.random.split(jax.random.key(0), 8)
    x, log_weights = samplers.path_weights(exact(FLOW), FLOW, timesteps.plan(grid), keys, (3,), log_density, STD)
    np.testing.assert_allclose(log_weights, LOG_NORMALISER, atol=2e-4)
    assert len(np.unique(np.asarray(x))) == 24


@pytest.mark.extended
@pytest.mark.parametrize("schedule", [FLOW, schedules.variance_preserving()])
def test_weights_are_unbiased_for_any_denoiser_and_width(schedule):
    """40,000 paths of a denoiser that is off, at a wrong width, and from alpha_T > 0: E[w], E[w x], E[w (x - m)^2]."""
    off = lambda x, t: Prediction(0.9 * exact(schedule)(x, t).x0 + 0.1, x)
    plan = timesteps.plan((0.9, 0.5, 0.2, 0.0))
    run = jax.jit(lambda keys: samplers.path_weights(off, schedule, plan, keys, (3,), log_density, 0.8))
    x, log_weights = run(jax.random.split(jax.random.key(0), 40_000))
    weights = np.exp(np.asarray(log_weights, np.float64) - LOG_NORMALISER)[:, None]
    assert weights.std() > 0.2
    for value, truth in ((1, 1), (np.asarray(x), MEAN), ((np.asarray(x) - MEAN) ** 2, STD**2)):
        values = weights * value
        error = values.std(0) / 200
        assert error.max() < 0.05
        np.testing.assert_array_less(np.abs(values.mean(0) - truth), 4.5 * error)


def test_a_derivative_is_along_constant_paths():
    """With a shift e of x0, log w = log Z - e sum_i c_i z_i - D e^2 S / 2, c_i the weight of x0 in a mean over the
    deviation of its step and S = sum c_i^2: along constant paths the derivative is -sum_i c_i z_i of each."""
    grid = np.array([1.0, 0.6, 0.25, 0.0])
    t, s = grid[:-1], grid[1:]
    lost = 1 - ((1 - t) * s / ((1 - s) * t)) ** 2
    weight = (1 - s) * lost
    S = (weight**2 / (s**2 * lost + weight**2 * STD**2 * t**2 / ((1 - t) ** 2 * STD**2 + t**2))).sum()

    def log_weights(shift):
        shifted = lambda x, t: Prediction(exact(FLOW)(x, t).x0 + shift, x)
        keys = jax.random.split(jax.random.key(0), 5)
        return samplers.path_weights(shifted, FLOW, timesteps.plan(grid), keys, (3,), log_density, STD)[1]

    value, slope = jax.jvp(log_weights, (0.3,), (1.0,))
    np.testing.assert_allclose(value - LOG_NORMALISER, 0.3 * slope - 3 * 0.3**2 * S / 2, atol=1e-3)
    assert np.std(slope) > 0.5


@pytest.mark.extended
def test_a_path_depends_on_its_own_key():
    plan, keys = timesteps.plan((1.0, 0.4, 0.0)), jax.random.split(jax.random.key(0), 6)
    run = jax.jit(lambda keys: samplers.path_weights(exact(FLOW), FLOW, plan, keys, (3,), log_density, 1.0))
    for whole, other, alone in zip(run(keys), run(keys.at[:4].set(keys[1:5])), run(keys[4:])):
        np.testing.assert_allclose(whole[4:], other[4:], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(whole[4:], alone, rtol=1e-5, atol=1e-5)
        assert (whole[:4] != other[:4]).all()


def test_what_cannot_be_weighed_is_refused():
    keys, plan = jax.random.split(jax.random.key(0), 4), timesteps.plan((1.0, 0.0))
    run = lambda plan, density, std: samplers.path_weights(exact(FLOW), FLOW, plan, keys, (3,), density, std)
    with pytest.raises(ValueError, match=r"data_std = 0\.0 must be positive"):
        run(plan, log_density, 0.0)
    with pytest.raises(ValueError, match="1 of its steps do"):
        run(timesteps.plan([1.0, 0.4, 0.7, 0.0], renoise=[False, True, False]), log_density, 1.0)
    with pytest.raises(ValueError, match="the log-densities, one number for each sample,"):
        run(plan, lambda x: x, 1.0)
