"""Mixtures on curved spaces against closed forms: densities, moments of draws, the exact field."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from diffusion import manifolds, schedules
from diffusion.manifolds import heat_kernels, mixtures
from diffusion.manifolds.distributions import Distribution
from diffusion.manifolds.heat_kernels import HeatKernel

MEAN = np.array([0.6, 0.0, 0.8])
KEY = jax.random.key(2)


@pytest.mark.parametrize("concentration", [0.5, 20.0])
def test_a_von_mises_fisher_density_integrates_to_one_and_its_draws_have_its_mean(concentration):
    """E[mean . x] = coth(kappa) - 1 / kappa."""
    one = mixtures.von_mises_fisher(MEAN, concentration)
    heights = np.linspace(-1, 1, 20001)
    across = np.array([0.8, 0.0, -0.6])
    points = heights[:, None] * MEAN + np.sqrt(1 - heights[:, None] ** 2) * across
    density = np.exp(np.asarray(one.log_density(jnp.asarray(points, jnp.float32)), np.float64))
    assert 2 * np.pi * integrate.simpson(density, x=heights) == pytest.approx(1, abs=1e-4)
    ratio = np.log(density[-1] / density[10000])
    assert ratio == pytest.approx(concentration, rel=1e-4)
    draws = np.asarray(jax.jit(one.sample)(jax.random.split(jax.random.key(0), 4000)), np.float64)
    np.testing.assert_allclose(np.linalg.norm(draws, axis=-1), 1, atol=1e-5)
    mean = 1 / np.tanh(concentration) - 1 / concentration
    found = draws @ MEAN
    assert abs(found.mean() - mean) < 5 * found.std() / np.sqrt(4000)
    aside = draws - found[:, None] * MEAN  # all directions alike
    np.testing.assert_allclose(aside.mean(0), 0, atol=5 / np.sqrt(4000))
    np.testing.assert_allclose(found @ aside / 4000, 0, atol=5 / np.sqrt(4000))  # at every height
    spread = np.linalg.eigvalsh(np.cov(aside.T))
    assert spread[2] / spread[1] < 1.2


def test_a_concentrated_von_mises_fisher_density_keeps_its_digits_in_float32():
    """kappa |x - mean|^2 / 2 is an exponential number for large kappa, and 1 - mean . x is below the rounding of 1."""
    kappa = 1e7
    one = mixtures.von_mises_fisher(MEAN, kappa)
    draws = np.asarray(jax.jit(one.sample)(jax.random.split(jax.random.key(0), 4000)), np.float64)
    energy = kappa * np.square(draws - np.float32(MEAN)).sum(-1) / 2
    assert stats.kstest(energy, "expon").pvalue > 1e-3
    log_density = np.asarray(one.log_density(jnp.asarray(draws, jnp.float32)))
    np.testing.assert_allclose(log_density, np.log(kappa / (2 * np.pi)) - energy, atol=1e-4)


def number(log_density, at):
    """A distribution on the circle with a density and one place for all draws."""
    return Distribution(jax.vmap(lambda key: jnp.asarray(at)), log_density)


def test_a_mixture_has_the_weighted_density_and_draws_each_component_by_its_weight():
    parts = [number(lambda x: -x, 1.0), number(lambda x: 2 * x, 2.0), number(lambda x: 0 * x, 3.0)]
    weights = [1.0, 2.0, 5.0]
    mixed = mixtures.mixture(parts, weights)
    x = np.linspace(-1, 1, 5)
    expected = np.log((np.exp(-x) + 2 * np.exp(2 * x) + 5) / 8)
    np.testing.assert_allclose(mixed.log_density(jnp.asarray(x, jnp.float32)), expected, atol=1e-5)
    draws = np.asarray(jax.jit(mixed.sample)(jax.random.split(jax.random.key(0), 4000)))
    for place, weight in zip((1.0, 2.0, 3.0), weights):
        share = weight / 8
        assert abs((draws == place).mean() - share) < 5 * np.sqrt(share * (1 - share) / 4000)
    spread = Distribution(jax.vmap(jax.random.uniform), lambda x: 0 * x)
    beyond = Distribution(jax.vmap(lambda key: 1 + jax.random.uniform(key)), lambda x: 0 * x)
    draws = np.asarray(jax.jit(mixtures.mixture([spread, beyond], [1.0, 1.0]).sample)(jax.random.split(KEY, 4000)))
    for part in (draws[draws < 1], draws[draws >= 1] - 1):  # the choice says nothing of where in its component
        assert abs(part.mean() - 1 / 2) < 5 * np.sqrt(1 / 12 / len(part))


def wrapped(angle, variance):
    """Density of a wrapped normal and its derivative's logarithm, by 21 turns."""
    variance = np.expand_dims(variance, -1)
    turns = angle[..., None] + 2 * np.pi * np.arange(-10, 11)
    terms = np.exp(-(turns**2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    return terms.sum(-1), (-turns / variance * terms).sum(-1)


@pytest.mark.extended
def test_a_diffused_point_of_the_torus_is_a_wrapped_normal():
    kernel = heat_kernels.torus(2)
    mean = np.array([0.5, -2.0])
    one = mixtures.diffused(kernel, mean, 0.7)
    x = np.array([[0.5, -2.0], [-2.9, 1.0], [3.0, 3.1]])
    expected = np.log([wrapped(row - mean, 0.7)[0].prod() for row in x])
    np.testing.assert_allclose(one.log_density(jnp.asarray(x, jnp.float32)), expected, rtol=1e-5)
    np.testing.assert_allclose(one.log_density(jnp.asarray(x[1], jnp.float32)), expected[1], rtol=1e-5)
    draws = np.asarray(jax.jit(one.sample)(jax.random.split(jax.random.key(1), 4000)), np.float64)
    waves = np.exp(1j * (draws - mean)).mean(0)  # exp(-variance / 2)
    np.testing.assert_allclose(waves, np.exp(-0.35), atol=5 / np.sqrt(4000))


@pytest.mark.extended
@pytest.mark.parametrize("dtype, rtol", [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_a_mixture_has_the_precision_of_its_points_under_x64(dtype, rtol, x64):
    """Neither 0.3 nor a third is a number of float32; points of float32 still have densities of float32."""
    mean, x = np.array([0.3, -2.1]), np.array([[0.5, -2.0], [-2.9, 1.0]])
    parts = [mixtures.diffused(heat_kernels.torus(2), mean, variance) for variance in (0.7, 0.2)]
    density = mixtures.mixture(parts, [1.0, 2.0]).log_density(jnp.asarray(x, dtype))
    of = lambda row, variance: wrapped(row - mean, variance)[0].prod()
    assert density.dtype == dtype
    np.testing.assert_allclose(density, [np.log((of(row, 0.7) + 2 * of(row, 0.2)) / 3) for row in x], rtol=rtol)
    fisher = mixtures.von_mises_fisher(MEAN, 2.0).log_density(jnp.asarray([0.0, 0.0, 1.0], dtype))
    assert fisher.dtype == dtype
    np.testing.assert_allclose(fisher, 2 * 0.8 + np.log(2 / (4 * np.pi * np.sinh(2.0))), rtol=rtol)


@pytest.mark.extended
def test_the_exact_field_of_a_mixture_is_the_gradient_of_its_density_at_each_time():
    kernel, schedule = heat_kernels.torus(1), schedules.variance_exploding(0.01, 3.0)
    means, variances, weights = [np.array([0.5]), np.array([-2.0])], [0.3, 0.1], [1.0, 3.0]
    field = mixtures.exact_field(kernel, means, variances, weights, schedule)
    x, t = np.array([0.1, -2.5, 3.0])[:, None], np.array([0.2, 0.5, 0.9])
    sigma = np.asarray(schedule.sigma(jnp.asarray(t)), np.float64)
    parts = [
        (share * density, share * slope)
        for mean, variance, share in zip(means, variances, (0.25, 0.75))
        for density, slope in [wrapped(x[:, 0] - mean, variance + sigma**2)]
    ]
    density, slope = (sum(terms) for terms in zip(*parts))
    expected = (slope / density)[:, None]
    points = jnp.asarray(x, jnp.float32)
    score = jax.jit(field.score)
    np.testing.assert_allclose(score(points, jnp.asarray(t)), expected, rtol=1e-3, atol=1e-4)
    g = np.asarray(schedule.diffusion(jnp.asarray(t)), np.float64)[:, None]
    np.testing.assert_allclose(
        jax.jit(field.velocity)(points, jnp.asarray(t)), -(g**2) / 2 * expected, rtol=1e-3, atol=1e-4
    )
    alone = score(points[1:2], jnp.float32(0.5))
    np.testing.assert_allclose(alone, expected[1:2], rtol=1e-3)


def test_what_is_no_distribution_is_refused():
    with pytest.raises(ValueError, match=r"concentration = 0 must be positive;.*concentration 0 use `uniform"):
        mixtures.von_mises_fisher(MEAN, 0)
    with pytest.raises(ValueError, match="sphere"):
        mixtures.von_mises_fisher(2 * MEAN, 1.0)
    with pytest.raises(ValueError, match=r"variance = 0\.0 must be positive"):
        mixtures.diffused(heat_kernels.torus(1), np.zeros(1), 0.0)
    for weights in ([1.0], [1.0, 0.0], [1.0, -1.0]):
        with pytest.raises(ValueError, match="a mixture of 2 components needs 2 positive weights"):
            mixtures.mixture([None, None], weights)


def test_varadhans_kernel_is_the_normal_distribution_where_space_is_flat():
    flat = manifolds.euclidean(3)
    kernel = heat_kernels.varadhan(flat, steps=4)
    assert isinstance(kernel, HeatKernel) and kernel.manifold is flat
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 5, 3))
    v = np.linspace(0.1, 2, 5)
    arrays = [jnp.asarray(a, jnp.float32) for a in (x, y, v)]
    expected = -((x - y) ** 2).sum(-1) / (2 * v) - 1.5 * np.log(2 * np.pi * v)
    np.testing.assert_allclose(kernel.log_density(*arrays), expected, rtol=1e-5)
    np.testing.assert_allclose(kernel.score(*arrays), (x - y) / v[:, None], rtol=1e-4)
    draw = jax.jit(jax.vmap(lambda key: kernel.sample(key, arrays[0][0], 0.7)))
    moved = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)), np.float64) - x[0]
    np.testing.assert_allclose(moved.mean(0), 0, atol=5 * np.sqrt(0.7 / 4000))
    np.testing.assert_allclose(np.cov(moved.T), 0.7 * np.eye(3), atol=5 * 0.7 * np.sqrt(2 / 4000))


