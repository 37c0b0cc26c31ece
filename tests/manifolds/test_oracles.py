"""Closed forms and scipy's rotations, in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm, logm, sqrtm
from scipy.spatial.transform import Rotation

from diffusion import manifolds

ANGLES = [0.0, 1e-9, 1e-5, 1e-2, 0.3, 1.0, 2.0, 3.0, math.pi - 1e-3, math.pi - 1e-6]


@pytest.fixture(autouse=True)
def in_float64(x64):
    """Every test of this file."""


def unit(rng, *shape):
    v = rng.normal(size=shape)
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


@pytest.mark.extended
def test_rotations_are_scipys():
    """exp, log and distance from random rotations, with angles from 0 to almost pi; quaternions up to their sign."""
    so3 = manifolds.so3()
    rng = np.random.default_rng(0)
    vectors = np.concatenate([angle * unit(rng, 20, 3) for angle in ANGLES])
    start = Rotation.random(len(vectors), random_state=1)
    turn = Rotation.from_rotvec(vectors)
    end = start * turn
    x, y = jnp.asarray(start.as_matrix()), jnp.asarray(end.as_matrix())

    @jax.jit
    def ours(x, y, vectors):
        turns = manifolds.from_rotation_vector(vectors)
        moved = so3.exp(x, x @ (turns - jnp.swapaxes(turns, -1, -2)) / 2)  # sin(angle) hat(axis)
        back = jnp.swapaxes(x, -1, -2) @ so3.log(x, y)
        quaternions = manifolds.to_quaternion(turns)
        crossed = jnp.einsum("nij,nj->ni", manifolds.hat(vectors), y[:, 0])
        return turns, manifolds.to_rotation_vector(turns), quaternions, so3.distance(x, y), back, moved, crossed

    turns, vectors_back, quaternions, distances, logs, moved, crossed = ours(x, y, vectors)
    np.testing.assert_allclose(crossed, np.cross(vectors, y[:, 0]), atol=1e-14)
    np.testing.assert_allclose(turns, turn.as_matrix(), atol=1e-14)
    np.testing.assert_allclose(vectors_back, vectors, atol=1e-9)
    theirs = turn.as_quat(canonical=True)[:, [3, 0, 1, 2]]
    np.testing.assert_allclose(quaternions, theirs, atol=1e-14)
    np.testing.assert_allclose(distances, (start.inv() * end).magnitude(), atol=1e-12)
    np.testing.assert_allclose(logs[:, [2, 0, 1], [1, 2, 0]], vectors, atol=1e-9)
    size = np.linalg.norm(vectors, axis=-1, keepdims=True)
    sines = vectors * np.sinc(size / np.pi)
    np.testing.assert_allclose(moved, (start * Rotation.from_rotvec(sines)).as_matrix(), atol=1e-14)


def test_a_rotation_by_pi_has_the_axis_whose_largest_component_is_positive():
    axes = unit(np.random.default_rng(0), 50, 3)
    vectors = manifolds.to_rotation_vector(2 * axes[:, :, None] * axes[:, None, :] - np.eye(3))
    largest = np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1)
    np.testing.assert_allclose(vectors, np.pi * axes * np.sign(largest), atol=1e-7)


def test_the_sphere_is_the_great_circle():
    """exp by the circle itself, log and the distance by its angle, from 0 to almost pi."""
    sphere = manifolds.sphere(3)
    rng = np.random.default_rng(0)
    x = unit(rng, len(ANGLES), 4)
    v = rng.normal(size=x.shape)
    v = v - (v * x).sum(1, keepdims=True) * x
    v = v / np.linalg.norm(v, axis=1, keepdims=True)
    angle = np.array(ANGLES)[:, None]
    y = np.cos(angle) * x + np.sin(angle) * v
    ours = jax.jit(lambda x, y, v: (sphere.exp(x, v), sphere.distance(x, y), sphere.log(x, y)))
    exp, distance, log = ours(x, y, angle * v)
    np.testing.assert_allclose(exp, y, atol=1e-15)
    np.testing.assert_allclose(distance, ANGLES, atol=1e-15, rtol=1e-13)
    np.testing.assert_allclose(log, angle * v, atol=2e-9)
    assert manifolds.sphere(2).volume == pytest.approx(4 * math.pi)
    assert sphere.volume == pytest.approx(2 * math.pi**2)


def test_the_logarithm_of_the_ball_points_to_its_point():
    """From the origin it is artanh |y| y / |y|; from (1/2, 0) to -(1/2, 0), by Moebius subtraction, to 4/5 from 0."""
    ball, y = manifolds.poincare(2), jnp.array([0.3, -0.4])
    np.testing.assert_allclose(ball.log(jnp.zeros(2), y), np.arctanh(0.5) * y / 0.5, rtol=1e-5)
    x = jnp.array([0.5, 0.0])
    np.testing.assert_allclose(ball.log(x, -x), [-np.arctanh(0.8) * (1 - 0.25), 0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(ball.exp(x, ball.log(x, y)), y, rtol=1e-5)


@pytest.mark.extended
def test_the_two_models_of_hyperbolic_space_are_isometric():
    ball, sheet = manifolds.poincare(3), manifolds.lorentz(3)
    there = manifolds.poincare_to_lorentz
    mean = np.array([0.1, 0.2, -0.3])
    normal = manifolds.wrapped_normal(ball, mean, 0.7)
    sheet_normal = manifolds.wrapped_normal(sheet, np.asarray(there(mean)), 0.7)

    @jax.jit
    def both(keys):
        """The points, and pairs that are equal."""
        x, y = (manifolds.wrapped_normal(ball, np.zeros(3), 1.0).sample(jax.random.split(key, 50)) for key in keys[:2])
        push = lambda x, v: jax.jvp(there, (x,), (v,))[1]
        v, u = ball.log(x, y), ball.tangent_normal(keys[2], x)
        return (x, y), {
            "there and back": (manifolds.lorentz_to_poincare(there(x)), x),
            "distance": (ball.distance(x, y), sheet.distance(there(x), there(y))),
            "log": (push(x, v), sheet.log(there(x), there(y))),
            "exp": (there(ball.exp(x, v / 3)), sheet.exp(there(x), push(x, v / 3))),
            "transport": (push(y, ball.transport(x, y, u)), sheet.transport(there(x), there(y), push(x, u))),
            "density": (normal.log_density(x), sheet_normal.log_density(there(x))),
        }

    (x, y), pairs = both(jax.random.split(jax.random.key(0), 3))
    for what, (in_ball, on_sheet) in pairs.items():
        np.testing.assert_allclose(in_ball, on_sheet, rtol=1e-8, atol=1e-8, err_msg=what)
    # arcosh(1 + 2 |x - y|^2 / ((1 - |x|^2) (1 - |y|^2))), Nickel and Kiela 2017, eq. 1
    squares = [np.sum(np.square(a), 1) for a in (x, y, x - y)]
    exact = np.arccosh(1 + 2 * squares[2] / ((1 - squares[0]) * (1 - squares[1])))
    np.testing.assert_allclose(pairs["distance"][0], exact, rtol=1e-9)


def test_the_simplex_has_the_distance_of_bhattacharyya():
    simplex = manifolds.simplex(3)
    p, q = np.random.default_rng(0).dirichlet(np.ones(4), (2, 30))
    corners = np.broadcast_to(np.eye(4)[0], p.shape)
    distance, reach = jax.jit(simplex.distance), jax.jit(lambda p, q: simplex.exp(p, simplex.log(p, q)))
    np.testing.assert_allclose(distance(p, q), 2 * np.arccos(np.sqrt(p * q).sum(1)), atol=1e-12)
    np.testing.assert_allclose(reach(p, corners), corners, atol=1e-13)
    np.testing.assert_allclose(distance(np.roll(corners, 1, axis=1), corners), math.pi, atol=1e-12)


def test_positive_definite_matrices_are_those_of_the_matrix_functions():
    """By P^(1/2) and scipy's functions of general matrices, one matrix at a time."""
    spd = manifolds.positive_definite(3)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 6, 3, 5))
    x, y = (each @ np.swapaxes(each, -1, -2) for each in (a, b))
    x[0], y[0], y[1] = np.eye(3), 2 * np.eye(3), x[1]  # all eigenvalues equal
    ours = jax.jit(lambda x, y: (spd.log(x, y), spd.distance(x, y), spd.exp(x, spd.log(x, y) / 2)))
    for p, q, log, distance, half in zip(x, y, *ours(x, y)):
        root = sqrtm(p)
        inverse = np.linalg.inv(root)
        between = logm(inverse @ q @ inverse)
        np.testing.assert_allclose(log, root @ between @ root, atol=1e-9)
        np.testing.assert_allclose(distance, np.linalg.norm(between), atol=1e-9)
        np.testing.assert_allclose(half, root @ expm(between / 2) @ root, atol=1e-9)
    m = rng.normal(size=(3, 3))
    moved = lambda p: m @ p @ m.T
    (log, distance, _), (log_there, distance_there, _) = ours(x, y), ours(moved(x), moved(y))
    np.testing.assert_allclose(distance_there, distance, atol=1e-9)
    np.testing.assert_allclose(log_there, moved(log), atol=1e-8)


