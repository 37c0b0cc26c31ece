"""Restart: its plan, its loop as the authors have it, and what it does to an error, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import samplers, timesteps
from diffusion.parameterizations import Prediction
from tests import oracles
from tests.conformance import DATA, QUICK, SCHEDULES, exact_denoiser, level

pytestmark = pytest.mark.usefixtures("x64")


def _grid(schedule, ratios):
    return np.append(np.asarray(schedule.inverse_log_snr(-2 * np.log(ratios))), 0.0)


@pytest.mark.parametrize("schedule_name", ["rectified_flow", "edm"])
def test_plan_goes_up_and_down_from_the_nearest_time(schedule_name):
    """Two rounds of two steps from 0.9 to 2, and one of one step from 0.2 to 0.5; spaced as a Karras grid."""
    schedule = SCHEDULES[schedule_name]
    grid = _grid(schedule, np.array([4.0, 0.9, 0.2]))
    plan = samplers.restart_plan(schedule, grid, [(1, 1, 0.3, 0.5), samplers.Restart(2, 2, 1.0, 2.0)])
    middle = ((2.0 ** (1 / 7) + 0.9 ** (1 / 7)) / 2) ** 7
    expected = np.array([4.0, 0.9, 2.0, middle, 0.9, 2.0, middle, 0.9, 0.2, 0.5, 0.2])
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(np.exp(-schedule.log_snr(plan.t) / 2), expected, rtol=1e-6)
    np.testing.assert_array_equal(plan.s[:-1], plan.t[1:])
    assert plan.s[-1] == 0
    np.testing.assert_array_equal(plan.renoise, np.isin(np.arange(11), [1, 4, 8]))


@pytest.mark.extended
def test_sampling_along_the_plan_is_the_published_loop():
    """Xu et al. 2023, the authors' loop with EDM's step: the noise drawn on the way up, put into it.

    The evaluations, counted while it runs, are those of the steps that go down.
    """
    schedule = SCHEDULES["edm"]
    data = DATA["mixture"]
    sigmas = np.array([4.0, 0.9, 0.2, 0.0])
    grid = np.append(sigmas[:-1] / 80.0, 0.0)
    plan = samplers.restart_plan(schedule, grid, [(2, 2, 0.9, 2.0)])
    x = 4 * np.random.default_rng(0).standard_normal((3, 2))
    keys = jax.random.split(jax.random.key(0), 3)
    exact = exact_denoiser(data, schedule)
    calls = []

    def denoise(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return exact(x, t)

    run = lambda x: samplers.sample_trajectory(samplers.edm(), denoise, schedule, x, plan, keys)
    ours, way = jax.jit(run, compiler_options=QUICK)(jnp.asarray(x))
    jax.effects_barrier()
    assert len(calls) == samplers.edm().nfe(int((~plan.renoise).sum())) == 2 * 7 - 1
    noises = [(way.x[i + 1] - way.x[i]) / np.sqrt(2.0**2 - 0.9**2) for i in np.flatnonzero(plan.renoise)]
    assert np.abs(noises[0] - noises[1]).min() > 1e-6

    def heun(x, t_cur, t_next):
        slope = (x - oracles.mean_x0(data, 1.0, t_cur, x)) / t_cur
        moved = x + (t_next - t_cur) * slope
        if t_next > 0:
            slope = (slope + (moved - oracles.mean_x0(data, 1.0, t_next, moved)) / t_next) / 2
        return x + (t_next - t_cur) * slope

    middle = ((2.0 ** (1 / 7) + 0.9 ** (1 / 7)) / 2) ** 7
    y = heun(x, 4.0, 0.9)
    for noise in noises:
        y = y + noise * np.sqrt(2.0**2 - 0.9**2)
        y = heun(heun(y, 2.0, middle), middle, 0.9)
    y = heun(heun(y, 0.9, 0.2), 0.2, 0.0)
    np.testing.assert_allclose(ours, y, rtol=1e-8)


def test_the_churn_of_a_step_is_its_share_of_the_steps_that_denoise():
    """Karras et al. 2022, algorithm 2: gamma = s_churn / N. From y = 0 to data at 0: r_s / r_hat times the noise."""
    schedule = SCHEDULES["edm"]
    plan = samplers.restart_plan(schedule, _grid(schedule, np.array([4.0, 0.9, 0.2])), [(1, 1, 0.9, 2.0)])
    denoise = lambda x, t: Prediction(jnp.zeros_like(x), x / schedule.sigma(t))
    state = samplers.State(jnp.zeros((1, 1)), jnp.zeros((1, 1)))
    step = jax.jit(lambda: samplers.edm(s_churn=0.8).step(state, denoise, schedule, plan, 3, jnp.ones((1, 1, 1))))
    r_hat = 0.9 * (1 + 0.8 / 4)  # three steps of the grid and one of the restart
    np.testing.assert_allclose(step().x, 0.2 / r_hat * np.sqrt(r_hat**2 - 0.9**2), rtol=1e-6)


def test_a_restart_leaves_the_marginals_and_forgets_an_error():
    """Along the exact flow: the right moments stay, and an error at the start shrinks by the share that noise replaces.

    The flow from sigma_max = b to sigma_min = a contracts a deviation along an axis of variance v by
    sqrt((v + a^2) / (v + b^2)), in each round; the way up keeps it.
    """
    schedule = SCHEDULES["edm"]
    data = oracles.gaussian([0.0], [[0.5]])
    v = 0.5
    low, high = 0.3, 2.0
    plan = samplers.restart_plan(schedule, np.array([high, low, 0.0]) / 80, [(200, 2, low, high)])
    rounds = np.arange(plan.t.size)[1:-1]  # from the low time, up and down twice
    x = jnp.array([[1.0], [0.0]])  # a deviation, and the exact law
    variance = jnp.array(v + low**2)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def through(x, variance):
        def go(carry, i):
            x, variance = carry
            t = jnp.asarray(plan.t)[i]
            s = jnp.asarray(plan.s)[i]
            state = samplers.edm().init(x, schedule, plan)
            down = samplers.edm().step(state, exact_denoiser(data, schedule), schedule, plan, i, None).x
            up = jnp.asarray(plan.renoise)[i]
            factor = jnp.where(up, 1.0, down[0, 0] - down[1, 0]) / (jnp.where(up, 1.0, x[0, 0] - x[1, 0]))
            added = jnp.where(up, schedule.sigma(s) ** 2 - schedule.sigma(t) ** 2, 0)
            return (jnp.where(up, x, down), factor**2 * variance + added), None

        return jax.lax.scan(go, (x, variance), jnp.asarray(rounds))[0]

    plan = timesteps.Plan(*map(jnp.asarray, plan))
    deviation, variance = through(x, variance)
    np.testing.assert_allclose(variance, v + low**2, rtol=1e-4)
    contraction = np.sqrt((v + low**2) / (v + high**2))
    np.testing.assert_allclose(deviation[0, 0] - deviation[1, 0], contraction**2, rtol=1e-4)


@pytest.mark.parametrize(
    "grid, restarts, words",
    [
        ([1.0, 0.5, 0.0], [(2, 1, 2.0, 1.0)], "sigma_min < sigma_max"),
        ([1.0, 0.5, 0.0], [(2, 1, 0.0, 1.0)], "0 < sigma_min"),
        ([1.0, 0.5, 0.0], [(2, 1, 1.0, 100.0)], "80"),
        ([1.0, 0.5, 0.0], [(0, 1, 1.0, 50.0)], "at least one step"),
        ([1.0, 0.5, 0.0], [(2, 0, 1.0, 50.0)], "one repeat"),
        ([1.0, 0.5, 0.0], [(2, 1, 1.0, 39.0)], "not below its own sigma_max"),
        ([1.0, 0.5, 0.0], [(2, 1, 1.0, 50.0), (2, 1, 30.0, 60.0)], "another restart"),
        ([1.0, 0.0], [(2, 1, 1.0, 50.0)], "between its ends"),
    ],
)
def test_impossible_restarts_are_refused(grid, restarts, words):
    with pytest.raises(ValueError, match=words):
        samplers.restart_plan(SCHEDULES["edm"], np.array(grid), restarts)


def test_the_level_of_a_restart_is_the_schedule_s():
    """sigma / alpha, on any schedule: it is the log-SNR that decides."""
    schedule = SCHEDULES["rectified_flow"]
    plan = samplers.restart_plan(schedule, np.array([1.0, 0.4, 0.0]), [(1, 1, 0.6, 1.0)])
    np.testing.assert_allclose(plan.t, [1.0, 0.4, 0.5, 0.4], rtol=1e-9)
    assert level(schedule, 0.5) == (0.5, 0.5)
