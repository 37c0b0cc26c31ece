"""What the pictures of manifolds show: points in degrees or on a map, a density of the right place behind them."""

import numpy as np
import pytest

from diffusion import manifolds
from diffusion.experiments.evaluation import manifold_charts, plots
from tests.experiments.evaluation import charts


@pytest.fixture
def drawn(monkeypatch):
    return charts.kept(monkeypatch, manifold_charts)


def offsets(axes):
    return np.asarray(axes.collections[0].get_offsets())


def test_angles_are_in_degrees_over_their_density(drawn):
    """A density that is 4 where the first angle is positive, 1 elsewhere; its root is shown."""
    density = lambda x: np.where(np.asarray(x)[..., 0] > 0, np.log(4.0), 0.0)
    points = np.array([[0.5, -1.0], [np.pi / 2, 3.0]])
    assert manifold_charts.draw(manifolds.torus(2), points, "unused.png", density)
    (axes,) = drawn[0].axes
    np.testing.assert_allclose(offsets(axes), np.degrees(points))
    (image,) = axes.get_images()
    shown = np.asarray(image.get_array())
    assert shown.shape == (120, 120) and tuple(image.get_extent()) == (-180, 180, -180, 180)
    np.testing.assert_allclose(shown[:, 60:], 2)
    np.testing.assert_allclose(shown[:, :60], 1)
    assert image.origin == "lower" and axes.get_xlim() == axes.get_ylim() == (-180, 180)
    assert axes.get_xticks().tolist() == axes.get_yticks().tolist() == [-180, -90, 0, 90, 180]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_aspect()) == ("first angle", "second angle", 1.0)


def test_the_sphere_is_a_map_with_north_above(drawn):
    """Hammer's map: the axis x in the middle, z above, y to the right; behind them exp(2 z)."""
    points = np.array([[1.0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, -1]])
    manifold_charts.draw(manifolds.sphere(2), points, "unused.png", lambda x: 2 * np.asarray(x)[..., 2])
    (axes,) = drawn[0].axes
    right = 2 * np.sin(np.pi / 4) / np.sqrt(1 + np.cos(np.pi / 4))
    np.testing.assert_allclose(offsets(axes), [[0, 0], [0, 1], [right, 0], [0, -1]], atol=1e-9)
    (image,) = axes.get_images()
    shown = np.ma.masked_invalid(np.asarray(image.get_array(), float))
    assert shown.shape == (120, 240) and tuple(image.get_extent()) == (-2, 2, -1, 1) and image.origin == "lower"
    outside = np.ma.getmaskarray(shown)
    assert outside[0, 0] and outside[-1, -1] and not outside[60, 1:-1].any()
    assert 1 - outside.mean() == pytest.approx(
        np.pi / 4, abs=0.015
    )  # an ellipse in its rectangle, with the rectangle's edges
    middle = shown[:, 120]
    np.testing.assert_allclose(middle[[1, -2]], np.exp([-1, 1]), rtol=0.05)  # the root of exp(-2) and exp(2)
    assert (np.diff(middle) >= -1e-6).all()
    (line,) = axes.get_lines()
    np.testing.assert_allclose((line.get_xdata() / 2) ** 2 + line.get_ydata() ** 2, 1)
    assert len(line.get_xdata()) == 200 and line.get_xdata()[0] == pytest.approx(line.get_xdata()[-1])
    assert line.get_color() == plots.INK and not axes.axison and axes.get_aspect() == 1.0


def test_rotations_are_where_they_take_the_axis_z(drawn):
    """About z by an angle: z stays in the north, and the colour is the angle."""
    turn = lambda a: np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tip = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # about x by a quarter: z becomes -y
    angles = [-2.0, 0.5, 3.0]
    manifold_charts.draw(manifolds.so3(), np.stack([*map(turn, angles), tip]), "unused.png")
    (axes,) = drawn[0].axes
    right = 2 * np.sin(np.pi / 4) / np.sqrt(1 + np.cos(np.pi / 4))
    np.testing.assert_allclose(offsets(axes), [[0, 1]] * 3 + [[-right, 0]], atol=1e-7)
    np.testing.assert_allclose(axes.collections[0].get_array(), [*angles, 0])
    assert axes.collections[0].get_clim() == (-np.pi, np.pi) and not axes.get_images()


def test_points_beyond_the_most_are_left_out_and_other_spaces_have_no_picture(drawn, monkeypatch):
    monkeypatch.setattr(manifold_charts, "MOST", 3)
    manifold_charts.draw(manifolds.torus(2), np.zeros((5, 2)), "unused.png")
    assert len(offsets(drawn[0].axes[0])) == 3 and not drawn[0].axes[0].get_images()
    for space, shape in ((manifolds.euclidean(2), (2,)), (manifolds.torus(3), (3,)), (manifolds.sphere(3), (4,))):
        assert not manifold_charts.draw(space, np.zeros((1, *shape)), "unused.png")
    assert len(drawn) == 1


def test_points_outside_of_the_map_are_none():
    x, y = np.array([0.0, 2.0, 2.1, 0.0, 0.0]), np.array([0.0, 0.0, 0.0, 1.0, 1.01])
    points = manifold_charts._on_map(x, y)
    assert np.isnan(points).any(-1).tolist() == [False, False, True, False, True]
    np.testing.assert_allclose(points[0], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(points[1], [-1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(points[3], [0, 0, 1], atol=1e-6)
