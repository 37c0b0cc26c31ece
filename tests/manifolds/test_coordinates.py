"""Points, projections, bases and volumes of each space by closed forms in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scipy.special import eval_gegenbauer

from diffusion import manifolds
from diffusion.manifolds import smooth, spherical_heat

RNG = np.random.default_rng(0)


def f32(a):
    return jnp.asarray(a, jnp.float32)


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
    for wrong in ([0.5, 0.4, 0.2], [1.2, -0.2, 0.0]):
        with pytest.raises(ValueError, match="probabilities are not negative and sum to 1"):
            simplex.check(np.array([wrong], np.float32))
    for n in (40, 11):
        with pytest.raises(ValueError, match=r"sums 2\^\(n \+ 1\) reflections. Valid: n up to 10"):
            manifolds.simplex(n).wrapped_log_density(jnp.full(n + 1, 1 / (n + 1)), 1.0, jnp.full(n + 1, 1 / (n + 1)))
    jax.eval_shape(lambda p: manifolds.simplex(10).wrapped_log_density(p, 1.0, p), jnp.full(11, 1 / 11))
    with pytest.raises(ValueError, match="n = 0 must be positive"):
        manifolds.simplex(0)


@pytest.mark.extended
def test_uniform_draws_of_the_simplex_are_those_of_a_dirichlet_distribution():
    draws = np.asarray(jax.jit(lambda key: manifolds.simplex(2).uniform(key, (4000,)))(jax.random.key(0)), np.float64)
    np.testing.assert_allclose(draws.sum(-1), 1, atol=1e-5)
    moments = (draws.mean(0), (draws**2).mean(0))  # of Dirichlet(1/2, 1/2, 1/2): 1/3 and 1/5
    np.testing.assert_allclose(moments, [[1 / 3] * 3, [1 / 5] * 3], atol=0.025)


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


@pytest.mark.parametrize("n", [2, pytest.param(3, marks=pytest.mark.extended), 4, 5])
def test_the_heat_kernel_of_a_sphere_is_its_series(n):
    """On both sides of v = 1, up to the antipode wherever float64 holds the series."""
    theta = np.array([1e-4, 0.01, 0.5, 1.0, 1.7, 2.4, 2.8, 3.0, 3.1, np.pi - 1e-3])
    pairs = [(angle, v) for v in (0.2, 0.6, 1.0, 1.4, 4.0) for angle in (theta if v > 0.5 else theta[:6])]
    angles, variances = np.array(pairs).T
    found = jax.jit(spherical_heat.log_heat(n))(f32(angles), f32(variances))
    exact = np.concatenate([harmonics(n, angles[variances == v], v) for v in (0.2, 0.6, 1.0, 1.4, 4.0)])
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-4)


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


def test_on_a_sphere_a_geodesic_turns_its_direction_and_changes_volumes_by_its_sine():
    """Along the great circle from e_1 to cos(a) e_1 + sin(a) e_2 what is orthogonal to both stays as it is."""
    sphere = manifolds.sphere(3)
    angles = np.array([0.4, 1.3, 2.5])
    x, zero = np.eye(4)[[0, 0, 0]], np.zeros(3)
    y = np.stack([np.cos(angles), np.sin(angles), zero, zero], -1)
    v = np.array([0.0, 0.5, -2.0, 1.5])
    expected = np.stack([-np.sin(angles) * 0.5, np.cos(angles) * 0.5, zero - 2, zero + 1.5], -1)
    both = jax.jit(lambda x, y, v, w: (sphere.transport(x, y, v), sphere.log_volume_change(x, w)))
    carried, change = both(f32(x), f32(y), f32(np.broadcast_to(v, x.shape)), f32(angles[:, None] * np.eye(4)[2]))
    np.testing.assert_allclose(carried, expected, atol=1e-5)
    np.testing.assert_allclose(change, 2 * np.log(np.sin(angles) / angles), rtol=1e-4)
    turned = jax.jit(manifolds.so3().log_volume_change)(f32(np.eye(3)), f32([[0, -1.3, 0], [1.3, 0, 0], [0, 0, 0]]))
    np.testing.assert_allclose(turned, 2 * np.log(np.sin(0.65) / 0.65), rtol=1e-4)


def test_a_sphere_has_an_orthonormal_basis_at_points_of_either_sign():
    x = np.array([[-1.0, 0, 0], [1, 0, 0], [0, -1, 0], [0, 0.6, 0.8], [-0.6, 0, 0.8], [-0.8, -0.6, 0]])
    basis = np.asarray(jax.jit(manifolds.sphere(2).basis)(f32(x)), np.float64)
    np.testing.assert_allclose(basis @ basis.swapaxes(-1, -2), np.broadcast_to(np.eye(2), (6, 2, 2)), atol=1e-6)
    np.testing.assert_allclose(np.einsum("bij,bj->bi", basis, x), 0, atol=1e-6)


def test_a_change_of_coordinates_doubles_tangents_of_the_simplex_on_the_sphere_of_roots():
    """p = s^2 has dp = 2 s ds: exp, log, transport and the change of volumes are those of the great circles of s."""
    simplex = manifolds.simplex(2)
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    v = np.array([0.1, 0.05, -0.15])
    s, r = np.sqrt(p), np.sqrt(q)
    w = v / (2 * s)
    length, angle = np.linalg.norm(w), np.arccos(s @ r)
    along = (r - np.cos(angle) * s) / np.sin(angle)  # the direction from s to r
    turned = w + (w @ along) * ((np.cos(angle) - 1) * along - np.sin(angle) * s)
    compute = lambda p, q, v: (
        simplex.exp(p, v), simplex.transport(p, q, v), simplex.log_volume_change(p, v), simplex.log(p, q)
    )  # fmt: skip
    exp, carried, change, log = jax.jit(compute)(f32(p), f32(q), f32(v))
    np.testing.assert_allclose(exp, np.square(np.cos(length) * s + np.sin(length) * w / length), atol=1e-6)
    np.testing.assert_allclose(carried, 2 * r * turned, atol=1e-6)
    np.testing.assert_allclose(change, np.log(np.sin(length) / length), rtol=1e-4)
    np.testing.assert_allclose(log, 2 * s * angle * along, atol=1e-6)


def test_tangents_of_the_hyperboloid_come_from_its_origin():
    """The basis is orthonormal for Minkowski's product; `lift` combines it by all numbers but the first."""
    space = manifolds.lorentz(2)
    u = np.array([[0.0, 0.0], [0.5, -1.0], [-2.0, 0.3]])
    x = np.concatenate([np.sqrt(1 + (u**2).sum(-1, keepdims=True)), u], -1)
    w = np.array([7.0, 0.4, -1.2])
    minkowski = lambda a, b: -a[..., 0] * b[..., 0] + (a[..., 1:] * b[..., 1:]).sum(-1)
    basis, lifted = jax.jit(lambda x, w: (space.basis(x), space.lift(x, w)))(f32(x), f32(w))
    basis = np.asarray(basis, np.float64)
    gram = minkowski(basis[:, :, None], basis[:, None])
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(2), (3, 2, 2)), atol=1e-5)
    np.testing.assert_allclose(minkowski(basis, x[:, None]), 0, atol=1e-5)
    np.testing.assert_allclose(basis[0], np.eye(3)[1:], atol=1e-6)
    np.testing.assert_allclose(lifted, np.einsum("bij,i->bj", basis, w[1:]), atol=1e-5)


