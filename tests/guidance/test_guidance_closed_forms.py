"""Guidances against the closed forms that Gaussian data gives, and against their papers' formulas written in numpy."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import guidance, samplers, schedules, timesteps
from diffusion.guidance import measurements, prediction_changes
from diffusion.parameterizations import Prediction
from tests import oracles
from tests.conformance import SCHEDULES, exact_denoiser, slow_but

pytestmark = pytest.mark.usefixtures("x64")

SCHEDULE = SCHEDULES["cosine"]
COVARIANCE = np.array([[0.9, 0.35], [0.35, 0.25]])
COND = oracles.gaussian([0.7, -0.4], COVARIANCE)
NULL = oracles.gaussian([-0.2, 0.3], [[0.3, 0.1], [0.1, 0.6]])
OTHER = oracles.gaussian([0.5, 0.5], [[0.5, -0.2], [-0.2, 0.4]])
X = np.random.default_rng(0).standard_normal((3, 2))
T = np.array([0.15, 0.5, 0.85])


def _level(schedule=SCHEDULE, t=T):
    """alpha and sigma as `[B, 1]`."""
    return (np.asarray(f(jnp.asarray(t)))[:, None] for f in (schedule.alpha, schedule.sigma))


def _branches(*data, schedule=SCHEDULE):
    return guidance.separately(*(exact_denoiser(d, schedule) for d in data))


def _call(denoise, x=X, t=T):
    return denoise(jnp.asarray(x), jnp.asarray(t))


def _assert_close(a, b, rtol=1e-9):
    np.testing.assert_allclose(a.x0, b.x0, rtol=rtol, atol=1e-11)
    np.testing.assert_allclose(a.eps, b.eps, rtol=rtol, atol=1e-11)


def test_a_classifier_changes_no_derivative_where_nothing_of_the_data_is_left():
    schedule = schedules.rectified_flow()
    plain = exact_denoiser(COND, schedule)
    guided = guidance.classifier(plain, schedule, lambda x, t: jnp.tanh(x[:, 0]), 2.0)
    slope = lambda denoise: jax.grad(lambda x: jnp.sum(denoise(x, jnp.ones(3)).x0 ** 2))(jnp.asarray(X))
    np.testing.assert_array_equal(slope(guided), slope(plain))


def test_composed_conditions_multiply_their_densities():
    """p_null^(1 - w_1 - w_2) p_1^w_1 p_2^w_2, by the oracle's scores; a weight may be negative."""
    alpha = SCHEDULE.alpha(jnp.asarray(T))
    sigma = SCHEDULE.sigma(jnp.asarray(T))
    scores = [np.asarray(oracles.score(d, alpha, sigma, jnp.asarray(X))) for d in (COND, OTHER, NULL)]
    for first, second in ((1.0, 1.0), (3.0, -1.5)):
        guided = _call(guidance.composed(_branches(COND, OTHER, NULL), (first, second)))
        expected = first * scores[0] + second * scores[1] + (1 - first - second) * scores[2]
        np.testing.assert_allclose(guided.eps, -np.asarray(sigma)[:, None] * expected, rtol=1e-10)


def test_text_and_picture_multiply_their_densities():
    """p_null^(1 - s_I) p_picture^(s_I - s_T) p_both^s_T, by the oracle's scores: eq. 3 of InstructPix2Pix."""
    alpha = SCHEDULE.alpha(jnp.asarray(T))
    sigma = SCHEDULE.sigma(jnp.asarray(T))
    both, picture, null = (np.asarray(oracles.score(d, alpha, sigma, jnp.asarray(X))) for d in (COND, OTHER, NULL))
    guided = _call(guidance.text_and_picture(_branches(COND, OTHER, NULL), 7.5, 1.5))
    expected = null + 1.5 * (picture - null) + 7.5 * (both - picture)
    np.testing.assert_allclose(guided.eps, -np.asarray(sigma)[:, None] * expected, rtol=1e-9)


def test_a_ramp_takes_a_share_of_the_guidance_that_grows_towards_the_data():
    """MDT's code: (w - 1) (1 - cos(pi (1 - t / steps)^power)) / 2 + 1."""
    scale = 3.8
    grown = _call(guidance.classifier_free(_branches(COND, NULL), scale, ramp=guidance.power_cosine(2.0)))
    weights = (scale - 1) * (1 - np.cos((1 - T) ** 2 * np.pi)) / 2 + 1
    assert weights[0] > 3 and weights[2] < 1.01
    _assert_close(grown, _call(guidance.classifier_free(_branches(COND, NULL), jnp.asarray(weights))))
    later = guidance.classifier_free(_branches(COND, NULL), lambda t: scale + 0 * t, ramp=guidance.power_cosine(2.0))
    _assert_close(_call(later), grown)
    with pytest.raises(ValueError, match="power = 0"):
        guidance.power_cosine(0)


