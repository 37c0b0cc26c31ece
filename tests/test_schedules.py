"""Conformance of every schedule: a new one is one line in SCHEDULES, with its definition in numpy float64."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from diffusion import schedules


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
}
NAMES = list(SCHEDULES)
every_schedule = pytest.mark.parametrize("name", NAMES)
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
    assert (np.diff(np.asarray(schedule.sigma(t))) >= 0).all()
    assert (np.diff(np.asarray(schedule.alpha(t))) <= 0).all()


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
    t, h = np.linspace(0.05, 0.95, 19) + 0.0004, 1e-6
    (a_plus, s_plus), (a_minus, s_minus) = SCHEDULES[name].squares(t + h), SCHEDULES[name].squares(t - h)
    drift = (np.log(a_plus) - np.log(a_minus)) / (4 * h)
    g_squared = (s_plus - s_minus) / (2 * h) - 2 * drift * SCHEDULES[name].squares(t)[1]
    np.testing.assert_allclose(made[name].drift(t), drift, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(made[name].diffusion(t) ** 2, g_squared, rtol=1e-6, atol=1e-8)
    assert (np.asarray(made[name].diffusion(t)) >= 0).all()


@every_schedule
def test_automatic_differentiation_agrees_with_the_drift(made, name, x64):
    """d log alpha / dt through JAX, also at the grid points of the discrete processes: velocity targets rest on it."""
    schedule = made[name]
    for t in (0.3, 0.5, 0.7004):
        derivative = jax.grad(lambda t: jnp.log(schedule.alpha(t)))(t)
        np.testing.assert_allclose(derivative, schedule.drift(t), rtol=1e-9, atol=1e-12)
        sigma_derivative = jax.grad(schedule.sigma)(t)
        g_squared = 2 * schedule.sigma(t) * sigma_derivative - 2 * schedule.drift(t) * schedule.sigma(t) ** 2
        np.testing.assert_allclose(g_squared, schedule.diffusion(t) ** 2, rtol=1e-9)


@every_schedule
@pytest.mark.parametrize("shape", [(), (3,), (2, 5)])
def test_any_shape_of_t(made, name, shape):
    t = np.linspace(0.2, 0.7, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    for function in (f for f in made[name] if callable(f) and f is not made[name].prior):
        assert function(t).shape == shape
        flat = np.stack([function(value) for value in t.ravel()]).reshape(shape)
        np.testing.assert_allclose(function(t), flat, rtol=1e-6)


@every_schedule
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


@every_schedule
def test_functions_compile(made, name):
    t = jnp.float32(0.4)
    schedule = made[name]
    compiled = jax.jit(lambda t: [f(t) for f in schedule[:3]] + [schedule.drift(t), schedule.diffusion(t)])(t)
    eager = [f(t) for f in schedule[:3]] + [schedule.drift(t), schedule.diffusion(t)]
    np.testing.assert_allclose(compiled, eager, rtol=1e-5)


@every_schedule
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


@pytest.mark.parametrize(
    "make, words",
    [
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
