"""Conformance of every grid of sampling times: a new one is one line in GRIDS."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, strategies as st

from diffusion import schedules, timesteps
from tests.conformance import SCHEDULES

# Grids: name -> factory (schedule, steps).

GRIDS = {
    "uniform": timesteps.uniform,
    "polynomial": timesteps.polynomial,
    "polynomial(3)": lambda schedule, steps: timesteps.polynomial(schedule, steps, 3.0),
    "beta": timesteps.beta,
    "beta(1.4, 0.4)": lambda schedule, steps: timesteps.beta(schedule, steps, 1.4, 0.4),
    "sigmoid": timesteps.sigmoid,
    "sigmoid(0, 3, 0.5)": lambda schedule, steps: timesteps.sigmoid(schedule, steps, 0.0, 3.0, 0.5),
    "uniform_log_snr": lambda schedule, steps: timesteps.uniform_log_snr(schedule, steps, 0.02, 20.0),
    "exponential": lambda schedule, steps: timesteps.exponential(schedule, steps, 0.02, 20.0),
    "exponential(2)": lambda schedule, steps: timesteps.exponential(schedule, steps, 0.02, 20.0, 2.0),
    "karras": lambda schedule, steps: timesteps.karras(schedule, steps, 0.02, 20.0),
    "karras_levels": lambda schedule, steps: timesteps.karras_levels(schedule, steps, 0.02, 20.0, levels=50),
    "kl_optimal": lambda schedule, steps: timesteps.kl_optimal(schedule, steps, 0.02, 20.0),
    "kl_optimal(0.5)": lambda schedule, steps: timesteps.kl_optimal(schedule, steps, 0.02, 20.0, 0.5),
    "align_your_steps": lambda schedule, steps: timesteps.align_your_steps(schedule, steps, "stable_diffusion_xl"),
    "leading": timesteps.leading,
    "trailing": timesteps.trailing,
    "linspace": timesteps.linspace,
}
STEPS = [2, 3, 18]  # few shapes, so that compilations are shared
every_grid = pytest.mark.parametrize("name", list(GRIDS))


@pytest.mark.extended
@every_grid
def test_grid_of_n_steps_has_n_plus_1_decreasing_times_down_to_0(name):
    for schedule_name, schedule in SCHEDULES.items():
        for steps in (1, 2, 3, 50):
            case = f"{schedule_name}, {steps} steps"
            grid = np.asarray(GRIDS[name](schedule, steps))
            assert grid.shape == (steps + 1,), case
            assert (np.diff(grid) < 0).all(), case
            assert grid[-1] == 0, case
            assert grid[0] <= schedule.t_max, case
            plan = timesteps.plan(grid)
            np.testing.assert_array_equal(plan.t, grid[:-1], err_msg=case)
            np.testing.assert_array_equal(plan.s, grid[1:], err_msg=case)
            assert not np.asarray(plan.renoise).any(), case


@every_grid
@pytest.mark.parametrize("steps", [0, -1, 2.5, True, float("nan"), float("inf")])
def test_bad_step_counts_are_refused(name, steps):
    with pytest.raises(ValueError, match="steps"):
        GRIDS[name](SCHEDULES["linear_beta"], steps)


# What the N steps of each grid are uniform in: name -> (t / t_max or sigma / alpha, a function of it). Every one is the
# inverse of what the grid computes.
RATIOS = {"rectified_flow": lambda t: t / (1 - t), "edm": lambda t: 80 * t}  # sigma / alpha, by definition


def _share(values):
    return (values[0] - values) / (values[0] - values[-1])


def _logistic_share(u, start, end, tau):
    """Where u is on the way between the ends of a sigmoid, by its inverse."""
    cdf = scipy.stats.logistic(scale=tau).cdf
    return scipy.stats.logistic(scale=tau).ppf(cdf(start) + u * (cdf(end) - cdf(start)))


UNIFORM_IN = {
    "uniform": ("t", lambda t: t),
    "polynomial": ("t", lambda t: np.sqrt(t)),
    "polynomial(3)": ("t", lambda t: np.cbrt(t)),
    "beta": ("t", scipy.stats.beta(0.6, 0.6).cdf),
    "beta(1.4, 0.4)": ("t", scipy.stats.beta(1.4, 0.4).cdf),
    "sigmoid": ("t", lambda t: _logistic_share(t, -3, 3, 1)),
    "sigmoid(0, 3, 0.5)": ("t", lambda t: _logistic_share(t, 0, 3, 0.5)),
    "uniform_log_snr": ("sigma", np.log),
    "exponential": ("sigma", np.log),
    "exponential(2)": ("sigma", lambda sigma: np.sqrt(np.maximum(np.log(sigma / 0.02), 0))),
    "karras": ("sigma", lambda sigma: sigma ** (1 / 7)),
    "kl_optimal": ("sigma", np.arctan),
    "kl_optimal(0.5)": ("sigma", lambda sigma: np.arctan(sigma / 0.5)),
}


@pytest.mark.parametrize("name", list(UNIFORM_IN))
@pytest.mark.parametrize("schedule_name", list(RATIOS))
def test_grid_is_uniform_in_its_variable_between_its_ends(name, schedule_name, x64):
    schedule, (variable, function) = SCHEDULES[schedule_name], UNIFORM_IN[name]
    grid = np.asarray(GRIDS[name](schedule, 18))
    if variable == "t":
        values = grid / schedule.t_max
        ends = (1, 0)
    else:
        values = RATIOS[schedule_name](grid[:-1])
        ends = (20.0, 0.02)
    np.testing.assert_allclose(values[[0, -1]], ends, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(_share(function(values)), np.linspace(0, 1, len(values)), atol=1e-6)


def test_a_sigmoid_grid_far_on_one_side_is_exponential():
    u = np.linspace(1, 0, 6)
    for start, end, expected in [
        (200, 203, np.expm1(-3 * u) / np.expm1(-3)),
        (-2003, -2000, np.expm1(3 * u) / np.expm1(3)),
    ]:
        grid = timesteps.sigmoid(SCHEDULES["rectified_flow"], 5, start, end)
        np.testing.assert_allclose(grid, expected, rtol=1e-9)


# diffusers 0.30, `AysSchedules`: the authors' ten steps as indices of the process and as sigma / alpha.
ALIGN_YOUR_STEPS = {
    "stable_diffusion_1.5": (
        [999, 850, 736, 645, 545, 455, 343, 233, 124, 24],
        [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152],
    ),
    "stable_diffusion_xl": (
        [999, 845, 730, 587, 443, 310, 193, 116, 53, 13],
        [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113],
    ),
    "stable_video_diffusion": (None, [700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034]),
}


@pytest.mark.parametrize("network", list(ALIGN_YOUR_STEPS))
def test_align_your_steps_at_ten_steps_is_the_published_table(network, x64):
    indices, sigmas = ALIGN_YOUR_STEPS[network]
    grid = timesteps.align_your_steps(schedules.rectified_flow(), 10, network)
    np.testing.assert_allclose(RATIOS["rectified_flow"](grid[:-1]), sigmas, rtol=0.015)
    if indices:
        grid = timesteps.align_your_steps(schedules.scaled_linear(), 10, network)
        np.testing.assert_allclose(1000 * grid[:-1] - 1, indices, atol=1)


@pytest.mark.parametrize("steps", [1, 4, 20, 25])
def test_align_your_steps_at_other_counts_is_the_authors_interpolation(steps, x64):
    """Their `loglinear_interp`, from the small end up, and 0 in the place of the last value."""
    schedule = schedules.rectified_flow()
    sigma = RATIOS["rectified_flow"]
    table = sigma(timesteps.align_your_steps(schedule, 10, "stable_diffusion_1.5"))
    table[-1] = 0.0291671582
    ascending = np.interp(np.linspace(0, 1, steps + 1), np.linspace(0, 1, 11), np.log(table[::-1]))
    grid = timesteps.align_your_steps(schedule, steps, "stable_diffusion_1.5")
    np.testing.assert_allclose(sigma(grid), [*np.exp(ascending[::-1][:-1]), 0], rtol=1e-9)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: timesteps.align_your_steps(schedules.scaled_linear(), 10, "flux"), "flux.*stable_diffusion_xl"),
        (
            lambda: timesteps.align_your_steps(schedules.edm(), 10, "stable_video_diffusion"),
            r"sigma_min = 0\.002, sigma_max = 700.*sigma_max <= 80",
        ),
        (lambda: timesteps.beta(schedules.edm(), 10, 0.0), "a = 0"),
        (lambda: timesteps.beta(schedules.edm(), 10, 0.6, float("nan")), "b = nan"),
        (lambda: timesteps.polynomial(schedules.edm(), 10, -1.0), "rho = -1"),
        (lambda: timesteps.exponential(schedules.edm(), 10, 0.1, 10.0, 0.0), "rho = 0"),
        (lambda: timesteps.karras(schedules.edm(), 10, rho=0.0), "rho = 0"),
        (lambda: timesteps.karras(schedules.edm(), 10, rho=0.005), r"rho = 0\.005\. Valid: at least 0\.00888"),
        (lambda: timesteps.sigmoid(schedules.edm(), 10, 3.0, -3.0), "start = 3"),
        (lambda: timesteps.sigmoid(schedules.edm(), 10, tau=0.0), "tau = 0"),
        (lambda: timesteps.kl_optimal(schedules.edm(), 10, 0.1, 10.0, -1.0), "sigma_data = -1"),
        (lambda: timesteps.flux_shift(schedules.rectified_flow(), [1.0, 0.0], 0), "tokens = 0"),
        (lambda: timesteps.leading(schedules.linear_beta(), 2, 4, offset=2), "index 4 lies beyond 3, the last step"),
        (lambda: timesteps.plan([1.0, 0.8, 0.5, 0.5, 0.1]), r"step 2 of.*: times 2 and 3 are both 0\.5"),
        (
            lambda: timesteps.plan([1.0, 0.5, 0.8, 0.1], [True, True, False]),
            r"step 0 is marked to add noise.* 1 -> 0\.5",
        ),
        (
            lambda: timesteps.plan([1.0, 0.5, 0.8, 0.1], [False, True, True]),
            r"step 2 is marked to add noise.* 0\.8 -> 0\.1",
        ),
        (lambda: timesteps.plan([1.0, 0.5, 0.8, 0.1]), r"0\.5 -> 0\.8 changes direction\. Mark"),
    ],
)
def test_bad_grids_are_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_grid_can_be_made_inside_a_compiled_function():
    grid = jax.jit(lambda: jnp.asarray(timesteps.karras(schedules.edm(), 5)))()
    np.testing.assert_allclose(grid, timesteps.karras(schedules.edm(), 5), rtol=1e-6)


@given(tokens=st.integers(64, 16384), steps=st.sampled_from(STEPS))
def test_flux_shift_is_flux_1s_formula(tokens, steps):
    """`get_schedule` of the code of FLUX.1: mu on the line through (256, 0.5) and (4096, 1.15)."""
    with jax.enable_x64(True):
        shifted = timesteps.flux_shift(schedules.rectified_flow(), np.linspace(1, 0, steps + 1), tokens)
    slope = (1.15 - 0.5) / (4096 - 256)
    mu = slope * tokens + 0.5 - slope * 256
    t = np.linspace(1, 0, steps + 1)[:-1]
    np.testing.assert_allclose(shifted, [*np.exp(mu) / (np.exp(mu) + (1 / t - 1) ** 1.0), 0], atol=1e-9)


def test_flux_shift_has_the_chosen_ends():
    """mu = 0.5 halfway between (100, 0.2) and (300, 0.8): t' = e^mu t / (1 + (e^mu - 1) t)."""
    shifted = timesteps.flux_shift(
        schedules.rectified_flow(), np.array([1.0, 0.5, 0.0]), 200, base=(100, 0.2), largest=(300, 0.8)
    )
    np.testing.assert_allclose(shifted, [1, np.exp(0.5) / (1 + np.exp(0.5)), 0], rtol=1e-6)