def test_a_ramp_of_a_scale_for_each_sample_follows_the_time_of_each_frame():
    """cond + (w_b - 1) ramp(t_bf) (cond - uncond), with as many samples as frames."""
    w, t = np.array([1.0, 2.0, 5.0]), np.linspace(0.1, 0.9, 9).reshape(3, 3)
    x = np.random.default_rng(3).standard_normal((3, 3, 2))
    branch = lambda a: lambda x_t, t: Prediction(a * x_t, x_t)
    guided = guidance.classifier_free(
        guidance.separately(branch(1.0), branch(0.0)), jnp.asarray(w), ramp=guidance.power_cosine(2.0)
    )
    extra = (w[:, None] - 1) * (1 - np.cos((1 - t) ** 2 * np.pi)) / 2
    np.testing.assert_allclose(_call(guided, x, t).x0, (1 + extra[..., None]) * x, rtol=1e-9)
    at_one = lambda t: (w - 1) * (1 - np.cos((1 - t) ** 2 * np.pi)) / 2
    np.testing.assert_allclose(_call(guided, x, 0.3).x0, (1 + at_one(0.3)[:, None, None]) * x, rtol=1e-9)


def test_one_composed_condition_is_classifier_free_guidance():
    one = _call(guidance.composed(_branches(COND, NULL), (2.5,)))
    _assert_close(one, _call(guidance.classifier_free(_branches(COND, NULL), 2.5)), 1e-12)


@pytest.mark.parametrize("make", [guidance.perturbed_attention, guidance.skip_layer])
def test_the_interval_bounds_the_guidance_away_from_the_impaired_network_alone(make):
    """cond + s (cond - worse) + (w - 1) (cond - uncond), with s = 0 at the first and last of three times, w at all."""
    guided = _call(make(_branches(COND, NULL, OTHER), 2.0, classifier_free=3.0, interval=(0.3, 0.7)))
    s = np.array([[0.0], [2.0], [0.0]])
    cond, uncond, worse = (_call(exact_denoiser(data, SCHEDULE)) for data in (COND, NULL, OTHER))
    for field in ("x0", "eps"):
        c, u, p = (np.asarray(getattr(prediction, field)) for prediction in (cond, uncond, worse))
        np.testing.assert_allclose(getattr(guided, field), c + s * (c - p) + 2.0 * (c - u), rtol=1e-9)


def test_rescaling_follows_the_papers_algorithm():
    """Lin et al. 2024, algorithm 2, of v, with torch's unbiased standard deviation, which makes no difference."""
    alpha, sigma = _level()
    v = lambda p: alpha * np.asarray(p.eps) - sigma * np.asarray(p.x0)
    v_c, v_u = (v(_call(exact_denoiser(d, SCHEDULE))) for d in (COND, NULL))
    for w, phi in ((4.0, 0.3), (4.0, 1.0), (1.2, 0.7)):
        v_cfg = v_u + w * (v_c - v_u)
        factor = v_c.std(1, ddof=1, keepdims=True) / v_cfg.std(1, ddof=1, keepdims=True)
        guided = _call(guidance.rescaled(_branches(COND, NULL), SCHEDULE, w, phi))
        np.testing.assert_allclose(v(guided), v_cfg * (phi * factor + 1 - phi), rtol=1e-9)
    assert v_cfg.std(1).min() < 1
    plain = _call(guidance.classifier_free(_branches(COND, NULL), 4.0))
    _assert_close(_call(guidance.rescaled(_branches(COND, NULL), SCHEDULE, 4.0, 0.0)), plain, 1e-14)


def test_zero_star_follows_the_authors_code():
    """On the rectified flow, whose velocity is eps - x0; the oracle's velocities, the code's lines in numpy."""
    flow = schedules.rectified_flow()
    u_c, u_u = (np.asarray(p.eps - p.x0) for p in (_call(exact_denoiser(d, flow)) for d in (COND, NULL)))
    s = (u_c * u_u).sum(1, keepdims=True) / ((u_u**2).sum(1, keepdims=True) + 1e-8)
    guided = _call(guidance.zero_star(_branches(COND, NULL, schedule=flow), flow, 3.0))
    np.testing.assert_allclose(guided.eps - guided.x0, s * u_u + 3.0 * (u_c - s * u_u), rtol=1e-9)


def test_renormalised_velocities_are_as_long_as_the_conditional_ones_in_each_patch():
    """The lines of Qwen-Image's pipeline on packed tokens, in numpy; of points each is a token."""
    flow = schedules.rectified_flow()
    u_c, u_u = (np.asarray(p.eps - p.x0) for p in (_call(exact_denoiser(d, flow)) for d in (COND, NULL)))
    u = u_u + 3.0 * (u_c - u_u)
    u = u * (np.linalg.norm(u_c, axis=-1, keepdims=True) / np.linalg.norm(u, axis=-1, keepdims=True))
    guided = _call(guidance.renormalised(_branches(COND, NULL, schedule=flow), flow, 3.0))
    np.testing.assert_allclose(guided.eps - guided.x0, u, rtol=1e-9)

    v_c, v_u = np.random.default_rng(0).standard_normal((2, 3, 4, 6, 5))
    branches = lambda x, t: tuple(Prediction(x - left * v, x + (1 - left) * v) for v in (v_c, v_u))
    left = T[:, None, None, None]
    packed = lambda v: v.reshape(3, 2, 2, 3, 2, 5).transpose(0, 1, 3, 2, 4, 5).reshape(3, 6, 20)
    v = packed(v_u + 3.0 * (v_c - v_u))
    v = v * np.linalg.norm(packed(v_c), axis=-1, keepdims=True) / np.linalg.norm(v, axis=-1, keepdims=True)
    guided = _call(guidance.renormalised(branches, flow, 3.0, patch=2), np.ones((3, 4, 6, 5)))
    np.testing.assert_allclose(packed(guided.eps - guided.x0), v, rtol=1e-9)
    v = v_u + 3.0 * (v_c - v_u)  # of Lumina-Image 2's, whose last axis counts columns
    v = v * np.linalg.norm(v_c, axis=2, keepdims=True) / np.linalg.norm(v, axis=2, keepdims=True)
    guided = _call(guidance.renormalised(branches, flow, 3.0, axis=-2), np.ones((3, 4, 6, 5)))
    np.testing.assert_allclose(guided.eps - guided.x0, v, rtol=1e-9)
    with pytest.raises(ValueError, match=r"patch = 4 does not divide the sides \(4, 6\)"):
        _call(guidance.renormalised(branches, flow, 3.0, patch=4), np.ones((3, 4, 6, 5)))
    for axis in (0, 4, -4):  # the first and the last of these are the batch
        with pytest.raises(ValueError, match=rf"axis = {axis} is not an axis of an example .* Valid: 1 .. 3, or -3"):
            _call(guidance.renormalised(branches, flow, 3.0, axis=axis), np.ones((3, 4, 6, 5)))


