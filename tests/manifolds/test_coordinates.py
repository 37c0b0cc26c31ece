"""Points, projections, bases and volumes of each space by closed forms in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import eval_gegenbauer

from diffusion import manifolds
from diffusion.manifolds import spherical_heat

RNG = np.random.default_rng(0)


def f32(a):
    return jnp.asarray(a, jnp.float32)


@pytest.mark.extended
def test_the_simplex_projects_by_leaving_out_what_is_negative():
    simplex = manifolds.simplex(2)
    np.testing.assert_allclose(
        simplex.project(f32([[0.2, -0.5, 0.6], [2, 2, 4]])), [[0.25, 0, 0.75], [0.25, 0.25, 0.5]]
    )
    p, v = f32([[0.5, 0.3, 0.2]]), f32([[1.0, 2.0, -1.0]])
    np.testing.assert_allclose(simplex.tangent(p, v), v - p * 2, atol=1e-6)
    np.testing.assert_allclose(simplex.inner(p, v, 2 * v), [2 * (1 / 0.5 + 4 / 0.3 + 1 / 0.2)], rtol=1e-5)
    face = f32([[0.5, 0.5, 0.0]])
    np.testing.assert_allclose(simplex.inner(face, f32([[1, -1, 0]]), f32([[1, -1, 0]])), [4], rtol=1e-5)
    basis = np.asarray(simplex.basis(p[0]), np.float64)
    np.testing.assert_allclose(basis / np.asarray(p) @ basis.T, np.eye(2), atol=1e-5)
    np.testing.assert_allclose(basis.sum(-1), 0, atol=1e-6)
    assert simplex.log_volume == pytest.approx(np.log(2 * np.pi), rel=1e-6)  # of an eighth of the sphere of radius 2
    q = f32([[0.1, 0.1, 0.8]])
    expected = 2 * np.arccos(np.sqrt(np.asarray(p) * np.asarray(q)).sum())
    np.testing.assert_allclose(simplex.distance(p, q), [expected], rtol=1e-5)
    np.testing.assert_array_equal(simplex.cut_distance(p, q), [np.inf])
    draws = np.asarray(jax.jit(lambda key: simplex.uniform(key, (4000,)))(jax.random.key(0)), np.float64)
    np.testing.assert_allclose(draws.sum(-1), 1, atol=1e-5)
    moments = (draws.mean(0), (draws**2).mean(0))  # of Dirichlet(1/2, 1/2, 1/2): 1/3 and 1/5
    np.testing.assert_allclose(moments, [[1 / 3] * 3, [1 / 5] * 3], atol=0.025)
    for wrong in ([0.5, 0.4, 0.2], [1.2, -0.2, 0.0]):
        with pytest.raises(ValueError, match="probabilities are not negative and sum to 1"):
            simplex.check(np.array([wrong], np.float32))
    with pytest.raises(ValueError, match=r"the density of a wrapped normal sums 2\^\(n \+ 1\) reflections"):
        manifolds.simplex(40).wrapped_log_density(jnp.full(41, 1 / 41), 1.0, jnp.full(41, 1 / 41))
    with pytest.raises(ValueError, match="n = 0 must be positive"):
        manifolds.simplex(0)


@pytest.mark.extended
def test_symmetric_matrices_have_an_orthonormal_basis_and_are_projected_by_their_eigenvalues():
    for n in (2, 3):
        space = manifolds.positive_definite(n)
        root = RNG.normal(size=(n, n))
        x = root @ root.T + np.eye(n)
        basis = np.asarray(space.basis(f32(x)), np.float64)
        assert basis.shape == (n * (n + 1) // 2, n, n) and space.dimension == n * (n + 1) // 2
        np.testing.assert_allclose(basis, np.swapaxes(basis, -1, -2), atol=1e-5)
        inverse = np.linalg.inv(x)
        gram = np.einsum("ij,ajk,kl,bli->ab", inverse, basis, inverse, basis)  # tr(x^-1 u x^-1 v)
        np.testing.assert_allclose(gram, np.eye(len(basis)), atol=1e-4)
        u, v = RNG.normal(size=(2, n, n))
        u, v = u + u.T, v + v.T
        expected = np.trace(inverse @ u @ inverse @ v)
        np.testing.assert_allclose(space.inner(f32(x), f32(u), f32(v)), expected, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(space.tangent(f32(x), f32(root)), (root + root.T) / 2, rtol=1e-5)
        np.testing.assert_allclose(space.project(f32(x + np.triu(np.ones((n, n)), 1) * 0)), x, rtol=1e-4, atol=1e-5)
        lowered = np.asarray(space.project(f32(x - 100 * np.eye(n))), np.float64)
        assert 0 < np.linalg.eigvalsh(lowered).max() < 0.1
        np.testing.assert_array_equal(space.cut_distance(f32(x), f32(x)), np.inf)
        whole = np.linalg.eigvals(np.linalg.solve(x, x + u @ u.T)).real
        np.testing.assert_allclose(
            space.distance(f32(x), f32(x + u @ u.T)), np.sqrt((np.log(whole) ** 2).sum()), rtol=1e-3
        )


def test_flat_space_and_angles_are_what_they_are():
    flat = manifolds.euclidean(2, 2)
    x, v = f32(RNG.normal(size=(3, 2, 2))), f32(RNG.normal(size=(3, 2, 2)))
    for same in (flat.transport(x, x + v, v), flat.tangent(x, v), flat.lift(x, v), flat.log(x, x + v)):
        np.testing.assert_allclose(same, v, atol=1e-6)
    np.testing.assert_array_equal(flat.project(x), x)
    np.testing.assert_array_equal(flat.log_volume_change(x, v), np.zeros(3))
    np.testing.assert_array_equal(flat.cut_distance(x, x + v), np.full(3, np.inf))
    np.testing.assert_allclose(flat.distance(x, x + v), np.linalg.norm(np.asarray(v).reshape(3, 4), axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(flat.basis(x).reshape(3, 4, 4), np.broadcast_to(np.eye(4), (3, 4, 4)))
    circle = manifolds.circle()
    a, b = f32([3.0, -1.0, 0.5]), f32([-3.0, 1.0, 0.25])
    apart = np.array([2 * np.pi - 6, 2.0, 0.25])
    np.testing.assert_allclose(circle.distance(a, b), apart, rtol=1e-5)
    np.testing.assert_allclose(circle.cut_distance(a, b), np.pi - apart, rtol=1e-5)
    np.testing.assert_allclose(circle.log(a, b), [apart[0], 2.0, -0.25], rtol=1e-5)
    np.testing.assert_allclose(circle.exp(a, f32([1.0, 0, 0])), [4 - 2 * np.pi, -1.0, 0.5], rtol=1e-5)
    np.testing.assert_allclose(circle.project(f32([7.0, -4.0])), [7 - 2 * np.pi, 2 * np.pi - 4], rtol=1e-5)
    np.testing.assert_array_equal(circle.basis(a), np.ones((3, 1)))
    np.testing.assert_array_equal(circle.inner(a, b, b), b * b)
    np.testing.assert_array_equal(circle.log_volume_change(a, b), np.zeros(3))
    assert circle.log_volume == pytest.approx(np.log(2 * np.pi)) and circle.injectivity_radius == pytest.approx(np.pi)
    assert manifolds.torus(3).dimension == 3 and manifolds.torus(3).log_volume == pytest.approx(3 * np.log(2 * np.pi))
    with pytest.raises(ValueError, match="radians"):
        circle.check(np.array([3.2], np.float32))
    circle.check(np.array([3.1], np.float32))


@pytest.mark.extended
def test_the_hyperboloid_has_the_metric_of_minkowski():
    space = manifolds.lorentz(2)
    u = RNG.normal(size=(4, 2))
    x = np.concatenate([np.sqrt(1 + (u**2).sum(-1, keepdims=True)), u], -1)
    minkowski = lambda a, b: -a[..., 0] * b[..., 0] + (a[..., 1:] * b[..., 1:]).sum(-1)
    basis = np.asarray(space.basis(f32(x)), np.float64)
    np.testing.assert_allclose(
        minkowski(basis[:, :, None], basis[:, None]), np.broadcast_to(np.eye(2), (4, 2, 2)), atol=1e-4
    )
    np.testing.assert_allclose(minkowski(basis, x[:, None]), 0, atol=1e-4)
    w = RNG.normal(size=(4, 3))
    tangent = w + minkowski(x, w)[:, None] * x
    np.testing.assert_allclose(space.tangent(f32(x), f32(w)), tangent, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(space.inner(f32(x), f32(tangent), f32(tangent)), minkowski(tangent, tangent), rtol=1e-3)
    other = np.roll(x, 1, axis=0)
    expected = np.arccosh(np.maximum(-minkowski(x, other), 1))
    np.testing.assert_allclose(space.distance(f32(x), f32(other)), expected, rtol=1e-4)
    length = np.sqrt(minkowski(tangent, tangent))
    np.testing.assert_allclose(
        space.log_volume_change(f32(x), f32(tangent)), np.log(np.sinh(length) / length), rtol=1e-3, atol=1e-5
    )
    carried = tangent + (minkowski(other, tangent) / (1 - minkowski(x, other)))[:, None] * (x + other)
    np.testing.assert_allclose(space.transport(f32(x), f32(other), f32(tangent)), carried, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(space.cut_distance(f32(x), f32(other)), np.full(4, np.inf))
    space.check(f32(x))
    with pytest.raises(ValueError, match="x_0 is"):
        space.check(f32(x + np.array([0.1, 0, 0])))


def harmonics(n, theta, v, terms=400):
    """log K by the series over zonal harmonics in float64, where it does not cancel."""
    degree = np.arange(terms)
    half = (n - 1) / 2
    zonal = eval_gegenbauer(degree, half, np.cos(theta)[:, None])
    terms = np.exp(-degree * (degree + n - 1) * v / 2) * (2 * degree + n - 1) / (n - 1) * zonal
    return np.log(terms.sum(-1)) - (np.log(2) + (n + 1) / 2 * np.log(np.pi) - math.lgamma((n + 1) / 2))


@pytest.mark.extended
@pytest.mark.parametrize("n", [2, 3, 4, 5])
@pytest.mark.parametrize("v", [0.2, 0.6, 1.0, 1.4, 4.0])
def test_the_heat_kernel_of_a_sphere_is_its_series(n, v):
    """On both sides of v = 1, up to the antipode wherever float64 holds the series."""
    theta = np.array([1e-4, 0.01, 0.5, 1.0, 1.7, 2.4, 2.8, 3.0, 3.1, np.pi - 1e-3])
    theta = theta if v > 0.5 else theta[:6]
    found = jax.jit(spherical_heat.log_heat(n))(f32(theta), jnp.full(len(theta), v, jnp.float32))
    np.testing.assert_allclose(found, harmonics(n, theta, v), rtol=1e-4, atol=1e-4)


def test_coordinates_of_a_matrix_are_its_upper_triangle_with_the_length_that_it_has():
    """At the identity, whose inner product is trace(u v): E_ii, and (E_ij + E_ji) / sqrt 2, row by row."""
    basis = np.asarray(manifolds.positive_definite(2).basis(jnp.eye(2)))
    half = np.sqrt(0.5)
    np.testing.assert_allclose(basis, [[[1, 0], [0, 0]], [[0, half], [half, 0]], [[0, 0], [0, 1]]], atol=1e-6)


def test_the_cost_of_geodesics_is_their_squared_length():
    """Of angles, the shorter way around; all pairs of two points and three."""
    x, y = np.float32([[3.0], [0.5]]), np.float32([[-3.0], [0.0], [1.0]])
    found = manifolds.geodesic_cost(manifolds.torus(1))(jnp.asarray(x), jnp.asarray(y))
    around = 2 * np.pi - 6.0
    np.testing.assert_allclose(found, [[around**2, 9.0, 4.0], [2.783185**2, 0.25, 0.25]], rtol=1e-5)


def test_targets_at_the_cut_locus_are_refused_and_what_is_no_number():
    """On the circle, whose cut locus is pi away; the message names the closest pair."""
    circle = manifolds.circle()
    x, apart = np.zeros(3, np.float32), np.array([3.1, -3.13, 0.5], np.float32)
    manifolds.check_targets(circle, f32(x), f32(apart), margin=0.01)
    with pytest.raises(ValueError, match=r"target \[1\] is 0\.012 from the cut locus .* margin = 0\.02"):
        manifolds.check_targets(circle, f32(x), f32(apart), margin=0.02)
    with pytest.raises(ValueError, match=r"target \[2\]"):
        manifolds.check_targets(circle, f32(x), f32([3.1, 0.5, np.nan]))