@given(steps=st.integers(1, 1000))
def test_uniform_grid_is_uniform(steps):
    grid = timesteps.uniform(schedules.rectified_flow(), steps)
    np.testing.assert_allclose(grid, 1 - np.arange(steps + 1) / steps, atol=1e-12)


@pytest.mark.parametrize(
    "grid, middle",
    [
        (timesteps.uniform, 0.4),
        (lambda schedule, steps: timesteps.uniform(schedule, steps, last=0.3), 0.3),
        (lambda schedule, steps: timesteps.polynomial(schedule, steps, 3.0), 0.1),
        (timesteps.beta, 0.4),  # the middle of a symmetric distribution
        (timesteps.sigmoid, 0.4),
    ],
)
def test_a_grid_begins_at_the_end_of_its_schedule(grid, middle):
    schedule = schedules.ending_at(schedules.rectified_flow(), 0.8)
    np.testing.assert_allclose(grid(schedule, 2), [0.8, middle, 0.0], rtol=1e-12)


def test_uniform_grid_with_a_last_step_of_its_own():
    """SiT's stochastic sampler: 249 equal steps from 1 to 0.04, and one onto the data."""
    grid = timesteps.uniform(schedules.rectified_flow(), 250, last=0.04)
    assert (len(grid), grid[0], grid[-1]) == (251, 1, 0)
    np.testing.assert_allclose(-np.diff(grid), [*[0.96 / 249] * 249, 0.04], atol=1e-12)
    np.testing.assert_array_equal(timesteps.uniform(schedules.rectified_flow(), 1, last=0.04), [1, 0])
    with pytest.raises(ValueError, match=r"last = 1\.0, the length of the last step, must be in \(0, 1"):
        timesteps.uniform(schedules.rectified_flow(), 4, last=1.0)