def test_zero_star_is_of_the_velocity_of_any_schedule():
    """alpha' x0 + sigma' eps, here of dx = -beta x / 2 dt + sqrt(beta) dw with beta = 2: alpha = e^-t."""
    schedule = schedules.variance_preserving(2.0, 2.0)
    velocity = lambda p: (
        -np.exp(-T)[:, None] * np.asarray(p.x0)
        + (np.exp(-2 * T) / np.sqrt(1 - np.exp(-2 * T)))[:, None] * np.asarray(p.eps)
    )
    u_c, u_u = (velocity(_call(exact_denoiser(d, schedule))) for d in (COND, NULL))
    s = (u_c * u_u).sum(1, keepdims=True) / ((u_u**2).sum(1, keepdims=True) + 1e-8)
    guided = _call(guidance.zero_star(_branches(COND, NULL, schedule=schedule), schedule, 3.0))
    np.testing.assert_allclose(velocity(guided), s * u_u + 3.0 * (u_c - s * u_u), rtol=1e-9)


@pytest.mark.parametrize("name", slow_but([("euler",)], [("euler",), ("ddim",)]))
def test_zero_init_stands_still_for_the_first_steps(name):
    flow = schedules.rectified_flow()
    plan = timesteps.plan(np.array([1.0, 0.8, 0.5, 0.0]))
    denoise = guidance.zero_star(_branches(COND, NULL, schedule=flow), flow, 3.0, zero_above=float(plan.s[1]))
    keys = jax.random.split(jax.random.key(0), 3)
    _, way = samplers.sample_trajectory(getattr(samplers, name)(), denoise, flow, jnp.asarray(X), plan, keys)
    np.testing.assert_allclose(way.x[1:3], np.stack([X, X]), rtol=1e-12)
    assert np.abs(way.x[3] - X).min() > 1e-3


def test_projection_removes_what_is_parallel_to_the_conditional_estimate():
    """Sadat et al. 2024, algorithm 1: eta = 1 is classifier-free guidance, eta = 0 moves at right angles."""
    cond, uncond = (np.asarray(_call(exact_denoiser(d, SCHEDULE)).x0) for d in (COND, NULL))
    make = lambda **more: _call(guidance.adaptive_projected(_branches(COND, NULL), SCHEDULE, 4.0, momentum=0, **more))
    _assert_close(make(eta=1.0), _call(guidance.classifier_free(_branches(COND, NULL), 4.0)))
    moved = np.asarray(make(eta=0.0).x0) - cond
    np.testing.assert_allclose((moved * cond).sum(1), 0, atol=1e-12)
    across = np.stack([-cond[:, 1], cond[:, 0]], 1) / np.linalg.norm(cond, axis=1, keepdims=True)
    np.testing.assert_allclose(moved, 3.0 * ((cond - uncond) * across).sum(1, keepdims=True) * across, rtol=1e-9)
    limited = np.asarray(make(eta=1.0, norm_threshold=0.1).x0) - cond
    assert (np.linalg.norm(cond - uncond, axis=1) > 0.1).all()
    np.testing.assert_allclose(np.linalg.norm(limited, axis=1), 0.3, rtol=1e-9)


def test_plus_plus_is_guidance_of_a_scale_that_the_step_gives():
    """With alpha = 1: x_s = x_t - (t - s) eps_u - lambda t (eps_c - eps_u), guidance at w = lambda t / (t - s)."""
    schedule = schedules.variance_exploding()
    plan = timesteps.plan(np.array([0.8, 0.6, 0.5, 0.2]))
    keys = jax.random.split(jax.random.key(0), 3)
    x = 5.0 * jnp.asarray(X)
    run = lambda denoise: samplers.sample(samplers.ddim(), denoise, schedule, x, plan, keys)
    levels = np.asarray(schedule.sigma(jnp.asarray([0.8, 0.6, 0.5, 0.2])))

    def scale(t):
        i = jnp.argmin(jnp.abs(plan.t - t))
        return 0.6 * jnp.asarray(levels[:-1] / (levels[:-1] - levels[1:]))[i]

    branches = _branches(COND, NULL, schedule=schedule)
    plus = run(guidance.classifier_free_plus_plus(branches, 0.6))
    np.testing.assert_allclose(plus, run(guidance.classifier_free(branches, scale)), rtol=1e-9)


