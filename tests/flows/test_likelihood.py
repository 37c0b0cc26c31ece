"""Log-likelihoods against the closed forms of Gaussians and mixtures, and bits per dimension by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffusion import likelihood, ode, parameterizations, schedules
from diffusion.parameterizations import Prediction
from diffusion.schedules import left_broadcast
from tests import oracles
from tests.conformance import DATA, SCHEDULES, exact_denoiser, level, slow_but

x64 = pytest.mark.usefixtures("x64")
FLOW = SCHEDULES["rectified_flow"]


def points(count=5, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, 2)))


def exact_prior(data, schedule):
    """The marginal of the data at t_max, so that nothing but the solve is in error."""
    alpha, sigma = level(schedule, schedule.t_max)
    return lambda x: oracles.log_density(data, alpha, sigma, x)


def error(data, schedule, solver, x, divergence=None):
    """The largest difference from the closed form; and the result."""
    prior = exact_prior(data, schedule)
    start = level(schedule, solver.start)

    @jax.jit
    def solve(x):
        denoise = exact_denoiser(data, schedule)
        found = likelihood.log_likelihood(denoise, schedule, x, solver, divergence or likelihood.exact(), prior)
        return jnp.abs(found.log_density - oracles.log_density(data, *start, x)).max(), found

    wrong, found = solve(x)
    return float(wrong), found


@pytest.mark.extended
@x64
@pytest.mark.parametrize(
    "kind, schedule_name",
    slow_but([("mixture", "rectified_flow"), ("gaussian", "linear_beta")], [(k, s) for k in DATA for s in SCHEDULES]),
)
def test_closed_forms_from_t_min_to_t_max(kind, schedule_name):
    """Both ends included: sigma = 0 at the data and alpha = 0 at the noise, where the schedule reaches them."""
    schedule = SCHEDULES[schedule_name]
    grid = likelihood.times(schedule, 64)
    assert grid[0] == schedule.t_min and grid[-1] == schedule.t_max and len(grid) == 65
    wrong, found = error(DATA[kind], schedule, ode.runge_kutta(grid), points())
    assert wrong < 1e-5 and found.nfe == 4 * 64


@x64
@pytest.mark.slow
def test_order_4():
    """In the variable of integration, whatever the grid: halving the steps divides the error by 16."""
    errors = [error(DATA["gaussian"], FLOW, ode.runge_kutta(likelihood.times(FLOW, n)), points())[0] for n in (12, 24)]
    assert errors[0] / errors[1] > 12


@pytest.mark.extended
@x64
def test_latent_is_the_flow_of_the_gaussian():
    """Also the density where the variance is not preserved, and u is not x."""
    schedule = SCHEDULES["edm"]
    x = points()
    wrong, found = error(DATA["gaussian"], schedule, ode.runge_kutta(likelihood.times(schedule, 64)), x)
    expected = oracles.flow(DATA["gaussian"], level(schedule, schedule.t_min), level(schedule, 1.0), x)
    np.testing.assert_allclose(found.latent, expected, rtol=1e-6)
    assert wrong < 1e-5


@pytest.mark.extended
@x64
def test_adaptive_steps_give_the_closed_form_and_depend_on_their_example_alone():
    data = DATA["mixture"]
    solver = ode.dormand_prince(0.0, 1.0, rtol=1e-8, atol=1e-8)
    prior = exact_prior(data, FLOW)
    solve = jax.jit(
        lambda x: likelihood.log_likelihood(exact_denoiser(data, FLOW), FLOW, x, solver, likelihood.exact(), prior)
    )
    x = points(3)
    found = solve(x)
    np.testing.assert_allclose(found.log_density, oracles.log_density(data, 1.0, 0.0, x), atol=1e-5)
    other = solve(x * jnp.array([[1.0], [1.0], [30.0]]))
    np.testing.assert_array_equal(other.log_density[:2], found.log_density[:2])
    assert other.log_density[2] != found.log_density[2] and other.nfe > found.nfe  # it takes more steps, alone


@pytest.mark.extended
@x64
def test_hutchinson_with_a_probe_that_stays():
    """Of a Gaussian, d theta integrates z^T J z to sum_i (q_i . z)^2 ln(c_i(T) / c_i(0)) / 2, by eigenvector q_i."""
    data = DATA["gaussian"]
    x = points(4)
    keys = jax.random.split(jax.random.key(0), 4)
    solver = ode.runge_kutta(likelihood.times(FLOW, 64))
    prior, denoise = exact_prior(data, FLOW), exact_denoiser(data, FLOW)
    solve = jax.jit(
        lambda probes: likelihood.log_likelihood(denoise, FLOW, x, solver, likelihood.hutchinson(probes), prior)
    )
    probes = likelihood.normal(keys, (2,), 2).astype(x.dtype)  # that of the signs below, which share the program
    found = solve(probes)
    along = (jnp.einsum("kbi,ij->kbj", probes, data.axes[0]) ** 2).mean(0)
    # From the variances S at the data to 1 at the noise, in u = x / sqrt(alpha^2 + sigma^2).
    gained = along @ (jnp.log(1.0) - jnp.log(data.variances[0])) / 2
    expected = prior(oracles.flow(data, (1.0, 0.0), (0.0, 1.0), x)) + gained
    np.testing.assert_allclose(found.log_density, expected, atol=1e-5)
    signs = jnp.asarray([[1.0, 1], [1, -1]])  # their outer products average to the identity
    both = solve(jnp.broadcast_to(signs[:, None], (2, 4, 2)))
    np.testing.assert_allclose(both.log_density, oracles.log_density(data, 1.0, 0.0, x), atol=1e-5)


def test_divergences_of_a_linear_field_of_any_rank():
    """The trace, index by index of the whole image: 'over a flattened range' must mean all of it."""
    matrix = np.random.default_rng(0).normal(size=(12, 12)).astype(np.float32)
    field = lambda u: (u.reshape(len(u), 12) @ matrix.T).reshape(u.shape) * jnp.arange(1.0, 4).reshape(3, 1, 1, 1)
    u = jnp.ones((3, 2, 3, 2))
    value, divergence = likelihood.exact()(field, u)
    np.testing.assert_allclose(divergence, np.trace(matrix) * np.arange(1, 4), rtol=1e-5)
    np.testing.assert_allclose(value, field(u))
    keys = jax.random.split(jax.random.key(1), 3)
    for draw in (likelihood.rademacher, likelihood.normal):
        probes = draw(keys, (2, 3, 2), 5)
        z = np.asarray(probes).reshape(5, 3, 12)
        expected = np.einsum("kbi,ij,kbj->b", z, matrix, z) / 5 * np.arange(1, 4)
        np.testing.assert_allclose(likelihood.hutchinson(probes)(field, u)[1], expected, rtol=1e-4)
        np.testing.assert_array_equal(probes[:, 1:2], draw(keys[1:2], (2, 3, 2), 5))  # an example's own key
        many = np.asarray(draw(keys, (2,), 4000))[:, 0]
        np.testing.assert_allclose(many.T @ many / 4000, np.eye(2), atol=0.1)  # what makes the estimate unbiased
    assert set(np.unique(likelihood.rademacher(keys, (2, 3, 2), 5))) == {-1, 1}


def test_a_network_on_images_and_the_prior_of_the_schedule():
    """For N(0, I) data the v of every variance-preserving process is 0, and the density is known at every D."""
    shapes = []

    def network(x, t, condition):
        shapes.append((x.shape, t.shape, condition.shape))
        return jnp.zeros_like(x)

    schedule = schedules.cosine()
    x = jax.random.normal(jax.random.key(0), (2, 4, 3, 1))
    denoise = parameterizations.denoiser(network, schedule, parameterizations.v(), condition=jnp.arange(2))
    solver = ode.runge_kutta(likelihood.times(schedule, 4))
    found = jax.jit(lambda x: likelihood.log_likelihood(denoise, schedule, x, solver, likelihood.exact()))(x)
    expected = -0.5 * (np.asarray(x) ** 2).sum((1, 2, 3)) - 6 * np.log(2 * np.pi)
    np.testing.assert_allclose(found.log_density, expected, rtol=1e-5)
    assert found.latent.shape == x.shape and set(shapes) == {((2, 4, 3, 1), (2,), (2,))}


@pytest.mark.parametrize("schedule_name", list(SCHEDULES))
def test_prior_is_that_of_the_schedule(schedule_name):
    schedule = SCHEDULES[schedule_name]
    log_density = likelihood._log_prior(schedule)(jnp.zeros((1, 2)))[0]
    drawn = schedule.prior(jax.random.key(0), (20000,)).std()
    assert np.exp(-log_density) / (2 * np.pi) == pytest.approx(float(drawn) ** 2, rel=0.04)


@pytest.mark.extended
def test_small_images_in_float32():
    """What float32 leaves of the same closed form, for examples of another rank."""
    data = DATA["gaussian"]
    x = points().astype(jnp.float32)
    flat = exact_denoiser(data, FLOW)
    prior = exact_prior(data, FLOW)

    def denoise(image, t):
        prediction = flat(image.reshape(-1, 2), t)
        return Prediction(prediction.x0.reshape(image.shape), prediction.eps.reshape(image.shape))

    solver = ode.runge_kutta(likelihood.times(FLOW, 32))
    found = jax.jit(
        lambda images: likelihood.log_likelihood(
            denoise, FLOW, images, solver, likelihood.exact(), lambda image: prior(image.reshape(-1, 2))
        )
    )(x.reshape(-1, 1, 2, 1))
    assert found.log_density.dtype == jnp.float32 and found.latent.shape == (5, 1, 2, 1)
    np.testing.assert_allclose(found.log_density, oracles.log_density(data, 1.0, 0.0, x), atol=1e-3)


def test_the_largest_noise_does_not_round_up_to_the_next_level(monkeypatch):
    largest = np.float32(1 - 2**-24)
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype: jnp.full(shape, largest))
    images = jnp.arange(256, dtype=jnp.uint8)[None]
    x = np.asarray(likelihood.dequantise(images, jax.random.split(jax.random.key(0), 1)), np.float64)
    np.testing.assert_array_equal(np.floor((x + 1) * 128), images)


def test_dequantised_bytes_stay_in_their_level():
    images = jnp.arange(256, dtype=jnp.uint8).reshape(4, 8, 8, 1).repeat(50, axis=-1)
    keys = jax.random.split(jax.random.key(0), 4)
    x = likelihood.dequantise(images, keys)
    assert x.dtype == jnp.float32 and x.min() >= -1 and x.max() < 1
    np.testing.assert_array_equal(np.floor((np.asarray(x, np.float64) + 1) * 128), images)
    noise = (np.asarray(x, np.float64) + 1) * 128 - np.asarray(images)
    assert noise.mean() == pytest.approx(0.5, abs=0.02) and noise.var() == pytest.approx(1 / 12, abs=0.01)
    np.testing.assert_array_equal(x[2:3], likelihood.dequantise(images[2:3], keys[2:3]))
    with pytest.raises(TypeError, match="uint8 images of 256 levels, got float32"):
        likelihood.dequantise(x, keys)


def test_bits_per_dim():
    """A uniform density on [-1, 1]^D needs 8 bits for each of its 256 levels; half the range needs 7."""
    dims = 12
    assert likelihood.bits_per_dim(jnp.array([-dims * np.log(2.0)]), dims)[0] == pytest.approx(8, rel=1e-6)
    assert likelihood.bits_per_dim(jnp.zeros(1), dims)[0] == pytest.approx(7)


def test_bad_input():
    with pytest.raises(ValueError, match="steps = 0"):
        likelihood.times(FLOW, 0)
    with pytest.raises(ValueError, match=r"t_start = 0.0 must be in \[0.001, 1\)"):
        likelihood.times(SCHEDULES["linear_beta"], 4, t_start=0.0)
    denoise = exact_denoiser(DATA["gaussian"], FLOW)
    x = points()
    outside = lambda schedule: likelihood.log_likelihood(
        denoise, schedule, x, ode.runge_kutta([0.0, 1.0]), likelihood.exact()
    )
    with pytest.raises(ValueError, match=r"from time 0 to 1, but the schedule is defined only in \[0\.001, 1\]"):
        outside(SCHEDULES["linear_beta"])
    with pytest.raises(ValueError, match=r"probes must have shape \[K, 5, 2\], got \[1, 4, 2\]"):
        solver = ode.runge_kutta([0.1, 1.0])
        likelihood.log_likelihood(denoise, FLOW, x, solver, likelihood.hutchinson(jnp.ones((1, 4, 2))))


def test_times_are_uniform_in_the_cube_root_of_the_angle(x64):
    schedule = schedules.rectified_flow()
    grid = likelihood.times(schedule, 7, 0.01)
    angles = np.arctan2(grid, 1 - grid)
    np.testing.assert_allclose(np.diff(np.cbrt(angles), 2), 0, atol=1e-12)
    assert grid[0] == 0.01 and grid[-1] == 1 and len(grid) == 8


@pytest.mark.parametrize("process", [schedules.sub_vp(), schedules.rectified_flow()])
def test_the_prior_of_a_process_whose_radius_is_below_one(process):
    """Half of the process: N(0, sigma^2), where alpha^2 + sigma^2 < 1."""
    schedule = schedules.ending_at(process, 0.5)
    sigma = float(schedule.sigma(0.5))
    assert float(schedule.alpha(0.5)) ** 2 + sigma**2 < 0.99
    x = jnp.array([[0.3, -1.0], [2.0, 0.5]])
    expected = -0.5 * np.sum(np.square(x), 1) / sigma**2 - np.log(2 * np.pi * sigma**2)
    np.testing.assert_allclose(likelihood._log_prior(schedule)(x), expected, rtol=1e-5)
    still = lambda x, t: parameterizations.Prediction(jnp.zeros_like(x), jnp.zeros_like(x))
    start, end = likelihood.times(schedule, 4)[[0, -1]]
    assert end == 0.5
    solved = likelihood.log_likelihood(still, schedule, x, ode.runge_kutta([start, end]), likelihood.exact())
    radius = np.hypot(float(schedule.alpha(0.5)), sigma)  # without a velocity, x / radius stays as it is
    np.testing.assert_allclose(
        np.diff(solved.log_density), np.diff(-0.5 * np.sum((radius * x) ** 2, 1) / sigma**2), rtol=1e-4
    )
    with pytest.raises(ValueError, match=r"ends at time 0\.4, but the prior is the distribution at t_max = 0\.5"):
        likelihood.log_likelihood(still, schedule, x, ode.runge_kutta([start, 0.4]), likelihood.exact())


def test_a_normal_density_has_a_scale_for_each_number_of_a_vector():
    """By scipy; numbers that are no part of an example count for nothing."""
    x, scale = np.random.default_rng(0).normal(size=(2, 3)), np.array([0.5, 1.0, 3.0])
    of_each = scipy.stats.norm.logpdf(x, scale=scale)
    np.testing.assert_allclose(likelihood.normal_density(jnp.asarray(scale))(jnp.asarray(x)), of_each.sum(1), rtol=1e-5)
    real = np.array([[True, True, True], [True, False, True]])
    padded = likelihood.normal_density(jnp.asarray(scale), jnp.asarray(real))(jnp.asarray(np.where(real, x, 0)))
    np.testing.assert_allclose(padded, (of_each * real).sum(1), rtol=1e-5)


@pytest.mark.parametrize("p", [2, 3])
def test_the_likelihood_of_a_velocity_whose_slopes_vanish_at_the_data(p):
    """alpha = 1 - t^p and sigma = t^p, at whose data a velocity says nothing; the data are N(0, 0.3 I)."""
    schedule = schedules.from_alpha_sigma(lambda t: 1 - t**p, lambda t: t**p)

    def network(x, t, condition):
        alpha, sigma = 1 - t**p, t**p
        rate = p * t ** (p - 1) * (sigma - alpha * 0.3) / (alpha**2 * 0.3 + sigma**2)
        return rate[:, None] * x

    denoise = parameterizations.denoiser(network, schedule, parameterizations.velocity())
    x = points().astype(jnp.float32)
    solver = ode.runge_kutta(likelihood.times(schedule, 40))
    log_density = likelihood.log_likelihood(denoise, schedule, x, solver, likelihood.exact()).log_density
    expected = scipy.stats.multivariate_normal(np.zeros(2), 0.3 * np.eye(2)).logpdf(np.asarray(x))
    np.testing.assert_allclose(log_density, expected, rtol=1e-4, atol=1e-4)


def test_the_density_of_what_is_real_has_the_scale_of_its_noise():
    """Of N(0, 0.25) per number, by a process whose noise grows from 0.002 to 80: padding adds nothing."""
    schedule, real = SCHEDULES["edm"], np.array([[True, True], [True, False]])
    x = np.where(real, np.random.default_rng(0).normal(size=(2, 2)), 0).astype(np.float32)

    def denoise(x, t):
        sigma = left_broadcast(schedule.sigma(t), x)
        x0 = 0.25 * x / (0.25 + sigma**2)
        return Prediction(x0, (x - x0) / sigma)

    solver = ode.runge_kutta(likelihood.times(schedule, 3))
    (_, first), (_, last) = (level(schedule, t) for t in (schedule.t_min, schedule.t_max))
    prior = likelihood.normal_density(np.sqrt(0.25 + last**2), real)
    density = likelihood.log_likelihood(denoise, schedule, x, solver, likelihood.exact(), prior, real).log_density
    exact = scipy.stats.norm(0, np.sqrt(0.25 + first**2)).logpdf(x)
    np.testing.assert_allclose(density, (exact * real).sum(1), atol=0.05)