@pytest.mark.parametrize(
    "name, derivative", [("exp", math.e), ("log", 1.0), ("square_root", 0.5)], ids=["exp", "log", "square_root"]
)
def test_derivatives_of_matrix_functions_where_eigenvalues_coincide(name, derivative):
    """At the identity df(1)[E] = f'(1) E; near it the derivative goes on without a jump."""
    function = getattr(manifolds.symmetric_functions, name)
    e = jnp.asarray([[1.0, 2.0], [2.0, -1.0]])
    along = jax.jit(lambda a: jax.jvp(function, (a,), (e,))[1])
    np.testing.assert_allclose(along(jnp.eye(2)), derivative * e, rtol=1e-12)
    np.testing.assert_allclose(along(jnp.diag(jnp.asarray([1.0, 1 + 1e-6]))), derivative * e, rtol=1e-5)
    assert np.isfinite(jax.jit(jax.grad(lambda a: function(a).sum()))(jnp.eye(2))).all()


def test_the_derivative_of_the_logarithm_is_the_divided_difference_at_any_ratio_of_eigenvalues():
    """Beside the diagonal of diag(a, b): (log a - log b) / (a - b), in float64 and in float32."""
    e = np.array([[0.0, 1.0], [1.0, 0.0]])
    along = jax.jit(lambda a, e: jax.jvp(manifolds.symmetric_functions.log, (a,), (e,))[1])
    for dtype, tolerance in ((jnp.float64, 1e-13), (jnp.float32, 1e-6)):
        for ratio in (1.1, 1.6, 1.7, 1e3, 1e7, 1e12):
            found = along(np.diag([1.0, ratio]).astype(dtype), e.astype(dtype))[0, 1]
            assert float(found) == pytest.approx(math.log(ratio) / (ratio - 1), rel=tolerance / min(ratio - 1, 1))


