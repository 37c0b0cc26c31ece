"""Maps of manifolds: Hammer's projection keeps areas and is inverted; which manifolds have a picture."""

import math

import numpy as np
import pytest

from diffusion import manifolds
from diffusion.experiments.evaluation import manifold_charts
from tests.experiments.evaluation import charts


def test_hammers_map_is_inverted_and_keeps_areas():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(20_000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    x, y = manifold_charts._hammer(points)
    np.testing.assert_allclose(manifold_charts._on_map(x, y), points, atol=1e-6)
    # Uniform points are uniform on the ellipse: a quarter of its area holds a quarter of them.
    inner = np.mean(x**2 / 4 + y**2 < 0.25)
    assert abs(inner - 0.25) < 4 * math.sqrt(0.25 * 0.75 / len(points))


def test_pictures_are_written_of_spheres_tori_and_rotations(tmp_path):
    flat = lambda x: np.zeros(np.shape(x)[:-1])
    sphere, torus, rotations = manifolds.sphere(2), manifolds.torus(2), manifolds.so3()
    points = np.eye(3)
    assert manifold_charts.draw(sphere, points, tmp_path / "sphere.png", flat)
    assert manifold_charts.draw(torus, points[:, :2], tmp_path / "torus.png", flat)
    assert manifold_charts.draw(rotations, points[None], tmp_path / "so3.png")
    assert not manifold_charts.draw(manifolds.euclidean(3), points, tmp_path / "flat.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["so3.png", "sphere.png", "torus.png"]


def test_poles_that_are_rounded_up_are_on_the_map():
    x, y = manifold_charts._hammer(np.array([[0.0, 0.0, 1 + 1e-7], [0.0, 0.0, -1 - 1e-7]]))
    np.testing.assert_allclose(x, 0, atol=1e-7)
    np.testing.assert_allclose(y, [1, -1], atol=1e-7)


def hammer(longitude, latitude):
    """Hammer (1892), in radians, with half of his width and height 2: the ellipse reaches to (2, 0) and (0, 1)."""
    size = np.sqrt(1 + np.cos(latitude) * np.cos(longitude / 2))
    return 2 * np.cos(latitude) * np.sin(longitude / 2) / size, np.sin(latitude) / size


@pytest.fixture
def drawn(monkeypatch):
    return charts.kept(monkeypatch, manifold_charts)


def test_points_and_density_of_a_sphere_lie_at_their_longitudes_and_latitudes(drawn):
    rng = np.random.default_rng(0)
    longitude, latitude = rng.uniform(-3, 3, 3001), rng.uniform(-1.4, 1.4, 3001)
    points = np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], -1
    )
    log_density = lambda x: x @ np.array([0.5, 1.0, -1.5])
    assert manifold_charts.draw(manifolds.sphere(2), points, "unused.png", log_density)
    (axes,) = drawn[0].axes
    offsets = np.asarray(axes.collections[0].get_offsets())
    expected = np.stack(hammer(longitude, latitude), -1)
    np.testing.assert_allclose(offsets, expected[:3000], atol=1e-9)
    (image,) = axes.images
    assert tuple(image.get_extent()) == (-2, 2, -1, 1) and image.origin == "lower"
    shown = np.ma.filled(image.get_array(), np.nan)
    assert shown.shape == (120, 240)
    column, row = np.round((offsets + (2, 1)) * (239 / 4, 119 / 2)).astype(int).T
    density = np.exp(log_density(points[:3000]))
    np.testing.assert_allclose(shown[row, column], np.sqrt(density), rtol=0.03)  # half a pixel away at most
    assert np.isnan(shown[0, 0]) and np.isnan(shown).mean() == pytest.approx(1 - math.pi / 4, abs=0.02)
    outline = axes.lines[0].get_xydata()
    np.testing.assert_allclose(outline[:, 0] ** 2 / 4 + outline[:, 1] ** 2, 1)


def test_points_and_density_of_a_torus_are_in_degrees(drawn):
    log_density = lambda x: x[..., 0] + 0.25 * x[..., 1]
    points = np.array([[math.pi / 2, 0.0], [-math.pi / 4, math.pi / 3]])
    assert manifold_charts.draw(manifolds.torus(2), points, "unused.png", log_density)
    (axes,) = drawn[0].axes
    np.testing.assert_allclose(axes.collections[0].get_offsets(), [[90, 0], [-45, 60]])
    (image,) = axes.images
    assert tuple(image.get_extent()) == (-180, 180, -180, 180) and image.origin == "lower"
    line = np.linspace(-math.pi, math.pi, 120)
    expected = np.exp((line[None, :] + 0.25 * line[:, None]) / 2)  # the first angle along a row
    np.testing.assert_allclose(image.get_array(), expected, rtol=1e-5)


def test_a_rotation_is_where_it_takes_the_axis_z_and_its_colour_is_the_angle_of_x(drawn):
    turned = lambda a: np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    z_to_x = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    z_to_y = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    assert manifold_charts.draw(manifolds.so3(), np.stack([turned(0.3), turned(-2.0), z_to_x, z_to_y]), "unused.png")
    points = drawn[0].axes[0].collections[0]
    expected = [[0, 1], [0, 1], [0, 0], np.ravel(hammer(math.pi / 2, 0))]
    np.testing.assert_allclose(points.get_offsets(), expected, atol=1e-9)
    np.testing.assert_allclose(points.get_array()[[0, 1, 3]], [0.3, -2.0, 0], atol=1e-9)
    assert points.get_clim() == (-math.pi, math.pi)


@pytest.mark.parametrize("manifold", [manifolds.euclidean(2), manifolds.torus(3), manifolds.sphere(3)])
def test_other_manifolds_have_no_picture(drawn, manifold):
    assert not manifold_charts.draw(manifold, np.zeros((2, *manifold.shape)), "unused.png") and not drawn


@pytest.mark.parametrize(
    "manifold, point",
    [
        (manifolds.simplex(2), [0.2, 0.3, 0.5]),
        (manifolds.lorentz(2), [math.sqrt(2), 1.0, 0.0]),
        (manifolds.positive_definite(3), np.diag([1.0, 2.0, 3.0])),
        (manifolds.sphere(1), [0.6, 0.8]),
    ],
)
def test_points_of_the_same_shape_are_no_sphere_torus_or_rotation(drawn, manifold, point):
    """They were drawn on the map of the sphere, as angles, or as rotations."""
    assert not manifold_charts.draw(manifold, np.stack([point] * 2), "unused.png") and not drawn