A = np.array([[1.0, -0.7]])


def _posterior(data, A, y, std):
    """The Gaussian p(x_0 | y) of y = A x_0 + std z, by conditioning."""
    mean = np.asarray(data.means[0])
    S = oracles.covariance(data)
    gain = S @ A.T @ np.linalg.inv(A @ S @ A.T + std**2 * np.eye(len(A)))
    return oracles.gaussian(mean + gain @ (y - A @ mean), S - gain @ A @ S)


@pytest.mark.parametrize("schedule", [SCHEDULES["cosine"], SCHEDULES["edm"]])
def test_an_exact_classifier_gives_the_exact_posterior(schedule):
    """log p(y | x_t) of Gaussian data is N(y; A E[x_0 | x_t], A Cov(x_0 | x_t) A^T + std^2)."""
    y = np.array([0.4])
    std = 0.3

    along = (A @ COND.axes[0]).ravel() ** 2

    def log_probability(x, t):
        alpha = schedule.alpha(t)[:, None]
        sigma = schedule.sigma(t)[:, None]
        mu = COND.means[0]
        axes = COND.axes[0]
        values = COND.variances[0]
        share = values / (alpha**2 * values + sigma**2)  # of S C^-1
        mean = ((x - alpha * mu) @ axes * alpha * share @ axes.T + mu) @ A[0]
        spread = (share * sigma**2 * along).sum(1)  # A Cov(x_0 | x_t) A^T
        return -((y[0] - mean) ** 2) / (2 * (spread + std**2))

    guided = _call(guidance.classifier(exact_denoiser(COND, schedule), schedule, log_probability))
    exact = _call(exact_denoiser(_posterior(COND, A, y, std), schedule))
    _assert_close(guided, exact, 1e-7)


WHITE = oracles.gaussian([0.7, -0.4], 0.6**2 * np.eye(2))


@pytest.mark.parametrize(
    "name, schedule_name, std",
    slow_but(
        [("matrix", "cosine", 0.3), ("masked", "edm", 0.0)],
        list(itertools.product(["matrix", "masked"], ["cosine", "edm"], [0.3, 0.0])),
    ),
)
def test_pseudoinverse_guidance_is_exact_for_white_gaussians(name, schedule_name, std):
    rows, measurement, y, observed = {
        "matrix": (A, measurements.matrix(A), np.array([0.4]), np.array([[0.4]])),
        "masked": (np.eye(2)[:1], measurements.masked(jnp.array([True, False])), np.array([0.4]), np.array([[0.4, 9]])),
    }[name]
    schedule = SCHEDULES[schedule_name]
    denoise = exact_denoiser(WHITE, schedule)
    guided = _call(guidance.pseudoinverse(denoise, schedule, measurement, jnp.asarray(observed), std, data_std=0.6))
    exact = _call(exact_denoiser(_posterior(WHITE, rows, y, std), schedule))
    _assert_close(guided, exact, 1e-7)


@pytest.mark.parametrize("schedule_name, std", slow_but([("cosine", 0.3), ("edm", 0.0)], []))
def test_a_proximal_estimate_is_exact_for_white_gaussians_of_that_width(schedule_name, std):
    """The posterior variance of x_0 is r^2 = 1 / (1 / s^2 + alpha^2 / sigma^2), which w (alpha / sigma)^2 inverts."""
    schedule = SCHEDULES[schedule_name]
    scale = lambda t: 1 + (schedule.sigma(t) / schedule.alpha(t) / 0.6) ** 2
    observed = (measurements.matrix(A), jnp.array([[0.4]]), std)
    guided = _call(guidance.proximal(exact_denoiser(WHITE, schedule), schedule, *observed, scale))
    exact = _call(exact_denoiser(_posterior(WHITE, A, np.array([0.4]), std), schedule))
    _assert_close(guided, exact, 1e-7)


def test_an_exact_measurement_leaves_only_the_null_space_to_the_network():
    """A^+ y + (I - A^+ A) x0, DDNM's eq. 10, by NumPy's pseudo-inverse."""
    plain = _call(exact_denoiser(COND, SCHEDULE))
    y = np.array([[0.4], [1.0], [-2.0]])
    guided = _call(guidance.proximal(exact_denoiser(COND, SCHEDULE), SCHEDULE, measurements.matrix(A), jnp.asarray(y)))
    inverse = np.linalg.pinv(A)
    np.testing.assert_allclose(guided.x0, y @ inverse.T + plain.x0 @ (np.eye(2) - inverse @ A).T, rtol=1e-9)
    with pytest.raises(ValueError, match=r"noise_std = -1 must be at least 0"):
        guidance.proximal(exact_denoiser(COND, SCHEDULE), SCHEDULE, measurements.matrix(A), jnp.asarray(y), -1)


