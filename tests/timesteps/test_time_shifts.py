"""Grids of a discrete process, shifts of the times, and plans."""

import jax
import numpy as np
import pytest
from hypothesis import given, strategies as st

from diffusion import schedules, timesteps
from tests.conformance import SCHEDULES, every_schedule

# Lin et al. 2024, table 2, for T = 1000 and S = 5, in their numbering 1 .. T. Their row for linspace rounds 500.5 to
# 500; the code of improved DDPM, whose spacing it is, counts from 0 and rounds 499.5 to 500, the number 501.
TABLE_2 = {
    "leading": [801, 601, 401, 201, 1],
    "linspace": [1000, 750, 501, 251, 1],
    "trailing": [1000, 800, 600, 400, 200],
}


@pytest.mark.parametrize("name", list(TABLE_2))
def test_discrete_grids_are_the_published_ones(name):
    grid = np.asarray(getattr(timesteps, name)(SCHEDULES["linear_beta"], 5), np.float64)
    np.testing.assert_allclose(grid * 1000, [*TABLE_2[name], 0], rtol=1e-6)


@given(steps=st.integers(2, 1000))
def test_discrete_grids_follow_their_rule(steps):
    """The three rules of table 2 and improved DDPM's code, for any number of steps, in the numbering 1 .. 1000."""
    schedule = SCHEDULES["linear_beta"]
    number = lambda grid: np.asarray(grid[:-1], np.float64) * 1000
    leading = np.arange(1, 1001, 1000 // steps)[:steps][::-1]
    stride = 999 / (steps - 1)
    evenly = np.array([round(i * stride) for i in range(steps)])[::-1] + 1
    trailing = np.round(np.arange(steps, 0, -1) * 1000 / steps)
    np.testing.assert_allclose(number(timesteps.leading(schedule, steps)), leading, rtol=1e-6)
    np.testing.assert_allclose(number(timesteps.trailing(schedule, steps)), trailing, rtol=1e-6)
    halfway = np.isclose(evenly % 1, 0.5)
    linspace = number(timesteps.linspace(schedule, steps))
    assert (np.abs(linspace - evenly)[~halfway] <= 1 + 1e-3).all()
    assert np.mean(np.abs(linspace - evenly) < 1e-3) > 0.9  # a half may be rounded either way


def test_leading_offset_is_stable_diffusions():
    """steps_offset = 1: indices 1, 201, .. 801 instead of 0, 200, .. 800."""
    grid = timesteps.leading(schedules.scaled_linear(), 5, offset=1)
    np.testing.assert_allclose(np.asarray(grid[:-1]) * 1000 - 1, [801, 601, 401, 201, 1], rtol=1e-6)


@pytest.mark.parametrize("name", ["leading", "trailing", "linspace"])
def test_discrete_grids_refuse_more_steps_than_the_process_has(name):
    with pytest.raises(ValueError, match="1001"):
        getattr(timesteps, name)(SCHEDULES["linear_beta"], 1001)


@given(factor=st.floats(0.1, 10.0), steps=st.sampled_from([1, 2, 3, 18]))
def test_shift_of_the_rectified_flow_is_sd3s_formula(factor, steps):
    """t' = a t / (1 + (a - 1) t), Esser et al. 2024, eq. 23, once and with both ends in place."""
    with jax.enable_x64(True):
        schedule = schedules.rectified_flow()
        grid = timesteps.uniform(schedule, steps)
        shifted = timesteps.shift(schedule, grid, factor)
    np.testing.assert_allclose(shifted, factor * grid / (1 + (factor - 1) * grid), atol=1e-12)
    assert shifted[0] == 1
    assert shifted[-1] == 0


@pytest.mark.extended
@every_schedule
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_shift_lowers_the_log_snr(schedule_name, factor, x64):
    """log SNR' = log SNR - 2 ln a, on times whose image is within the schedule."""
    schedule = SCHEDULES[schedule_name]
    grid = np.array([0.7, 0.6, 0.5, 0.4, 0.0]) if schedule_name != "edm" else np.array([0.4, 0.2, 0.1, 0.01, 0.0])
    shifted = timesteps.shift(schedule, grid, factor)
    before = np.asarray(schedule.log_snr(grid[:-1]))
    after = np.asarray(schedule.log_snr(shifted[:-1]))
    np.testing.assert_allclose(after - before, -2 * np.log(factor), atol=1e-9)
    assert shifted[-1] == 0


@every_schedule
def test_shift_by_one_changes_nothing(schedule_name):
    grid = timesteps.uniform(SCHEDULES[schedule_name], 7)
    np.testing.assert_array_equal(timesteps.shift(SCHEDULES[schedule_name], grid, 1.0), grid)


@every_schedule
@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_shifted_grid_is_a_grid_or_is_refused(schedule_name, factor):
    """Where alpha(t_max) = 0 both ends stay; elsewhere times can leave the schedule, and that must not pass."""
    schedule = SCHEDULES[schedule_name]
    grid = timesteps.uniform(schedule, 50)
    to_pure_noise = schedule_name in ("rectified_flow", "cosine")
    # Noisier than t_max; or, with variance_exploding, less noisy than its sigma_min: 0.3 * 0.01 * 5000^0.02 < 0.01.
    if not to_pure_noise and (factor > 1 or schedule_name == "variance_exploding"):
        with pytest.raises(ValueError, match=f"shift: a factor of {factor:g} moves these times out"):
            timesteps.shift(schedule, grid, factor)
        return
    shifted = np.asarray(timesteps.shift(schedule, grid, factor))
    if to_pure_noise:
        np.testing.assert_allclose(shifted[[0, -1]], [1, 0], atol=1e-7)
    assert (np.diff(shifted) < 0).all()
    assert shifted[0] <= schedule.t_max
    assert shifted[-1] == 0


@every_schedule
def test_a_single_time_that_would_leave_the_schedule_is_refused(schedule_name):
    """Nothing is noisier than t_max; where alpha vanishes there, the time stays."""
    schedule = SCHEDULES[schedule_name]
    grid = np.array([1.0, 0.1, 0.0])  # far apart, so that no two times coincide
    if float(schedule.alpha(1.0)) == 0:
        assert timesteps.shift(schedule, grid, 1.5)[0] == 1
    else:
        with pytest.raises(ValueError, match=r"a factor of 1\.5 moves these times out"):
            timesteps.shift(schedule, grid, 1.5)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan")])
def test_bad_shifts_are_refused(factor):
    with pytest.raises(ValueError, match="factor"):
        timesteps.shift(schedules.rectified_flow(), np.array([1.0, 0.5, 0.0]), factor)


@pytest.mark.parametrize(
    "grid",
    [
        [1.0, 0.5, 0.7, 0.0],
        [1.0, 0.5, 0.5, 0.0],
        [1.0, float("nan"), 0.0],
        [1.0, 0.0, 0.0],
        [float("inf"), 0.0],
        [0.5],
        [],
        [[1.0, 0.0]],
        [1.0, -0.1],
    ],
)
def test_plan_refuses_grids_that_no_sampler_can_follow(grid):
    with pytest.raises(ValueError):
        timesteps.plan(np.asarray(grid))


def test_plan_may_go_up_to_invert():
    plan = timesteps.plan(np.array([0.1, 0.5, 1.0]))
    np.testing.assert_array_equal(plan.t, [0.1, 0.5])
    np.testing.assert_array_equal(plan.s, [0.5, 1.0])


def test_plan_renoises_at_the_marked_steps():
    renoise = np.array([False, True, False])
    plan = timesteps.plan(np.array([1.0, 0.4, 0.8, 0.0]), renoise)
    np.testing.assert_array_equal(plan.renoise, renoise)


@pytest.mark.parametrize("renoise", [[True, False, False], [False, True], [[False, True, False]]])
def test_plan_refuses_noise_on_the_way_down(renoise):
    with pytest.raises(ValueError):
        timesteps.plan(np.array([1.0, 0.4, 0.8, 0.0]), np.array(renoise))


def test_the_shift_by_dimension_is_of_the_flows_formula():
    """Zheng et al. 2025: 16 x 16 x 768 numbers move the times by sqrt(48); t' = a t / (1 + (a - 1) t)."""
    schedule = schedules.rectified_flow()
    a = 48**0.5
    assert timesteps.dimension_shift(196_608) == pytest.approx(a)
    moved = lambda t: a * t / (1 + (a - 1) * t)
    grid = timesteps.dimension_shifted(schedule, timesteps.uniform(schedule, 4), 196_608)
    np.testing.assert_allclose(grid, moved(np.array([1, 0.75, 0.5, 0.25, 0])), rtol=1e-5)
    by_two = timesteps.dimension_shifted(schedule, timesteps.uniform(schedule, 2), 64, base=16)
    np.testing.assert_allclose(by_two, [1, 2 / 3, 0], rtol=1e-5)
    keys = jax.random.split(jax.random.key(0), 64)
    index = np.arange(64)
    for density in (timesteps.uniform_density(schedule), timesteps.per_frame(timesteps.logit_normal(schedule), 3)):
        t, importance = density.sample((), keys, index)
        own = timesteps.dimension_shifted_density(schedule, density, 196_608)
        shifted, same = own.sample((), keys, index)
        np.testing.assert_allclose(shifted, moved(np.asarray(t)), rtol=1e-4)
        np.testing.assert_array_equal(importance, same)
    seen = []
    spy = timesteps.Density(tuple, density.sample, lambda state, t, losses: seen.append(t))
    timesteps.dimension_shifted_density(schedule, spy, 196_608).update((), shifted, None)
    np.testing.assert_allclose(seen[0], t, rtol=1e-4)  # an adaptive density receives its own times
    for ending in (schedules.edm(), schedules.linear_beta(), schedules.ending_at(schedule, 0.99)):
        with pytest.raises(ValueError, match="factor of 2 moves times out of the schedule, whose log-SNR ends at"):
            timesteps.dimension_shifted_density(ending, density, 64, base=16)
        timesteps.dimension_shifted_density(ending, density, 4, base=16)  # towards the data
    with pytest.raises(ValueError, match="shape of the data, which is not known"):
        timesteps.dimension_shift(None)
    with pytest.raises(ValueError, match="base = 0"):
        timesteps.dimension_shift(3, 0)


def test_a_grid_of_integers_is_shifted_to_times_between_them():
    """sigma = 80 t, so half of sigma / alpha at t = 1 is t = 1/2."""
    np.testing.assert_allclose(timesteps.shift(schedules.edm(), [1, 0], 0.5), [0.5, 0.0], rtol=1e-6)
