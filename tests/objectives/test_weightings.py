"""One loss, whatever the network predicts: every weighting under every parameterization, on actual errors."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special

from diffusion import parameterizations, schedules, weightings
from tests.conformance import slow_but

PARAMETERIZATIONS = {
    "epsilon": parameterizations.epsilon(),
    "x0": parameterizations.x0(),
    "v": parameterizations.v(),
    "score": parameterizations.score(),
    "velocity": parameterizations.velocity(),
    "edm": parameterizations.edm(sigma_data=0.7),
}
WEIGHTINGS = {
    **{f"constant({name})": weightings.constant(p) for name, p in PARAMETERIZATIONS.items()},
    "truncated_snr": weightings.truncated_snr(),
    "at_most": weightings.at_most(weightings.snr(), 5.0),
    "min_snr": weightings.min_snr(),
    "edm": weightings.edm(),
    "snr": weightings.snr(),
    "soft_min_snr": weightings.soft_min_snr(),
    "p2": weightings.p2(),
    "p2(0.5, 2)": weightings.p2(0.5, 2.0),
    "sigmoid": weightings.sigmoid(),
    "sigmoid(-3)": weightings.sigmoid(-3.0),
    "per_log_snr(sigmoid)": weightings.per_log_snr(weightings.sigmoid()),
}
SCHEDULES = {
    "linear_beta": schedules.linear_beta(),
    "cosine": schedules.cosine(),
    "rectified_flow": schedules.rectified_flow(),
    "edm": schedules.edm(),
}
every_schedule = pytest.mark.parametrize("schedule_name", list(SCHEDULES))
T = np.array([0.01, 0.1, 0.3003, 0.6, 0.9, 0.99])
pytestmark = pytest.mark.usefixtures("x64")


def _snr(schedule):
    return np.asarray(schedule.alpha(T)) ** 2 / np.asarray(schedule.sigma(T)) ** 2


def _problem(schedule):
    """A pair (x0, eps), its x_t, and a wrong guess of x0 with the eps that belongs to it."""
    x0, eps, error = np.random.default_rng(0).standard_normal((3, T.size, 4))
    alpha = np.asarray(schedule.alpha(T))[:, None]
    sigma = np.asarray(schedule.sigma(T))[:, None]
    x_t = alpha * x0 + sigma * eps
    guess = x0 + 0.1 * error
    return tuple(map(jnp.asarray, (x0, eps, x_t, guess, (x_t - alpha * guess) / sigma)))


def _output_error(schedule, p):
    """|output - target|^2 when the network's output stands for the wrong guess; targets are linear in the pair."""
    x0, eps, _, guess, guess_eps = _problem(schedule)
    t = jnp.asarray(T)
    return np.square(p.target(schedule, t, guess, guess_eps) - p.target(schedule, t, x0, eps)).sum(1)


@pytest.mark.extended
@every_schedule
@pytest.mark.parametrize("name", list(PARAMETERIZATIONS))
def test_error_scale_relates_the_two_errors(name, schedule_name):
    """|x0_hat - x0|^2 = error_scale |output - target|^2, with x0_hat read from the output by the parameterization."""
    schedule = SCHEDULES[schedule_name]
    p = PARAMETERIZATIONS[name]
    t = jnp.asarray(T)
    x0, eps, x_t, _, _ = _problem(schedule)
    target = p.target(schedule, t, x0, eps)
    output = target + 0.1 * jnp.asarray(np.random.default_rng(1).standard_normal(target.shape))
    x0_error = np.square(p.to_prediction(schedule, t, x_t, output).x0 - x0).sum(1)
    scale = weightings.error_scale(schedule, t, p)
    np.testing.assert_allclose(x0_error, scale * np.square(output - target).sum(1), rtol=1e-6)


@pytest.mark.extended
@every_schedule
@pytest.mark.parametrize("weighting", list(WEIGHTINGS))
def test_weighted_loss_is_the_same_under_every_parameterization(weighting, schedule_name):
    schedule = SCHEDULES[schedule_name]
    t = jnp.asarray(T)
    x0, _, _, guess, _ = _problem(schedule)
    weight = np.asarray(WEIGHTINGS[weighting](schedule, t))
    expected = weight * np.square(guess - x0).sum(1)
    assert (weight > 0).all()
    for p in PARAMETERIZATIONS.values():
        loss = weight * weightings.error_scale(schedule, t, p) * _output_error(schedule, p)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)