def test_a_step_on_the_estimate_is_the_proximal_one_to_first_order():
    """x0 + w A^T (y - A x0) / sigma_y^2; where the prior is narrow beside the noise of y, both agree."""
    y, std = jnp.array([[0.4]]), 50.0
    denoise = exact_denoiser(COND, SCHEDULE)
    plain = np.asarray(_call(denoise).x0)
    likelihood = guidance.gaussian_likelihood(lambda x0: x0 @ A.T, y, std)
    guided = np.asarray(_call(guidance.manifold_preserving(denoise, SCHEDULE, likelihood, 0.7)).x0)
    np.testing.assert_allclose(guided, plain + 0.7 * (0.4 - plain @ A.T) @ A / std**2, rtol=1e-10)
    width = lambda t: (SCHEDULE.sigma(t) / SCHEDULE.alpha(t)) ** 2
    near = _call(guidance.manifold_preserving(denoise, SCHEDULE, likelihood, width))
    best = _call(guidance.proximal(denoise, SCHEDULE, measurements.matrix(A), y, std))
    np.testing.assert_allclose((near.x0 - plain)[:2], (best.x0 - plain)[:2], rtol=2e-3)


FILTERED = {
    "masked": (measurements.masked(np.random.default_rng(0).random((4, 4, 1)) < 0.5), (4, 4, 1)),
    "pooled": (measurements.pooled(2), (4, 4, 1)),
    "blurred": (measurements.blurred(0.6), (4, 6, 2)),
    "matrix": (measurements.matrix(np.array([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0], [0.0, 1.0, 1.0]])), (3,)),
    "flat matrix": (measurements.matrix(A), (2,)),
}


@pytest.mark.parametrize("name", FILTERED)
def test_filters_act_along_the_singular_directions(name):
    """V f(s) V^T and its trace by NumPy, with A written as a matrix by probing forward; A^+ y too."""
    measurement, shape = FILTERED[name]
    size = np.prod(shape)
    matrix = np.asarray(jax.jit(measurement.forward)(jnp.eye(size).reshape(size, *shape))).reshape(size, -1).T
    _, few, basis = np.linalg.svd(matrix)
    values = np.zeros(size)
    values[: len(few)] = np.where(few > 1e-10, few, 0)
    x = np.random.default_rng(1).standard_normal((2, size))
    expected = x @ basis.T * np.exp(-values) @ basis
    decay = lambda s: jnp.exp(-s)

    @jax.jit
    def ours(x):
        filtered = measurement.filtered(x, decay)
        return filtered, measurement.trace(decay, filtered), measurement.inverse(measurement.forward(x), filtered)

    filtered, trace, back = ours(jnp.asarray(x.reshape(2, *shape)))
    np.testing.assert_allclose(filtered.reshape(2, size), expected, atol=1e-12)
    np.testing.assert_allclose(trace, np.broadcast_to(np.exp(-values).sum(), jnp.shape(trace)), rtol=1e-12)
    y = x @ matrix.T
    np.testing.assert_allclose(back.reshape(2, size), y @ np.linalg.pinv(matrix, 1e-10).T, atol=1e-10)


@pytest.mark.parametrize("ratio", [1e-5, 1e-3])
def test_a_noisy_measurement_of_a_strong_blur_counts_at_every_frequency(ratio):
    """A^T (A A^T + ratio I)^-1 y, which is not 0 where the blur leaves less than a thousandth."""
    blur, shape = measurements.blurred(1.5), (6, 4, 1)
    matrix = np.asarray(blur.forward(jnp.eye(24).reshape(24, *shape))).reshape(24, 24).T
    y = np.random.default_rng(1).standard_normal(24)
    back = blur.inverse(jnp.asarray(y.reshape(1, *shape)), jnp.zeros((1, *shape)), ratio)
    expected = matrix.T @ np.linalg.solve(matrix @ matrix.T + ratio * np.eye(24), y)
    np.testing.assert_allclose(back.ravel(), expected, atol=1e-4 * np.abs(expected).max())


def test_measurements_solve_their_own_systems():
    """solve inverts A A^T + ratio I, with A written as a matrix by probing forward; pseudo-inverse at ratio 0."""
    mask = jnp.asarray(np.random.default_rng(0).random((4, 4, 1)) < 0.5)
    redundant = np.array([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0], [0.0, 1.0, 1.0]])
    cases = [
        (measurements.masked(mask), (4, 4, 1)),
        (measurements.pooled(2), (4, 4, 1)),
        (measurements.matrix(redundant), (3,)),
    ]
    for measurement, shape in cases:
        size = np.prod(shape)
        matrix = np.asarray(measurement.forward(jnp.eye(size).reshape(size, *shape))).reshape(size, -1).T
        y = matrix @ np.random.default_rng(1).standard_normal(size)
        observed = jnp.asarray(y).reshape(measurement.forward(jnp.zeros((1, *shape))).shape)
        for ratio in (0.0, 0.7):
            solved = np.asarray(measurement.solve(observed, jnp.asarray(ratio))).ravel()
            expected = np.linalg.pinv(matrix @ matrix.T + ratio * np.eye(len(y)), rcond=1e-10) @ y
            np.testing.assert_allclose(solved, expected, atol=1e-12)
        np.testing.assert_array_equal(measurement.solve(observed, jnp.asarray(jnp.inf)), 0)


