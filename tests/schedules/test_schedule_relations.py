"""Relations between schedules: limits, zero terminal SNR, shifts."""

import jax
import numpy as np
import pytest
from hypothesis import given, strategies as st

from diffusion import schedules
from tests.schedules import schedule_cases
from tests.schedules.schedule_cases import LINEAR, NAMES, SCALED_LINEAR, SCHEDULES, linear_beta_integral


@pytest.fixture(scope="module")
def made():
    return schedule_cases.made()


@pytest.mark.extended
@given(t=st.floats(1e-3, 0.999), name=st.sampled_from(NAMES))
def test_inverse_is_a_right_inverse_too(t, name):
    """log_snr(inverse_log_snr(x)) = x, for x in the schedule's range."""
    with jax.enable_x64(True):
        schedule = _made(name)
        low = float(schedule.log_snr(0.999))
        high = float(schedule.log_snr(1e-3))
        x = low + (high - low) * t
        np.testing.assert_allclose(schedule.log_snr(schedule.inverse_log_snr(x)), x, rtol=1e-9, atol=1e-9)


_cache = {}


def _made(name):
    if name not in _cache:
        _cache[name] = SCHEDULES[name].make()
    return _cache[name]


def test_vp_is_the_limit_of_ddpms_process(x64):
    """beta_i = beta(i / N) / N (Song et al. 2021, appendix B): at N = 1000 the difference is of order 1 / N."""
    vp = schedules.variance_preserving()
    discrete = schedules.linear_beta(1e-4, 0.02, 1000)
    t = np.arange(1, 11) / 10
    np.testing.assert_allclose(discrete.alpha(t), vp.alpha(t), rtol=0.06)
    fine = schedules.from_betas((0.1 + 19.9 * np.arange(1, 20001) / 20000) / 20000)
    np.testing.assert_allclose(fine.alpha(t), vp.alpha(t), rtol=0.003)
    np.testing.assert_allclose(fine.log_snr(t), vp.log_snr(t), atol=0.01)


def test_sub_vp_has_a_smaller_variance_and_the_papers_diffusion(x64):
    """g^2 = beta (1 - e^(-2 int beta)) and variance (1 - e^(-int beta))^2, below VP's (Song et al. 2021, eq. 12)."""
    t = np.array([0.01, 0.2, 0.5, 0.9])
    vp = schedules.variance_preserving()
    sub = schedules.sub_vp()
    beta = 0.1 + 19.9 * t
    integral = linear_beta_integral(t)
    np.testing.assert_allclose(sub.diffusion(t) ** 2, beta * (1 - np.exp(-2 * integral)), rtol=1e-9)
    np.testing.assert_allclose(vp.diffusion(t) ** 2, beta, rtol=1e-12)
    np.testing.assert_array_equal(sub.drift(t), vp.drift(t))
    assert (np.asarray(sub.sigma(t)) < np.asarray(vp.sigma(t))).all()


def _rescale_zero_terminal_snr(betas):
    """Algorithm 1 of Lin et al. 2024, from betas to betas, line by line in numpy."""
    alphas_bar_sqrt = np.sqrt(np.cumprod(1 - betas))
    first = alphas_bar_sqrt[0]
    last = alphas_bar_sqrt[-1]
    alphas_bar_sqrt = (alphas_bar_sqrt - last) * first / (first - last)
    alphas_bar = alphas_bar_sqrt**2
    alphas = alphas_bar[1:] / alphas_bar[:-1]
    return 1 - np.concatenate([alphas_bar[:1], alphas])