@pytest.mark.parametrize("schedule_name", ["edm", "cosine"])
@given(
    steps=st.sampled_from(STEPS), rho=st.floats(1.0, 20.0), sigma_min=st.floats(0.01, 0.1), sigma_max=st.floats(1, 80)
)
def test_karras_grid_is_equation_5(schedule_name, steps, rho, sigma_min, sigma_max):
    with jax.enable_x64(True):
        schedule = SCHEDULES[schedule_name]
        grid = timesteps.karras(schedule, steps, sigma_min, sigma_max, rho)
        i = np.arange(steps)
        inverse = 1 / rho
        sigmas = (sigma_max**inverse + i / (steps - 1) * (sigma_min**inverse - sigma_max**inverse)) ** rho
        reached = np.exp(-np.asarray(schedule.log_snr(np.asarray(grid[:-1]))) / 2)
    np.testing.assert_allclose(reached, sigmas, rtol=1e-8)


def test_karras_grid_at_published_values(x64):
    """EDM's sampler at 18 steps: sigma_0 = 80, sigma_1 = 57.586, sigma_17 = 0.002, sigma_18 = 0 (eq. 5, rho = 7)."""
    sigmas = 80 * np.asarray(timesteps.karras(schedules.edm(), 18, 0.002, 80.0, 7.0))
    np.testing.assert_allclose(sigmas[[0, 17, 18]], [80.0, 0.002, 0.0], atol=1e-12)
    by_hand = (80 ** (1 / 7) - (80 ** (1 / 7) - 0.002 ** (1 / 7)) / 17) ** 7
    np.testing.assert_allclose(sigmas[1], by_hand)
    np.testing.assert_allclose(sigmas[1], 57.586, atol=1e-3)


