"""Every sampler on every schedule that the fast conformance tests leave out: finite, from t_max to the data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import timesteps
from tests.conformance import (
    ALL_SCHEDULES,
    QUICK,
    SAMPLERS,
    SCHEDULES,
    any_schedule,
    every_sampler,
    round_denoiser,
    start,
)

OTHERS = {name: schedule for name, schedule in ALL_SCHEDULES.items() if name not in SCHEDULES}
STEPS = 3


@pytest.mark.slow
@every_sampler
def test_samplers_are_finite_on_the_other_schedules(name):
    """Three steps over all times, two at the smallest, and one, which is the estimate of x_0."""
    sampler = SAMPLERS[name]

    @functools.partial(jax.jit, compiler_options=QUICK)
    def follow(which, grid, steps, x, noise):
        schedule = any_schedule(which, OTHERS)
        plan = timesteps.Plan(grid[:-1], grid[1:], jnp.zeros(STEPS, bool))
        step = lambda i, state: sampler.step(state, round_denoiser(schedule), schedule, plan, i, noise[i])
        return jax.lax.fori_loop(0, steps, step, sampler.init(x, schedule, plan)).x

    noise = np.random.default_rng(0).standard_normal((STEPS, sampler.draws, 4, 2)).astype(np.float32)
    for which, (schedule_name, schedule) in enumerate(OTHERS.items()):
        x, _ = start(schedule)
        smallest = max(schedule.t_min, 1e-4)
        for grid in ([1.0, 2 / 3, 1 / 3, 0.0], [1.5 * smallest, smallest, 0.0], [1.0, 0.0]):
            padded = np.append(grid, [0.0] * (STEPS + 1 - len(grid))).astype(np.float32)
            out = follow(which, padded, len(grid) - 1, x, noise)
            assert np.isfinite(out).all(), (schedule_name, grid)
            if len(grid) == 2:
                expected = round_denoiser(schedule)(x, grid[0]).x0
                np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5, err_msg=schedule_name)