@pytest.mark.extended
@pytest.mark.parametrize("betas", [pytest.param(LINEAR, marks=pytest.mark.slow), SCALED_LINEAR])
def test_zero_terminal_snr_is_the_published_algorithm(betas, x64):
    """The process of the rescaled betas, of which the last is 1; every property of the new process is its own."""
    alpha_bar = np.cumprod(1 - _rescale_zero_terminal_snr(betas))
    T = betas.size
    t = np.arange(1, T + 1) / T
    schedule = schedules.zero_terminal_snr(schedules.from_betas(betas))
    np.testing.assert_allclose(schedule.alpha(t) ** 2, alpha_bar, rtol=1e-9, atol=1e-18)
    np.testing.assert_allclose(schedule.sigma(t) ** 2, 1 - alpha_bar, rtol=1e-9)
    log_snr, expected = schedule.log_snr(t), np.log(alpha_bar[:-1] / (1 - alpha_bar[:-1]))
    np.testing.assert_allclose(log_snr[:-1], expected, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(schedule.inverse_log_snr(log_snr), t, rtol=1e-7)
    assert schedule.alpha(1.0) == 0
    assert schedule.sigma(1.0) == 1
    assert schedule.log_snr(1.0) == -np.inf
    assert schedule.t_min == 1 / T


@pytest.mark.slow
def test_zero_terminal_snr_between_and_below_the_times(x64):
    """Derivatives agree with the drift inside a step; before the first time nothing has changed."""
    before = schedules.scaled_linear()
    after = schedules.zero_terminal_snr(schedules.scaled_linear())
    t = np.array([0.0, 0.0004, 0.00099])
    for f in ("alpha", "sigma", "log_snr", "drift", "diffusion"):
        np.testing.assert_allclose(getattr(after, f)(t), getattr(before, f)(t), rtol=1e-12)
    t = np.array([0.0104, 0.5004, 0.9504, 0.9996])
    h = 1e-7
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


def test_zero_terminal_snr_falls_to_its_end():
    """alpha' at t = 1 is that of the schedule, 10 alpha, times first / (first - last)."""
    schedule = schedules.zero_terminal_snr(schedules.variance_preserving())
    last = np.exp(-10.05 / 2)
    np.testing.assert_allclose(jax.grad(schedule.alpha)(1.0), -10 * last / (1 - last), rtol=1e-5)


@pytest.mark.extended
def test_zero_terminal_snr_errs_in_float32_by_a_rounding_of_the_time():
    """alpha, a small difference near t_max, is that of the definition at a time less than one float32 away."""
    make, squares, *_ = SCHEDULES["zero_terminal_snr(variance_preserving)"]
    t = np.float32(1 - 2.0 ** -np.arange(8, 23))
    ulp = 2.0**-23
    above, exact, below = (np.sqrt(squares(t.astype(np.float64) + shift)[0]) for shift in (-ulp, 0, ulp))
    alpha = np.asarray(make().alpha(t))
    assert ((alpha >= below) & (alpha <= above)).all()
    np.testing.assert_allclose(alpha, exact, atol=2e-8)


@pytest.mark.parametrize("name", ["edm", "variance_exploding", "rectified_flow", "sub_vp"])
def test_zero_terminal_snr_refuses_what_does_not_preserve_the_variance(made, name):
    with pytest.raises(ValueError, match=r"the variance \(linear_beta"):
        schedules.zero_terminal_snr(made[name])


@pytest.mark.extended
@given(name=st.sampled_from(NAMES), factor=st.floats(0.05, 20.0), t=st.floats(0.01, 0.99))
def test_shift_moves_the_log_snr_and_keeps_the_kind(name, factor, t):
    """log-SNR - 2 ln(factor), on the same curve; back by 1 / factor; and its own derivatives (of any schedule)."""
    with jax.enable_x64(True):
        schedule = _made(name)
        shifted = schedules.shifted(_made(name), factor)
        alpha = float(shifted.alpha(t))
        sigma = float(shifted.sigma(t))
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
        before = make().prior(key, (4,))
        after = schedules.shifted(make(), 3.0).prior(key, (4,))
        np.testing.assert_allclose(after, scale * before, rtol=1e-6)


def test_prior_of_an_earlier_end_is_the_noise_at_that_end():
    """Also under jit of the end itself, of leaves, and shifted afterwards; with N(0, 1) where the variance is kept."""
    key = jax.random.key(0)
    noise = jax.random.normal(key, (4,))
    ends = {schedules.edm: 80 * 0.4, schedules.rectified_flow: 0.4, schedules.cosine: 1.0, schedules.linear_beta: 1.0}
    ends[schedules.sub_vp] = 1 - np.exp(-(0.1 * 0.4 + 19.9 * 0.4**2 / 2))
    ends[schedules.variance_exploding] = 0.01 * 5000**0.4
    for make, scale in ends.items():
        earlier = schedules.ending_at(make(), 0.4)
        assert earlier.t_max == 0.4
        np.testing.assert_allclose(earlier.prior(key, (4,)), scale * noise, rtol=1e-5, err_msg=make.__name__)
        np.testing.assert_array_equal(earlier.sigma(0.3), make().sigma(0.3))
    traced = jax.jit(lambda t_max: schedules.ending_at(schedules.edm(), t_max).prior(key, (4,)))(0.4)
    np.testing.assert_allclose(traced, 32 * noise, rtol=1e-5)
    shifted = schedules.shifted(schedules.ending_at(schedules.edm(), 0.4), 3.0)
    np.testing.assert_allclose(shifted.prior(key, (4,)), 96 * noise, rtol=1e-5)
    own = {"a": schedules.edm(), "b": schedules.rectified_flow()}
    joint = schedules.ending_at(schedules.per_leaf(own, {"a": (1,), "b": (3,)}), 0.4)
    assert joint.t_max == 0.4 and [leaf.t_max for _, leaf in joint.leaves] == [0.4, 0.4]
    np.testing.assert_allclose(joint.prior(key, (4,)), np.array([32, 0.4, 0.4, 0.4]) * noise, rtol=1e-5)


def test_a_schedule_that_trains_ends_earlier_after_each_step_too():
    first = schedules.edm()._replace(trained=schedules.Trained(dict, lambda params: schedules.edm(sigma_max=40.0)))
    trained = schedules.ending_at(first, 0.4).trained.build({})
    assert trained.t_max == 0.4
    key = jax.random.key(0)
    np.testing.assert_allclose(trained.prior(key, (4,)), 16 * jax.random.normal(key, (4,)), rtol=1e-5)