def test_each_example_is_solved_with_its_ratio():
    """A^T (A A^T + ratio I)^-1 y by NumPy, for two examples with different ratios."""
    ratios = np.array([0.01, 4.0])
    for measurement, shape in (
        (measurements.pooled(2), (4, 4, 1)),
        (measurements.blurred(0.6), (4, 6, 1)),
        (measurements.matrix(A), (2,)),
        (measurements.matrix(np.random.default_rng(3).normal(size=(3, 16))), (4, 4, 1)),
    ):
        size = np.prod(shape)
        matrix = np.asarray(measurement.forward(jnp.eye(size).reshape(size, *shape))).reshape(size, -1).T
        y = measurement.forward(jnp.asarray(np.random.default_rng(2).standard_normal((2, *shape))))
        solved = measurement.inverse(y, jnp.zeros((2, *shape)), jnp.asarray(ratios.reshape(2, *[1] * len(shape))))
        for b, ratio in enumerate(ratios):
            system = matrix @ matrix.T + ratio * np.eye(len(matrix))
            expected = matrix.T @ np.linalg.solve(system, np.asarray(y[b]).ravel())
            np.testing.assert_allclose(np.asarray(solved[b]).ravel(), expected, atol=1e-9)


def test_posterior_sampling_pulls_the_residual_through_the_denoiser():
    """Of a Gaussian dx0 / dx_t = alpha S C^-1: grad log p = (that)^T A^T (y - A x0) / sigma_y^2, or over |y - A x0|."""
    y = np.array([[0.4]])
    std = 0.3
    S = COVARIANCE
    plain = _call(exact_denoiser(COND, SCHEDULE))
    alpha, sigma = _level()
    residual = y - np.asarray(plain.x0) @ A.T
    levels = np.linspace(0.1, 0.8, len(residual))  # of the quantiles: (level - [y < A x0]) in place of the residual
    jacobian = np.stack([a * S @ np.linalg.inv(a**2 * S + s**2 * np.eye(2)) for a, s in zip(alpha, sigma)])
    direction = np.einsum("bij,bi->bj", jacobian, residual @ A)
    for log_likelihood, gradient in (
        (guidance.gaussian_likelihood(lambda x0: x0 @ A.T, jnp.asarray(y), std), direction / std**2),
        (guidance.negative_distance(lambda x0: x0 @ A.T, jnp.asarray(y)), direction / np.abs(residual)),
        (
            guidance.quantile_likelihood(lambda x0: x0 @ A.T, jnp.asarray(y), jnp.asarray(levels)),
            np.einsum("bij,bi->bj", jacobian, np.where(residual > 0, levels[:, None], levels[:, None] - 1) @ A),
        ),
    ):
        guided = _call(guidance.posterior_sampling(exact_denoiser(COND, SCHEDULE), SCHEDULE, log_likelihood, 0.5))
        np.testing.assert_allclose(guided.eps, plain.eps - 0.5 * sigma * gradient, rtol=1e-8)
        np.testing.assert_allclose(guided.x0, plain.x0 + 0.5 * sigma**2 / alpha * gradient, rtol=1e-8)


def test_a_measurement_that_is_met_pulls_nowhere():
    """The gradient of a distance at zero is taken as zero, not NaN."""
    operator = lambda x0: x0[:, :1]
    x0 = _call(exact_denoiser(COND, SCHEDULE)).x0
    y = operator(x0)
    np.testing.assert_array_equal(guidance.negative_distance(operator, y)(x0), 0)
    denoise = exact_denoiser(COND, SCHEDULE)
    guided = guidance.posterior_sampling(denoise, SCHEDULE, guidance.negative_distance(operator, y))
    _assert_close(_call(guided), _call(denoise), 1e-14)


