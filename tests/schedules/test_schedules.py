"""Conformance of every schedule in `schedule_cases.SCHEDULES`, against its definition."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from diffusion import parameterizations, schedules
from diffusion.schedules import bisection
from tests.conformance import slow_but
from tests.schedules import schedule_cases
from tests.schedules.schedule_cases import INTERIOR, LINEAR, NAMES, SCALED_LINEAR, SCHEDULES

SLOW = [  # others are like them, or take long to compile
    "sigmoid(0, 3, 0.3)", "shifted(rectified_flow, 3)", "shifted(variance_exploding, 0.2)", "from_alpha_sigma(circles)",
    "from_alpha_sigma(exploding)", "from_alpha_sigma(lines at another pace)", "rectified_flow(2)",
    "rectified_flow(0.5)", "interpolated(cosine, 2, 8)",
]  # fmt: skip
every_schedule = pytest.mark.parametrize(
    "name", slow_but([(name,) for name in NAMES if name not in SLOW], [(name,) for name in NAMES])
)
# For what holds by the way a schedule is written more than by its formula: one of each way in the fast suite.
FAST = ["linear_beta", "edm", "learned", "zero_terminal_snr(variance_preserving)"]
each_kind = pytest.mark.parametrize("name", slow_but([(name,) for name in FAST], [(name,) for name in NAMES]))


@pytest.fixture(scope="module")
def made():
    return schedule_cases.made()


def in_parts(function, t):
    """function(t) by parts of the size of INTERIOR: an eager operation is compiled for each shape that it meets."""
    padded = np.pad(t, (0, -len(t) % INTERIOR.size), mode="edge")
    return np.concatenate([function(part) for part in padded.reshape(-1, INTERIOR.size)])[: len(t)]


@pytest.mark.extended
@every_schedule
@pytest.mark.parametrize("dtype, rtol", [(np.float32, 2e-5), (np.float64, 1e-10)])
def test_coefficients_equal_the_definition(made, name, dtype, rtol):
    """With a relative tolerance: small sigmas near the data and small alphas near the noise must not lose digits."""
    with jax.enable_x64(dtype == np.float64):
        t = INTERIOR.astype(dtype)
        alpha_squared, sigma_squared = SCHEDULES[name].squares(t.astype(np.float64))
        alpha = made[name].alpha(t)
        sigma = made[name].sigma(t)
        log_snr = made[name].log_snr(t)
        assert alpha.dtype == sigma.dtype == log_snr.dtype == dtype
    np.testing.assert_allclose(alpha, np.sqrt(alpha_squared), rtol=rtol)
    np.testing.assert_allclose(sigma, np.sqrt(sigma_squared), rtol=rtol)
    np.testing.assert_allclose(log_snr, np.log(alpha_squared / sigma_squared), rtol=rtol, atol=4 * rtol)


@pytest.mark.parametrize("name, betas", [("linear_beta", LINEAR), ("scaled_linear", SCALED_LINEAR)])
def test_discrete_process_is_exact_at_its_times(made, name, betas, x64):
    """alpha_bar_i = prod_{j <= i} (1 - beta_j) by multiplication, at t = (i + 1) / 1000, in float64."""
    alpha_bar = np.cumprod(1 - betas)
    t = np.arange(1, 1001) / 1000
    np.testing.assert_allclose(in_parts(made[name].alpha, t) ** 2, alpha_bar, rtol=1e-12)
    np.testing.assert_allclose(
        in_parts(made[name].sigma, t) ** 2, 1 - alpha_bar, rtol=1e-10
    )  # 1 - x loses digits in numpy


@pytest.mark.parametrize("name, betas", [("linear_beta", LINEAR), ("scaled_linear", SCALED_LINEAR)])
def test_discrete_process_in_float32_is_its_table_rounded(made, name, betas):
    """A time rounded to float32 still finds its grid point: nothing is interpolated there."""
    alpha_bar = np.cumprod(1 - betas)
    t = (np.arange(1, 1001) / 1000).astype(np.float32)
    np.testing.assert_allclose(in_parts(made[name].alpha, t), np.sqrt(alpha_bar), rtol=2e-6)
    np.testing.assert_allclose(in_parts(made[name].sigma, t), np.sqrt(1 - alpha_bar), rtol=2e-6)


def test_published_values_of_ddpm(made, x64):
    """alpha_bar_T of the linear schedule: about 4.04e-5 (Ho et al. 2020 report a prior term near zero)."""
    np.testing.assert_allclose(made["linear_beta"].alpha(1.0) ** 2, 4.0358e-5, rtol=1e-4)
    np.testing.assert_allclose(made["scaled_linear"].log_snr(1.0), np.log(0.00466 / 0.99534), atol=2e-3)


@pytest.mark.extended
@every_schedule
@pytest.mark.parametrize("x64", [False, True])
def test_ends(made, name, x64):
    schedule, (alpha_end, sigma_end) = made[name], SCHEDULES[name].bounds
    with jax.enable_x64(x64):
        assert schedule.alpha(0.0) == 1
        assert schedule.sigma(0.0) == 0
        assert schedule.log_snr(0.0) == np.inf
        assert schedule.inverse_log_snr(np.inf) == 0
        assert 0 <= schedule.t_min < schedule.t_max == 1
        np.testing.assert_allclose(schedule.alpha(schedule.t_max), alpha_end, rtol=1e-5, atol=1e-12)
        np.testing.assert_allclose(schedule.sigma(schedule.t_max), sigma_end, rtol=1e-5)
        if alpha_end == 0:
            assert schedule.alpha(1.0) == 0
            assert schedule.log_snr(1.0) == -np.inf
            np.testing.assert_allclose(schedule.inverse_log_snr(-np.inf), 1, rtol=1e-6)


@every_schedule
def test_log_snr_decreases(made, name):
    schedule = made[name]
    t = np.linspace(0, 1, 2001, dtype=np.float32)
    log_snr = in_parts(schedule.log_snr, t).astype(np.float64)
    assert not np.isnan(log_snr).any()
    assert (np.diff(log_snr[np.isfinite(log_snr)]) < 0).all()
    rounding = np.finfo(np.float32).eps  # of values near 1
    assert (np.diff(in_parts(schedule.sigma, t)) >= -rounding).all()
    assert (np.diff(in_parts(schedule.alpha, t)) <= rounding).all()


@pytest.mark.extended
@every_schedule
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 2e-6), (np.float64, 1e-13)])
def test_inverse_returns_t(made, name, dtype, tolerance):
    """inverse_log_snr(log_snr(t)) = t up to how far one rounding of the log-SNR moves t."""
    with jax.enable_x64(dtype == np.float64):
        t = INTERIOR.astype(dtype)
        log_snr = made[name].log_snr(t)
        back = made[name].inverse_log_snr(log_snr)
        assert back.dtype == dtype
    slope = np.abs(np.gradient(np.asarray(log_snr, np.float64), t.astype(np.float64)))
    ulp = np.finfo(dtype).eps * np.maximum(np.abs(log_snr), 1)
    error = np.abs(np.asarray(back, np.float64) - t) / (ulp / slope + tolerance * t)
    assert error.max() <= 8


@every_schedule
def test_drift_and_diffusion_are_the_derivatives(made, name, x64):
    """f = d log alpha / dt, g^2 = d sigma^2 / dt - 2 f sigma^2, by central differences of the definition.

    The points are away from multiples of 1/1000 and 1/4, where the discrete processes have kinks.
    """
    t = np.round(np.linspace(50, 950, INTERIOR.size)) / 1000 + 0.0004
    h = 1e-6
    (a_plus, s_plus), (a_minus, s_minus) = SCHEDULES[name].squares(t + h), SCHEDULES[name].squares(t - h)
    drift = (np.log(a_plus) - np.log(a_minus)) / (4 * h)
    g_squared = (s_plus - s_minus) / (2 * h) - 2 * drift * SCHEDULES[name].squares(t)[1]
    np.testing.assert_allclose(made[name].drift(t), drift, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(made[name].diffusion(t) ** 2, g_squared, rtol=1e-6, atol=1e-8)
    assert (np.asarray(made[name].diffusion(t)) >= 0).all()


@each_kind
def test_automatic_differentiation_agrees_with_the_drift(made, name, x64):
    """d log alpha / dt through JAX, also at the grid points of the discrete processes: velocity targets rest on it."""
    schedule = made[name]
    for t in (0.3, 0.5, 0.7004):
        derivative = jax.grad(lambda t: jnp.log(schedule.alpha(t)))(t)
        np.testing.assert_allclose(derivative, schedule.drift(t), rtol=1e-9, atol=1e-12)
        sigma_derivative = jax.grad(schedule.sigma)(t)
        g_squared = 2 * schedule.sigma(t) * sigma_derivative - 2 * schedule.drift(t) * schedule.sigma(t) ** 2
        np.testing.assert_allclose(g_squared, schedule.diffusion(t) ** 2, rtol=1e-9)


@pytest.mark.extended
@each_kind
def test_any_shape_of_t(made, name):
    """A matrix of times, its rows in one, and a single time give the same numbers in their shapes."""
    t = np.linspace(0.2, 0.7, INTERIOR.size, dtype=np.float32).reshape(2, -1)
    for function in made[name][:6]:
        values = function(t)
        assert values.shape == t.shape
        np.testing.assert_allclose(function(t.ravel()), values.ravel(), rtol=1e-6, atol=1e-6)
        assert function(t[1, 1]).shape == ()
        np.testing.assert_allclose(function(t[1, 1]), values[1, 1], rtol=1e-6, atol=1e-6)


@each_kind
def test_low_precision_times_are_promoted(made, name):
    """bfloat16 and integer times give float32 coefficients, the same as the float32 time that they stand for."""
    schedule = made[name]
    for t in (jnp.bfloat16(0.3), jnp.float16(0.3)):
        for function in (schedule.alpha, schedule.sigma, schedule.log_snr, schedule.drift, schedule.diffusion):
            value = function(t)
            assert value.dtype == jnp.float32
            np.testing.assert_allclose(value, function(t.astype(jnp.float32)), rtol=1e-7)
    for function in (schedule.alpha, schedule.sigma):
        assert function(jnp.int32(0)).dtype == jnp.float32
        assert function(jnp.int32(1)) == function(jnp.float32(1))
    assert schedule.inverse_log_snr(jnp.bfloat16(2.0)).dtype == jnp.float32


def test_the_derivative_of_the_inverse_of_many_steps_has_the_digits_of_float32():
    """d log alpha = (sigma^2 / 2) d log-SNR, and log alpha is linear in t within a step."""
    T = 10**5
    betas = np.linspace(1e-6, 2e-4, T)
    schedule = schedules.from_betas(betas)
    i = np.linspace(10, T - 10, 97).astype(int)
    log_alpha = np.cumsum(np.log1p(-betas)) / 2
    middle = (log_alpha[i - 1] + log_alpha[i]) / 2
    log_snr = 2 * middle - np.log(-np.expm1(2 * middle))
    expected = -np.expm1(2 * middle) / 2 / (np.log1p(-betas[i]) / 2 * T)
    slopes = jax.jit(jax.vmap(jax.grad(schedule.inverse_log_snr)))(jnp.asarray(log_snr, jnp.float32))
    np.testing.assert_allclose(slopes, expected, rtol=1e-5)


@pytest.mark.parametrize("betas", [[0.1, 0.3, 0.2, 0.6], [0.5]])
def test_the_derivative_of_the_inverse_at_a_time_of_the_grid_is_that_of_the_step_that_leads_to_it(betas):
    """lambda = log alpha^2 - log(1 - alpha^2) has the slope T log(1 - beta_i) / (1 - alpha_i^2) at t = (i + 1) / T."""
    schedule = schedules.from_betas(betas)
    t = jnp.arange(1, len(betas) + 1) / len(betas)
    slopes = len(betas) * np.log1p(-np.array(betas)) / (1 - np.cumprod(1 - np.array(betas)))
    log_snr = schedule.log_snr(t)
    np.testing.assert_allclose(jax.vmap(jax.grad(schedule.inverse_log_snr))(log_snr), 1 / slopes, rtol=1e-5)
    between = t - 0.3 / len(betas)
    by_time, by_snr = (jax.vmap(jax.grad(f)) for f in (schedule.log_snr, schedule.inverse_log_snr))
    np.testing.assert_allclose(by_time(between) * by_snr(schedule.log_snr(between)), 1, rtol=1e-5)


@every_schedule
def test_float32_is_finite_near_both_ends(made, name):
    schedule = made[name]
    ends = np.array([schedule.t_min, max(schedule.t_min, 1e-6), 1e-5, 1 - 6e-8, 1 - 1e-6, 1 - 1e-4], np.float32)
    for t in ends[ends > 0]:
        for function in schedule[:6]:
            argument = schedule.log_snr(t) if function is schedule.inverse_log_snr else t
            assert np.isfinite(function(argument)), (t, function)
        assert schedule.sigma(t) > 0
        assert schedule.alpha(t) > 0


@pytest.mark.extended
@every_schedule
@pytest.mark.parametrize("x64", [False, True])
def test_the_data_end_has_the_limits_of_the_derivatives(made, name, x64):
    """At t = 0, by differences of the definition: sigma' is infinite where sigma(h) / h grows without end.

    A process with t_min > 0 may jump there; then alpha and sigma stay, and nothing is NaN.
    """
    schedule, h = made[name], 1e-9
    with jax.enable_x64(x64):
        t = jnp.zeros([])
        slopes = [jax.jvp(f, (t,), (jnp.ones_like(t),))[1] for f in (schedule.alpha, schedule.sigma)]
        for f, slope in zip((schedule.alpha, schedule.sigma), slopes):
            np.testing.assert_allclose(jax.grad(f)(t), slope, rtol=1e-6)
        drift, diffusion = schedule.drift(t), schedule.diffusion(t)
        assert np.isfinite([drift, diffusion, slopes[0]]).all() and diffusion >= 0 and not np.isnan(slopes[1])
        if schedule.t_min > 0:
            return
        sigma = lambda h: float(np.sqrt(SCHEDULES[name].squares(np.float64(h))[1]))
        alpha_rate = (np.sqrt(SCHEDULES[name].squares(np.float64(1e-6))[0]) - 1) / 1e-6
        np.testing.assert_allclose([slopes[0], drift], alpha_rate, rtol=1e-3, atol=1e-5)
        if sigma(h) > 1e3 * h:
            assert slopes[1] == np.inf
            np.testing.assert_allclose(diffusion, sigma(h) / np.sqrt(h), rtol=1e-3)  # sigma^2 = g^2 t
        else:
            np.testing.assert_allclose(slopes[1], sigma(h) / h, rtol=1e-3)
            np.testing.assert_allclose(diffusion, 0, atol=1e-6)


@pytest.mark.extended
@every_schedule
def test_the_noise_end_has_the_limits_of_the_derivatives(made, name):
    """At t_max, by differences of the definition; alpha falls without end where alpha(1 - h) / h grows."""
    schedule, h = made[name], 1e-6
    with np.errstate(divide="ignore", invalid="ignore"):
        end, near, nearer = (np.sqrt(SCHEDULES[name].squares(np.float64(t))) for t in (1.0, 1 - h, 1 - h / 100))
    slopes, nearer_slopes = (end - near) / h, 100 * (end - nearer) / h
    steep = np.abs(nearer_slopes) > 5 * np.abs(slopes) + 1
    for f, slope, infinite in zip((schedule.alpha, schedule.sigma), slopes, steep):
        np.testing.assert_allclose(jax.grad(f)(1.0), -np.inf if infinite else slope, rtol=1e-3, atol=3e-6)


@pytest.mark.extended
@every_schedule
@pytest.mark.parametrize("parameterization", [parameterizations.velocity(), parameterizations.clipped_x0()])
def test_velocities_are_read_at_the_data(made, name, parameterization):
    """x0 is x itself, whatever a finite output says; at the smallest times it is near x.

    Where sigma jumps from the data, there is no velocity, and the first time is t_min.
    """
    schedule = made[name]._replace(t_max=0.999)  # where a velocity is defined
    network = lambda x, t, condition: 0.3 * x + 1
    denoise = parameterizations.denoiser(network, schedule, parameterization)
    x = jnp.array([[0.5, -2.0]])
    if schedule.t_min > 0 and jax.grad(schedule.sigma)(0.0) == 0:
        assert all(np.isfinite(part).all() for part in denoise(x, schedule.t_min)[:2])
        return
    at_data = denoise(x, 0.0)
    np.testing.assert_allclose(at_data.x0, x, rtol=1e-6)
    assert np.isfinite(at_data.eps).all()
    for unit in np.eye(2, dtype=np.float32):
        _, column = jax.jvp(lambda x: denoise(x, 0.0).x0, (x,), (jnp.array([unit]),))
        np.testing.assert_allclose(column[0], unit, atol=1e-6)
    if made[name].t_min == 0:
        near = denoise(x, 1e-12)
        np.testing.assert_allclose(near.x0, x, atol=2e-3)
        alpha, sigma = made[name].alpha(1e-12), made[name].sigma(1e-12)
        np.testing.assert_allclose(alpha * near.x0 + sigma * near.eps, x, rtol=1e-5)
        np.testing.assert_allclose(near.eps, at_data.eps, atol=0.01)


@each_kind
def test_functions_compile(made, name):
    t = jnp.float32(0.4)
    schedule = made[name]
    compiled = jax.jit(lambda t: [f(t) for f in schedule[:3]] + [schedule.drift(t), schedule.diffusion(t)])(t)
    eager = [f(t) for f in schedule[:3]] + [schedule.drift(t), schedule.diffusion(t)]
    np.testing.assert_allclose(compiled, eager, rtol=1e-5)


@each_kind
def test_prior_is_the_noise_at_t_max(made, name):
    schedule = made[name]
    keys = jax.random.split(jax.random.key(0), 2000)
    x = jax.vmap(lambda key: schedule.prior(key, (3,)))(keys)
    assert x.shape == (2000, 3)
    assert x.dtype == jnp.float32
    preserves = np.allclose(sum(SCHEDULES[name].squares(np.array([0.3, 0.6]))), 1)
    scale = 1.0 if preserves else SCHEDULES[name].bounds[1]
    assert scipy.stats.kstest(np.asarray(x).ravel() / scale, "norm").pvalue > 1e-3
    np.testing.assert_array_equal(schedule.prior(keys[3], (3,)), x[3])


@every_schedule
def test_norm_is_one_along_the_process(made, name, x64):
    """And homogeneous: it tells the point of the process from its ratio of alpha to sigma alone."""
    alpha = made[name].alpha(INTERIOR)
    sigma = made[name].sigma(INTERIOR)
    np.testing.assert_allclose(made[name].norm(alpha, sigma), 1, rtol=1e-9)
    np.testing.assert_allclose(made[name].norm(7 * alpha, 7 * sigma), 7, rtol=1e-9)
    assert schedules.preserves_variance(made[name]) == np.allclose(alpha**2 + sigma**2, 1, rtol=1e-7)


def test_from_alpha_sigma_finds_the_inverse_and_the_slopes_alone():
    """alpha = 1 - t^2 and sigma = t: the inverse solves t = (sqrt(1 + 4 r^2) - 1) / (2 r) with r = alpha / sigma."""
    schedule = schedules.from_alpha_sigma(lambda t: 1 - t**2, lambda t: t)
    t = np.array([1e-4, 0.03, 0.4, 0.9999], np.float32)
    r = (1 - t.astype(np.float64) ** 2) / t
    np.testing.assert_allclose(schedule.inverse_log_snr(2 * np.log(r)), 2 / (r + np.sqrt(r**2 + 4)), rtol=2e-6)
    np.testing.assert_allclose(schedule.drift(t), -2 * t / (1 - t**2), rtol=1e-3)
    np.testing.assert_allclose(schedule.diffusion(t) ** 2, 2 * t + 4 * t**3 / (1 - t**2), rtol=1e-3)
    assert schedule.t_min == 0 and schedule.alpha(1.0) == 0
    scaled = schedule.norm(3 * schedule.alpha(t), 3 * schedule.sigma(t))
    np.testing.assert_allclose(scaled, 3, rtol=1e-4)  # a process that is three times as large


@pytest.mark.usefixtures("x64")
def test_from_alpha_sigma_at_its_ends():
    """alpha(1) = 0 where cos(pi / 2) is 6e-17; a process that starts at t_min = 1e-5 is clean at t = 0."""
    circle = schedules.from_alpha_sigma(lambda t: jnp.cos(jnp.pi * t / 2), lambda t: jnp.sin(jnp.pi * t / 2))
    assert circle.alpha(1.0) == 0 and circle.drift(1.0) == -np.inf
    exploding = schedules.from_alpha_sigma(jnp.ones_like, lambda t: 0.01 * 5000.0**t)
    assert exploding.t_min == 1e-5 and exploding.alpha(0.0) == 1 and exploding.sigma(0.0) == 0
    assert schedules.from_alpha_sigma(lambda t: 1 - t, lambda t: t, t_min=0.01).t_min == 0.01


@pytest.mark.parametrize(
    "alpha, sigma, squared",
    [
        (lambda t: jnp.exp(-5 * t), lambda t: jnp.sqrt(-jnp.expm1(-10 * t)), 10),  # beta(t) = 10
        (lambda t: jnp.sqrt(1 - t), jnp.sqrt, 1),  # beta(t) = 1 / (1 - t)
        (lambda t: 1 - t, lambda t: 2 * t, 0),
    ],
)
def test_from_alpha_sigma_has_its_diffusion_at_the_data(alpha, sigma, squared):
    np.testing.assert_allclose(schedules.from_alpha_sigma(alpha, sigma).diffusion(0.0) ** 2, squared, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 5])
def test_a_bisection_halves_as_often_as_it_says(steps):
    low, high = bisection.bisect(lambda t: -(t**3), jnp.float32(-0.1), steps)
    assert high - low == 2.0**-steps
    assert low**3 <= 0.1 <= high**3


def test_from_alpha_sigma_differentiates_through_its_parameters():
    """sigma = p t, alpha = 1: the log-SNR y is reached at t = e^(-y / 2) / p, whose derivative in p is -t / p."""
    of = lambda p: schedules.from_alpha_sigma(jnp.ones_like, lambda t: p * t).inverse_log_snr(jnp.float32(1.0))
    value, slope = jax.value_and_grad(of)(jnp.float32(2.0))
    np.testing.assert_allclose([value, slope], [np.exp(-0.5) / 2, -np.exp(-0.5) / 4], rtol=1e-5)


@pytest.mark.parametrize(
    "alpha, sigma, sentence",
    [
        (lambda t: 1.0, lambda t: t, r"elementwise; write a constant as jnp\.ones_like"),
        (lambda t: t, lambda t: 1 - t, "must grow with t|inside"),
        (lambda t: 1 - t, lambda t: jnp.sin(4 * t), "sigma > 0 inside"),
        (lambda t: 1 - t / 2, lambda t: t * (1 - 0.9 * t), "must grow with t, from the data at t = 0"),
        (lambda t: 2 - t, lambda t: t, "0 < alpha <= 1"),
        (lambda t: jnp.maximum(1 - 2 * t, 0), lambda t: t, r"0 < alpha <= 1.*at t = 0\.5, alpha = 0 and sigma = 0\.5"),
        (lambda t: 1 - t, lambda t: t / (1 - t), "finite.* at t = 1, alpha = 0 and sigma = inf"),
        (lambda t: jnp.where(t == 0.5, jnp.nan, 1 - t), lambda t: t, "at t = 0.5, alpha = nan and sigma = 0.5"),
        (lambda t: 1 - t, lambda t: jnp.where(t == 0.25, jnp.nan, t), "at t = 0.25, alpha = 0.75 and sigma = nan"),
        (lambda t: 1 - t, lambda t: jnp.abs(t - 0.75), "at t = 0.75, alpha = 0.25 and sigma = 0$"),
    ],
)
def test_from_alpha_sigma_refuses_what_is_no_process(alpha, sigma, sentence):
    with pytest.raises(ValueError, match=sentence):
        schedules.from_alpha_sigma(alpha, sigma)


def test_from_alpha_sigma_refuses_what_is_no_function():
    with pytest.raises(TypeError, match="alpha must be a function of t"):
        schedules.from_alpha_sigma(np.linspace(1, 0, 10), lambda t: t)


@pytest.mark.parametrize("sigma", [lambda t: np.sin(t), lambda t: math.sin(t), lambda t: t if t > 0 else 0.0])
def test_from_alpha_sigma_refuses_what_jax_cannot_trace(sigma):
    with pytest.raises(
        TypeError, match=r"sigma must be written with jax\.numpy, for arrays of times; for 257 times it"
    ):
        schedules.from_alpha_sigma(lambda t: 1 - t, sigma)


@pytest.mark.parametrize("t_min", [-1.0, 1.0, 2.0, float("nan")])
def test_from_alpha_sigma_refuses_a_first_time_outside(t_min):
    with pytest.raises(ValueError, match=rf"t_min = {t_min} must be in \[0, 1\)"):
        schedules.from_alpha_sigma(lambda t: 1 - t, lambda t: t, t_min)


def test_a_process_of_a_known_kind_has_its_norm_and_its_prior():
    """alpha = 1 and sigma = 3 t: the norm is alpha alone, and the noise at the end is three times a normal draw."""
    exploding = schedules.from_alpha_sigma(jnp.ones_like, lambda t: 3 * t)
    np.testing.assert_array_equal(exploding.norm(jnp.array([2.0, 5.0]), jnp.array([7.0, 1.0])), [2.0, 5.0])
    key = jax.random.key(0)
    np.testing.assert_allclose(exploding.prior(key, (4,)), 3 * jax.random.normal(key, (4,)), rtol=1e-6)


def test_an_interpolation_of_two_shifts():
    """Hoogeboom et al. 2023, section 3.2: t log-SNR of the one plus (1 - t) log-SNR of the other."""
    base = schedules.cosine()
    t = np.float32([0.1, 0.5, 0.9])
    found = schedules.interpolated(base, 2.0, 8.0)
    two = [schedules.shifted(base, factor).log_snr(t) for factor in (2.0, 8.0)]
    np.testing.assert_allclose(found.log_snr(t), (1 - t) * two[0] + t * two[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(2 * np.log(found.alpha(t) / found.sigma(t)), found.log_snr(t), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.inverse_log_snr(found.log_snr(t)), t, rtol=1e-5)
    with pytest.raises(ValueError, match=r"first = 8\.0 and last = 2\.0 must be positive, with first <= last"):
        schedules.interpolated(base, 8.0, 2.0)
