"""Conformance of every schedule: a new one is one line in SCHEDULES, with its definition in numpy float64."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from diffusion import schedules
from tests import oracles
from tests.conformance import slow_but


class Case(NamedTuple):
    """A schedule beside its published definition, (alpha^2, sigma^2) as float64 functions of t."""

    make: Callable[[], schedules.NoiseSchedule]
    squares: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    smallest: float  # below this time only the value at 0 is defined
    bounds: tuple[float, float]  # alpha(t_max), sigma(t_max)
    alpha_atol: float = 1e-6


def _discrete(betas):
    """log alpha^2 = sum_j<=i log(1 - beta_j), interpolated linearly in t between t = 0, 1/T, .., 1."""
    table = np.concatenate([[0.0], np.log(np.cumprod(1 - betas))])

    def squares(t):
        log_square = np.interp(t, np.arange(len(table)) / len(betas), table)
        return np.exp(log_square), -np.expm1(log_square)

    return squares


def _cosine(t, s=0.008):
    alpha_bar = np.cos((t + s) / (1 + s) * np.pi / 2) ** 2 / np.cos(s / (1 + s) * np.pi / 2) ** 2
    return alpha_bar, 1 - alpha_bar


LINEAR = np.linspace(1e-4, 0.02, 1000)
SCALED_LINEAR = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2


def _end(betas):
    return float(np.prod(1 - betas)) ** 0.5, float(1 - np.prod(1 - betas)) ** 0.5


def _sigmoid(t, start=-3.0, end=3.0, tau=1.0):
    """Algorithm 1 of Chen 2023, without its clip; 1 - alpha^2 by the same formula from the other end."""
    s = lambda x: scipy.special.expit(np.asarray(x, np.float64) / tau)
    # S(b) - S(a) = S(-a) - S(-b): the side on which the two are small keeps their digits.
    difference = lambda b, a: np.where(np.asarray(a) > 0, s(-np.asarray(a)) - s(-np.asarray(b)), s(b) - s(a))
    at, span = t * (end - start) + start, difference(end, start)
    return difference(end, at) / span, difference(at, start) / span


def _linear_beta_integral(t):
    return np.asarray(0.1 * t + 0.5 * 19.9 * t**2)


def _vp(t):
    return np.exp(-_linear_beta_integral(t)), -np.expm1(-_linear_beta_integral(t))


def _sub_vp(t):
    return _vp(t)[0], _vp(t)[1] ** 2


def _of_log_snr(log_snr):
    """Kingma et al. 2021, eq. 3: alpha^2 = sigmoid(log-SNR)."""
    return lambda t: (scipy.special.expit(log_snr(t)), scipy.special.expit(-log_snr(t)))


KNOTS = np.array([0.0, 0.13, 0.5, 0.81, 1.0]), np.array([9.0, 4.0, 1.0, -3.0, -8.0])


def _learned_log_snr(t):
    """That of `oracles.monotone_network`, by hand: |weights|, and the ends where they are asked for."""
    t = np.asarray(t, np.float64)
    h = lambda t: 0.4 * t + (
        np.tanh(2 * (2 * t - 1) + 0.5) + 2 * np.tanh(5 * (2 * t - 1) - 1) + 0.7 * np.tanh(2 * t - 1 + 3)
    ) / 3
    return 11 - 15 * (h(t) - h(0.0)) / (h(1.0) - h(0.0))


def _shifted(squares, factor):
    """Hoogeboom et al. 2023, eq. 4: sigmoid of a log-SNR that is lower by 2 ln(factor)."""

    def shifted(t):
        alpha_squared, sigma_squared = squares(t)
        return (alpha_squared / (alpha_squared + factor**2 * sigma_squared),
                factor**2 * sigma_squared / (alpha_squared + factor**2 * sigma_squared))

    return shifted


def _zero_terminal_vp(t):
    """Lin et al. 2024, algorithm 1, with the first time 1e-5; 1 - alpha^2 from the two factors."""
    alpha = lambda t: np.exp(-_linear_beta_integral(t) / 2)
    first, last = alpha(1e-5), alpha(1.0)
    # Differences of exponentials, so that the definition itself keeps its digits near both ends.
    above_last = last * np.expm1((_linear_beta_integral(1.0) - _linear_beta_integral(t)) / 2)
    below_first = -first * np.expm1((_linear_beta_integral(1e-5) - _linear_beta_integral(t)) / 2)
    new = above_last * first / (first - last)
    missing = -np.expm1(-_linear_beta_integral(1e-5) / 2) + below_first * first / (first - last)
    return new**2, missing * (1 + new)


SCHEDULES = {
    "linear_beta": Case(schedules.linear_beta, _discrete(LINEAR), 0.0, _end(LINEAR)),
    "scaled_linear": Case(schedules.scaled_linear, _discrete(SCALED_LINEAR), 0.0, _end(SCALED_LINEAR)),
    "from_betas": Case(
        lambda: schedules.from_betas([0.1, 0.3, 0.2, 0.6]), _discrete(np.array([0.1, 0.3, 0.2, 0.6])), 0.0,
        _end(np.array([0.1, 0.3, 0.2, 0.6])),
    ),
    "cosine": Case(schedules.cosine, _cosine, 0.0, (0.0, 1.0)),
    "rectified_flow": Case(schedules.rectified_flow, lambda t: ((1 - t) ** 2, t**2), 0.0, (0.0, 1.0)),
    "variance_exploding": Case(
        schedules.variance_exploding, lambda t: (np.ones_like(t), (0.01 * 5000.0**t) ** 2), 1e-5, (1.0, 50.0)
    ),
    "edm": Case(schedules.edm, lambda t: (np.ones_like(t), (80.0 * t) ** 2), 0.0, (1.0, 80.0)),
    "sigmoid": Case(schedules.sigmoid, _sigmoid, 0.0, (0.0, 1.0)),
    "sigmoid(0, 3, 0.3)": Case(
        lambda: schedules.sigmoid(0.0, 3.0, 0.3), lambda t: _sigmoid(t, 0.0, 3.0, 0.3), 0.0, (0.0, 1.0)
    ),
    "variance_preserving": Case(
        schedules.variance_preserving, _vp, 0.0, (np.exp(-10.05 / 2), (1 - np.exp(-10.05)) ** 0.5)
    ),
    "sub_vp": Case(schedules.sub_vp, _sub_vp, 0.0, (np.exp(-10.05 / 2), 1 - np.exp(-10.05))),
    "trigonometric": Case(
        schedules.trigonometric, lambda t: (np.cos(np.pi * t / 2) ** 2, np.sin(np.pi * t / 2) ** 2), 0.0, (0.0, 1.0)
    ),
    "from_log_snr": Case(
        lambda: schedules.from_log_snr(KNOTS[1], KNOTS[0]), _of_log_snr(lambda t: np.interp(t, *KNOTS)), 1e-5,
        tuple(scipy.special.expit([-8.0, 8.0]) ** 0.5),
    ),
    "learned": Case(
        lambda: _compiled(schedules.learned(oracles.monotone_network())), _of_log_snr(_learned_log_snr), 1e-5,
        tuple(scipy.special.expit([-4.0, 4.0]) ** 0.5),
    ),
    "shifted(cosine, 4)": Case(lambda: schedules.shifted(schedules.cosine(), 4.0), _shifted(_cosine, 4.0), 0.0, (0, 1)),
    "shifted(rectified_flow, 3)": Case(  # SD3's shift of the time, Esser et al. 2024, eq. 23
        lambda: schedules.shifted(schedules.rectified_flow(), 3.0),
        lambda t: ((1 - 3 * t / (1 + 2 * t)) ** 2, (3 * t / (1 + 2 * t)) ** 2), 0.0, (0.0, 1.0),
    ),
    "shifted(variance_exploding, 0.2)": Case(
        lambda: schedules.shifted(schedules.variance_exploding(), 0.2),
        lambda t: (np.ones_like(t), (0.002 * 5000.0**t) ** 2), 1e-5, (1.0, 10.0),
    ),
    "zero_terminal_snr(variance_preserving)": Case(
        lambda: schedules.zero_terminal_snr(schedules.variance_preserving()), _zero_terminal_vp, 1e-5, (0.0, 1.0)
    ),
}
NAMES = list(SCHEDULES)


def _compiled(schedule):
    """Its functions of t under jit: those with a loop would be compiled anew at every eager call."""
    return schedule._replace(**{name: jax.jit(getattr(schedule, name)) for name in schedule._fields[:6]})


SLOW = ["sigmoid(0, 3, 0.3)", "shifted(rectified_flow, 3)", "shifted(variance_exploding, 0.2)"]  # others are like them
every_schedule = pytest.mark.parametrize(
    "name", slow_but([(name,) for name in NAMES if name not in SLOW], [(name,) for name in NAMES])
)
# For what holds by the way a schedule is written more than by its formula: one of each way in the fast suite.
FAST = ["linear_beta", "edm", "learned", "zero_terminal_snr(variance_preserving)"]
each_kind = pytest.mark.parametrize("name", slow_but([(name,) for name in FAST], [(name,) for name in NAMES]))
# Away from the ends by more than float32 resolves; the ends have tests of their own.
INTERIOR = np.concatenate([np.geomspace(1e-4, 0.1, 40), np.linspace(0.1, 1 - 1e-3, 200)[1:]])


@pytest.fixture(scope="module")
def made():
    return {name: case.make() for name, case in SCHEDULES.items()}


@every_schedule
@pytest.mark.parametrize("dtype, rtol", [(np.float32, 2e-5), (np.float64, 1e-10)])
def test_coefficients_equal_the_definition(made, name, dtype, rtol):
    """With a relative tolerance: small sigmas near the data and small alphas near the noise must not lose digits."""
    with jax.enable_x64(dtype == np.float64):
        t = INTERIOR.astype(dtype)
        t = t[t >= max(SCHEDULES[name].smallest, 1e-4)]
        alpha_squared, sigma_squared = SCHEDULES[name].squares(t.astype(np.float64))
        alpha, sigma, log_snr = made[name].alpha(t), made[name].sigma(t), made[name].log_snr(t)
        assert alpha.dtype == sigma.dtype == log_snr.dtype == dtype
    np.testing.assert_allclose(alpha, np.sqrt(alpha_squared), rtol=rtol)
    np.testing.assert_allclose(sigma, np.sqrt(sigma_squared), rtol=rtol)
    np.testing.assert_allclose(log_snr, np.log(alpha_squared / sigma_squared), rtol=rtol, atol=4 * rtol)


@pytest.mark.parametrize("name, betas", [("linear_beta", LINEAR), ("scaled_linear", SCALED_LINEAR)])
def test_discrete_process_is_exact_at_its_times(made, name, betas, x64):
    """alpha_bar_i = prod_{j <= i} (1 - beta_j) by multiplication, at t = (i + 1) / 1000, in float64."""
    alpha_bar = np.cumprod(1 - betas)
    t = np.arange(1, 1001) / 1000
    np.testing.assert_allclose(made[name].alpha(t) ** 2, alpha_bar, rtol=1e-12)
    np.testing.assert_allclose(made[name].sigma(t) ** 2, 1 - alpha_bar, rtol=1e-10)  # 1 - x loses digits in numpy


@pytest.mark.parametrize("name, betas", [("linear_beta", LINEAR), ("scaled_linear", SCALED_LINEAR)])
def test_discrete_process_in_float32_is_its_table_rounded(made, name, betas):
    """A time rounded to float32 still finds its grid point: nothing is interpolated there."""
    alpha_bar = np.cumprod(1 - betas)
    t = (np.arange(1, 1001) / 1000).astype(np.float32)
    np.testing.assert_allclose(made[name].alpha(t), np.sqrt(alpha_bar), rtol=2e-6)
    np.testing.assert_allclose(made[name].sigma(t), np.sqrt(1 - alpha_bar), rtol=2e-6)


def test_published_values_of_ddpm(made, x64):
    """alpha_bar_T of the linear schedule: about 4.04e-5 (Ho et al. 2020 report a prior term near zero)."""
    np.testing.assert_allclose(made["linear_beta"].alpha(1.0) ** 2, 4.0358e-5, rtol=1e-4)
    np.testing.assert_allclose(made["scaled_linear"].log_snr(1.0), np.log(0.00466 / 0.99534), atol=2e-3)


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
    log_snr = np.asarray(schedule.log_snr(t), np.float64)
    assert not np.isnan(log_snr).any()
    assert (np.diff(log_snr[np.isfinite(log_snr)]) < 0).all()
    rounding = np.finfo(np.float32).eps  # of values near 1
    assert (np.diff(np.asarray(schedule.sigma(t))) >= -rounding).all()
    assert (np.diff(np.asarray(schedule.alpha(t))) <= rounding).all()


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


@given(t=st.floats(1e-3, 0.999), name=st.sampled_from(NAMES))
def test_inverse_is_a_right_inverse_too(t, name):
    """log_snr(inverse_log_snr(x)) = x, for x in the schedule's range."""
    with jax.enable_x64(True):
        schedule = _made(name)
        low, high = float(schedule.log_snr(0.999)), float(schedule.log_snr(1e-3))
        x = low + (high - low) * t
        np.testing.assert_allclose(schedule.log_snr(schedule.inverse_log_snr(x)), x, rtol=1e-9, atol=1e-9)


