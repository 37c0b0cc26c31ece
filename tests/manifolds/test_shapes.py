"""The shapes of every manifold's functions, without computing them, and the spaces of one dimension."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import manifolds
from diffusion.manifolds import geodesic_solvers
from diffusion.manifolds.manifold import leaf_shapes
from tests.manifolds.manifold_cases import CASES

BATCHES = ((), (2,), (2, 3))


def shapes(function, *arguments):
    return [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(function, *arguments))]


SHORT = ("euclidean(3)", "circle", "sphere(2)", "so3", "lorentz(2)", "frames(2)")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in SHORT else pytest.mark.extended) for n in CASES])
def test_functions_broadcast_over_the_batches_of_their_arguments(name):
    """Also over that of an argument on which they do not depend, such as the point of a flat space."""
    case = CASES[name]
    manifold = case.make()
    axes = leaf_shapes(manifold.shape)
    place = lambda batch: jax.tree.map(lambda a: jax.ShapeDtypeStruct((*batch, *np.shape(a)), np.float32), case.origin)
    rows, columns = place((2, 1)), place((3,))
    points = [(2, 3, *shape) for shape in axes]
    for one, other in ((rows, columns), (columns, rows)):
        for field in ("exp", "log", "tangent", "lift"):
            assert shapes(getattr(manifold, field), one, other) == points, field
        for field in ("distance", "log_volume_change", "cut_distance"):
            assert shapes(getattr(manifold, field), one, other) == [(2, 3)], field
        for three in ((one, other, other), (one, other, one), (one, one, other)):
            assert shapes(manifold.transport, *three) == points
            assert shapes(manifold.inner, *three) == [(2, 3)]
        assert shapes(lambda mean, x: manifold.wrapped_log_density(mean, 0.5, x), one, other) == [(2, 3)]


@pytest.mark.extended
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", CASES)
def test_functions_keep_the_batch_of_their_points(name, batch):
    case = CASES[name]
    manifold = case.make()
    axes = leaf_shapes(manifold.shape)
    assert axes == [np.shape(leaf) for leaf in jax.tree.leaves(case.origin)]
    x = jax.tree.map(lambda a: jax.ShapeDtypeStruct((*batch, *np.shape(a)), np.float32), case.origin)
    key = jax.eval_shape(jax.random.key, 0)
    points = [batch + shape for shape in axes]
    for field in ("exp", "log", "tangent", "lift"):
        assert shapes(getattr(manifold, field), x, x) == points, field
    assert shapes(manifold.transport, x, x, x) == shapes(manifold.project, x) == points
    assert shapes(manifold.tangent_normal, key, x) == points
    for field in ("distance", "log_volume_change", "cut_distance"):
        assert shapes(getattr(manifold, field), x, x) == [batch], field
    assert shapes(manifold.inner, x, x, x) == [batch]
    assert shapes(lambda mean, x: manifold.wrapped_log_density(mean, 0.5, x), x, x) == [batch]
    assert shapes(manifold.basis, x) == [(*batch, manifold.dimension, *shape) for shape in axes]
    if manifold.uniform is not None:
        assert shapes(functools.partial(manifold.uniform, shape=batch), key) == points


def test_spaces_of_one_dimension_are_a_line_or_a_circle():
    """The line in each of its coordinates, and the angle between two points of the circle and of an eighth of it."""
    x, y = np.float32([[0.2]]), np.float32([[0.7]])
    line = {
        "euclidean": (manifolds.euclidean(1), x, y),
        "positive_definite": (manifolds.positive_definite(1), np.exp(x)[..., None], np.exp(y)[..., None]),
        "poincare": (manifolds.poincare(1), np.tanh(x / 2), np.tanh(y / 2)),
        "lorentz": (manifolds.lorentz(1), *(np.concatenate([np.cosh(a), np.sinh(a)], -1) for a in (x, y))),
    }
    circle = {
        "torus": (manifolds.torus(1), x, y),
        "sphere": (manifolds.sphere(1), *(np.concatenate([np.cos(a), np.sin(a)], -1) for a in (x, y))),
        "simplex": (
            manifolds.simplex(1),
            *(np.concatenate([np.cos(a / 2) ** 2, np.sin(a / 2) ** 2], -1) for a in (x, y)),
        ),
    }
    for name, (manifold, start, end) in (line | circle).items():
        assert manifold.dimension == 1, name
        np.testing.assert_allclose(manifold.distance(start, end), [0.5], rtol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    "name", ["euclidean", "torus", "sphere", "positive_definite", "simplex", "poincare", "lorentz"]
)
def test_spaces_of_no_dimension_are_refused(name):
    with pytest.raises(ValueError, match=r"must (be|have)"):
        getattr(manifolds, name)(0)


def test_volumes_change_by_every_pair_of_eigenvalues():
    """exp on positive definite matrices: prod over i < j of sinh(h) / h, h = (a_i - a_j) / 2 (Pennec 2020)."""
    values = np.array([0.3, -0.8, 1.4])
    halves = np.array([values[i] - values[j] for i, j in ((0, 1), (0, 2), (1, 2))]) / 2
    eye = jnp.eye(3)
    change = manifolds.positive_definite(3).log_volume_change(eye, jnp.diag(jnp.asarray(values, jnp.float32)))
    assert float(change) == pytest.approx(np.log(np.sinh(halves) / halves).sum(), rel=1e-5)


def test_a_scale_for_each_direction_is_positive_in_all():
    with pytest.raises(ValueError, match="must be positive"):
        manifolds.wrapped_normal(manifolds.euclidean(2), jnp.zeros(2), np.array([1.0, -1.0]))


def test_a_step_of_a_solver_evaluates_the_field_at_the_times_of_its_stages():
    """dx/dt = t^3 on the circle: Simpson's rule, to which the classical method then comes down, is exact."""
    walk = lambda stages, weights: geodesic_solvers.carried(
        manifolds.circle(), lambda x, t: (jnp.full_like(x, t**3), ()), jnp.zeros(1), 0.5, 1.5, stages, weights
    )[0]
    rk4 = geodesic_solvers.RK4
    np.testing.assert_allclose(walk(*rk4), [(1.5**4 - 0.5**4) / 4], rtol=1e-6)


def test_points_of_the_ball_and_of_the_hyperboloid_have_a_distance_each():
    """log of (1 + |x|) / (1 - |x|) from the middle of the ball."""
    x = np.float32([[[0.5, 0.0], [0.0, -0.2]]])
    found = manifolds.poincare(2).distance(np.zeros_like(x), x)
    np.testing.assert_allclose(found, np.log([[1.5 / 0.5, 1.2 / 0.8]]), rtol=1e-5)


def test_noise_that_is_aligned_takes_no_part_of_its_condition():
    assert manifolds.aligned_frames().condition == "ignored"
