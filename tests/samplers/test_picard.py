"""The parallel driver: for every sampler it ends where `sample` ends, with the same noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import samplers, timesteps
from diffusion.flows.flow_maps import FlowMap
from diffusion.parameterizations import Prediction
from tests.conformance import DATA, SAMPLERS, SCHEDULES, exact_denoiser, slow_but, start

FAST = [("ddpm", "cosine"), ("dpmpp_2m", "edm")]


def _both(name, schedule, plan, **more):
    """(x, keys) -> (the end of `sample`, the end of `picard`, its stats), compiled."""
    denoise = exact_denoiser(DATA["mixture"], schedule)

    @jax.jit
    def run(x, keys):
        sampled = samplers.sample(SAMPLERS[name], denoise, schedule, x, plan, keys)
        return sampled, *samplers.picard(SAMPLERS[name], denoise, schedule, x, plan, keys, **more)

    return run


@pytest.mark.extended
@pytest.mark.parametrize(
    "name, schedule_name", slow_but(FAST, [(name, schedule) for name in SAMPLERS for schedule in ("cosine", "edm")])
)
def test_at_tolerance_0_it_equals_sequential_sampling_within_n_sweeps(name, schedule_name, x64):
    """From t_max to 0, to rounding; a window of three of five steps moves at least one step a sweep."""
    schedule = SCHEDULES[schedule_name]
    x, keys = start(schedule)
    plan = timesteps.plan(timesteps.uniform(schedule, 5))
    sampled, swept, stats = _both(name, schedule, plan, window=3, tolerance=0.0)(x.astype(jnp.float64), keys)
    np.testing.assert_allclose(swept, sampled, rtol=1e-9, atol=1e-9)
    assert int(stats.sweeps) <= 5
    assert int(stats.steps) == 3 * int(stats.sweeps)


@pytest.mark.extended
@pytest.mark.parametrize("name", slow_but([("ddpm",)], [("ddim",), ("ddpm",)]))
def test_it_takes_fewer_rounds_than_steps_and_keeps_its_tolerance(name, x64):
    """64 steps in float64: the error follows the tolerance, at the price of sweeps, all far fewer than 64."""
    schedule = SCHEDULES["cosine"]
    x, keys = start(schedule)
    denoise = exact_denoiser(DATA["mixture"], schedule)
    plan = timesteps.plan(timesteps.uniform(schedule, 64))

    @jax.jit
    def run(x, tolerance):
        sampled = samplers.sample(SAMPLERS[name], denoise, schedule, x, plan, keys)
        return sampled, *samplers.picard(SAMPLERS[name], denoise, schedule, x, plan, keys, tolerance=tolerance)

    rounds = []
    for tolerance in (1e-2, 1e-4, 1e-8):
        sampled, swept, stats = run(x.astype(jnp.float64), tolerance)
        assert np.abs(swept - sampled).max() < 10 * tolerance
        rounds.append(int(stats.sweeps))
        assert int(stats.steps) == 64 * rounds[-1]
    assert rounds[0] < rounds[1] < rounds[2] < 40


@pytest.mark.extended
def test_evaluations_counted_while_running_are_those_reported():
    """Each sweep evaluates the network at every step of the window, heun twice."""
    schedule = SCHEDULES["cosine"]
    calls = []

    def denoise(x, t):
        jax.debug.callback(lambda t: calls.append(float(t)), t)
        return Prediction(0.5 * x, x - schedule.alpha(t) * 0.5 * x)

    x, keys = start(schedule)
    plan = timesteps.plan(np.linspace(0.9, 0.1, 6))
    _, stats = samplers.picard(samplers.heun(), denoise, schedule, x, plan, keys, window=4, tolerance=1e-4)
    jax.effects_barrier()
    assert len(calls) == 2 * int(stats.steps) == 8 * int(stats.sweeps)


def test_flow_maps_are_carried_too():
    """Jumps that change x by what depends on t alone are right after one sweep, and a second one sees it."""
    schedule = SCHEDULES["rectified_flow"]
    x, keys = start(schedule)
    plan = timesteps.plan(np.linspace(1.0, 0.0, 9))
    swept, stats = samplers.picard(samplers.flow_map(), FlowMap(lambda x, t, s: x + s - t), schedule, x, plan, keys)
    np.testing.assert_allclose(swept, x - 1, atol=1e-5)
    assert int(stats.sweeps) == 2


def test_what_enters_the_window_starts_from_its_last_sample():
    """A trajectory that stands still in its second half: the guess is right there, and no sweep is needed for it."""
    schedule = SCHEDULES["rectified_flow"]
    x, keys = start(schedule)
    plan = timesteps.plan(np.linspace(1.0, 0.0, 9))
    halfway = FlowMap(lambda x, t, s: x - jnp.where(t > 0.5, 1.0, 0.0))
    swept, stats = samplers.picard(samplers.flow_map(), halfway, schedule, x, plan, keys, window=4)
    np.testing.assert_allclose(swept, x - 4, atol=1e-5)
    assert int(stats.sweeps) == 3


@pytest.mark.parametrize("jump, sweeps", [(0.035, 1), (0.11, 2)])
def test_the_tolerance_is_in_units_of_what_a_sample_measures_where_it_arrives(jump, sweeps):
    """At sigma = 64, 48, 32, 16 a tolerance of 0.01 allows 0.64 .. 0.16, and the first sweep moves x by jump .. 4 jump.

    A jump of 0.11 is too much at sigma = 32, so that a second sweep takes the last step.
    """
    schedule = SCHEDULES["edm"]
    x, keys = start(schedule)
    plan = timesteps.plan(np.array([1.0, 0.8, 0.6, 0.4, 0.2]))
    flow_map = FlowMap(lambda x, t, s: x + jump)
    swept, stats = samplers.picard(samplers.flow_map(), flow_map, schedule, x, plan, keys, tolerance=0.01)
    np.testing.assert_allclose(swept, x + 4 * jump, rtol=1e-5, atol=1e-5)
    assert int(stats.sweeps) == sweeps


def test_one_step_is_one_sweep():
    schedule = SCHEDULES["edm"]
    x, keys = start(schedule)
    denoise = exact_denoiser(DATA["gaussian"], schedule)
    plan = timesteps.plan(timesteps.uniform(schedule, 1))
    run = jax.jit(lambda x: (*samplers.picard(samplers.ddim(), denoise, schedule, x, plan, keys), denoise(x, 1.0).x0))
    swept, stats, x0 = run(x)
    np.testing.assert_allclose(swept, x0, atol=2e-5)
    assert int(stats.sweeps) == int(stats.steps) == 1


@pytest.mark.parametrize(
    "more, words",
    [
        ({"window": 0}, r"window = 0 must be in \[1, 3\]"),
        ({"window": 4}, "window = 4"),
        ({"tolerance": -1.0}, "tolerance = -1"),
        ({"plan": timesteps.plan(np.array([0.9, 0.3, 0.6, 0.0]), np.array([False, True, False]))}, "renoise"),
    ],
)
def test_bad_arguments_are_refused_by_name(more, words):
    schedule = SCHEDULES["cosine"]
    x, keys = start(schedule)
    arguments = {"sampler": samplers.ddim(), "plan": timesteps.plan(np.array([0.9, 0.6, 0.3, 0.0])), **more}
    with pytest.raises(ValueError, match=words):
        samplers.picard(
            denoise=exact_denoiser(DATA["gaussian"], schedule), schedule=schedule, x=x, keys=keys, **arguments
        )