@pytest.mark.parametrize("steps", STEPS)
def test_uniform_log_snr_grid_is_geometric_in_sigma(steps, x64):
    schedule = SCHEDULES["cosine"]
    grid = timesteps.uniform_log_snr(schedule, steps, 0.02, 20.0)
    log_snr = np.asarray(schedule.log_snr(grid[:-1]))
    np.testing.assert_allclose(log_snr, np.linspace(-2 * np.log(20.0), -2 * np.log(0.02), steps), atol=1e-9)


@pytest.mark.parametrize("name", ["karras", "uniform_log_snr", "exponential", "kl_optimal"])
def test_sigma_grids_of_one_step_start_at_sigma_max(name, x64):
    grid = GRIDS[name](schedules.edm(), 1)
    np.testing.assert_allclose(grid, [20.0 / 80.0, 0.0], rtol=1e-12)


@pytest.mark.parametrize(
    "make", [timesteps.karras, timesteps.uniform_log_snr, timesteps.exponential, timesteps.kl_optimal]
)
@pytest.mark.parametrize("sigma_min, sigma_max", [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (1.0, 1.0), (0.1, 80.1),
                                                  (float("nan"), 1.0)])  # fmt: skip
def test_sigma_grids_refuse_bad_ranges(make, sigma_min, sigma_max):
    with pytest.raises(ValueError, match="sigma"):
        make(schedules.edm(), 5, sigma_min, sigma_max)


def test_the_grid_of_a_plan_is_every_time_at_which_it_arrives():
    times = np.array([1.0, 0.6, 0.3, 0.0])
    np.testing.assert_array_equal(timesteps.plan(times).grid, times)


def test_levels_of_consistency_models_are_those_of_the_karras_grid():
    """Two steps of the authors' ImageNet-64 model are at the levels 0 and 22 of 40."""
    schedule = schedules.edm()
    roots = lambda i: 80 ** (1 / 7) + i / 39 * (0.002 ** (1 / 7) - 80 ** (1 / 7))
    chosen = 80 * np.asarray(timesteps.karras_levels(schedule, 2, chosen=(0, 22)))
    np.testing.assert_allclose(chosen, [80, roots(22) ** 7, 0], rtol=1e-6)
    even = 80 * np.asarray(timesteps.karras_levels(schedule, 3))
    np.testing.assert_allclose(even, [80, roots(13) ** 7, roots(26) ** 7, 0], rtol=1e-6)
    in_line = 80 * np.asarray(timesteps.karras_levels(schedule, 2, 10.0, 70.0, rho=1.0, levels=4))
    np.testing.assert_allclose(in_line, [70, 30, 0], rtol=1e-6)
    with pytest.raises(ValueError, match=r"chosen = \(0, 40\) must be 2 increasing indices from 0, below 40"):
        timesteps.karras_levels(schedule, 2, chosen=(0, 40))
