"""Pictures of points on manifolds: the whole sphere on a map, the square of two angles, rotations as axes."""

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from diffusion.experiments.evaluation.plots import BLUE, INK, blank, save, style
from diffusion.manifolds import Manifold

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PIXELS = (120, 240)  # pixels of the density behind the points
MOST = 3000  # points that are drawn


def draw(manifold: Manifold, points: np.ndarray, path: str | os.PathLike, log_density: Callable | None = None) -> bool:
    """Draws points of S^2, of a torus of two angles, or of SO(3), over a density where one is known.

    Args:
        manifold: the manifold of the points.
        points: the points, `[N, *shape]`.
        path: the PNG to write.
        log_density: log-density on S^2 or the torus, drawn behind the points; or None.

    Returns:
        Whether the manifold has such a picture; else none is written.
    """
    points = np.asarray(points, np.float64)[:MOST]
    if manifold.shape == (3,) and manifold.dimension == 2 and np.allclose((points**2).sum(-1), 1, atol=1e-3):
        _sphere(points, path, log_density)
    elif manifold.shape == (2,) and manifold.dimension == 2 and manifold.volume < math.inf:
        _angles(points, path, log_density)
    elif manifold.shape == (3, 3) and manifold.dimension == 3 and _are_rotations(points):
        _rotations(points, path)
    else:
        return False
    return True


def _are_rotations(points: np.ndarray) -> bool:
    squares = points @ points.swapaxes(-1, -2)
    return np.allclose(squares, np.eye(3), atol=1e-3) and bool((np.linalg.det(points) > 0).all())


def _hammer(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hammer's equal-area map of the sphere onto an ellipse: (x in [-2, 2], y in [-1, 1]); the axis z is north."""
    latitude = np.arcsin(np.clip(points[..., 2], -1, 1))
    longitude = np.arctan2(points[..., 1], points[..., 0])
    size = np.sqrt(1 + np.cos(latitude) * np.cos(longitude / 2))
    return 2 * np.cos(latitude) * np.sin(longitude / 2) / size, np.sin(latitude) / size


def _on_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The unit vectors of points of Hammer's map, the inverse of `_hammer`; NaN outside of the ellipse."""
    inside = x**2 / 4 + y**2 <= 1
    z = np.sqrt(np.where(inside, 1 - x**2 / 8 - y**2 / 2, np.nan))
    longitude = 2 * np.arctan2(z * x / math.sqrt(2), 2 * z**2 - 1)
    latitude = np.arcsin(np.clip(math.sqrt(2) * z * y, -1, 1))
    return np.stack([np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], -1)


def _map_of_sphere() -> "tuple[Figure, Axes]":
    """An empty map of the sphere: the outline of Hammer's map."""
    figure = blank(8.0, 4.2, layout="constrained")
    axes = figure.add_subplot()
    turn = np.linspace(0, 2 * math.pi, 200)
    axes.plot(2 * np.cos(turn), np.sin(turn), color=INK, linewidth=0.8)
    axes.set_aspect("equal")
    axes.axis("off")
    return figure, axes


def _sphere(points: np.ndarray, path: str | os.PathLike, log_density: Callable | None) -> None:
    figure, axes = _map_of_sphere()
    if log_density is not None:
        y, x = np.meshgrid(np.linspace(-1, 1, PIXELS[0]), np.linspace(-2, 2, PIXELS[1]), indexing="ij")
        density = np.exp(np.asarray(log_density(jnp.asarray(np.nan_to_num(_on_map(x, y), nan=0.5), jnp.float32))))
        _behind(axes, np.where(x**2 / 4 + y**2 <= 1, density, np.nan), (-2, 2, -1, 1))
    axes.scatter(*_hammer(points), s=2, color=BLUE, linewidths=0)
    save(figure, path)


def _angles(points: np.ndarray, path: str | os.PathLike, log_density: Callable | None) -> None:
    figure = blank(4.8, 4.8, layout="constrained")
    axes = figure.add_subplot()
    if log_density is not None:
        line = np.linspace(-math.pi, math.pi, PIXELS[0])
        second, first = np.meshgrid(line, line, indexing="ij")
        density = np.exp(np.asarray(log_density(jnp.asarray(np.stack([first, second], -1), jnp.float32))))
        _behind(axes, density, (-180, 180, -180, 180))
    axes.scatter(*np.degrees(points).T, s=2, color=BLUE, linewidths=0)
    axes.set(xlim=(-180, 180), ylim=(-180, 180), xlabel="first angle", ylabel="second angle")
    axes.set_xticks(range(-180, 181, 90))
    axes.set_yticks(range(-180, 181, 90))
    axes.set_aspect("equal")
    style(axes)
    save(figure, path)


def _rotations(points: np.ndarray, path: str | os.PathLike) -> None:
    """Draws the image of the axis z under each rotation; the colour is the angle of the image of x about it."""
    figure, axes = _map_of_sphere()
    angle = np.arctan2(points[:, 1, 0], points[:, 0, 0])
    axes.scatter(*_hammer(points[:, :, 2]), s=3, c=angle, cmap="hsv", vmin=-math.pi, vmax=math.pi, linewidths=0)
    save(figure, path)


def _behind(axes, density: np.ndarray, extent: tuple[float, float, float, float]) -> None:
    axes.imshow(np.sqrt(density), origin="lower", extent=extent, cmap="Oranges", interpolation="bilinear", alpha=0.9)
