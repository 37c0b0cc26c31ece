"""Monte Carlo guided diffusion on Gaussians and a mixture, where posteriors and constants are closed forms.

The Gaussian is N(0.4, 0.25 I) in three dimensions. Its ancestral steps with the analytic variance are exact where they
do not end at t = 0, so that the particles' only error is that of their number.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import samplers, schedules, steering, timesteps
from diffusion.guidance import measurements
from diffusion.parameterizations import Prediction
from tests import oracles
from tests.conformance import exact_denoiser, round_denoiser
from tests.sampling.steering import groups

SCHEDULE = schedules.cosine()
DENOISE = round_denoiser(SCHEDULE)
EXACT = samplers.ddpm("analytic", lambda log_snr: 0.25 / (1 + 0.25 * jnp.exp(log_snr)))
A = np.array([[1.0, -0.7, 0.2], [0.1, 0.3, 0.4]], np.float32)  # singular values 1.25 and 0.48, and a null space
Y = np.array([0.9, -0.3], np.float32)
MATRIX = measurements.matrix(A)
END = 0.1


def _run(
    number,
    groups,
    *,
    noise_std,
    steps=4,
    start=1,
    end=END,
    sampler=EXACT,
    denoise=DENOISE,
    measurement=MATRIX,
    y=Y,
    **more,
):
    @jax.jit
    def run(keys):
        starts, walk = jax.vmap(jax.random.split, out_axes=1)(keys)
        x = samplers.prior(SCHEDULE, starts, (3,))
        plan = timesteps.plan(np.linspace(start, end, steps + 1))
        seen = jnp.broadcast_to(jnp.asarray(y), (len(x), len(y)))
        return steering.mcgdiff(
            sampler, denoise, SCHEDULE, x, plan, walk, measurement, seen, noise_std, number=number, **more
        )

    return run(jax.random.split(jax.random.key(0), groups * number))


def _target(noise_std):
    """(mean, covariance, log constant) of p_s(x) psi_s(x) at s = END, by conditioning in float64."""
    alpha, sigma = float(SCHEDULE.alpha(END)), float(SCHEDULE.sigma(END))
    U, a, V = np.linalg.svd(A.astype(np.float64), full_matrices=False)
    seen, spread = alpha * (U.T @ Y) / a, sigma**2 + (alpha * noise_std / a) ** 2
    mean, variance = np.full(3, 0.4 * alpha), 0.25 * alpha**2 + sigma**2
    total = variance + spread
    away = seen - V @ mean
    covariance = variance * np.eye(3) - V.T @ np.diag(variance**2 / total) @ V
    return mean + V.T @ (variance / total * away), covariance, -(away**2 / total + np.log(2 * np.pi * total)).sum() / 2


CASES = {
    "noise": (0.2, {}),
    "no noise": (0.0, {}),
    "multinomial": (0.2, {"resample": steering.multinomial}),
    "partial": (0.1, {"resample": steering.partial(steering.stratified)}),
}


@pytest.mark.extended
@pytest.mark.parametrize("name", CASES)
def test_constants_are_unbiased_and_means_and_covariances_the_posterior_s(name):
    """4,000 groups of four: E[Z] is the constant, E[Z f] the constant times the posterior's mean of f."""
    noise_std, more = CASES[name]
    mean, covariance, log_constant = _target(noise_std)
    particles = _run(4, 4000, noise_std=noise_std, **more)
    weights = np.exp(np.asarray(particles.log_weights, np.float64) - log_constant)[..., None]
    away = np.asarray(particles.x, np.float64).reshape(-1, 4, 3) - mean
    squares = (away[..., None] * away[..., None, :] - covariance).reshape(-1, 4, 9)
    for value, truth in ((np.ones_like(weights), 1), (away, 0), (squares, 0)):
        values = np.mean(weights * value, axis=1)
        error = values.std(0, ddof=1) / len(values) ** 0.5
        assert error.max() < 0.05
        np.testing.assert_array_less(np.abs(values.mean(0) - truth), 4.5 * error + 1e-6)


