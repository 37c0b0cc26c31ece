"""A time for each frame: what objectives, parameterizations and samplers do with t of shape [B, F]."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, parameterizations, samplers, schedules, timesteps, weightings
from diffusion.parameterizations import Prediction
from tests import oracles
from tests.conformance import DATA, slow_but

SCHEDULE = schedules.cosine()._replace(t_max=0.999)
B, F, D = 3, 4, 2
TIMES = np.linspace(0.1, 0.9, B * F, dtype=np.float32).reshape(B, F)


def fixed(t):
    """The density of these times and importances."""
    return timesteps.Density(tuple, lambda state, keys, index: (jnp.asarray(t), 1 + jnp.asarray(t)), lambda s, *_: s)


@pytest.mark.parametrize(
    "objective, output",
    [
        (lambda d: objectives.denoising(parameterizations.edm(), weightings.min_snr(), d), "edm"),
        pytest.param(objectives.flow_matching, "velocity", marks=pytest.mark.slow),
    ],
)
def test_loss_is_the_mean_of_the_frames_losses(objective, output):
    """Frame f of all examples, with its times, in a batch of its own: the same noise gives the same loss."""
    keys = jax.random.split(jax.random.key(0), B)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(B, F, D)))
    x = x.astype(jnp.float32)
    seen = []

    def network(x, clock, condition):
        seen.append((x, clock))
        return jnp.tanh(x) + clock[..., None]

    losses, metrics = objective(fixed(TIMES))({"model": network}, SCHEDULE, keys, {"x": x}, 0)
    assert losses.shape == (B,) and seen[0][1].shape == metrics["t"].shape == (B, F)
    alpha, sigma = (np.asarray(f(TIMES))[..., None] for f in (SCHEDULE.alpha, SCHEDULE.sigma))
    c_in = 1 / np.sqrt(0.25 * alpha**2 + sigma**2) if output == "edm" else 1.0
    eps = (seen[0][0] / c_in - alpha * x) / sigma
    frames = []
    for f in range(F):
        batch = {"x": x[:, f], "noise": eps[:, f]}
        frames.append(objective(fixed(TIMES[:, f]))({"model": network}, SCHEDULE, keys, batch, 0)[0])
    np.testing.assert_allclose(losses, np.mean(frames, axis=0), rtol=1e-4)


@pytest.mark.parametrize("name", ["epsilon", "x0", "v", "score", "velocity", "edm"])
def test_predictions_are_those_of_each_frame(name):
    parameterization = getattr(parameterizations, name)()
    x = jnp.asarray(np.random.default_rng(1).normal(size=(B, F, D)), jnp.float32)
    denoise = lambda t: parameterizations.predict(lambda x, clock, c: jnp.sin(x), SCHEDULE, parameterization, x, t)
    whole = denoise(jnp.asarray(TIMES))
    for f in range(F):
        alone = denoise(jnp.asarray(TIMES[:, f]))
        np.testing.assert_allclose(whole.x0[:, f], alone.x0[:, f], rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(whole.eps[:, f], alone.eps[:, f], rtol=2e-5, atol=1e-6)


def denoise(x, t):
    """The exact denoiser of frames that do not depend on each other; t is [B] for one frame, [B, F] for all."""
    t = jnp.broadcast_to(t, x.shape[:-1])
    alpha = SCHEDULE.alpha(t).ravel()
    sigma = SCHEDULE.sigma(t).ravel()
    flat = x.reshape(-1, D)
    estimate = lambda f: f(DATA["gaussian"], alpha, sigma, flat).reshape(x.shape)
    return Prediction(estimate(oracles.mean_x0), estimate(oracles.mean_eps))


GRID = timesteps.uniform(SCHEDULE, 5)
NOISE = jnp.asarray(np.random.default_rng(2).normal(size=(B, F, D)), jnp.float32)
KEYS = jax.random.split(jax.random.key(3), B)


@pytest.mark.parametrize("name, delay", slow_but([("ddim", 2)], [("ddim", 2), ("euler", 0), ("ddim", 5)]))
def test_staggered_frames_end_where_each_would_alone(name, delay):
    sampler = getattr(samplers, name)()
    plan = timesteps.staggered(GRID, F, delay)
    x = samplers.sample(samplers.per_frame(sampler), denoise, SCHEDULE, NOISE, plan, KEYS)
    keys = jax.random.split(KEYS[0], B * F)
    alone = samplers.sample(sampler, denoise, SCHEDULE, NOISE.reshape(B * F, D), timesteps.plan(GRID), keys)
    np.testing.assert_allclose(x, alone.reshape(B, F, D), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_frames_that_go_together_are_the_plain_sampler_with_its_noise():
    plan = timesteps.staggered(GRID, F, 0)
    together = samplers.sample(samplers.per_frame(samplers.ddpm()), denoise, SCHEDULE, NOISE, plan, KEYS)
    plain = samplers.sample(samplers.ddpm(), denoise, SCHEDULE, NOISE, timesteps.plan(GRID), KEYS)
    np.testing.assert_allclose(together, plain, rtol=1e-4, atol=1e-5)


def test_the_network_receives_the_time_of_every_frame_and_resting_frames_stay():
    seen = []

    def spy(x, t):
        jax.debug.callback(lambda x, t: seen.append((np.asarray(x), np.asarray(t))), x, t, ordered=True)
        return denoise(x, t)

    plan = timesteps.staggered(GRID, F, 3)
    samplers.sample(samplers.per_frame(samplers.ddim()), spy, SCHEDULE, NOISE, plan, KEYS)
    jax.effects_barrier()
    assert len(seen) == 5 + 3 * (F - 1) == samplers.per_frame(samplers.ddim()).nfe(14)
    for i, (x, t) in enumerate(seen):
        expected = np.maximum(GRID[np.clip(i - 3 * np.arange(F), 0, 5)], timesteps.clean_time(SCHEDULE))
        np.testing.assert_allclose(t, np.broadcast_to(expected, (B, F)), rtol=1e-6)
        waiting = 3 * np.arange(F) >= i
        np.testing.assert_array_equal(x[:, waiting], NOISE[:, waiting])


def test_delay_of_the_whole_grid_is_one_frame_after_the_other():
    plan = timesteps.staggered(GRID, F, 5)
    assert np.all((plan.t != plan.s).sum(1) == 1)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: timesteps.staggered(GRID, 0, 1), "frames >= 1"),
        (lambda: timesteps.staggered(GRID, 2, -1), "delay >= 0"),
        (lambda: timesteps.staggered(GRID, 10**9, 0), "frames = 1000000000, delay = 0 make .* at most 100000000 times"),
        (lambda: timesteps.staggered(GRID, 2, 10**9), "delay = 1000000000 make"),
        (lambda: samplers.per_frame(samplers.heun()), r"once in each step, such as ddim\(\)"),
        (
            lambda: samplers.sample(
                samplers.per_frame(samplers.dpmpp_2m()), denoise, SCHEDULE, NOISE, timesteps.staggered(GRID, F, 1), KEYS
            ),
            "history",
        ),
        (
            lambda: samplers.per_frame(samplers.ddim_inversion()).init(
                NOISE, SCHEDULE, timesteps.staggered(GRID, F, 1)
            ),
            r"at the end of each step.*Valid: per_frame\(ddim\(\)\)",
        ),
    ],
)
def test_what_frames_cannot_do_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
