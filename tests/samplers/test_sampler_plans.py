"""The noise that `sample` hands out, plans that add noise on the way, and the hook after each step."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffusion import samplers, timesteps
from diffusion.parameterizations import Prediction
from diffusion.samplers import Sampler, State
from tests.conformance import DATA, QUICK, SAMPLERS, SCHEDULES, every_sampler, exact_denoiser, level, slow_but, start

# Samplers with a history, or with several evaluations, whose formulas are in x0.
THROUGH_DATA = ("dpmpp_2s", "dpmpp_2s(grid)", "dpmpp_2m", "dpmpp_3m", "unipc", "unipc(3)", "dpm_solver_3", "edm")


def _recorder(draws):
    """A sampler whose sample is the noise that it receives."""

    def step(state, denoise, schedule, plan, i, noise):
        return State(noise.sum(0), state.x0)

    return Sampler(samplers.ddim().init, step, draws, lambda steps: 0)


@pytest.mark.extended
def test_noise_is_bitwise_a_function_of_the_key_and_the_step():
    schedule = SCHEDULES["cosine"]
    plan = timesteps.plan(np.array([1.0, 0.7, 0.3, 0.0]))
    keys = jax.random.split(jax.random.key(0), 6)
    x = jnp.zeros((6, 3))
    draw = lambda keys, x: samplers.sample_trajectory(_recorder(1), lambda x, t: None, schedule, x, plan, keys)[1].x[1:]
    noise = draw(keys, x)
    np.testing.assert_array_equal(draw(keys[2:4], x[2:4]), noise[:, 2:4])
    order = np.array([5, 3, 0, 1, 4, 2])
    np.testing.assert_array_equal(draw(keys[order], x), noise[:, order])
    assert len(np.unique(np.asarray(noise))) == noise.size  # no step, sample or element repeats another


def test_noise_is_standard_normal_and_independent_between_steps():
    schedule = SCHEDULES["cosine"]
    plan = timesteps.plan(np.array([1.0, 0.5, 0.0]))
    keys = jax.random.split(jax.random.key(0), 2000)
    x = jnp.zeros((2000, 2))
    noise = samplers.sample_trajectory(_recorder(1), lambda x, t: None, schedule, x, plan, keys)[1].x[1:]
    assert scipy.stats.kstest(np.asarray(noise).ravel(), "norm").pvalue > 1e-3
    correlation = np.corrcoef(np.asarray(noise).transpose(0, 2, 1).reshape(4, -1))
    assert np.abs(correlation - np.eye(4)).max() < 4 / np.sqrt(2000)


def _still():
    """A sampler that stands still."""
    return Sampler(samplers.ddim().init, lambda state, *_: state, 0, lambda steps: 0)


@pytest.mark.extended
@pytest.mark.parametrize("schedule_name", ["cosine", "edm"])
def test_renoising_draws_the_forward_transition(schedule_name):
    """q(x_s | x_t) = N(alpha_s / alpha_t x_t, sigma_s^2 - (alpha_s / alpha_t)^2 sigma_t^2)."""
    schedule = SCHEDULES[schedule_name]
    count = 4000
    plan = timesteps.plan(np.array([0.5, 0.3, 0.7, 0.0]), np.array([False, True, False]))
    keys = jax.random.split(jax.random.key(0), count)
    x = jnp.full((count, 1), 0.8)
    _, trajectory = samplers.sample_trajectory(_still(), lambda x, t: None, schedule, x, plan, keys)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = level(schedule, 0.3), level(schedule, 0.7)
    std = np.sqrt(sigma_s**2 - (alpha_s / alpha_t * sigma_t) ** 2)
    np.testing.assert_array_equal(trajectory.x[1], x)
    noise = (np.asarray(trajectory.x[2]) - alpha_s / alpha_t * 0.8) / std
    assert scipy.stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    np.testing.assert_array_equal(trajectory.x[3], trajectory.x[2])


@pytest.mark.extended
@pytest.mark.parametrize("sampler", [samplers.dpmpp_2m(), samplers.dpmpp_2s("grid")], ids=["multistep", "in pairs"])
def test_renoising_forgets_the_history(sampler):
    """Before and after it, the samples of a method with a history are those of the two parts of the plan alone."""
    schedule = SCHEDULES["cosine"]
    renoise = np.array([False, False, True, False, False, False])
    grid = np.array([0.9, 0.6, 0.3, 0.7, 0.5, 0.2, 0.0])
    x, keys = start(schedule)
    denoise = exact_denoiser(DATA["mixture"], schedule)
    run = lambda x, plan: samplers.sample_trajectory(sampler, denoise, schedule, x, plan, keys)[1]
    whole = run(x, timesteps.plan(grid, renoise))
    before = run(x, timesteps.plan(grid[:3]))
    np.testing.assert_allclose(whole.x[:3], before.x, rtol=1e-5, atol=1e-6)
    rest = run(whole.x[3], timesteps.plan(grid[3:]))
    np.testing.assert_allclose(whole.x[4:], rest.x[1:], rtol=1e-5, atol=1e-6)


def test_a_step_that_renoises_has_the_estimate_of_the_step_before():
    """The estimate is the time at which the network was evaluated: 1 in the first step, which a step up follows."""
    schedule = SCHEDULES["rectified_flow"]
    plan = timesteps.plan([1.0, 0.25, 0.5, 0.1, 0.0], [False, True, False, False])
    denoise = lambda x, t: Prediction(t * jnp.ones_like(x), x)
    x, keys = jnp.ones((2, 3)), jax.random.split(jax.random.key(0), 2)
    _, way = samplers.sample_trajectory(samplers.ddim(), denoise, schedule, x, plan, keys)
    np.testing.assert_allclose(way.x0[:, 0, 0], [1.0, 1.0, 0.5, 0.1], rtol=1e-6)


@pytest.mark.extended
def test_renoising_costs_no_evaluation():
    schedule = SCHEDULES["cosine"]
    calls = []

    def denoise(x, t):
        calls.append(1)
        return Prediction(0.5 * x, 0.5 * x)

    x, keys = start(schedule)
    plan = timesteps.plan(np.array([0.9, 0.4, 0.7, 0.0]), np.array([False, True, False]))
    with jax.disable_jit():
        samplers.sample(samplers.ddim(), denoise, schedule, x, plan, keys)
    assert len(calls) == 2


def test_hook_sees_every_step_and_its_result_goes_on():
    schedule = SCHEDULES["cosine"]
    plan = timesteps.plan(np.array([1.0, 0.6, 0.2, 0.0]))
    x, keys = start(schedule)
    hook = lambda x, s, i, keys: x.at[:, 0].set(s).at[:, 1].set(i)
    denoise = exact_denoiser(DATA["gaussian"], schedule)
    out, trajectory = samplers.sample_trajectory(samplers.dpmpp_2m(), denoise, schedule, x, plan, keys, after_step=hook)
    np.testing.assert_allclose(trajectory.x[1:, :, 0], np.repeat([[0.6], [0.2], [0.0]], 4, axis=1), rtol=1e-6)
    np.testing.assert_array_equal(trajectory.x[1:, :, 1], np.repeat([[0], [1], [2]], 4, axis=1))
    np.testing.assert_array_equal(out, trajectory.x[-1])


@pytest.mark.extended
@pytest.mark.parametrize("name", slow_but([("dpmpp_2s(grid)",)], [(name,) for name in THROUGH_DATA]))
def test_every_step_starts_from_the_result_of_the_hook(name):
    """Where the estimate stays, x_s = alpha_s x0 + sigma_s / sigma_t (x - alpha_t x0), whatever the step's method."""
    schedule = SCHEDULES["cosine"]
    grid = np.array([0.9, 0.7, 0.55, 0.3, 0.2])
    x0 = np.float32([[0.5, -1.0]])
    denoise = lambda x, t: Prediction(x0 + 0 * x, (x - schedule.alpha(t) * x0) / schedule.sigma(t))
    keys = jax.random.split(jax.random.key(0), 1)
    x = jnp.float32([[0.3, 0.8]])
    run = lambda x: samplers.sample(
        SAMPLERS[name], denoise, schedule, x, timesteps.plan(grid), keys, after_step=lambda x, s, i, keys: x + i + 1
    )
    expected = np.asarray(x)
    for i, (t, s) in enumerate(itertools.pairwise(grid)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = level(schedule, t), level(schedule, s)
        expected = alpha_s * x0 + sigma_s / sigma_t * (expected - alpha_t * x0) + i + 1
    with jax.disable_jit():
        np.testing.assert_allclose(run(x), expected, rtol=1e-5)


def test_hook_has_keys_of_its_own():
    """Its draws differ between steps and samples, and from those of the steps themselves."""
    schedule = SCHEDULES["cosine"]
    plan = timesteps.plan(np.array([1.0, 0.6, 0.2, 0.0]))
    x = jnp.zeros((3, 2))
    keys = jax.random.split(jax.random.key(0), 3)
    draw = jax.vmap(lambda key: jax.random.normal(key, (2,)))
    hook = lambda x, s, i, keys: jnp.concatenate([x, draw(keys)], axis=1)[:, 1:3]
    _, way = samplers.sample_trajectory(_recorder(1), lambda x, t: None, schedule, x, plan, keys, after_step=hook)
    assert len(np.unique(np.asarray(way.x[1:]))) == way.x[1:].size


@pytest.mark.parametrize("run", [samplers.sample, samplers.sample_trajectory, samplers.picard])
def test_times_that_are_one_number_in_float32_are_refused(run):
    """A plan tells 1 and 1 - 4e-9 apart, a sample of float32 does not: multistep solvers divided by 0."""
    schedule = SCHEDULES["rectified_flow"]
    plan = timesteps.plan(timesteps.beta(schedule, 50, 0.6, 0.2))
    x, keys = jnp.zeros((1, 2)), jax.random.split(jax.random.key(0), 1)
    with pytest.raises(ValueError, match=r"step 0 of the plan does not move: t = 1\.0 and s = 0\.99999.* in float32"):
        run(samplers.dpmpp_2m(), lambda x, t: Prediction(x, x), schedule, x, plan, keys)


def test_close_times_are_steps_of_float64(x64):
    schedule = SCHEDULES["rectified_flow"]
    plan = timesteps.plan([0.5, 0.5 - 1e-12, 0.25])
    x, keys = jnp.ones((1, 2), jnp.float64), jax.random.split(jax.random.key(0), 1)
    denoise = lambda x, t: Prediction(x, x)
    close = samplers.sample(samplers.dpmpp_2m(), denoise, schedule, x, plan, keys)
    expected = samplers.sample(samplers.dpmpp_2m(), denoise, schedule, x, timesteps.plan([0.5, 0.25]), keys)
    np.testing.assert_allclose(close, expected, rtol=1e-9)


@pytest.mark.extended
@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_3m", "deis", "dpmpp_2m_sde", "lms"])
def test_a_last_step_that_rests_leaves_the_sample(name):
    """As in plans of published schedulers, whose solvers count it among their last steps."""
    schedule = SCHEDULES["edm"]
    x, keys = start(schedule)
    moving = timesteps.plan([1.0, 0.3, 0.1, 0.02])
    resting = timesteps.Plan(np.append(moving.t, 0.02), np.append(moving.s, 0.02), np.zeros(4, bool))
    denoise = exact_denoiser(DATA["gaussian"], schedule)
    rested = samplers.sample(SAMPLERS[name], denoise, schedule, x, resting, keys)
    np.testing.assert_allclose(rested, samplers.sample(SAMPLERS[name], denoise, schedule, x, moving, keys), rtol=1e-5)


PLANS = {
    "one step": ([1.0], [0.0], [False]),
    "two steps": ([1.0, 0.4], [0.4, 0.0], [False] * 2),
    "renoised": ([1.0, 0.4, 0.7, 0.3], [0.4, 0.7, 0.3, 0.0], [False, True, False, False]),
    "renoised from the data": ([1.0, 0.0, 0.5, 0.2], [0.0, 0.5, 0.2, 0.0], [False, True, False, False]),
    "renoised twice": ([1.0, 0.3, 0.5, 0.8], [0.3, 0.5, 0.8, 0.0], [False, True, True, False]),
    "renoised at last": ([1.0, 0.6, 0.3, 0.5], [0.6, 0.3, 0.5, 0.0], [False, False, True, False]),
}


@pytest.mark.extended
@every_sampler
def test_every_plan_to_the_data_ends_at_the_only_point_of_it(name):
    """Whatever history a solver has: of no step, of one, or emptied when noise was added."""
    schedule, point = SCHEDULES["rectified_flow"], jnp.array([0.3, -0.7])
    keys = jax.random.split(jax.random.key(0), 2)
    x = samplers.prior(schedule, keys, (2,))

    def denoise(x, t):
        x0 = jnp.broadcast_to(point, x.shape)
        return Prediction(x0, (x - schedule.alpha(t) * x0) / schedule.sigma(t), jnp.full_like(x, 0.3))

    def ends(plans):
        run = lambda *times: samplers.sample(SAMPLERS[name], denoise, schedule, x, timesteps.Plan(*times), keys)
        return {case: run(*times) for case, times in plans.items()}

    plans = {case: (np.float32(t), np.float32(s), np.array(renoise)) for case, (t, s, renoise) in PLANS.items()}
    for case, end in jax.jit(ends, compiler_options=QUICK)(plans).items():
        np.testing.assert_allclose(end, np.tile(point, (2, 1)), atol=1e-4, err_msg=case)