def test_the_exact_field_of_a_mixture_of_normals_is_that_of_their_mixture():
    """In flat space: normals of the variances v_k + sigma(t)^2, weighed by their densities at each point."""
    flat, schedule = manifolds.euclidean(2), schedules.variance_exploding(0.05, 2.0)
    means, variances, weights = np.array([[0.0, 1.0], [2.0, -0.5], [-1.0, 0.5]]), (0.3, 0.1, 0.8), (1.0, 2.0, 5.0)
    field = mixtures.exact_field(heat_kernels.varadhan(flat), means, variances, weights, schedule)
    x, t = np.array([[0.5, 0.2], [1.0, -1.0]]), 0.4
    sigma, g = float(schedule.sigma(t)), float(schedule.diffusion(t))
    spread = np.array(variances) + sigma**2
    density = np.array(weights) * np.exp(-((x[:, None] - means) ** 2).sum(-1) / (2 * spread)) / spread
    shares = density / density.sum(1, keepdims=True)
    score = (shares[..., None] * (means - x[:, None]) / spread[:, None]).sum(1)
    x = jnp.asarray(x, jnp.float32)
    np.testing.assert_allclose(field.score(x, t), score, rtol=1e-4)
    np.testing.assert_allclose(field(x, t), -(g**2) / 2 * score, rtol=1e-4)
    assert field.manifold is flat
