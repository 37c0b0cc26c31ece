"""Restoration on Gaussian data N(0.4, 0.25 I), where posteriors, and the laws of the methods' own steps, are known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion import guidance, samplers, schedules, steering, timesteps
from diffusion.guidance import measurements
from diffusion.parameterizations import Prediction
from diffusion.parameterizations.sampled_process import belonging_to
from diffusion.samplers.sample import State, keys_of_step, normal
from tests.conformance import round_denoiser

SCHEDULE = schedules.cosine()
DENOISE = round_denoiser(SCHEDULE)
MEAN, STD = 0.4, 0.5
A = np.array([[1.0, -0.7, 0.2], [0.1, 0.3, 0.4]], np.float32)  # singular values 1.25 and 0.48, and a null space
Y, NOISE = np.array([0.9, -0.3], np.float32), 0.2
SIZE = 4096
PLAN = timesteps.plan(timesteps.uniform(SCHEDULE, 4))


def _posterior(noise):
    """Mean and covariance of p(x_0 | y) by conditioning."""
    gain = STD**2 * A.T @ np.linalg.inv(STD**2 * A @ A.T + noise**2 * np.eye(2))
    return MEAN + gain @ (Y - A @ np.full(3, MEAN)), STD**2 * (np.eye(3) - gain @ A)


def _assert_law(x, mean, covariance):
    """Means within 4.5 standard errors, covariances within 4.5 of their own."""
    x = np.asarray(x, np.float64)
    std = np.sqrt(np.diag(covariance))
    np.testing.assert_array_less(np.abs(x.mean(0) - mean), 4.5 * std / len(x) ** 0.5 + 1e-5)
    error = np.sqrt((np.outer(std, std) ** 2 + covariance**2) / len(x))
    np.testing.assert_array_less(np.abs(np.cov(x.T) - covariance), 4.5 * error + 1e-5)


def _prior(keys):
    return samplers.prior(SCHEDULE, keys, (3,))


@pytest.mark.parametrize("user", ["proximal", "pseudoinverse", "gaussian_draw", "ddrm", "mcgdiff"])
def test_a_measurement_of_bytes_is_refused(user):
    """A picture of 0..255 would be taken for values in [-1, 1]."""
    measurement, y = measurements.matrix(A), np.array([[200, 3]], np.uint8)
    particles = (samplers.ddpm(), DENOISE, SCHEDULE, jnp.zeros((1, 3)), PLAN, jax.random.split(jax.random.key(0), 1))
    users = {
        "proximal": lambda: guidance.proximal(DENOISE, SCHEDULE, measurement, y),
        "pseudoinverse": lambda: guidance.pseudoinverse(DENOISE, SCHEDULE, measurement, y),
        "gaussian_draw": lambda: steering.gaussian_draw(measurement, y),
        "ddrm": lambda: steering.ddrm(measurement, y),
        "mcgdiff": lambda: steering.mcgdiff(*particles, measurement, y, number=1),
    }
    with pytest.raises(TypeError, match=r"y must be an array of floating-point numbers.*uint8"):
        users[user]()


@pytest.mark.parametrize("user", ["ddrm", "mcgdiff"])
def test_a_measurement_is_one_for_each_sample_or_one_for_all(user):
    known = measurements.masked(np.ones((3, 2), bool))
    x, keys = jnp.ones((4, 3, 2)), jax.random.split(jax.random.key(0), 4)

    def run(y):
        if user == "ddrm":
            return samplers.sample(steering.ddrm(known, y, 0.1), DENOISE, SCHEDULE, x, PLAN, keys)
        return steering.mcgdiff(samplers.ddpm(), DENOISE, SCHEDULE, x, PLAN, keys, known, y, 0.1, number=2).x

    assert jax.eval_shape(lambda: run(jnp.ones((3, 2)))).shape == x.shape
    message = r"the measurement y has the shape \(4, 3, 1\), but A x has \(4, 3, 2\)"
    with pytest.raises(ValueError, match=message):  # it would broadcast
        jax.eval_shape(lambda: run(jnp.ones((4, 3, 1))))
    y = jnp.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(known.inverse(y, x), jnp.stack([y] * 4))
    np.testing.assert_array_equal(known.inverse(y[None], x, 1.0), jnp.stack([y / 2] * 4))


@pytest.mark.parametrize("driver", ["daps", "red_diff"])
def test_a_denoiser_of_another_process_is_refused(driver):
    other = belonging_to(schedules.rectified_flow(), lambda x, t: DENOISE(x, t))
    x, keys = jnp.zeros((1, 3)), jax.random.split(jax.random.key(0), 1)
    runs = {
        "daps": lambda: steering.daps(other, SCHEDULE, x, PLAN, keys, lambda x0, r, keys: x0),
        "red_diff": lambda: steering.red_diff(other, SCHEDULE, lambda x: x[:, 0], x, PLAN, keys, optax.sgd(1.0)),
    }
    with pytest.raises(ValueError, match="the denoiser belongs to another process"):
        runs[driver]()


@pytest.mark.extended
@pytest.mark.parametrize("noise", [0.2, 0.0])
def test_daps_has_the_posterior_in_any_number_of_steps(noise):
    draw = steering.gaussian_draw(measurements.matrix(A), jnp.asarray(Y)[None], noise)
    first, keys = jax.random.split(jax.random.key(0), (2, SIZE))
    run = jax.jit(lambda x, keys: steering.daps(DENOISE, SCHEDULE, x, PLAN, keys, draw, data_std=STD))
    x = run(_prior(first), keys)
    _assert_law(x, *_posterior(noise))
    np.testing.assert_allclose(run(_prior(first)[5:6], keys[5:6]), x[5:6], rtol=1e-4, atol=1e-5)


def test_the_estimate_of_more_steps_is_ddim_to_the_end():
    """With a draw that returns its estimate, a plan of one step is the deterministic sampler of the inner steps."""
    first, keys = jax.random.split(jax.random.key(0), (2, 3))
    one = timesteps.plan(np.array([0.8, 0.0], np.float32))
    several = timesteps.plan(np.array([0.8, 0.6, 0.4, 0.2, 0.0], np.float32))
    x = steering.daps(DENOISE, SCHEDULE, _prior(first), one, keys, lambda x0, r, keys: x0, steps=4)
    expected = samplers.sample(samplers.ddim(), DENOISE, SCHEDULE, _prior(first), several, keys)
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.extended
def test_an_estimate_at_a_noisy_end_is_divided_by_its_alpha():
    """One DDIM step to x_s of the plan's end is x0 + sigma_s / alpha_s eps there."""
    x, t, s = jax.random.normal(jax.random.key(0), (2, 3)), 0.8, 0.3
    plan = timesteps.plan(np.array([t, s], np.float32))
    estimates = []
    draw = lambda x0, r, keys: estimates.append(x0) or x0
    with jax.disable_jit():
        steering.daps(DENOISE, SCHEDULE, x, plan, jax.random.split(jax.random.key(0), 2), draw)
    prediction = DENOISE(x, jnp.float32(t))
    expected = prediction.x0 + SCHEDULE.sigma(s) / SCHEDULE.alpha(s) * prediction.eps
    np.testing.assert_allclose(estimates[0], expected, rtol=1e-5)


