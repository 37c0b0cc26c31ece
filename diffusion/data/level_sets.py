"""Surfaces on a grid and of a cloud: points of a surface, and the pieces of a solid by its signed distance."""

__all__ = ["cloud_points", "crossings", "pieces"]

from typing import cast

import numpy as np
import scipy  # reads its parts where they are first used

from diffusion.package import public

POINTS = 128  # default number of points of a surface


def cloud_points(example: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The points [N, 3] of a cloud itself, float64: they lie on its surface."""
    del rng
    return np.asarray(example, np.float64)


def crossings(distance: np.ndarray, rng: np.random.Generator, number: int = POINTS) -> np.ndarray:
    """Points of the surface where a function on a grid changes its sign.

    Each edge between two neighbours of different sign has one point, where the straight line between their values is
    zero. `number` of these points are drawn, without replacement if there are enough. Edges are denser, by up to
    3^(1/2), on surfaces that stand askew.

    Args:
        distance: the signed distance, [S, S, S] or [S, S, S, 1] at the centres of the cells of [-1, 1]^3, negative
            inside.
        rng: the generator.
        number: how many points to draw.

    Returns:
        float64 [number, 3]; all at the origin where the sign does not change.

    Raises:
        ValueError: for another shape, or values that are not finite.
    """
    values = _checked(distance)
    side = len(values)
    points_by_axis = []
    for axis in range(3):
        first, second = (values.take(range(*ends), axis) for ends in ((0, side - 1), (1, side)))
        edges = np.argwhere((first < 0) != (second < 0))
        near, far = first[tuple(edges.T)], second[tuple(edges.T)]
        points = edges.astype(float)
        points[:, axis] += near / (near - far)
        points_by_axis.append((points + 0.5) * 2 / side - 1)
    points = np.concatenate(points_by_axis)
    if not len(points):
        return np.zeros((number, 3))
    return points[rng.choice(len(points), number, replace=len(points) < number)]


def pieces(distance: np.ndarray) -> int:
    """How many pieces a solid has: cells with a negative distance belong together if they share a face.

    Args:
        distance: the signed distance, [S, S, S] or [S, S, S, 1], negative inside.

    Raises:
        ValueError: for another shape, or values that are not finite.
    """
    _, number = cast(tuple[np.ndarray, int], scipy.ndimage.label(_checked(distance) < 0))
    return number


def _checked(distance: np.ndarray) -> np.ndarray:
    """The distance as float64 [S, S, S].

    Raises:
        ValueError: for another shape, or values that are not finite.
    """
    values = np.asarray(distance, np.float64)
    values = values[..., 0] if values.ndim == 4 and values.shape[-1] == 1 else values
    if values.ndim != 3 or len(set(values.shape)) != 1:
        raise ValueError(f"a signed distance must be [S, S, S] or [S, S, S, 1], got {list(np.shape(distance))}")
    if not np.isfinite(values).all():
        raise ValueError("a signed distance must be finite; this one holds NaN or infinity")
    return values


public.declare(__name__, renamed={"of_points": "cloud_points"})