_cache = {}


def _made(name):
    if name not in _cache:
        _cache[name] = SCHEDULES[name].make()
    return _cache[name]


@every_schedule
def test_drift_and_diffusion_are_the_derivatives(made, name, x64):
    """f = d log alpha / dt, g^2 = d sigma^2 / dt - 2 f sigma^2, by central differences of the definition.

    The points are away from multiples of 1/1000 and 1/4, where the discrete processes have kinks.
    """
    t, h = np.round(np.linspace(50, 950, INTERIOR.size)) / 1000 + 0.0004, 1e-6
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


@each_kind
def test_any_shape_of_t(made, name):
    """A matrix of times, its rows in one, and a single time give the same numbers in their shapes."""
    t = np.linspace(0.2, 0.7, 6, dtype=np.float32).reshape(2, 3)
    for function in made[name][:6]:
        values = function(t)
        assert values.shape == (2, 3)
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
    alpha, sigma = SCHEDULES[name].bounds
    scale = sigma if alpha == 1 else 1.0  # a variance-preserving process starts from N(0, I), an exploding one wide
    assert scipy.stats.kstest(np.asarray(x).ravel() / scale, "norm").pvalue > 1e-3
    np.testing.assert_array_equal(schedule.prior(keys[3], (3,)), x[3])