def test_samples_of_half_precision_are_restored_in_float32():
    x, keys = jnp.zeros((2, 3), jnp.bfloat16), jax.random.split(jax.random.key(0), 2)
    draw = lambda x0, r, keys: x0
    likelihood = guidance.gaussian_likelihood(lambda x: x, jnp.zeros((2, 3)), NOISE)
    for restore in (
        lambda: steering.daps(DENOISE, SCHEDULE, x, PLAN, keys, draw),
        lambda: steering.red_diff(DENOISE, SCHEDULE, likelihood, x, PLAN, keys, optax.adam(0.1)),
    ):
        assert jax.eval_shape(restore).dtype == jnp.float32


@pytest.mark.extended
def test_rounding_takes_no_estimate_beyond_the_end():
    first, keys = jax.random.split(jax.random.key(0), (2, 3))
    for steps in (3, 5, 7):
        run = jax.jit(
            lambda x, keys, steps=steps: steering.daps(
                DENOISE, SCHEDULE, x, PLAN, keys, lambda x0, r, keys: x0, steps=steps
            )
        )
        assert np.isfinite(run(_prior(first), keys)).all()


def test_daps_renoises_its_draw_at_the_width_of_the_estimate():
    """x_s = alpha_s x_0 + sigma_s z, and 1 / r^2 = 1 / s^2 + alpha^2 / sigma^2 of the time before the step."""
    widths = []

    def draw(x0, r, keys):
        widths.append(r)
        return jnp.full_like(x0, 2.0)

    keys = jax.random.split(jax.random.key(0), SIZE)
    plan = timesteps.plan(np.array([0.7, 0.3], np.float32))
    with jax.disable_jit():
        x = steering.daps(DENOISE, SCHEDULE, jnp.zeros((SIZE, 3)), plan, keys, draw, data_std=0.8)
    alpha, sigma = float(SCHEDULE.alpha(0.7)), float(SCHEDULE.sigma(0.7))
    np.testing.assert_allclose(widths[0], (1 / 0.8**2 + alpha**2 / sigma**2) ** -0.5, rtol=1e-5)
    _assert_law(x, np.full(3, 2 * float(SCHEDULE.alpha(0.3))), float(SCHEDULE.sigma(0.3)) ** 2 * np.eye(3))


