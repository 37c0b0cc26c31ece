"""Conformance of every density of training times and every grid of sampling times: a new one is one line in a list."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from diffusion import schedules, timesteps
from tests.conformance import SCHEDULES, every_schedule, slow_but

# Densities: name -> (factory from a schedule, closed-form distribution function of t).


def _uniform_cdf(schedule):
    return lambda t: (t - schedule.t_min) / (schedule.t_max - schedule.t_min)


def _logit_normal_cdf(mean, std):
    def cdf(schedule):
        scale = lambda t: np.clip((t - schedule.t_min) / (schedule.t_max - schedule.t_min), 1e-12, 1 - 1e-9)
        return lambda t: scipy.stats.norm.cdf(scipy.special.logit(scale(t)), mean, std)

    return cdf


def _fraction_cdf(cdf):
    """Of (t - t_min) / (t_max - t_min)."""
    return lambda schedule: lambda t: cdf((t - schedule.t_min) / (schedule.t_max - schedule.t_min))


def _mode_cdf(scale):
    """Esser et al. 2024, eq. 20, in its own words: t = f(u) falls from 1 to 0, so P(t < f(u)) = 1 - u."""
    u = np.linspace(0, 1, 200001)
    f = 1 - u - scale * (np.cos(np.pi / 2 * u) ** 2 - 1 + u)
    return _fraction_cdf(lambda x: np.interp(x, f[::-1], 1 - u[::-1]))


def _laplace_cdf(mean, scale):
    """Of the log-SNR, given that t is in [t_min, t_max]; it falls with t."""

    def cdf(schedule):
        above = lambda t: scipy.stats.laplace.sf(np.asarray(schedule.log_snr(np.float32(t)), np.float64), mean, scale)
        low, high = above(np.array([schedule.t_min, schedule.t_max]))
        return lambda t: (above(t) - low) / (high - low)

    return cdf


def _log_normal_cdf(mean, std):
    """Of ln(sigma / alpha), given that t is in [t_min, t_max]."""

    def cdf(schedule):
        log_ratio = lambda t: -np.asarray(schedule.log_snr(np.float32(t)), np.float64) / 2
        low, high = scipy.stats.norm.cdf(log_ratio(np.array([schedule.t_min, schedule.t_max])), mean, std)
        return lambda t: (scipy.stats.norm.cdf(log_ratio(t), mean, std) - low) / (high - low)

    return cdf


DENSITIES = {
    "uniform": (timesteps.uniform_density, _uniform_cdf),
    "logit_normal": (timesteps.logit_normal, _logit_normal_cdf(0.0, 1.0)),
    "logit_normal(-0.5, 0.8)": (
        lambda schedule, **more: timesteps.logit_normal(schedule, mean=-0.5, std=0.8, **more),
        _logit_normal_cdf(-0.5, 0.8),
    ),
    "log_normal": (timesteps.log_normal, _log_normal_cdf(-1.2, 1.2)),
    "log_normal(-0.4, 2.0)": (
        lambda schedule, **more: timesteps.log_normal(schedule, mean=-0.4, std=2.0, **more),
        _log_normal_cdf(-0.4, 2.0),
    ),
    "mode": (timesteps.mode, _mode_cdf(1.29)),
    "mode(-0.9)": (lambda schedule, **more: timesteps.mode(schedule, -0.9, **more), _mode_cdf(-0.9)),
    "cosmap": (timesteps.cosmap, _fraction_cdf(lambda x: 2 / np.pi * np.arctan2(x, 1 - x))),
    "beta_density(1.5, 1)": (
        lambda schedule, **more: timesteps.beta_density(schedule, 1.5, 1.0, **more),
        _fraction_cdf(lambda x: x**1.5),
    ),
    "beta_density(0.7, 4)": (
        lambda schedule, **more: timesteps.beta_density(schedule, 0.7, 4.0, **more),
        _fraction_cdf(scipy.stats.beta(0.7, 4.0).cdf),
    ),
    "laplace": (timesteps.laplace, _laplace_cdf(0.0, 0.5)),
    "laplace(-3, 2)": (
        lambda schedule, **more: timesteps.laplace(schedule, -3.0, 2.0, **more), _laplace_cdf(-3.0, 2.0)
    ),
}
LIKE_OTHERS = ["mode(-0.9)", "beta_density(1.5, 1)", "laplace"]
every_density = pytest.mark.parametrize(
    "name", slow_but([(name,) for name in DENSITIES if name not in LIKE_OTHERS], [(name,) for name in DENSITIES])
)
B = 4096
KEYS = jax.random.split(jax.random.key(7), B)
INDEX = np.arange(B)


def _draw(density, keys=KEYS, index=INDEX):
    return density.sample(density.init(), keys, jnp.asarray(index))


@every_density
@every_schedule
def test_density_has_its_distribution(name, schedule_name):
    make, cdf = DENSITIES[name]
    schedule = SCHEDULES[schedule_name]
    t, importance = _draw(make(schedule))
    assert t.shape == importance.shape == (B,)
    assert t.dtype == jnp.float32
    assert scipy.stats.kstest(np.asarray(t, np.float64), cdf(schedule)).pvalue > 1e-3
    np.testing.assert_array_equal(importance, 1)


@every_density
@every_schedule
def test_density_stays_inside_and_off_the_singular_ends(name, schedule_name):
    schedule = SCHEDULES[schedule_name]
    t = np.asarray(_draw(DENSITIES[name][0](schedule))[0])
    assert (t >= np.float32(schedule.t_min)).all()
    assert (t <= np.float32(schedule.t_max)).all()
    assert (np.asarray(schedule.sigma(t)) > 0).all()
    assert (np.asarray(schedule.alpha(t)) > 0).all()
    assert np.isfinite(schedule.log_snr(t)).all()


@pytest.mark.parametrize("mean, std", [(0.0, 5.0), (6.0, 3.0), (-6.0, 3.0)])
def test_extreme_logit_normals_stay_off_the_ends(mean, std):
    """A wide density rounds to 0 or 1 in float32 if nothing stops it: sigma or alpha would vanish."""
    schedule = schedules.rectified_flow()
    keys = jax.random.split(jax.random.key(0), 1 << 15)
    t = np.asarray(_draw(timesteps.logit_normal(schedule, mean, std), keys, 0)[0])
    assert (t > 0).all()
    assert (t < 1).all()


@every_density
@pytest.mark.parametrize("strata", [1, 7, 128])
def test_stratified_density_puts_one_in_each_stratum(name, strata):
    """Consecutive examples take the strata of u = F(t) in turn, from whatever global index the batch starts."""
    make, cdf = DENSITIES[name]
    schedule, index = SCHEDULES["edm"], 1000 + np.arange(896)
    t, _ = _draw(make(schedule, strata=strata), KEYS[:896], index)
    u = cdf(schedule)(np.asarray(t, np.float64)) * strata
    assert (u > index % strata - 1e-3).all()
    assert (u < index % strata + 1 + 1e-3).all()
    within = np.clip(u - index % strata, 0, 1)
    assert scipy.stats.kstest(within, "uniform").pvalue > 1e-3  # jittered, not at the centres


@every_density
@pytest.mark.parametrize("strata", [None, 16])
def test_draws_depend_on_the_example_alone(name, strata):
    """The same key and index give the same time in a batch of any size, in any order."""
    density = DENSITIES[name][0](SCHEDULES["rectified_flow"], strata=strata)
    whole, _ = _draw(density, KEYS[:64], INDEX[:64])
    halves = [_draw(density, KEYS[a:b], INDEX[a:b])[0] for a, b in ((0, 10), (10, 64))]
    np.testing.assert_array_equal(whole, np.concatenate(halves))
    order = np.random.default_rng(0).permutation(64)
    np.testing.assert_array_equal(_draw(density, KEYS[:64][order], order)[0], whole[order])


def test_plain_density_ignores_the_index():
    density = timesteps.uniform_density(SCHEDULES["cosine"])
    np.testing.assert_array_equal(_draw(density, KEYS[:8], INDEX[:8])[0], _draw(density, KEYS[:8], INDEX[:8] + 5)[0])


@every_density
def test_densities_without_memory_keep_none(name):
    density = DENSITIES[name][0](SCHEDULES["cosine"])
    assert jax.tree.leaves(density.init()) == []
    assert jax.tree.leaves(density.update(density.init(), jnp.ones(3), jnp.ones(3))) == []


def test_stratification_lowers_the_variance_of_a_mean():
    plain, stratified = (timesteps.uniform_density(SCHEDULES["rectified_flow"], strata=s) for s in (None, 32))
    means = [np.asarray(_draw(d)[0]).reshape(-1, 32).mean(1) for d in (plain, stratified)]
    assert means[1].var() < means[0].var() / 100


def test_discrete_density_is_uniform_over_the_process():
    t = np.asarray(_draw(timesteps.discrete_density(SCHEDULES["linear_beta"], T=10 * 100))[0], np.float64)
    i = np.round(t * 1000) - 1
    np.testing.assert_allclose(t, (i + 1) / 1000, rtol=1e-6)
    assert i.min() >= 0
    assert i.max() <= 999
    counts = np.bincount(i.astype(int) // 100, minlength=10)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda s: timesteps.logit_normal(s, std=0.0), "std"),
        (lambda s: timesteps.log_normal(s, std=-1.0), "std"),
        (lambda s: timesteps.uniform_density(s, strata=0), "strata"),
        (lambda s: timesteps.discrete_density(s, T=0), "T"),
    ],
)
def test_bad_densities_are_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make(SCHEDULES["linear_beta"])


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
    "kl_optimal": lambda schedule, steps: timesteps.kl_optimal(schedule, steps, 0.02, 20.0),
    "kl_optimal(0.5)": lambda schedule, steps: timesteps.kl_optimal(schedule, steps, 0.02, 20.0, 0.5),
    "align_your_steps": lambda schedule, steps: timesteps.align_your_steps(schedule, steps, "stable_diffusion_xl"),
    "leading": timesteps.leading,
    "trailing": timesteps.trailing,
    "linspace": timesteps.linspace,
}
STEPS = [2, 3, 18]  # few shapes, so that compilations are shared
every_grid = pytest.mark.parametrize("name", list(GRIDS))


@every_grid
@every_schedule
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_grid_of_n_steps_has_n_plus_1_decreasing_times_down_to_0(name, schedule_name, steps):
    schedule = SCHEDULES[schedule_name]
    grid = np.asarray(GRIDS[name](schedule, steps))
    assert grid.shape == (steps + 1,)
    assert (np.diff(grid) < 0).all()
    assert grid[-1] == 0
    assert grid[0] <= schedule.t_max
    plan = timesteps.plan(grid)
    np.testing.assert_array_equal(plan.t, grid[:-1])
    np.testing.assert_array_equal(plan.s, grid[1:])
    assert not np.asarray(plan.renoise).any()


@every_grid
@pytest.mark.parametrize("steps", [0, -1, 2.5])
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
        values, ends = grid / schedule.t_max, (1, 0)
    else:
        values, ends = RATIOS[schedule_name](grid[:-1]), (20.0, 0.02)
    np.testing.assert_allclose(values[[0, -1]], ends, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(_share(function(values)), np.linspace(0, 1, len(values)), atol=1e-6)


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
    schedule, sigma = schedules.rectified_flow(), RATIOS["rectified_flow"]
    table = sigma(timesteps.align_your_steps(schedule, 10, "stable_diffusion_1.5"))
    table[-1] = 0.0291671582
    ascending = np.interp(np.linspace(0, 1, steps + 1), np.linspace(0, 1, 11), np.log(table[::-1]))
    grid = timesteps.align_your_steps(schedule, steps, "stable_diffusion_1.5")
    np.testing.assert_allclose(sigma(grid), [*np.exp(ascending[::-1][:-1]), 0], rtol=1e-9)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: timesteps.align_your_steps(schedules.scaled_linear(), 10, "flux"), "flux.*stable_diffusion_xl"),
        (lambda: timesteps.align_your_steps(schedules.edm(), 10, "stable_video_diffusion"), "sigma_max <= 80"),
        (lambda: timesteps.beta(schedules.edm(), 10, 0.0), "a = 0"),
        (lambda: timesteps.beta(schedules.edm(), 10, 0.6, float("nan")), "b = nan"),
        (lambda: timesteps.polynomial(schedules.edm(), 10, -1.0), "rho = -1"),
        (lambda: timesteps.exponential(schedules.edm(), 10, 0.1, 10.0, 0.0), "rho = 0"),
        (lambda: timesteps.karras(schedules.edm(), 10, rho=0.0), "rho = 0"),
        (lambda: timesteps.sigmoid(schedules.edm(), 10, 3.0, -3.0), "start = 3"),
        (lambda: timesteps.sigmoid(schedules.edm(), 10, tau=0.0), "tau = 0"),
        (lambda: timesteps.kl_optimal(schedules.edm(), 10, 0.1, 10.0, -1.0), "sigma_data = -1"),
        (lambda: timesteps.flux_shift(schedules.rectified_flow(), [1.0, 0.0], 0), "tokens = 0"),
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


@given(steps=st.integers(1, 1000))
def test_uniform_grid_is_uniform(steps):
    grid = timesteps.uniform(schedules.rectified_flow(), steps)
    np.testing.assert_allclose(grid, 1 - np.arange(steps + 1) / steps, atol=1e-12)


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
@pytest.mark.parametrize("sigma_min, sigma_max", [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (0.1, 1e3), (float("nan"), 1.0)])
def test_sigma_grids_refuse_bad_ranges(make, sigma_min, sigma_max):
    with pytest.raises(ValueError, match="sigma"):
        make(schedules.edm(), 5, sigma_min, sigma_max)


# Lin et al. 2024, table 2, for T = 1000 and S = 5, in their numbering 1 .. T. Their row for linspace rounds 500.5 to
# 500; the code of improved DDPM, whose spacing it is, counts from 0 and rounds 499.5 to 500, the number 501.
TABLE_2 = {
    "leading": [801, 601, 401, 201, 1],
    "linspace": [1000, 750, 501, 251, 1],
    "trailing": [1000, 800, 600, 400, 200],
}


@pytest.mark.parametrize("name", list(TABLE_2))
def test_discrete_grids_are_the_published_ones(name):
    grid = np.asarray(GRIDS[name](SCHEDULES["linear_beta"], 5), np.float64)
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
        GRIDS[name](SCHEDULES["linear_beta"], 1001)


@given(factor=st.floats(0.1, 10.0), steps=st.sampled_from([1, *STEPS]))
def test_shift_of_the_rectified_flow_is_sd3s_formula(factor, steps):
    """t' = a t / (1 + (a - 1) t), Esser et al. 2024, eq. 23, once and with both ends in place."""
    with jax.enable_x64(True):
        schedule = schedules.rectified_flow()
        grid = timesteps.uniform(schedule, steps)
        shifted = timesteps.shift(schedule, grid, factor)
    np.testing.assert_allclose(shifted, factor * grid / (1 + (factor - 1) * grid), atol=1e-12)
    assert shifted[0] == 1
    assert shifted[-1] == 0