def test_dynamic_threshold_clips_and_scales_by_the_percentile():
    """Saharia et al. 2022, by numpy: rows beyond 1 are clipped at their percentile and divided by it, others stay."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 50))
    scales = np.array([[0.3], [1.0], [4.0]])
    estimate = np.clip(scales * rng.standard_normal((3, 50)), -12, [[1.0], [12], [12]])
    estimate[0] = np.maximum(estimate[0], -1)
    alpha, sigma = _level()
    denoise = lambda x, t: Prediction(jnp.asarray(estimate), (x - alpha * estimate) / sigma)
    guided = _call(guidance.dynamic_threshold(denoise, SCHEDULE, 0.9), x)
    s = np.maximum(np.quantile(np.abs(estimate), 0.9, axis=1, keepdims=True), 1)
    np.testing.assert_allclose(guided.x0, np.clip(estimate, -s, s) / s, rtol=1e-12)
    np.testing.assert_allclose(guided.eps, (x - alpha * np.asarray(guided.x0)) / sigma, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(guided.x0[0], estimate[0])
    np.testing.assert_array_equal(guided.eps[0], _call(denoise, x).eps[0])
    assert np.abs(guided.x0).max() == 1 and s[2] > 1
    s = np.maximum(np.quantile(np.abs(estimate), 0.995, axis=1, keepdims=True), 1)  # the paper's percentile
    guided = _call(guidance.dynamic_threshold(denoise, SCHEDULE), x)
    np.testing.assert_allclose(guided.x0, np.clip(estimate, -s, s) / s, rtol=1e-12)


@pytest.mark.parametrize(
    "shape, size, stride, count",
    slow_but(
        [((5, 7, 2), (3, 4), (2, 3), 4), ((7, 2, 3), (3,), (1,), 5)],
        [
            ((5, 7, 2), (3, 4), (2, 3), 4),
            ((8, 8, 1), (4, 4), (4, 4), 4),
            ((7,), (3,), (1,), 5),
            ((7, 2, 3), (3,), (1,), 5),
        ],
    ),
)
def test_windows_are_averaged_value_by_value(shape, size, stride, count):
    """Against a loop: windows of which each says something else, the last of them at the edge."""
    x = np.random.default_rng(0).standard_normal((2, *shape))
    calls = []

    def denoise(x, t):
        calls.append(x.shape)
        mean = x.mean(axis=tuple(range(1, x.ndim)), keepdims=True)
        return Prediction(x + mean, x - 2 * mean, jnp.tanh(mean + 0 * x))

    with jax.disable_jit():
        guided = _call(guidance.windows(denoise, size, stride), x, np.full(2, 0.5))
    windows_of = lambda whole, side, step: sorted({*range(0, whole - side + 1, step), whole - side})
    axes = [windows_of(*sides) for sides in zip(shape, size, stride)]
    total = np.zeros_like(x)
    number = np.zeros_like(x)
    sums = np.zeros_like(x)
    for start in np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(size)):
        place = (slice(None), *(slice(a, a + side) for a, side in zip(start, size)))
        mean = x[place].mean(axis=tuple(range(1, x.ndim)), keepdims=True)
        total[place] += x[place] + mean
        sums[place] += x[place] - 2 * mean
        number[place] += 1
    assert number.min() >= 1 and number.max() == (1 if stride == size else number.max())
    np.testing.assert_allclose(guided.x0, total / number, rtol=1e-12)
    np.testing.assert_allclose(guided.eps, sums / number, rtol=1e-12)
    assert guided.variance.shape == x.shape
    ran = np.prod([len(a) for a in axes])
    assert ran == count
    assert [shape[1:] for shape in calls[-count:]] == [(*size, *x.shape[1 + len(size) :])] * count


def test_windows_of_a_denoiser_value_by_value_are_that_denoiser():
    """The weights of the windows sum to one everywhere."""
    x = np.random.default_rng(0).standard_normal((2, 6, 5, 1))
    denoise = lambda x, t: Prediction(jnp.tanh(x), jnp.sin(x))
    t = np.full(2, 0.5)
    _assert_close(_call(guidance.windows(denoise, (4, 2), (3, 1)), x, t), _call(denoise, x, t), 1e-14)
    with pytest.raises(ValueError, match="do not fit"):
        guidance.windows(denoise, (7, 2), (3, 1))(x, 0.5)
    with pytest.raises(ValueError, match="one time"):
        guidance.windows(denoise, (4, 2), (3, 1))(x, np.full((2, 5), 0.5))


@pytest.mark.parametrize("maximum", [1.0, 1.5, 10.0])
def test_dynamic_threshold_divides_by_no_more_than_its_maximum(maximum):
    """s = 3 is the largest value; diffusers' `sample_max_value` caps it, and at 1 cuts alone."""
    x0 = np.array([[3.0, -2.0, 0.5, 0.0], [0.2, -0.9, 0.1, 0.0]], np.float32)
    denoise = lambda x, t: Prediction(jnp.asarray(x0), x)
    guided = guidance.dynamic_threshold(denoise, SCHEDULE, 1.0, maximum)
    s = np.array([[min(3.0, maximum)], [1.0]])
    np.testing.assert_allclose(guided(jnp.zeros((2, 4)), 0.5).x0, np.clip(x0, -s, s) / s, rtol=1e-6)


@pytest.mark.parametrize("maximum", [0.5, float("nan")])
def test_dynamic_threshold_refuses_a_maximum_below_the_data(maximum):
    with pytest.raises(ValueError, match=r"maximum = .* must be at least 1"):
        guidance.dynamic_threshold(lambda x, t: None, SCHEDULE, maximum=maximum)


def test_pooled_pixels_are_the_means_of_their_squares():
    """4 x 4 pixels of rows 0..3, 4..7, ..: the squares of two by two have the means 2.5, 4.5, 10.5 and 12.5."""
    picture = jnp.arange(16.0).reshape(1, 4, 4, 1)
    found = measurements.pooled(2).forward(picture)
    np.testing.assert_array_equal(found[0, ..., 0], [[2.5, 4.5], [10.5, 12.5]])


def test_each_other_prediction_has_a_strength_of_its_own():
    one, two = (Prediction(jnp.full(2, float(k)), jnp.full(2, -float(k))) for k in (1, 2))
    made = prediction_changes.extrapolate(one, [two, two], [0.5, 0.25])
    np.testing.assert_allclose(made.x0, 1 + 0.75 * (1 - 2))
    np.testing.assert_allclose(made.eps, -1 + 0.75 * (-1 + 2))
    with pytest.raises(ValueError, match="shorter"):
        prediction_changes.extrapolate(one, [two, two], [0.5])