def test_langevin_dynamics_has_the_law_of_its_recursion():
    """x <- (1 - h p) x + h b + sqrt(2 h) z, a number with p = 1 / r^2 + 1 / sigma_y^2, from x0."""
    r, h, steps, x0 = 0.4, 0.01, 5, -0.5
    likelihood = guidance.gaussian_likelihood(lambda x: x, jnp.full((1, 1), 0.9), NOISE)
    widths = []
    draw = steering.langevin_draw(likelihood, steps=steps, step_size=lambda r: widths.append(r) or h)
    keys = jax.random.split(jax.random.key(0), SIZE)
    x = draw(jnp.full((SIZE, 1), x0), jnp.float32(r), keys)
    p, b = 1 / r**2 + 1 / NOISE**2, x0 / r**2 + 0.9 / NOISE**2
    mean, variance = x0, 0.0
    for _ in range(steps):
        mean, variance = (1 - h * p) * mean + h * b, (1 - h * p) ** 2 * variance + 2 * h
    np.testing.assert_array_less(np.abs(x.mean() - mean), 4.5 * (variance / SIZE) ** 0.5)
    np.testing.assert_allclose(x.var(), variance, rtol=4.5 * (2 / SIZE) ** 0.5)
    np.testing.assert_allclose(widths[0], r)


@pytest.mark.extended
@pytest.mark.parametrize("eta, eta_b", [(0.85, 1.0), (0.0, 0.3), (1.0, 0.6)])
def test_ddrm_keeps_the_marginals_of_the_process(x64, eta, eta_b):
    """For a perfect x0, each x_s is a linear map of all noise, whose covariance is sigma_s^2 I (theorem 3.1)."""
    truth = np.array([[0.3, -1.0, 0.5]])
    alpha, sigma = SCHEDULE.alpha, SCHEDULE.sigma
    perfect = lambda x, t: Prediction(jnp.asarray(truth), (x - alpha(t) * truth) / sigma(t))
    plan = timesteps.plan(np.array([0.9, 0.6, 0.3, 0.15, 0.05]))

    def way(noise):
        y = truth @ A.T + NOISE * noise[0, :2]
        sampler = steering.ddrm(measurements.matrix(A.astype(float)), y, NOISE, eta, eta_b)
        state = sampler.init(alpha(0.9) * truth + sigma(0.9) * noise[1], SCHEDULE, plan)
        states = []
        for i in range(4):
            state = sampler.step(state, perfect, SCHEDULE, plan, i, noise[2 + i][None, None])
            states.append(state.x[0])
        return jnp.stack(states)

    zeros = jnp.zeros((6, 3))
    means, jacobian = way(zeros), jax.jacfwd(way)(zeros).reshape(4, 3, -1)
    levels = np.asarray(alpha(plan.s) / sigma(plan.s))[:, None] * NOISE / np.linalg.svd(A)[1]
    assert levels.min() < 1 < levels.max()  # directions whose y says more than x_s, and less
    for x, J, s in zip(means, np.asarray(jacobian), plan.s):
        np.testing.assert_allclose(x, alpha(s) * truth[0], rtol=1e-6)
        np.testing.assert_allclose(J @ J.T, float(sigma(s)) ** 2 * np.eye(3), atol=1e-6)