@every_schedule
def test_norm_is_one_along_the_process(made, name, x64):
    """And homogeneous: it tells the point of the process from its ratio of alpha to sigma alone."""
    alpha, sigma = made[name].alpha(INTERIOR), made[name].sigma(INTERIOR)
    np.testing.assert_allclose(made[name].norm(alpha, sigma), 1, rtol=1e-9)
    np.testing.assert_allclose(made[name].norm(7 * alpha, 7 * sigma), 7, rtol=1e-9)
    assert schedules.preserves_variance(made[name]) == np.allclose(alpha**2 + sigma**2, 1, rtol=1e-7)


# Relations between schedules, and parameters other than the published ones.


def test_vp_is_the_limit_of_ddpms_process(x64):
    """beta_i = beta(i / N) / N (Song et al. 2021, appendix B): at N = 1000 the difference is of order 1 / N."""
    vp, discrete = schedules.variance_preserving(), schedules.linear_beta(1e-4, 0.02, 1000)
    t = np.arange(1, 11) / 10
    np.testing.assert_allclose(discrete.alpha(t), vp.alpha(t), rtol=0.06)
    fine = schedules.from_betas((0.1 + 19.9 * np.arange(1, 20001) / 20000) / 20000)
    np.testing.assert_allclose(fine.alpha(t), vp.alpha(t), rtol=0.003)
    np.testing.assert_allclose(fine.log_snr(t), vp.log_snr(t), atol=0.01)