@pytest.mark.extended
def test_of_a_mixture_it_has_the_posterior():
    """One measured number of two components; means and covariance by the closed form, 5 % for the steps."""
    mixture = oracles.mixture([0.3, 0.7], [[-1.0, 0.5, 0.0], [1.0, -0.5, 0.3]], [0.1 * np.eye(3)] * 2)
    row, y, noise_std = np.array([[0.8, 0.9, -0.3]], np.float32), np.array([-0.6], np.float32), 0.3
    total = 0.1 * (row @ row.T)[0, 0] + noise_std**2
    means = np.array([[-1.0, 0.5, 0.0], [1.0, -0.5, 0.3]])
    away = y - means @ row[0]
    weights = np.array([0.3, 0.7]) * np.exp(-(away**2) / (2 * total))
    weights /= weights.sum()
    centres = means + 0.1 * away[:, None] * row[0] / total
    mean = weights @ centres
    covariance = 0.1 * np.eye(3) - 0.01 * row.T @ row / total
    covariance = covariance + np.einsum("k,ki,kj->ij", weights, centres - mean, centres - mean)
    particles = _run(
        256,
        16,
        noise_std=noise_std,
        steps=64,
        end=0.0,
        sampler=samplers.ddpm(),
        denoise=exact_denoiser(mixture, SCHEDULE),
        measurement=measurements.matrix(row),
        y=y,
    )
    shares = np.asarray(jax.nn.softmax(particles.log_weights), np.float64).ravel() / 16
    x = np.asarray(particles.x, np.float64)
    np.testing.assert_allclose(shares @ x, mean, atol=0.08)
    np.testing.assert_allclose((shares[:, None] * (x - mean)).T @ (x - mean), covariance, atol=0.08)
    assert np.abs(means.T @ [0.3, 0.7] - mean).max() > 0.3  # the data's own mean is another


@pytest.mark.extended
def test_the_weight_of_one_step_onto_the_data_is_that_of_its_densities():
    """x_t follows from x_0, its estimate: w = N(0; alpha_t Y, 1 + v_t) N(x_0; Y, v_0) / N(x_t; alpha_t Y, v_t)."""
    noise_std, t = 0.2, 0.7
    particles = _run(1, 3, noise_std=noise_std, steps=1, start=t, end=0.0, sampler=samplers.ddpm())
    alpha, sigma = float(SCHEDULE.alpha(t)), float(SCHEDULE.sigma(t))
    U, a, V = np.linalg.svd(A.astype(np.float64), full_matrices=False)
    x_0 = np.asarray(particles.x, np.float64)
    x_t = 0.4 * alpha + (x_0 - 0.4) * (0.25 * alpha**2 + sigma**2) / (0.25 * alpha)
    v_t, v_0 = sigma**2 + (alpha * noise_std / a) ** 2, (noise_std / a) ** 2
    log_density = lambda away, variance: -(away**2 / variance + np.log(2 * np.pi * variance)).sum(-1) / 2
    seen = U.T @ Y / a
    expected = log_density(alpha * seen, 1 + v_t) + log_density(x_0 @ V.T - seen, v_0)
    expected = expected - log_density(x_t @ V.T - alpha * seen, v_t)
    np.testing.assert_allclose(particles.log_weights.ravel(), expected, rtol=1e-4)


