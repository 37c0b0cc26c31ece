"""A trajectory whose steps are compiled one by one is the scanned one, and stops when the caller stops."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import editing, guidance, samplers, timesteps
from diffusion.parameterizations import Prediction
from tests.conformance import SAMPLERS, SCHEDULES, slow_but, start

SCHEDULE = SCHEDULES["cosine"]
FAST = [("dpmpp_2m",)]
TOLERANCE = {"rtol": 0, "atol": 1e-5}


def denoiser(shift):
    """The exact denoiser of N(shift, 0.5^2 I)."""

    def denoise(x, t):
        alpha = SCHEDULE.alpha(t)
        sigma = SCHEDULE.sigma(t)
        scaled = (x - alpha * shift) / (0.25 * alpha**2 + sigma**2)
        return Prediction(shift + 0.25 * alpha * scaled, sigma * scaled, 0.3 + 0 * x)

    return denoise


@pytest.mark.parametrize("name", slow_but(FAST, [(name,) for name in SAMPLERS]))
def test_steps_one_by_one_are_the_scanned_trajectory(name):
    x, keys = start(SCHEDULE)
    plan = timesteps.plan(timesteps.uniform(SCHEDULE, 4))
    make = lambda shift, keys: samplers.loop(SAMPLERS[name], denoiser(shift), SCHEDULE, plan, keys)
    found = list(samplers.stepwise(make)(x, 4, 0.4, keys))
    _, way = samplers.sample_trajectory(SAMPLERS[name], denoiser(0.4), SCHEDULE, x, plan, keys)
    assert np.ptp(way.x[-1]) > 0.1
    for i, state in enumerate(found):
        np.testing.assert_allclose(state.x, way.x[i + 1], **TOLERANCE)
        np.testing.assert_allclose(state.x0, way.x0[i], **TOLERANCE)


@pytest.mark.slow
def test_memory_hooks_and_steps_that_renoise_are_carried_too():
    x, keys = start(SCHEDULE)
    plan = editing.repaint(timesteps.uniform(SCHEDULE, 6), jump=2, resamplings=2)
    assert plan.renoise.any()
    known = jnp.full_like(x, 0.7)
    mask = jnp.arange(x.shape[1]) == 0
    hook = editing.replacement(SCHEDULE, plan, known, mask)

    def make(shift, keys):
        branches = lambda x, t: (denoiser(shift)(x, t), denoiser(0.0)(x, t))
        guided = guidance.adaptive_projected(branches, SCHEDULE, 3.0)
        return samplers.loop(samplers.ddpm(), guided, SCHEDULE, plan, keys, hook)

    last = list(samplers.stepwise(make)(x, len(plan.t), 0.4, keys))[-1].x
    branches = lambda x, t: (denoiser(0.4)(x, t), denoiser(0.0)(x, t))
    guided = guidance.adaptive_projected(branches, SCHEDULE, 3.0)
    expected = samplers.sample(samplers.ddpm(), guided, SCHEDULE, x, plan, keys, after_step=hook)
    np.testing.assert_allclose(last, expected, **TOLERANCE)
    np.testing.assert_array_equal(last[:, 0], np.float32(0.7))


def test_one_program_serves_all_steps_and_runs_only_on_request():
    x, keys = start(SCHEDULE)
    plan = timesteps.plan(timesteps.uniform(SCHEDULE, 1000))
    traced, ran = [], []

    def counted(x, t):
        traced.append(t)
        jax.debug.callback(lambda t: ran.append(float(t)), t)
        return denoiser(0.4)(x, t)

    run = samplers.stepwise(lambda keys: samplers.loop(samplers.ddim(), counted, SCHEDULE, plan, keys))
    for times in (1, 2):
        states = run(x, 1000, keys)
        jax.block_until_ready(list(itertools.islice(states, 3)))
        states.close()
        jax.effects_barrier()
        assert len(traced) == 1 and ran == pytest.approx([*plan.t[:3]] * times)
