"""Maps of manifolds: Hammer's projection keeps areas and is inverted; which manifolds have a picture."""

import math

import numpy as np

from diffusion import manifolds
from diffusion.experiments.evaluation import manifold_charts


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