def test_sub_vp_has_a_smaller_variance_and_the_papers_diffusion(x64):
    """g^2 = beta (1 - e^(-2 int beta)) and variance (1 - e^(-int beta))^2, below VP's (Song et al. 2021, eq. 12)."""
    t = np.array([0.01, 0.2, 0.5, 0.9])
    vp, sub = schedules.variance_preserving(), schedules.sub_vp()
    beta, integral = 0.1 + 19.9 * t, _linear_beta_integral(t)
    np.testing.assert_allclose(sub.diffusion(t) ** 2, beta * (1 - np.exp(-2 * integral)), rtol=1e-9)
    np.testing.assert_allclose(vp.diffusion(t) ** 2, beta, rtol=1e-12)
    np.testing.assert_array_equal(sub.drift(t), vp.drift(t))
    assert (np.asarray(sub.sigma(t)) < np.asarray(vp.sigma(t))).all()


def _rescale_zero_terminal_snr(betas):
    """Algorithm 1 of Lin et al. 2024, from betas to betas, line by line in numpy."""
    alphas_bar_sqrt = np.sqrt(np.cumprod(1 - betas))
    first, last = alphas_bar_sqrt[0], alphas_bar_sqrt[-1]
    alphas_bar_sqrt = (alphas_bar_sqrt - last) * first / (first - last)
    alphas_bar = alphas_bar_sqrt**2
    alphas = alphas_bar[1:] / alphas_bar[:-1]
    return 1 - np.concatenate([alphas_bar[:1], alphas])


