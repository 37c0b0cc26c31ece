"""Schedules with parameters other than the published ones, learned ones, and bad arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, strategies as st

from diffusion import schedules
from tests import oracles
from tests.schedules.schedule_cases import sigmoid_squares


@given(start=st.floats(-5, 1), width=st.floats(0.1, 8), tau=st.floats(0.1, 2), t=st.floats(1e-3, 0.999))
def test_sigmoid_is_its_definition_for_all_parameters(start, width, tau, t):
    with jax.enable_x64(True):
        schedule = schedules.sigmoid(start, start + width, tau)
        alpha_squared, sigma_squared = sigmoid_squares(t, start, start + width, tau)
        np.testing.assert_allclose(schedule.alpha(t) ** 2, alpha_squared, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(schedule.sigma(t) ** 2, sigma_squared, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(schedule.inverse_log_snr(schedule.log_snr(t)), t, rtol=1e-8)


@pytest.mark.parametrize("tau", [0.08, 0.3, 3.0])
def test_steep_and_flat_sigmoids_hold_their_digits_in_float32(tau):
    schedule = schedules.sigmoid(-3.0, 3.0, tau)
    t = np.array([1e-6, 1e-3, 0.5, 0.999, 1 - 6e-8], np.float32)
    alpha_squared, sigma_squared = sigmoid_squares(t.astype(np.float64), tau=tau)
    log_snr = np.log(alpha_squared / sigma_squared)
    np.testing.assert_allclose(schedule.log_snr(t)[1:4], log_snr[1:4], rtol=1e-4, atol=1e-3)
    for function in schedule[:6]:
        assert np.isfinite(function(schedule.log_snr(t) if function is schedule.inverse_log_snr else t)).all()
    np.testing.assert_allclose(schedule.inverse_log_snr(schedule.log_snr(t)), t, rtol=1e-4)


def test_a_sigmoid_far_on_one_side_is_exponential():
    """S(x) -> 1 - e^-x for x >> 0, and S(x) -> e^x for x << 0."""
    t = np.array([0.01, 0.5, 0.99], np.float32)
    schedule, mirrored = schedules.sigmoid(200.0, 203.0), schedules.sigmoid(-203.0, -200.0)
    left = (np.exp(-3.0 * t) - np.exp(-3.0)) / -np.expm1(-3.0)
    reached = np.expm1(3.0 * t) / np.expm1(3.0)
    for process, alpha, sigma in [(schedule, left, 1 - left), (mirrored, 1 - reached, reached)]:
        np.testing.assert_allclose(process.alpha(t), np.sqrt(alpha), rtol=2e-5)
        np.testing.assert_allclose(process.sigma(t), np.sqrt(sigma), rtol=2e-5)
        np.testing.assert_allclose(process.log_snr(t), np.log(alpha / sigma), rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(process.inverse_log_snr(np.log(alpha / sigma).astype(np.float32)), t, rtol=5e-5)
    np.testing.assert_allclose(schedule.drift(t), -3 / 2 * np.exp(-3.0 * t) / (left * -np.expm1(-3.0)), rtol=5e-5)


def test_the_rates_of_a_steep_sigmoid_hold_their_digits_in_float32():
    """d ln sigma / dt -> width / 2 and d ln alpha / dt -> -width S(x) / 2 far before the middle."""
    schedule, t = schedules.sigmoid(-40.0, 40.0), np.float32(0.2)
    np.testing.assert_allclose(jax.grad(schedule.sigma)(t) / schedule.sigma(t), 40.0, rtol=1e-5)
    np.testing.assert_allclose(schedule.drift(t), -40 * scipy.special.expit(80 * float(t) - 40), rtol=2e-5)
    np.testing.assert_allclose(jax.grad(schedule.alpha)(t), schedule.drift(t), rtol=2e-5)


@pytest.mark.extended
def test_fast_and_constant_betas_hold_their_digits_in_float32():
    """B = 500.05 at the end: log-SNR = -B for variance preserving, and -B - 2 ln(1 - e^-B) for sub-VP."""
    for make in (schedules.variance_preserving, schedules.sub_vp):
        schedule, t = make(0.1, 1000.0), np.array([0.5, 0.9, 1.0], np.float32)
        log_snr = -(0.1 * t + 999.9 / 2 * t**2)
        np.testing.assert_allclose(schedule.log_snr(t), log_snr, rtol=1e-6)
        np.testing.assert_allclose(schedule.inverse_log_snr(log_snr), t, rtol=1e-6)
        slopes = jax.vmap(jax.grad(schedule.inverse_log_snr))(log_snr)
        np.testing.assert_allclose(slopes, -1 / (0.1 + 999.9 * t), rtol=1e-5)
        constant = make(0.5, 0.5)
        ends = np.array([np.inf, -np.inf], np.float32)
        np.testing.assert_array_equal(constant.inverse_log_snr(ends), [0, np.inf])
        np.testing.assert_allclose(constant.inverse_log_snr(constant.log_snr(t)), t, rtol=1e-5)


def test_the_drift_of_a_cosine_schedule_holds_its_digits_at_the_data():
    """f = -r tan(r (t + s)), r = pi / 2 / (1 + s), for an offset s so small that it is lost beside pi / 2."""
    t, r = np.array([0.0, 1e-6, 1e-3], np.float32), np.pi / 2 / (1 + 1e-6)
    np.testing.assert_allclose(schedules.cosine(1e-6).drift(t), -r * np.tan(r * (t + 1e-6)), rtol=1e-5)


@given(low=st.floats(0.01, 1.0), more=st.floats(0.0, 30.0), t=st.floats(1e-3, 1.0))
def test_continuous_betas_of_any_size(low, more, t):
    """The inverse of both processes of Song et al. for any betas, also for a constant beta."""
    with jax.enable_x64(True):
        for make in (schedules.variance_preserving, schedules.sub_vp):
            schedule = make(low, low + more)
            np.testing.assert_allclose(schedule.inverse_log_snr(schedule.log_snr(t)), t, rtol=1e-9)


@pytest.mark.extended
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


@pytest.mark.extended
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
        (lambda: schedules.init_learned(jax.random.key(0), float("inf")), "log_snr_max = inf"),
        (lambda: schedules.init_learned(jax.random.key(0), log_snr_min=-float("inf")), "log_snr_min = -inf"),
        (lambda: schedules.init_learned(jax.random.key(0), features=0), "features = 0"),
        (lambda: schedules.linear_beta(beta_start=-0.1), "beta"),
        (lambda: schedules.linear_beta(beta_end=1.0), "beta"),
        (lambda: schedules.linear_beta(T=0), "T = 0"),
        (lambda: schedules.linear_beta(T=10**9), "T = 1000000000"),
        (lambda: schedules.scaled_linear(T=10**6 + 1), "T = 1000001"),
        (lambda: schedules.from_betas(np.full(10**6 + 1, 1e-9)), "T = 1000001"),
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
    t = jnp.arange(3.0)
    x = jnp.ones((3, 2, 2))
    np.testing.assert_array_equal((schedules.left_broadcast(t, x) * x)[:, 0, 0], t)


@pytest.mark.parametrize("shape", [(3,), (2,), (4, 3), (4, 2, 3, 1)])
def test_left_broadcast_refuses_what_is_not_a_prefix(shape):
    """A square batch must not broadcast along the wrong axis: [3] does not go with [4, 2, 3]."""
    with pytest.raises(ValueError, match="prefix"):
        schedules.left_broadcast(jnp.ones(shape), jnp.ones((4, 2, 3)))


def test_a_learned_schedule_begins_with_small_independent_weights():
    """Standard deviation 0.01 as in the authors' code, so that the line is bent by little."""
    params = schedules.init_learned(jax.random.key(0), features=4096)
    inner = np.asarray(params["inner"])
    outer = np.asarray(params["outer"])
    np.testing.assert_allclose([inner.std(), outer.std()], 0.01, rtol=0.05)
    assert abs(np.corrcoef(inner, outer)[0, 1]) < 0.06


@pytest.mark.parametrize("betas, std", [((0.1, 1.0), 1 - np.exp(-0.55)), ((0.2, 0.2), 1 - np.exp(-0.2))])
def test_the_prior_of_sub_vp_is_as_narrow_as_its_end(betas, std):
    """sigma(1) = 1 - e^-(beta_min + beta_max)/2 (Song et al. 2021, eq. 29), far from 1 for small betas."""
    x = np.asarray(schedules.sub_vp(*betas).prior(jax.random.key(0), (20_000,)))
    np.testing.assert_allclose([x.mean(), x.std()], [0, std], atol=4 * std / np.sqrt(20_000))