@every_schedule
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_shift_lowers_the_log_snr(schedule_name, factor, x64):
    """log SNR' = log SNR - 2 ln a, on times whose image is within the schedule."""
    schedule = SCHEDULES[schedule_name]
    grid = np.array([0.7, 0.6, 0.5, 0.4, 0.0]) if schedule_name != "edm" else np.array([0.4, 0.2, 0.1, 0.01, 0.0])
    shifted = timesteps.shift(schedule, grid, factor)
    before, after = np.asarray(schedule.log_snr(grid[:-1])), np.asarray(schedule.log_snr(shifted[:-1]))
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
    if schedule_name in ("rectified_flow", "cosine"):
        shifted = np.asarray(timesteps.shift(schedule, grid, factor))
        np.testing.assert_allclose(shifted[[0, -1]], [1, 0], atol=1e-7)
    else:
        try:
            shifted = np.asarray(timesteps.shift(schedule, grid, factor))
        except ValueError as error:
            assert "shift" in str(error)
            return
    assert (np.diff(shifted) < 0).all()
    assert shifted[0] <= schedule.t_max
    assert shifted[-1] == 0


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
def test_plan_refuses_what_cannot_be_walked(grid):
    with pytest.raises(ValueError):
        timesteps.plan(np.asarray(grid))


def test_plan_may_go_up_to_invert():
    plan = timesteps.plan(np.array([0.1, 0.5, 1.0]))
    np.testing.assert_array_equal(plan.t, [0.1, 0.5])
    np.testing.assert_array_equal(plan.s, [0.5, 1.0])


def test_plan_renoises_where_it_is_told():
    renoise = np.array([False, True, False])
    plan = timesteps.plan(np.array([1.0, 0.4, 0.8, 0.0]), renoise)
    np.testing.assert_array_equal(plan.renoise, renoise)


@pytest.mark.parametrize("renoise", [[True, False, False], [False, True], [[False, True, False]]])
def test_plan_refuses_noise_on_the_way_down(renoise):
    with pytest.raises(ValueError):
        timesteps.plan(np.array([1.0, 0.4, 0.8, 0.0]), np.array(renoise))