def test_particles_start_from_the_prior_of_an_exploding_process():
    """N(0, 4): x_t = g Y + (g v)^(1/2) x / 2 for g = 4 / (4 + v), which a network that returns x_t leaves in place.

    The second number is not measured: the network halves it, and the weights do not read it.
    """
    schedule = schedules.variance_exploding(sigma_max=2.0)
    x, y = np.random.default_rng(0).standard_normal((2, 3, 2)).astype(np.float32)
    stays, plan = lambda x, t: Prediction(x * jnp.array([1, 0.5]), jnp.zeros_like(x)), timesteps.plan([1.0, 0.0])
    first, keys = measurements.masked(np.array([True, False])), jax.random.split(jax.random.key(0), 3)
    run = lambda x, y: steering.mcgdiff(samplers.ddpm(), stays, schedule, x, plan, keys, first, y, 0.3, number=1)
    particles = jax.jit(run)(x, y)
    v, v_0 = 4 + 0.3**2, 0.3**2
    g = 4 / (4 + v)
    x_t = np.stack([(g * y + (g * v) ** 0.5 * x / 2)[:, 0], x[:, 1] / 2], 1)
    log_density = lambda away, variance: -(away[:, 0] ** 2 / variance + np.log(2 * np.pi * variance)) / 2
    expected = log_density(y, 4 + v) + log_density(x_t - y, v_0) - log_density(x_t - y, v)
    np.testing.assert_allclose(particles.x, x_t, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(particles.log_weights[:, 0], expected, rtol=1e-4)


@pytest.mark.extended
def test_a_direction_of_the_smallest_singular_value_is_not_measured():
    every = measurements.masked(np.ones(3, bool))  # all singular values are 1
    particles = _run(1, 2, noise_std=0.2, steps=1, measurement=every, y=np.ones(3, np.float32), smallest=1.0)
    np.testing.assert_array_equal(particles.log_weights, 0)


@pytest.mark.extended
def test_without_noise_it_ends_at_the_measured_value():
    particles = _run(8, 4, noise_std=0.0, end=0.0, sampler=samplers.ddpm())
    np.testing.assert_allclose(particles.x @ A.T, np.broadcast_to(Y, (32, 2)), atol=1e-5)
    assert np.isfinite(particles.log_weights).all() and particles.x.std(0).min() > 0.01
    _, _, V = np.linalg.svd(A)
    assert (particles.x @ V[2]).std() > 0.1  # the direction that is not measured


@pytest.mark.extended
def test_a_group_does_not_depend_on_the_others():
    keys = jax.random.split(jax.random.key(0), 24)
    x = samplers.prior(SCHEDULE, jax.random.split(jax.random.key(1), 24), (3,))
    plan = timesteps.plan(np.linspace(0.9, 0, 6))  # at t = 1 the step does not read x
    run = jax.jit(
        lambda x, keys: steering.mcgdiff(
            samplers.ddpm(), DENOISE, SCHEDULE, x, plan, keys, MATRIX, jnp.tile(Y, (len(x), 1)), 0.2, number=8
        )
    )
    groups.assert_the_last_stands_alone(run, x, keys)


@pytest.mark.extended
def test_each_step_evaluates_the_denoiser_once():
    calls = []

    def counted(x, t):
        jax.debug.callback(lambda t: calls.append(float(t)), t)
        return DENOISE(x, t)

    jax.block_until_ready(_run(2, 2, noise_std=0.1, steps=3, denoise=counted))
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(calls), np.linspace(1, END, 4)[2::-1], rtol=1e-6)


def test_what_it_cannot_use_is_refused():
    keys, plan = jax.random.split(jax.random.key(0), 4), timesteps.plan(timesteps.uniform(SCHEDULE, 4))
    same = np.ones((4, 2))
    run = lambda sampler=EXACT, measurement=MATRIX, noise_std=0.1, number=2, y=same: steering.mcgdiff(
        sampler, DENOISE, SCHEDULE, jnp.ones((4, 3)), plan, keys, measurement, y, noise_std, number=number
    )
    with pytest.raises(ValueError, match=r"noise_std = -1\.0"):
        run(noise_std=-1.0)
    with pytest.raises(ValueError, match=r"filtered`, `trace`\)\. Valid: the"):
        run(measurement=MATRIX._replace(trace=None))
    with pytest.raises(ValueError, match="number = 3 particles in a group do not divide the 4"):
        run(number=3)
    with pytest.raises(ValueError, match="y differs within a group of 2 particles"):
        run(y=np.array([[1.0, 0], [1, 0], [2, 0], [2, 1]]))
    with pytest.raises(ValueError, match="draws 0 noise arrays"):
        run(sampler=samplers.heun())
    with pytest.raises(ValueError, match="variance differs from number to number"):
        run(sampler=samplers.ddpm("learned"))
