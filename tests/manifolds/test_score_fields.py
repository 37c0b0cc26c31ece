"""Fields and losses of scores in flat space and on small stand-ins, term by term."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import manifolds, schedules, timesteps
from diffusion.manifolds import denoising_scores, heat_kernels, tangent_field
from diffusion.manifolds.conditional_flows import premetric_path
from diffusion.manifolds.riemannian_likelihood import exact_divergence, hutchinson_divergence

BROWNIAN = schedules.variance_exploding(0.01, 3.0)


def network(x, clock, condition):
    """A linear one, of the time that it receives and the condition."""
    return 2 * x + clock[:, None] + (0 if condition is None else condition)


def test_the_field_of_a_score_is_the_output_over_sigma_and_its_flow_half_of_g_squared():
    flat = manifolds.euclidean(2)
    x, t = jnp.array([[1.0, -2.0], [0.5, 3.0]]), jnp.array([0.3, 0.8])
    field = tangent_field.score_field(network, BROWNIAN, flat, condition=jnp.float32(0.25))
    output = 2 * np.asarray(x, np.float64) + np.asarray(t)[:, None] + 0.25
    sigma, g = (np.asarray(f(t), np.float64)[:, None] for f in (BROWNIAN.sigma, BROWNIAN.diffusion))
    np.testing.assert_allclose(field.score(x, t), -output / sigma, rtol=1e-5)
    np.testing.assert_allclose(field(x, t), g**2 / 2 * output / sigma, rtol=1e-5)
    clocked = tangent_field.score_field(network, BROWNIAN, flat, clock=lambda schedule, t: 1000 * t)
    at = 2 * np.asarray(x, np.float64) + 1000 * np.asarray(t)[:, None]
    np.testing.assert_allclose(clocked.score(x, t), -at / sigma, rtol=1e-5)


def test_the_field_of_a_velocity_is_the_tangent_part_of_the_output():
    sphere = manifolds.sphere(2)
    x = jnp.array([[0.0, 0.6, 0.8]])
    field = tangent_field.velocity_field(network, schedules.rectified_flow(), sphere)
    output = 2 * np.asarray(x) + 0.3
    expected = output - (output * np.asarray(x)).sum(-1, keepdims=True) * np.asarray(x)
    np.testing.assert_allclose(field(x, 0.3), expected, atol=1e-6)
    assert field.score is None


def test_the_velocity_on_the_simplex_is_as_long_as_the_output_along_the_sphere_of_roots():
    """In Fisher's metric: sum u^2 / p = |w|^2 - (w . p^(1/2))^2, so that near a face it does not grow."""
    p = np.array([[0.2, 0.3, 0.5], [1e-4, 0.4, 0.5999]])
    field = tangent_field.velocity_field(network, schedules.rectified_flow(), manifolds.simplex(2))
    u, w = np.asarray(field(jnp.asarray(p, jnp.float32), 0.3), np.float64), 2 * p + 0.3
    np.testing.assert_allclose(u.sum(-1), 0, atol=1e-6)
    np.testing.assert_allclose((u**2 / p).sum(-1), (w**2).sum(-1) - (w * np.sqrt(p)).sum(-1) ** 2, rtol=1e-4)


def test_a_schedule_that_shrinks_the_data_is_refused():
    tangent_field.require_brownian(BROWNIAN, "a name")
    with pytest.raises(ValueError, match="name: this schedule shrinks the data"):
        tangent_field.require_brownian(schedules.rectified_flow(), "a name")


@pytest.mark.extended
@pytest.mark.parametrize("scale", [0.0, 1.5])
def test_the_loss_is_the_distance_of_sigma_times_the_scores(scale):
    """In flat space x_t = x_0 + sigma eps, whose score is -eps / sigma: with an output of scale x_t the loss is
    |scale x_t - eps|^2, of expectation n ((1 - scale sigma)^2 + scale^2 x_0^2 / n)."""
    flat = manifolds.euclidean(4)
    kernel = heat_kernels.varadhan(flat, steps=1)
    prior = manifolds.wrapped_normal(flat, np.zeros(4), 3.0)
    objective = denoising_scores.riemannian_score_matching(kernel, timesteps.uniform_density(BROWNIAN), prior=prior)
    keys = jax.random.split(jax.random.key(0), 4000)
    x_0 = jnp.full((4000, 4), 0.5)
    networks = {"model": lambda x, clock, condition: scale * x}
    loss, metrics = jax.jit(lambda keys: objective(networks, BROWNIAN, keys, {"x": x_0}, 0))(keys)
    t = np.asarray(metrics["t"])
    sigma = np.asarray(BROWNIAN.sigma(metrics["t"]), np.float64)
    assert loss.shape == (4000,) and abs(t.mean() - 0.5) < 0.03 and t.min() >= BROWNIAN.t_min
    expected = 4 * ((1 - scale * sigma) ** 2 + scale**2 * 0.25)
    rest = np.asarray(loss, np.float64) - expected
    assert abs(rest.mean()) < 5 * rest.std() / np.sqrt(4000)
    for low, high in ((0, 0.3), (0.3, 0.7), (0.7, 1)):
        part = rest[(t >= low) & (t < high)]
        assert abs(part.mean()) < 5 * part.std() / np.sqrt(len(part))
    reads = objective.reads
    assert reads.manifold is flat and reads.prior is prior
    score = reads.field(networks["model"], BROWNIAN).score(x_0[:2], 0.5)
    np.testing.assert_allclose(score, np.full((2, 4), -scale * 0.5 / float(BROWNIAN.sigma(0.5))), rtol=1e-5)