@every_schedule
@pytest.mark.parametrize("name", list(PARAMETERIZATIONS))
def test_constant_weighs_the_networks_own_error_by_one(name, schedule_name):
    schedule = SCHEDULES[schedule_name]
    p = PARAMETERIZATIONS[name]
    x0, _, _, guess, _ = _problem(schedule)
    weight = weightings.constant(p)(schedule, jnp.asarray(T))
    np.testing.assert_allclose(weight * np.square(guess - x0).sum(1), _output_error(schedule, p), rtol=1e-6)


@every_schedule
def test_min_snr_has_its_published_forms(schedule_name):
    """min(SNR, gamma) on x0; divided by SNR on epsilon; divided by SNR + 1 on v (Hang et al. 2023, section 3.4)."""
    schedule = SCHEDULES[schedule_name]
    gamma = 5.0
    t = jnp.asarray(T)
    snr = _snr(schedule)
    weight = weightings.min_snr(gamma)(schedule, t)
    on = lambda name: weight * weightings.error_scale(schedule, t, PARAMETERIZATIONS[name])
    np.testing.assert_allclose(on("x0"), np.minimum(snr, gamma), rtol=1e-9)
    np.testing.assert_allclose(on("epsilon"), np.minimum(snr, gamma) / snr, rtol=1e-9)
    if schedule_name in ("linear_beta", "cosine"):  # v is published for variance-preserving processes
        np.testing.assert_allclose(on("v"), np.minimum(snr, gamma) / (snr + 1), rtol=1e-9)


@every_schedule
def test_closed_forms(schedule_name):
    schedule = SCHEDULES[schedule_name]
    t = jnp.asarray(T)
    alpha = np.asarray(schedule.alpha(T))
    sigma = np.asarray(schedule.sigma(T))
    snr = alpha**2 / sigma**2
    level = sigma / alpha
    constant = lambda name: weightings.constant(PARAMETERIZATIONS[name])(schedule, t)
    np.testing.assert_allclose(constant("x0"), 1, rtol=1e-9)
    np.testing.assert_allclose(constant("epsilon"), snr, rtol=1e-9)
    np.testing.assert_allclose(weightings.truncated_snr()(schedule, t), np.maximum(snr, 1), rtol=1e-9)
    for sigma_data in (0.5, 1.3):
        expected = (level**2 + sigma_data**2) / (level * sigma_data) ** 2  # Karras et al. 2022, table 1
        np.testing.assert_allclose(weightings.edm(sigma_data)(schedule, t), expected, rtol=1e-9)
    if schedule_name in ("linear_beta", "cosine"):
        np.testing.assert_allclose(constant("v"), snr + 1, rtol=1e-9)  # Salimans and Ho 2022, section 4
    if schedule_name == "rectified_flow":
        np.testing.assert_allclose(constant("velocity"), 1 / sigma**2, rtol=1e-9)  # u = (x_t - x0) / t


@every_schedule
def test_published_forms_on_the_networks_own_error(schedule_name):
    """Each weight as its paper states it, on epsilon, on EDM's output or on x0."""
    schedule = SCHEDULES[schedule_name]
    t = jnp.asarray(T)
    snr = _snr(schedule)
    level_squared = 1 / snr

    def on(name, weighting):
        return weighting(schedule, t) * weightings.error_scale(schedule, t, PARAMETERIZATIONS[name])

    np.testing.assert_allclose(on("epsilon", weightings.snr()), 1, rtol=1e-9)
    for k, gamma in ((1.0, 1.0), (1.0, 0.5), (0.3, 2.0)):  # Choi et al. 2022: 1 / (k + SNR)^gamma on epsilon
        np.testing.assert_allclose(on("epsilon", weightings.p2(k, gamma)), (k + snr) ** -gamma, rtol=1e-9)
    for bias in (2.0, 0.0, -3.0):  # Kingma and Gao 2023: sigmoid(-log-SNR + bias) on epsilon
        expected = scipy.special.expit(bias - np.log(snr))
        np.testing.assert_allclose(on("epsilon", weightings.sigmoid(bias)), expected, rtol=1e-9)
    # k-diffusion's code, on the output of EDM's network, with sigma_data = 0.7 and gamma = 1 / sigma_data^2.
    expected = level_squared * 0.49 / (level_squared + 0.49) ** 2
    np.testing.assert_allclose(on("edm", weightings.soft_min_snr(1 / 0.49)), expected, rtol=1e-9)
    # Crowson et al. 2024: 1 / (sigma^2 + 1 / gamma) on x0; below min-SNR and above half of it.
    soft = weightings.soft_min_snr(5.0)(schedule, t)
    hard = weightings.min_snr(5.0)(schedule, t)
    np.testing.assert_allclose(weightings.at_most(weightings.snr(), 5.0)(schedule, t), hard, rtol=1e-9)
    np.testing.assert_allclose(soft, snr * 5 / (snr + 5), rtol=1e-9)
    assert (soft <= hard).all()
    assert (soft >= hard / 2).all()