def test_a_point_of_the_ball_is_one_of_the_hyperboloid_and_its_tangents_are_all_vectors():
    """The distance r from the centre is 2 artanh |x|, and the point of the hyperboloid (cosh r, sinh r)."""
    x = np.array([[[0.5, 0.0], [0.0, -0.2]]])
    r = 2 * np.arctanh(np.array([0.5, 0.2]))
    expected = np.array([[[np.cosh(r[0]), np.sinh(r[0]), 0], [np.cosh(r[1]), 0, -np.sinh(r[1])]]])
    there = manifolds.poincare_to_lorentz(f32(x))
    np.testing.assert_allclose(there, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(manifolds.lorentz_to_poincare(there), x, rtol=1e-5, atol=1e-7)
    v = np.array([[[1.0, 2.0], [-3.0, 0.5]]])
    np.testing.assert_allclose(manifolds.poincare(2).tangent(f32(x), f32(v)), v)


def test_an_eigenvalue_that_is_too_small_becomes_a_millionth():
    space, c, s = manifolds.positive_definite(2), 0.6, 0.8
    q = np.array([[c, -s], [s, c]])
    project = jax.jit(space.project)
    np.testing.assert_allclose(project(f32(np.diag([-1.0, 2.0]))), np.diag([1e-6, 2.0]), rtol=1e-4)
    np.testing.assert_allclose(project(f32(q @ np.diag([0.5, 2.0]) @ q.T)), q @ np.diag([0.5, 2.0]) @ q.T, rtol=1e-5)
    np.testing.assert_allclose(project(f32([[1.0, 0.4], [0.0, 1.0]])), [[1.0, 0.2], [0.2, 1.0]], rtol=1e-5)


def test_points_may_be_off_by_a_ten_thousandth_and_a_message_shows_nine_coordinates():
    sphere, circle = manifolds.sphere(2), manifolds.circle()
    for space, point, off in ((sphere, np.array([0.0, 0.6, 0.8]), 1.0), (circle, np.array(np.pi), 1 / np.pi)):
        space.check(point * (1 + 0.99e-4 * off))
        with pytest.raises(ValueError, match=r"violates the condition by 0\.0001"):
            space.check(point * (1 + 1.01e-4 * off))
    for number, shown in ((9, r"nan\], violates"), (10, r"nan\]\.\.\., violates")):
        with pytest.raises(ValueError, match=shown) as error:
            manifolds.euclidean(number).check(np.full(number, np.nan))
        assert str(error.value).count("nan") == 9 + 1  # the size of the violation too


def test_centred_points_are_checked_in_any_batch():
    space = manifolds.centred(3)
    one = np.array([[1.0, 2.0, 0.0], [0.0, -1.0, 3.0], [-1.0, -1.0, -3.0]])
    space.check(one)
    many = np.broadcast_to(one, (2, 4, 3, 3)).copy()
    space.check(many)
    many[1, 2, 0, 0] += 0.01
    with pytest.raises(ValueError, match=r"point \[1, 2\].*the mean of the points is zero"):
        space.check(many)
    one[0, 0] += 3 * 0.99e-4 * 4  # relative to 1 + 3, the largest number
    space.check(one)
    one[0, 0] += 3 * 0.03e-4 * 4
    with pytest.raises(ValueError, match="the mean of the points is zero"):
        space.check(one)


def test_smooth_functions_are_their_closed_forms_on_both_sides_of_zero():
    """With their derivatives at zero in reverse mode, in which a closed form that is not used must be finite too."""
    s = np.array([-30.0, -1.0, -0.5, 0.5, 1.0, 30.0])
    r = np.sqrt(np.abs(s))
    choose = lambda above, below: np.where(s > 0, above, below)
    names = ("cosine", "sine_ratio", "versine_ratio", "tanh_ratio", "log_sinh_ratio", "arctan_ratio")
    functions = [getattr(smooth, name) for name in names]

    @jax.jit
    def values(s, above, narrow):
        at = (s, s, s, above, above, narrow)
        slopes = [jax.value_and_grad(f)(jnp.zeros(())) for f in functions]
        return [f(a) for f, a in zip(functions, at)], slopes

    above, narrow = r**2, np.array([-0.9, -0.06, 0.06, 0.07, 40.0])
    narrow_r = np.sqrt(np.abs(narrow))
    found, at_zero = values(f32(s), f32(above), f32(narrow))
    with np.errstate(invalid="ignore"):
        arctan = np.where(narrow > 0, np.arctan(narrow_r), np.arctanh(narrow_r)) / narrow_r
    expected = [
        choose(np.cos(r), np.cosh(r)),
        choose(np.sin(r), np.sinh(r)) / r,
        choose(1 - np.cos(r), np.cosh(r) - 1) / r**2,
        np.tanh(r) / r,
        np.log(np.sinh(r) / r),
        arctan,
    ]
    slopes = [(1, -1 / 2), (1, -1 / 6), (1 / 2, -1 / 24), (1, -1 / 3), (0, 1 / 6), (1, -1 / 3)]
    for name, value, exact, ours, zero in zip(names, found, expected, at_zero, slopes):
        np.testing.assert_allclose(value, exact, rtol=2e-6, atol=1e-7, err_msg=name)
        np.testing.assert_allclose(ours, zero, rtol=1e-6, atol=1e-7, err_msg=name)


def test_quaternions_of_rotations_are_scipys_for_each_largest_component():
    """Of a single rotation and of a batch of batches; the rotations of the quaternions are the same again."""
    rotations = Rotation.random(24, random_state=3)
    matrices, quaternions = rotations.as_matrix(), rotations.as_quat(canonical=True)[:, [3, 0, 1, 2]]
    assert set(np.abs(quaternions).argmax(-1)) == {0, 1, 2, 3}
    back = jax.jit(manifolds.to_quaternion)
    np.testing.assert_allclose(back(f32(matrices).reshape(4, 6, 3, 3)).reshape(24, 4), quaternions, atol=1e-6)
    np.testing.assert_allclose(back(f32(matrices[5])), quaternions[5], atol=1e-6)
    np.testing.assert_allclose(manifolds.from_quaternion(f32(3 * quaternions)), matrices, atol=1e-6)


def test_rotations_turn_by_tangents_in_their_own_frame():
    """exp(R, R hat(w)) is SciPy's R exp(w), and the tangent part of R A is R (A - A^T) / 2."""
    space, rng = manifolds.so3(), np.random.default_rng(4)
    rotations, w = Rotation.random(5, random_state=1), rng.normal(size=(5, 3))
    r, a = rotations.as_matrix(), rng.normal(size=(5, 3, 3))
    hat = np.cross(np.eye(3), -w[:, None], axis=-1).swapaxes(-1, -2)
    np.testing.assert_allclose(np.einsum("bij,j->bi", hat, np.arange(3)), np.cross(w, np.arange(3)), atol=1e-12)
    both = jax.jit(lambda x, v, a: (space.exp(x, v), space.tangent(x, a)))
    end, tangent = both(f32(r), f32(r @ hat), f32(r @ a))
    np.testing.assert_allclose(end, (rotations * Rotation.from_rotvec(w)).as_matrix(), atol=2e-6)
    np.testing.assert_allclose(tangent, r @ (a - a.swapaxes(-1, -2)) / 2, atol=2e-6)


def test_matrices_that_are_not_symmetric_and_positive_are_refused():
    space = manifolds.positive_definite(2)
    space.check(np.array([[2.0, 1.0], [1.0 + 0.9e-4, 1.0]]))
    good = np.eye(2)
    for wrong, violation in (
        ([[2.0, 1.0], [1.01, 1.0]], r"0\.01"),
        ([[1.0, 2.0], [2.0, 1.0]], "1"),
        ([[1.0, 1.0], [1.0, 1.0]], r"0\.001"),  # an eigenvalue of zero
        ([[1.0, np.nan], [np.nan, 1.0]], "nan"),
    ):
        with pytest.raises(
            ValueError, match=rf"point \[1\].*violates the condition by {violation}\. Valid: points are sym"
        ):
            space.check(np.stack([good, np.array(wrong), good]))