def test_changes_of_a_prediction_keep_x_and_their_derivatives():
    """alpha x0 + sigma eps = x_t for a slide and a new x0. At sigma = 0 eps stays, and its slope in t is 0."""
    schedule = schedules.rectified_flow()
    x0, eps, c, new = np.random.default_rng(5).standard_normal((4, 3, 2))
    before = Prediction(jnp.asarray(x0, jnp.float32), jnp.asarray(eps, jnp.float32))
    t = jnp.array([0.0, 0.25, 1.0])
    sigma = np.asarray(t)[:, None]
    slid = prediction_changes.slide(before, schedule, t, jnp.asarray(c, jnp.float32))
    np.testing.assert_allclose(slid.x0, x0 - sigma * c, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slid.eps, eps + (1 - sigma) * c, rtol=1e-5, atol=1e-6)
    change = lambda t: prediction_changes.replace_x0(before, schedule, t, jnp.asarray(new, jnp.float32))
    replaced, back = jax.vjp(change, t)  # backwards a branch that `where` leaves out counts too: 0 times its slope
    (slope,) = back(Prediction(jnp.zeros_like(replaced.x0), jnp.ones_like(replaced.eps)))
    ratio = np.array([0.0, 3.0, 0.0])[:, None]  # alpha / sigma, and its derivative -1 / t^2
    np.testing.assert_array_equal(replaced.x0, np.float32(new))
    np.testing.assert_allclose(replaced.eps, eps + ratio * (x0 - new), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slope, [0.0, -16.0, -1.0] * (x0 - new).sum(axis=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 4), (4,), (3, 4, 4, 1), (1, 2, 4, 4, 1)])
def test_a_mask_that_would_broadcast_the_pictures_is_refused(shape):
    operator = measurements.masked(np.ones(shape, bool))
    words = rf"a mask of shape {re.escape(str(shape))} does not broadcast to x of shape \(2, 4, 4, 1\)"
    with pytest.raises(ValueError, match=words):
        operator.forward(jnp.ones((2, 4, 4, 1)))


def test_a_mask_may_be_a_list():
    operator = measurements.masked([True, False])
    assert operator.forward(jnp.ones((1, 2))).tolist() == [[1, 0]]


@pytest.mark.parametrize("noise_std", [0.0, 0.3])
def test_known_frames_are_measured_at_the_noise_of_each(noise_std):
    """x0 + (y - x0) / (1 + (alpha sigma_y / sigma)^2) where y is known, with a time for each of as many frames."""
    rng = np.random.default_rng(5)
    x, t, known = rng.standard_normal((2, 3, 4)), rng.uniform(0.1, 0.9, (2, 3)), rng.random((3, 4)) < 0.5
    y = np.where(known, rng.standard_normal((2, 3, 4)), 0)
    alpha, sigma = (np.asarray(f(jnp.asarray(t)))[..., None] for f in (SCHEDULE.alpha, SCHEDULE.sigma))
    denoise = lambda x_t, t: Prediction(0.5 * x_t, (x_t - alpha * 0.5 * x_t) / sigma)
    mask = measurements.masked(known)
    guided = _call(guidance.proximal(denoise, SCHEDULE, mask, jnp.asarray(y), noise_std), x, t)
    change = np.where(known, (y - 0.5 * x) / (1 + (alpha * noise_std / sigma) ** 2), 0)
    np.testing.assert_allclose(guided.x0, 0.5 * x + change, rtol=1e-7)
    guided = _call(guidance.pseudoinverse(denoise, SCHEDULE, mask, jnp.asarray(y), noise_std, data_std=2.0), x, t)
    total = 4 * alpha**2 + sigma**2
    change = np.where(known, (y - 0.5 * x) / (1 + total * (noise_std / 2 / sigma) ** 2), 0)
    np.testing.assert_allclose(guided.x0, 0.5 * x + 0.5 * total / (4 * alpha) * change, rtol=1e-7)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1)])
def test_a_matrix_or_a_blur_has_one_noise_for_each_example(shape):
    """The eigenvectors of A A^T mix the numbers of y, so that several noises would be those of other numbers."""
    ratio = jnp.linspace(0.1, 0.6, 6).reshape(shape)
    x = jnp.ones((2, 3))
    with pytest.raises(ValueError, match=r"one ratio for each example.*\(2, 3"):
        measurements.matrix(np.arange(9.0).reshape(3, 3)).inverse(x, x, ratio)
    with pytest.raises(ValueError, match=r"one ratio for each example.*\(2, 4, 1, 1\)"):
        images = jnp.ones((2, 4, 4, 1))
        measurements.blurred(1.0).inverse(images, images, jnp.ones((2, 4, 1, 1)))


def test_a_product_with_a_density_adds_its_exponent_to_the_others():
    """Of one density, whose exponent is 1, or of a product; the scores add up by them, and their excess too."""
    first, second, third = (lambda x, t, k=k: Prediction(x, k * x) for k in (1.0, 2.0, 3.0))
    assert guidance.multiplied(first, third, SCHEDULE, 0.5).exponents == (1.0, 0.5)
    assert guidance.multiplied(first, third, SCHEDULE).exponents == (1.0, 1.0)
    both = guidance.product(guidance.separately(first, second), SCHEDULE, (0.75, 2.0))
    three = guidance.multiplied(both, third, SCHEDULE, -0.5)
    assert three.exponents == (0.75, 2.0, -0.5) and three.total == 2.25
    prediction, excess = three.with_excess(jnp.asarray(X), jnp.asarray(T))
    total = 0.75 * 1 + 2.0 * 2 - 0.5 * 3
    np.testing.assert_allclose(prediction.eps, total * X, rtol=1e-6)
    squares = 0.75 * 1 + 2.0 * 4 - 0.5 * 9
    np.testing.assert_allclose(excess, (total**2 - squares) / 2 * np.sum(X**2, 1), rtol=1e-6)