# Limits for SNR -> infinity and SNR -> 0, on straight paths.
ENDS = {
    "constant(x0)": (1, 1),
    "constant(epsilon)": (np.inf, 0),
    "constant(v)": (np.inf, 1),
    "constant(velocity)": (np.inf, 1),
    "truncated_snr": (np.inf, 1),
    "at_most": (5, 0),
    "min_snr": (5, 0),
    "edm": (np.inf, 4),
    "snr": (np.inf, 0),
    "soft_min_snr": (4, 0),
    "p2": (1, 0),
    "p2(0.5, 2)": (0, 0),
    "sigmoid": (np.exp(2), 0),
    "sigmoid(-3)": (np.exp(-3), 0),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_weights_at_both_ends_are_their_limits(dtype):
    t = jnp.asarray([0, 1], dtype)
    for name, expected in ENDS.items():
        weight = WEIGHTINGS[name](SCHEDULES["rectified_flow"], t)
        np.testing.assert_allclose(weight, expected, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", ["min_snr", "soft_min_snr", "p2", "sigmoid", "truncated_snr"])
def test_weight_on_v_is_not_the_weight_on_epsilon(name):
    """The classic mistake divides by the SNR for v too; on v it is w / (SNR + 1), which is finite at alpha = 0."""
    schedule = SCHEDULES["cosine"]
    t = jnp.asarray(T)
    snr = _snr(schedule)
    weight = np.asarray(WEIGHTINGS[name](schedule, t))
    on = lambda p: np.asarray(weight * weightings.error_scale(schedule, t, PARAMETERIZATIONS[p]))
    np.testing.assert_allclose(on("v"), weight / (snr + 1), rtol=1e-9)
    np.testing.assert_allclose(on("epsilon"), weight / snr, rtol=1e-9)


@every_schedule
def test_per_log_snr_does_not_depend_on_the_clock(schedule_name):
    """int w(t) dt over [t_low, t_high] is the integral of the weight over the log-SNRs between."""
    schedule = SCHEDULES[schedule_name]
    t = np.linspace(0.2, 0.8, 6001)
    log_snr = np.asarray(schedule.log_snr(t))
    weight = weightings.per_log_snr(weightings.sigmoid(1.0))(schedule, jnp.asarray(t))
    # e^b sigmoid(x - b) integrates to e^b log(1 + e^(x - b)).
    antiderivative = lambda x: np.exp(1.0) * np.logaddexp(0, x - 1.0)
    expected = antiderivative(log_snr[0]) - antiderivative(log_snr[-1])
    np.testing.assert_allclose(scipy.integrate.trapezoid(weight, t), expected, rtol=1e-3)


@every_schedule
def test_per_log_snr_of_snr_is_the_rate_of_the_snr(schedule_name):
    """-SNR'(t), the weight of Kingma et al. 2021, eq. 17 (with its factor 1/2 outside), by differences."""
    schedule = SCHEDULES[schedule_name]
    h = 1e-6
    t = T[1:-1] + 0.0003  # away from the kinks of the discrete process
    snr = lambda t: np.exp(np.asarray(schedule.log_snr(t)))
    weight = weightings.per_log_snr(weightings.snr())(schedule, jnp.asarray(t))
    np.testing.assert_allclose(weight, -(snr(t + h) - snr(t - h)) / (2 * h), rtol=1e-5)


def test_per_log_snr_at_the_ends_is_the_limit_inside():
    """Where the rate is infinite: (1 - t) / t^3 of straight paths, the logistic curve's slope, and t^2 / t."""
    line, curve, t = schedules.rectified_flow(), schedules.sigmoid(), jnp.array([0.0, 1.0])
    of_snr = weightings.per_log_snr(weightings.snr())
    np.testing.assert_allclose(of_snr(line, t)[1], 0, atol=1e-4)
    np.testing.assert_allclose(of_snr(schedules.zero_terminal_snr(schedules.linear_beta()), t)[1], 0, atol=1e-2)
    s = 1 / (1 + np.exp(-3))  # alpha^2 = (s - S(-3 + 6 t)) / (2 s - 1), whose slope at t = 1 is that of the SNR
    np.testing.assert_allclose(of_snr(curve, t)[1], 6 * s * (1 - s) / (2 * s - 1), rtol=1e-3)
    at_data = weightings.per_log_snr(weightings.p2(1.0, 1.5))(line, t)[0]  # SNR^-1/2 2 / t
    np.testing.assert_allclose(at_data, 2, rtol=1e-3)


@every_schedule
def test_edm_weight_makes_the_effective_weight_one(schedule_name):
    """lambda(sigma) c_out(sigma)^2 = 1 (Karras et al. 2022, section 5)."""
    schedule = SCHEDULES[schedule_name]
    t = jnp.asarray(T)
    level = np.asarray(schedule.sigma(T)) / np.asarray(schedule.alpha(T))
    for sigma_data in (0.5, 1.3):
        c_out = level * sigma_data / np.sqrt(level**2 + sigma_data**2)
        np.testing.assert_allclose(weightings.edm(sigma_data)(schedule, t) * c_out**2, 1, rtol=1e-9)
        p = parameterizations.edm(sigma_data)
        np.testing.assert_allclose(weightings.error_scale(schedule, t, p), c_out**2, rtol=1e-9)


@pytest.mark.extended
@pytest.mark.parametrize("schedule_name", slow_but([("cosine",)], [(n,) for n in SCHEDULES]))
@pytest.mark.parametrize("weighting", list(WEIGHTINGS))
@pytest.mark.parametrize("shape", [(), (2,), (3, 2)])
def test_weights_have_the_shape_of_t(weighting, schedule_name, shape):
    t = jnp.full(shape, 0.4)
    schedule = SCHEDULES[schedule_name]
    assert WEIGHTINGS[weighting](schedule, t).shape == shape
    assert weightings.error_scale(schedule, t, PARAMETERIZATIONS["v"]).shape == shape


@pytest.mark.parametrize(
    "weighting",
    [
        "truncated_snr",
        "min_snr",
        "constant(v)",
        "constant(velocity)",
        "constant(x0)",
        "snr",
        "soft_min_snr",
        "p2",
        "sigmoid",
    ],
)
def test_loss_is_finite_where_the_snr_is_zero(weighting):
    """At alpha = 0, min-SNR divided by the SNR is 0 / 0 in codes that weigh epsilon; on v it must be finite."""
    schedule = schedules.cosine()
    t = jnp.array([1.0])
    scale = weightings.error_scale(schedule, t, PARAMETERIZATIONS["v"])
    assert np.isfinite(WEIGHTINGS[weighting](schedule, t) * scale).all()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: weightings.min_snr(0.0), "gamma"),
        (lambda: weightings.min_snr(float("nan")), "gamma"),
        (lambda: weightings.edm(-1.0), "sigma_data"),
        (lambda: weightings.soft_min_snr(0.0), "gamma"),
        (lambda: weightings.p2(0.0), "k = 0.0"),
        (lambda: weightings.p2(1.0, -1.0), "gamma = -1.0"),
        (lambda: weightings.p2(1.0, float("nan")), "gamma = nan"),
    ],
)
def test_bad_arguments_are_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_the_derivative_of_a_sigmoid_keeps_its_digits_on_both_sides():
    """e^-x / (1 + e^-x)^2, which is e^-|x| far from 0."""
    slope = jax.vmap(jax.grad(importlib.import_module("diffusion.objectives.weightings")._logistic))
    x = np.array([-40.0, -1.0, 0.0, 2.0, 40.0])
    expected = np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))) ** 2
    np.testing.assert_allclose(slope(jnp.float32(x)), expected, rtol=1e-5)
