"""Likelihood on manifolds against flows and densities in closed form."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import eval_legendre

from diffusion import schedules
from diffusion.manifolds import (
    TangentField,
    exact_divergence,
    heat_kernels,
    hutchinson_divergence,
    mixtures,
    riemannian_log_likelihood,
    so3,
    sphere,
    torus,
    uniform,
)

NUMBER = 5
TIMES = np.linspace(0, 1, 9)


def test_on_the_torus_the_density_is_that_of_the_flows_jacobian():
    """da/dt = sin a moves a to b with db/da = sin b / sin a, in each angle."""
    field = TangentField(torus(2), lambda x, t: jnp.sin(x))
    x = torus(2).uniform(jax.random.key(0), (NUMBER,))
    measured = jax.jit(lambda x: riemannian_log_likelihood(field, x, TIMES, uniform(torus(2)).log_density))(x)
    a = np.asarray(x, np.float64)
    b = 2 * np.arctan(np.tan(a / 2) * math.e)
    exact = -2 * math.log(2 * math.pi) + np.sum(np.log(np.sin(b) / np.sin(a)), -1)
    np.testing.assert_allclose(measured.log_density, exact, atol=1e-3)
    np.testing.assert_allclose(measured.latent, b, atol=1e-3)
    assert measured.nfe == 4 * 8  # four stages in each of eight steps


@pytest.mark.slow
def test_on_the_sphere_the_density_is_that_of_the_flows_jacobian():
    """A field towards -z takes heights z to w with dw/dz = (1 - w^2) / (1 - z^2), as areas are; any probes of unit
    covariance that are orthogonal give the same trace."""
    pole = jnp.array([0.0, 0.0, 1.0])
    manifold = sphere(2)
    field = TangentField(manifold, lambda x, t: -manifold.tangent(x, pole) + jnp.cross(pole, x))
    x = manifold.uniform(jax.random.key(1), (NUMBER,))
    probes = jnp.broadcast_to(math.sqrt(2) * jnp.eye(2)[:, None], (2, NUMBER, 2))
    log_prior = uniform(manifold).log_density
    both = jax.jit(
        lambda x: [
            riemannian_log_likelihood(field, x, TIMES, log_prior, divergence).log_density
            for divergence in (exact_divergence(), hutchinson_divergence(probes))
        ]
    )(x)
    z = np.asarray(x[:, 2], np.float64)
    w = np.cos(2 * np.arctan(np.tan(np.arccos(z) / 2) * math.e))
    exact = -math.log(4 * math.pi) + np.log((1 - w**2) / (1 - z**2))
    for measured in both:
        np.testing.assert_allclose(measured, exact, atol=2e-3)


@pytest.mark.slow
def test_on_rotations_a_field_of_both_sides_has_no_divergence():
    """dR/dt = A R + R B is an isometry: the uniform density stays."""
    hat = lambda w: jnp.array([[0, -w[2], w[1]], [w[2], 0, -w[0]], [-w[1], w[0], 0]])
    a, b = hat([0.8, 0.5, -0.3]), hat([-0.4, 1.0, 0.6])
    x = so3().uniform(jax.random.key(0), (NUMBER,))
    _, still = exact_divergence()(so3(), lambda x: a @ x + x @ b, x)
    np.testing.assert_allclose(still, 0, atol=1e-5)
    # The gradient of trace R, an eigenfunction of the Laplacian with the eigenvalue -2.
    gradient = lambda x: so3().tangent(x, 2 * jnp.broadcast_to(jnp.eye(3), x.shape))
    _, laplacian = exact_divergence()(so3(), gradient, x)
    np.testing.assert_allclose(laplacian, -2 * np.trace(x, axis1=1, axis2=2), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ("sphere", "torus", "so3"))
def test_bits_of_diffused_mixtures_are_reproduced(name):
    """The flow of Brownian motion takes one mixture of heat kernels to another: both densities are known."""
    kernel = {"sphere": heat_kernels.sphere(2), "torus": heat_kernels.torus(2), "so3": heat_kernels.so3()}[name]
    means = kernel.manifold.uniform(jax.random.key(4), (2,))
    schedule = schedules.variance_exploding(0.02, 2.0)
    variances, weights = (0.1, 0.3), (0.4, 0.6)
    field = mixtures.exact_field(kernel, means, variances, weights, schedule)

    def at(t):
        parts = [mixtures.diffused(kernel, m, v + float(schedule.sigma(t)) ** 2) for m, v in zip(means, variances)]
        return mixtures.mixture(parts, weights)

    times = np.linspace(schedule.t_min, 1.0, 21)
    x = at(times[0]).sample(jax.random.split(jax.random.key(2), 16))
    log_prior = at(1.0).log_density
    measured = jax.jit(lambda x: riemannian_log_likelihood(field, x, times, log_prior).log_density)(x)
    bits = np.abs(measured - at(times[0]).log_density(x)) / math.log(2)
    assert bits.max() < 1e-2


@pytest.mark.slow
def test_the_likelihood_of_a_diffused_point_is_exact_up_to_its_antipode():
    """The density of Brownian motion from one point, by the harmonics in float64."""
    kernel = heat_kernels.sphere(2)
    pole = jnp.array([[1.0, 0.0, 0.0]])
    schedule = schedules.variance_exploding(0.02, 2.0)
    field = mixtures.exact_field(kernel, pole, (0.3,), (1.0,), schedule)
    last = mixtures.diffused(kernel, pole[0], 0.3 + float(schedule.sigma(1.0)) ** 2)
    angles = math.pi - np.array([0.002, 0.01, 0.05, 0.3, 1.5])
    x = jnp.asarray(np.stack([np.cos(angles), np.sin(angles), 0 * angles], -1), jnp.float32)
    times = np.linspace(schedule.t_min, 1.0, 41)
    measured = jax.jit(lambda x: riemannian_log_likelihood(field, x, times, last.log_density).log_density)(x)
    l = np.arange(60)[:, None]
    decay = (2 * l + 1) / (4 * math.pi) * np.exp(-l * (l + 1) * (0.3 + float(schedule.sigma(times[0])) ** 2) / 2)
    exact = np.log(np.sum(decay * eval_legendre(l, np.cos(angles)), 0))
    np.testing.assert_allclose(measured, exact, atol=1e-2)


def test_mistakes_are_refused():
    field = TangentField(sphere(2), lambda x, t: jnp.zeros_like(x))
    log_prior = uniform(sphere(2)).log_density
    for times in ([1.0, 0.0], [0.0, 0.5, 0.5, 1.0], [0.0]):
        with pytest.raises(ValueError, match="at least two increasing"):
            riemannian_log_likelihood(field, jnp.eye(3), times, log_prior)
    with pytest.raises(ValueError, match="points are unit vectors"):
        riemannian_log_likelihood(field, 2 * jnp.eye(3), TIMES, log_prior)
    with pytest.raises(ValueError, match=r"\[K, B, 2\]"):
        hutchinson_divergence(jnp.ones((1, 3, 3)))(sphere(2), lambda x: 0 * x, jnp.eye(3))