@pytest.mark.parametrize("betas", [pytest.param(LINEAR, marks=pytest.mark.slow), SCALED_LINEAR])
def test_zero_terminal_snr_is_the_published_algorithm(betas, x64):
    """The process of the rescaled betas, of which the last is 1; every property of the new process is its own."""
    alpha_bar = np.cumprod(1 - _rescale_zero_terminal_snr(betas))
    T = betas.size
    t = np.arange(1, T + 1) / T
    schedule = schedules.zero_terminal_snr(schedules.from_betas(betas))
    np.testing.assert_allclose(schedule.alpha(t) ** 2, alpha_bar, rtol=1e-9, atol=1e-18)
    np.testing.assert_allclose(schedule.sigma(t) ** 2, 1 - alpha_bar, rtol=1e-9)
    np.testing.assert_allclose(schedule.log_snr(t[:-1]), np.log(alpha_bar / (1 - alpha_bar))[:-1], rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(schedule.inverse_log_snr(schedule.log_snr(t)), t, rtol=1e-7)
    assert schedule.alpha(1.0) == 0
    assert schedule.sigma(1.0) == 1
    assert schedule.log_snr(1.0) == -np.inf
    assert schedule.t_min == 1 / T


def test_zero_terminal_snr_between_and_below_the_times(x64):
    """Derivatives agree with the drift inside a step; before the first time nothing has changed."""
    before, after = schedules.scaled_linear(), schedules.zero_terminal_snr(schedules.scaled_linear())
    t = np.array([0.0, 0.0004, 0.00099])
    for f in ("alpha", "sigma", "log_snr", "drift", "diffusion"):
        np.testing.assert_allclose(getattr(after, f)(t), getattr(before, f)(t), rtol=1e-12)
    t, h = np.array([0.0104, 0.5004, 0.9504, 0.9996]), 1e-7
    drift = (np.log(after.alpha(t + h)) - np.log(after.alpha(t - h))) / (2 * h)
    np.testing.assert_allclose(after.drift(t), drift, rtol=1e-5)
    np.testing.assert_allclose(after.diffusion(t) ** 2, -2 * drift, rtol=1e-5)
    np.testing.assert_allclose(after.inverse_log_snr(after.log_snr(t)), t, rtol=1e-9)


def test_zero_terminal_snr_changes_nothing_that_is_there_already(x64):
    before = schedules.cosine()
    after = schedules.zero_terminal_snr(before)
    t = np.array([0.0, 0.1, 0.5, 0.9, 1.0])
    for f in ("alpha", "sigma", "log_snr", "diffusion"):
        np.testing.assert_allclose(getattr(after, f)(t), getattr(before, f)(t), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", ["edm", "variance_exploding", "rectified_flow", "sub_vp"])
def test_zero_terminal_snr_refuses_what_does_not_preserve_the_variance(made, name):
    with pytest.raises(ValueError, match="preserve the variance"):
        schedules.zero_terminal_snr(made[name])


@given(name=st.sampled_from(NAMES), factor=st.floats(0.05, 20.0), t=st.floats(0.01, 0.99))
def test_shift_moves_the_log_snr_and_keeps_the_kind(name, factor, t):
    """log-SNR - 2 ln(factor), on the same curve; back by 1 / factor; and its own derivatives (of any schedule)."""
    with jax.enable_x64(True):
        schedule, shifted = _made(name), schedules.shifted(_made(name), factor)
        alpha, sigma = float(shifted.alpha(t)), float(shifted.sigma(t))
        np.testing.assert_allclose(2 * np.log(alpha / sigma), schedule.log_snr(t) - 2 * np.log(factor), atol=1e-8)
        np.testing.assert_allclose(schedule.norm(alpha, sigma), 1, rtol=1e-9)
        np.testing.assert_allclose(shifted.inverse_log_snr(shifted.log_snr(t)), t, rtol=1e-6)
        back = schedules.shifted(shifted, 1 / factor)
        np.testing.assert_allclose([back.alpha(t), back.sigma(t)], [schedule.alpha(t), schedule.sigma(t)], rtol=1e-8)
        np.testing.assert_allclose(back.drift(t), schedule.drift(t), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(back.diffusion(t), schedule.diffusion(t), rtol=1e-8)


def test_prior_of_a_shifted_schedule_is_the_noise_at_its_end():
    key = jax.random.key(0)
    for make, scale in ((schedules.edm, 3.0), (schedules.cosine, 1.0), (schedules.linear_beta, 1.0)):
        before, after = make().prior(key, (4,)), schedules.shifted(make(), 3.0).prior(key, (4,))
        np.testing.assert_allclose(after, scale * before, rtol=1e-6)


@given(start=st.floats(-5, 1), width=st.floats(0.1, 8), tau=st.floats(0.1, 2), t=st.floats(1e-3, 0.999))
def test_sigmoid_is_its_definition_for_all_parameters(start, width, tau, t):
    with jax.enable_x64(True):
        schedule = schedules.sigmoid(start, start + width, tau)
        alpha_squared, sigma_squared = _sigmoid(t, start, start + width, tau)
        np.testing.assert_allclose(schedule.alpha(t) ** 2, alpha_squared, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(schedule.sigma(t) ** 2, sigma_squared, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(schedule.inverse_log_snr(schedule.log_snr(t)), t, rtol=1e-8)


@pytest.mark.parametrize("tau", [0.08, 0.3, 3.0])
def test_steep_and_flat_sigmoids_hold_their_digits_in_float32(tau):
    schedule = schedules.sigmoid(-3.0, 3.0, tau)
    t = np.array([1e-6, 1e-3, 0.5, 0.999, 1 - 6e-8], np.float32)
    alpha_squared, sigma_squared = _sigmoid(t.astype(np.float64), tau=tau)
    log_snr = np.log(alpha_squared / sigma_squared)
    np.testing.assert_allclose(schedule.log_snr(t)[1:4], log_snr[1:4], rtol=1e-4, atol=1e-3)
    for function in schedule[:6]:
        assert np.isfinite(function(schedule.log_snr(t) if function is schedule.inverse_log_snr else t)).all()
    np.testing.assert_allclose(schedule.inverse_log_snr(schedule.log_snr(t)), t, rtol=1e-4)


@given(low=st.floats(0.01, 1.0), more=st.floats(0.0, 30.0), t=st.floats(1e-3, 1.0))
def test_continuous_betas_of_any_size(low, more, t):
    """The inverse of both processes of Song et al. for any betas, also for a constant beta."""
    with jax.enable_x64(True):
        for make in (schedules.variance_preserving, schedules.sub_vp):
            schedule = make(low, low + more)
            np.testing.assert_allclose(schedule.inverse_log_snr(schedule.log_snr(t)), t, rtol=1e-9)


def test_log_snr_as_an_array_goes_through_its_points(x64):
    schedule = schedules.from_log_snr([10.0, 3.0, -6.0])
    values = schedule.log_snr(np.array([1e-9, 0.25, 0.5, 0.75, 1.0]))
    np.testing.assert_allclose(values, [10, 6.5, 3, -1.5, -6], atol=1e-6)
    np.testing.assert_allclose(schedule.inverse_log_snr(np.array([3.0, -6.0, 30.0, np.inf])), [0.5, 1, 0, 0])
    cosine = schedules.cosine()
    t = np.linspace(0, 1, 1001)
    many = schedules.from_log_snr(cosine.log_snr(np.clip(t, 1e-4, 1 - 1e-4)) - 1e-6 * t)
    middle = np.linspace(0.1, 0.9, 7)
    np.testing.assert_allclose(many.alpha(middle), cosine.alpha(middle), rtol=1e-4)


def test_learned_schedule_starts_as_a_line_between_its_ends():
    """The configs of Kingma et al. 2021: gamma from -13.3 to 5, linear but for weights of 0.01."""
    schedule = schedules.learned(schedules.init_learned(jax.random.key(0)))
    t = np.linspace(1e-6, 1, 9, dtype=np.float32)
    np.testing.assert_allclose(schedule.log_snr(t), 13.3 - 18.3 * t, atol=0.02)


def test_learned_schedule_gives_gradients_to_its_parameters(x64):
    """Of every function, the inverse too: against differences in each parameter."""
    params = {name: jnp.asarray(value, jnp.float64) for name, value in oracles.monotone_network().items()}

    @jax.jit
    def values(params):
        schedule = schedules.learned(params)
        return jnp.stack([schedule.alpha(0.3), schedule.diffusion(0.6), schedule.inverse_log_snr(2.0)])

    derivative = jax.jit(jax.jacrev(values))(params)
    h = 1e-6
    for name, value in params.items():
        for i in np.ndindex(value.shape):
            up, down = ({**params, name: value.at[i].add(step)} for step in (h, -h))
            expected = (values(up) - values(down)) / (2 * h)
            np.testing.assert_allclose(derivative[name][(slice(None), *i)], expected, rtol=1e-5, atol=1e-8)


def test_only_the_ends_move_when_the_ends_are_learned(x64):
    """Appendix H: with the shape of the network fixed, the fraction of the way stays what it was at every t."""
    params = oracles.monotone_network()
    moved = {**params, "log_snr_max": 9.0, "range": 20.0}
    t = np.array([0.1, 0.4, 0.8])
    fraction = (11 - schedules.learned(params).log_snr(t)) / 15
    np.testing.assert_allclose((9 - schedules.learned(moved).log_snr(t)) / 20, fraction, rtol=1e-12)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: schedules.sigmoid(1.0, 1.0), "start = 1.0"),
        (lambda: schedules.sigmoid(tau=0.0), "tau = 0.0"),
        (lambda: schedules.sigmoid(tau=float("nan")), "tau = nan"),
        (lambda: schedules.sigmoid(tau=0.01), "80"),
        (lambda: schedules.variance_preserving(0.0), "beta_min"),
        (lambda: schedules.variance_preserving(2.0, 1.0), "beta_max"),
        (lambda: schedules.sub_vp(beta_max=float("inf")), "beta_max"),
        (lambda: schedules.shifted(schedules.cosine(), 0.0), "factor = 0.0"),
        (lambda: schedules.shifted(schedules.cosine(), float("nan")), "factor = nan"),
        (lambda: schedules.from_log_snr([1.0]), "log_snr"),
        (lambda: schedules.from_log_snr([1.0, 1.0]), "decreasing"),
        (lambda: schedules.from_log_snr([np.inf, 1.0]), "finite"),
        (lambda: schedules.from_log_snr([2.0, 1.0, 0.0], [0.0, 0.5, 0.9]), "from 0 to 1"),
        (lambda: schedules.from_log_snr([2.0, 1.0], [0.0, 0.5, 1.0]), "times"),
        (lambda: schedules.init_learned(jax.random.key(0), -5.0, 5.0), "log_snr_min"),
        (lambda: schedules.linear_beta(beta_start=-0.1), "beta"),
        (lambda: schedules.linear_beta(beta_end=1.0), "beta"),
        (lambda: schedules.linear_beta(T=0), "T"),
        (lambda: schedules.scaled_linear(beta_end=1.5), "beta"),
        (lambda: schedules.scaled_linear(beta_start=-0.1), "beta"),
        (lambda: schedules.from_betas([]), "beta"),
        (lambda: schedules.from_betas([0.1, 0.0]), "beta"),
        (lambda: schedules.from_betas([0.1, float("nan")]), "beta"),
        (lambda: schedules.from_betas([[0.1, 0.2]]), "beta"),
        (lambda: schedules.cosine(s=-0.1), "s = -0.1"),
        (lambda: schedules.cosine(s=float("nan")), "s = nan"),
        (lambda: schedules.variance_exploding(sigma_min=0.0), "sigma_min"),
        (lambda: schedules.variance_exploding(sigma_min=2.0, sigma_max=1.0), "sigma_max"),
        (lambda: schedules.edm(sigma_min=-1.0), "sigma_min"),
        (lambda: schedules.edm(sigma_min=1.0, sigma_max=1.0), "sigma_max"),
        (lambda: schedules.edm(sigma_max=float("nan")), "sigma_max"),
    ],
)
def test_bad_arguments_are_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("shape, expected", [((), ()), ((4,), (4, 1, 1)), ((4, 2), (4, 2, 1)), ((4, 2, 3), (4, 2, 3))])
def test_left_broadcast(shape, expected):
    shaped = schedules.left_broadcast(jnp.ones(shape), jnp.ones((4, 2, 3)))
    assert shaped.shape == expected or (shape == () and shaped.size == 1)


def test_left_broadcast_multiplies_example_by_example():
    t, x = jnp.arange(3.0), jnp.ones((3, 2, 2))
    np.testing.assert_array_equal((schedules.left_broadcast(t, x) * x)[:, 0, 0], t)


@pytest.mark.parametrize("shape", [(3,), (2,), (4, 3), (4, 2, 3, 1)])
def test_left_broadcast_refuses_what_is_not_a_prefix(shape):
    """A square batch must not broadcast along the wrong axis: [3] does not go with [4, 2, 3]."""
    with pytest.raises(ValueError, match="prefix"):
        schedules.left_broadcast(jnp.ones(shape), jnp.ones((4, 2, 3)))