def test_along_a_premetric_the_path_of_flat_space_is_straight():
    """d = |x - y|, or its square: the same path but for its pace; d(x_t, x_0) = t d(x_1, x_0) in both."""
    flat = manifolds.euclidean(3)
    rng = np.random.default_rng(0)
    x_0, x_1 = (jnp.asarray(a, jnp.float32) for a in rng.normal(size=(2, 5, 3)))
    t = jnp.linspace(0.2, 1.0, 5)
    distance = lambda x, y: jnp.sqrt(jnp.sum((x - y) ** 2, -1))
    share = np.asarray(t)[:, None]
    apart = np.asarray(x_1 - x_0)
    x_t, velocity = premetric_path(flat, distance, x_0, x_1, t, 8)
    np.testing.assert_allclose(x_t, x_0 + share * apart, atol=1e-5)
    np.testing.assert_allclose(velocity, apart, atol=1e-4)
    x_t, velocity = premetric_path(flat, lambda x, y: distance(x, y) ** 2, x_0, x_1, t, 64)
    np.testing.assert_allclose(x_t, x_0 + np.sqrt(share) * apart, atol=1e-4)
    np.testing.assert_allclose(velocity, apart / (2 * np.sqrt(share)), rtol=1e-3, atol=1e-4)
    still, none = premetric_path(flat, lambda x, y: jnp.sum((x - y) ** 2, -1), x_0, x_0, t, 2)
    np.testing.assert_allclose(still, x_0)  # where the premetric is flat nothing moves, and nothing is divided by zero
    np.testing.assert_array_equal(none, np.zeros((5, 3)))


def test_the_divergence_is_that_of_flat_space():
    flat = manifolds.euclidean(2)
    x = jnp.array([[1.0, 2.0], [-1.0, 0.5]])
    field = lambda x: jnp.stack([x[:, 0] ** 2 * x[:, 1], 3 * x[:, 1] + x[:, 0]], -1)
    exact = jax.jit(exact_divergence(), static_argnums=(0, 1))
    values, trace = exact(flat, field, x)
    np.testing.assert_allclose(values, field(x))
    np.testing.assert_allclose(trace, 2 * x[:, 0] * x[:, 1] + 3, rtol=1e-5)


@pytest.mark.extended
def test_the_divergence_on_the_sphere_is_that_of_laplaces_eigenfunction():
    exact = jax.jit(exact_divergence(), static_argnums=(0, 1))
    sphere = manifolds.sphere(2)
    points = jnp.array([[0.0, 0.6, 0.8], [1.0, 0.0, 0.0]])
    pole = jnp.array([0.0, 0.0, 1.0])
    gradient = lambda x: pole - jnp.sum(x * pole, -1, keepdims=True) * x  # of the height z: Laplace's is -2 z
    values, trace = exact(sphere, gradient, points)
    np.testing.assert_allclose(trace, -2 * points[:, 2], atol=1e-5)
    probes = jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], (3, 2, 2)), jnp.float32)
    same, estimate = jax.jit(hutchinson_divergence(probes), static_argnums=(0, 1))(sphere, gradient, points)
    np.testing.assert_allclose(same, values, atol=1e-6)
    np.testing.assert_allclose(estimate, -2 * points[:, 2], atol=1e-5)  # its derivative is a multiple of the identity
    with pytest.raises(ValueError, match=r"probes must have shape \[K, B, 2\], got \[3, 2, 3\]"):
        hutchinson_divergence(jnp.ones((3, 2, 3)))(sphere, gradient, points)


def test_the_estimate_of_a_divergence_is_the_mean_of_the_probes_products():
    """Of a linear field A x of the plane: the mean of z^T A z over the probes of each example."""
    flat, a = manifolds.euclidean(2), np.array([[1.0, 2.0], [-0.5, 3.0]])
    probes = np.random.default_rng(0).normal(size=(3, 2, 2))
    x = jnp.array([[1.0, 2.0], [-1.0, 0.5]])
    values, estimate = hutchinson_divergence(jnp.asarray(probes, jnp.float32))(
        flat, lambda x: x @ jnp.asarray(a.T, jnp.float32), x
    )
    np.testing.assert_allclose(values, np.asarray(x) @ a.T, rtol=1e-5)
    np.testing.assert_allclose(estimate, np.einsum("kbi,ij,kbj->kb", probes, a, probes).mean(0), rtol=1e-4)