def test_hyperbolic_space_far_from_its_origin():
    """exp leads to the edge of the ball in float32, and volumes grow as (sinh(r) / r)^(n - 1) at any length."""
    with jax.enable_x64(False):
        ball = manifolds.poincare(2)
        zero, v = jnp.zeros(2, jnp.float32), jnp.asarray([100.0, 0.0], jnp.float32)
        far = jax.jit(ball.exp)(zero, v)
        ball.check(far)
        np.testing.assert_allclose(far, [1, 0], atol=3e-6)
        assert np.isfinite(jax.jit(jax.jacfwd(lambda v: ball.exp(zero, v)))(v)).all()
        for m, x, w in ((ball, zero, v), (manifolds.lorentz(2), jnp.eye(3)[0], 200 * jnp.eye(3)[1])):
            assert float(jax.jit(m.log_volume_change)(x, w)) == pytest.approx(200 - math.log(400), rel=1e-6)


@pytest.mark.extended
def test_a_geodesic_of_se3_turns_and_moves_independently():
    se3 = manifolds.se3()
    turn = Rotation.from_rotvec([0, 0, 1.2])
    start, end = (np.eye(3), np.zeros(3)), (turn.as_matrix(), np.array([1.0, 2.0, 3.0]))
    rotation, translation = manifolds.geodesic(se3, start, end, 0.25)
    np.testing.assert_allclose(rotation, Rotation.from_rotvec([0, 0, 0.3]).as_matrix(), atol=1e-14)
    np.testing.assert_allclose(translation, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(se3.distance(start, end), math.sqrt(1.2**2 + 14), rtol=1e-14)


@pytest.mark.extended
def test_smooth_functions_are_their_closed_forms():
    s = np.array([-30.0, -1.0, -0.9, 0.9, 1.0, 30.0])
    r = np.sqrt(np.abs(s))
    choose = lambda above, below: np.where(s > 0, above, below)
    np.testing.assert_allclose(jax.jit(manifolds.smooth.cosine)(s), choose(np.cos(r), np.cosh(r)), rtol=1e-13)
    np.testing.assert_allclose(jax.jit(manifolds.smooth.sine_ratio)(s), choose(np.sin(r), np.sinh(r)) / r, rtol=1e-13)
    np.testing.assert_allclose(
        jax.jit(manifolds.smooth.versine_ratio)(s), choose(1 - np.cos(r), np.cosh(r) - 1) / r**2, rtol=1e-12
    )
    s = np.array([0.01, 0.9, 1.0, 30.0])
    r = np.sqrt(s)
    np.testing.assert_allclose(jax.jit(manifolds.smooth.tanh_ratio)(s), np.tanh(r) / r, rtol=1e-13)
    np.testing.assert_allclose(jax.jit(manifolds.smooth.log_sinh_ratio)(s), np.log(np.sinh(r) / r), rtol=1e-9)
    assert jax.jit(jax.grad(manifolds.smooth.tanh_ratio))(0.0) == pytest.approx(-1 / 3)
    assert jax.jit(jax.grad(manifolds.smooth.log_sinh_ratio))(0.0) == pytest.approx(1 / 6)
    s = np.array([-0.9, -0.06, 0.06, 0.07, 40.0])
    r = np.sqrt(np.abs(s))
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(
            jax.jit(manifolds.smooth.arctan_ratio)(s), np.where(s > 0, np.arctan(r), np.arctanh(r)) / r, rtol=1e-13
        )
    assert jax.jit(jax.grad(manifolds.smooth.arctan_ratio))(0.0) == pytest.approx(-1 / 3)
    assert jax.jit(jax.grad(jax.grad(manifolds.smooth.sine_ratio)))(0.0) == pytest.approx(2 / 120)


def test_the_derivative_of_eigenvalues_is_that_of_their_power_sums():
    """sum_i l_i^(k - 1) dl_i = tr(A^(k - 1) E) for k = 1, 2, 3, which say all three of each matrix of a batch."""
    rng = np.random.default_rng(11)
    a, e = rng.standard_normal((2, 5, 3, 3))
    a, e = a + a.swapaxes(-1, -2), e + e.swapaxes(-1, -2)
    with jax.enable_x64(True):
        values, slopes = jax.jvp(manifolds.symmetric_functions.eigenvalues, (jnp.asarray(a),), (jnp.asarray(e),))
    values, slopes = np.asarray(values), np.asarray(slopes)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(a), atol=1e-12)
    for k in range(3):
        sums = np.einsum("bij,bji->b", np.linalg.matrix_power(a, k), e)
        np.testing.assert_allclose(np.sum(values**k * slopes, -1), sums, rtol=1e-10, atol=1e-10)