@pytest.mark.extended
def test_ddrm_ends_at_an_exact_measurement_and_takes_the_rest_from_the_network():
    first, keys = jax.random.split(jax.random.key(0), (2, 64))
    y = jnp.broadcast_to(Y, (64, 2))
    x = samplers.sample(steering.ddrm(measurements.matrix(A), y), DENOISE, SCHEDULE, _prior(first), PLAN, keys)
    np.testing.assert_allclose(x @ A.T, y, atol=2e-5)
    across = np.cross(*A) / np.linalg.norm(np.cross(*A))
    plain = samplers.sample(steering.ddrm(measurements.matrix(0 * A), y), DENOISE, SCHEDULE, _prior(first), PLAN, keys)
    np.testing.assert_allclose(x @ across, plain @ across, atol=1e-5)  # the data is white: the directions are apart


def test_ddrm_without_a_measurement_is_a_step_of_its_eta():
    """alpha_s x0 + sqrt(1 - eta^2) sigma_s eps + eta sigma_s z."""
    sampler = steering.ddrm(measurements.matrix(0 * A), jnp.zeros((2, 2)), 0.1, eta=0.6)
    x, z = jax.random.normal(jax.random.key(0), (2, 2, 3))
    x0, eps = DENOISE(x, PLAN.t[1])[:2]
    s = PLAN.s[1]
    expected = SCHEDULE.alpha(s) * x0 + SCHEDULE.sigma(s) * (0.8 * eps + 0.6 * z)
    state = sampler.step(State(x, x), DENOISE, SCHEDULE, PLAN, 1, z[None])
    np.testing.assert_allclose(state.x, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(state.x0, x0)
    assert sampler.nfe(7) == 7


def test_a_step_of_ddrm_is_the_papers_in_each_singular_direction():
    """Kawar et al. 2022, eq. 7 and 8, times alpha: a measured, a noisily measured and an unmeasured coordinate."""
    flow, eta, eta_b, noise = schedules.rectified_flow(), 0.7, 0.8, 0.3
    y, x0, eps, z = (np.float32(row)[None] for row in ([0.9, 0.05, 0], [0.3, -0.4, 0.5], [1, -2, 0.6], [0.2, 0.7, -1]))
    sampler = steering.ddrm(measurements.matrix(np.diag([2, 0.2, 0])), jnp.asarray(y), noise, eta, eta_b)
    denoise = lambda x, t: Prediction(jnp.asarray(x0), jnp.asarray(eps))
    step = sampler.step(State(z, z), denoise, flow, timesteps.plan([0.8, 0.4]), 0, z[None])
    alpha, sigma = 0.6, 0.4
    known = 0.2 * x0 + 0.8 * y / 2 + np.sqrt((sigma / alpha) ** 2 - (eta_b * noise / 2) ** 2) * z
    steady = np.sqrt(1 - eta**2) * sigma / alpha
    vague = x0 + steady * (y / 0.2 - x0) / (noise / 0.2) + eta * sigma / alpha * z
    unknown = x0 + steady * eps + eta * sigma / alpha * z
    expected = alpha * np.stack([known[0, 0], vague[0, 1], unknown[0, 2]])
    np.testing.assert_allclose(step.x[0], expected, rtol=1e-5)


def test_singular_values_up_to_the_smallest_are_not_measured():
    """A mask's are 1 where something is known."""
    x = jax.random.normal(jax.random.key(0), (2, 3))
    known = measurements.masked(jnp.array([True, False, True]))
    step = lambda sampler: sampler.step(State(x, x), DENOISE, SCHEDULE, PLAN, 1, x[None]).x
    nothing = step(steering.ddrm(measurements.matrix(0 * A), jnp.ones((2, 2)), 0.1))
    for noise in (0.1, 30.0):
        left_out = step(steering.ddrm(known, jnp.ones((2, 3)), noise, smallest=1.0))
        np.testing.assert_allclose(left_out, nothing, rtol=1e-5, atol=1e-6)
        taken = step(steering.ddrm(known, jnp.ones((2, 3)), noise, smallest=0.99))
        np.testing.assert_allclose(taken[:, 1], nothing[:, 1], rtol=1e-5, atol=1e-6)
        assert np.abs(taken - nothing)[:, ::2].min() > 1e-3


def test_red_diff_descends_by_the_residual_of_the_network():
    """By NumPy, with the same noise: eps(x_t) = 1.1 sigma (x_t - alpha mean) / (alpha^2 s^2 + sigma^2), and an
    optimizer that remembers gradients (0.9) and draws the pictures to zero (0.1)."""
    likelihood = guidance.gaussian_likelihood(lambda x: x @ A.T, jnp.asarray(Y), NOISE)
    start, keys = np.full((2, 3), 0.2, np.float32), jax.random.split(jax.random.key(0), 2)
    optimizer = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.01, momentum=0.9))

    def denoise(x, t):
        prediction = DENOISE(x, t)
        return prediction._replace(eps=1.1 * prediction.eps)  # else the residual at pure noise is zero by itself

    x = steering.red_diff(denoise, SCHEDULE, likelihood, jnp.asarray(start), PLAN, keys, optimizer, scale=0.5)
    mu, momentum = start.astype(float), 0.0
    for i, t in enumerate(PLAN.t):
        alpha, sigma = float(SCHEDULE.alpha(t)), float(SCHEDULE.sigma(t))
        eps = np.asarray(normal(keys_of_step(keys, i)[0], 1, start)[0])
        predicted = 1.1 * sigma * (alpha * mu + sigma * eps - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
        weight = 0.5 * sigma / alpha if i else 0.0  # the first time is that of pure noise
        gradient = weight * (predicted - eps) - (Y - mu @ A.T) @ A / NOISE**2
        momentum = 0.9 * momentum + gradient + 0.1 * mu
        mu = mu - 0.01 * momentum
    np.testing.assert_allclose(x, mu, rtol=1e-4, atol=1e-5)


def test_red_diff_without_its_residual_is_the_ascent_of_the_likelihood():
    """Of -|x|^2 / 2, each of the two steps of 0.5 halves x."""
    x, keys = jnp.array([[2.0, -4.0, 1.0]]), jax.random.split(jax.random.key(0), 1)
    ball = lambda x: -jnp.sum(x**2, -1) / 2
    with jax.disable_jit():
        x = steering.red_diff(DENOISE, SCHEDULE, ball, x, timesteps.plan([1, 0.5, 0]), keys, optax.sgd(0.5), scale=0)
    np.testing.assert_array_equal(x, [[0.5, -1, 0.25]])


def test_numbers_out_of_range_are_refused():
    matrix, y = measurements.matrix(A), jnp.zeros((1, 2))
    x, keys = jnp.zeros((1, 3)), jax.random.split(jax.random.key(0), 1)
    for make, message in (
        (lambda: steering.ddrm(matrix, y, -0.1), "noise_std = -0.1"),
        (lambda: steering.ddrm(matrix, y, eta=1.1), r"eta = 1\.1"),
        (lambda: steering.ddrm(matrix, y, eta_b=-0.5), r"eta_b = -0\.5"),
        (lambda: steering.ddrm(matrix, y, smallest=-1), "smallest = -1"),
        (lambda: steering.ddrm(matrix._replace(filtered=None), y), r"filtered`\)\. Valid: the"),
        (lambda: steering.gaussian_draw(matrix, y, -0.1), "noise_std = -0.1"),
        (lambda: steering.langevin_draw(lambda x: x[:, 0], steps=0, step_size=lambda r: r), "steps = 0"),
        (lambda: steering.daps(DENOISE, SCHEDULE, x, PLAN, keys, None, steps=0), "steps = 0"),
        (lambda: steering.langevin_draw(lambda x: x[:, 0], steps=1.5, step_size=lambda r: r), r"steps = 1\.5"),
        (lambda: steering.daps(DENOISE, SCHEDULE, x, PLAN, keys, None, steps=1.5), r"steps = 1\.5"),
        (lambda: steering.daps(DENOISE, SCHEDULE, x, PLAN, keys, None, data_std=0.0), r"data_std = 0\.0"),
        (lambda: steering.red_diff(DENOISE, SCHEDULE, None, x, PLAN, keys, optax.sgd(1.0), scale=-1), "scale = -1"),
        (lambda: steering.daps(DENOISE, SCHEDULE, x, PLAN, keys, lambda x0, r, keys: x0[0]), "the draw of the data"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    for edge in (dict(eta=0.0, eta_b=0.0), dict(eta=1.0, eta_b=1.0), dict(noise_std=0.0, smallest=0.0)):
        steering.ddrm(matrix, y, **edge)
