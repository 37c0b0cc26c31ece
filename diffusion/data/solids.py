"""Parametric solids with random proportions: signed distances, and points uniform by area on their surfaces.

A `Part` is one closed surface; a `Solid` is the union of its parts. z points up, and every solid of `KINDS` lies within
the cube [-0.85, 0.85]^3.
"""

__all__ = [
    "KINDS",
    "Part",
    "Solid",
    "box",
    "draw",
    "grid",
    "moved",
    "revolved",
    "signed_distance",
    "superellipsoid",
    "surface_points",
    "torus",
]

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from diffusion.package import public

ROUNDING = 1e-9  # the largest rounding error of a distance
NODES = 2000  # the number of directions over which a superellipsoid's area is integrated


class Part(NamedTuple):
    """A closed surface.

    Attributes:
        distance: a function from points [N, 3] to signed distances [N], negative inside.
        area: the area of the surface.
        draw: a function from (generator, n) to n independent points [n, 3], uniform by area.
    """

    distance: Callable[[np.ndarray], np.ndarray]
    area: float
    draw: Callable[[np.random.Generator, int], np.ndarray]


Solid = Sequence[Part]
"""The union of parts."""


def moved(part: Part, by: Sequence[float]) -> Part:
    """The part, shifted by a vector [3]."""
    shift = np.asarray(by, float)
    return Part(lambda p: part.distance(p - shift), part.area, lambda rng, n: part.draw(rng, n) + shift)


def box(half: Sequence[float] | np.ndarray) -> Part:
    """A box about the origin.

    Args:
        half: half the length of each side, [3], positive.

    Raises:
        ValueError: if a side is not positive.
    """
    sides = _positive("box: half", half)
    faces = np.array([sides[1] * sides[2], sides[0] * sides[2], sides[0] * sides[1]])

    def distance(p):
        beyond = np.abs(p) - sides
        return np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(axis=1), 0)

    def draw(rng, n):
        points = rng.uniform(-1, 1, (n, 3)) * sides
        axis = rng.choice(3, n, p=faces / faces.sum())
        points[np.arange(n), axis] = rng.choice([-1, 1], n) * sides[axis]
        return points

    return Part(distance, float(8 * faces.sum()), draw)


def torus(major: float, minor: float) -> Part:
    """A torus about the z axis.

    Args:
        major: the radius of the circle in the middle of the tube.
        minor: the radius of the tube, between 0 and `major`.

    Raises:
        ValueError: if 0 < minor < major does not hold.
    """
    if not 0 < minor < major:
        raise ValueError(f"torus: major = {major} and minor = {minor}. Valid: 0 < minor < major")

    def distance(p):
        return np.hypot(np.hypot(p[:, 0], p[:, 1]) - major, p[:, 2]) - minor

    def draw(rng, n):
        accepted = np.empty(0)
        while len(accepted) < n:  # the circle at angle a of the tube is as long as major + minor cos a
            angle = rng.uniform(-math.pi, math.pi, 2 * n)
            room = rng.uniform(0, major + minor, 2 * n)
            accepted = np.concatenate([accepted, angle[room < major + minor * np.cos(angle)]])
        tube, around = accepted[:n], rng.uniform(-math.pi, math.pi, n)
        radius = major + minor * np.cos(tube)
        return np.stack([radius * np.cos(around), radius * np.sin(around), minor * np.sin(tube)], axis=1)

    return Part(distance, 4 * math.pi**2 * major * minor, draw)


def revolved(profile: Sequence[tuple[float, float]]) -> Part:
    """A solid of revolution about the z axis: cylinders, cones, vases.

    Args:
        profile: the corners (radius, z) of the outline, three or more, from one point of the axis to another. The
            outline does not cross itself, all radii are at least 0, and the first and the last are 0.

    Raises:
        ValueError: if there are fewer corners, or a radius is not as stated.
    """
    corners = np.asarray(profile, float)
    if corners.ndim != 2 or corners.shape[1:] != (2,) or len(corners) < 3 or (corners[:, 0] < 0).any():
        raise ValueError(f"revolved: profile = {profile}. Valid: at least three corners (radius >= 0, z)")
    if corners[0, 0] or corners[-1, 0]:
        raise ValueError(f"revolved: the outline {profile} must begin and end on the axis, at radius 0")
    begin, end = corners[:-1], corners[1:]
    step = end - begin
    areas = math.pi * (begin[:, 0] + end[:, 0]) * np.hypot(*step.T)

    def distance(p):
        flat = np.stack([np.hypot(p[:, 0], p[:, 1]), p[:, 2]], axis=1)[:, None]
        along = np.sum((flat - begin) * step, axis=2) / np.maximum(np.sum(step**2, axis=1), 1e-300)
        nearest = begin + np.clip(along, 0, 1)[..., None] * step
        away = np.linalg.norm(flat - nearest, axis=2).min(axis=1)
        # An outward ray from a point inside crosses the outline an odd number of times.
        radius, z = flat[..., 0], flat[..., 1]
        between = (begin[:, 1] > z) != (end[:, 1] > z)
        rise = np.where(step[:, 1] == 0, 1, step[:, 1])
        inside = (between & (radius < begin[:, 0] + (z - begin[:, 1]) / rise * step[:, 0])).sum(axis=1) % 2 == 1
        return np.where(inside, -away, away)

    def draw(rng, n):
        segment = rng.choice(len(areas), n, p=areas / areas.sum())
        first, last = begin[segment, 0], end[segment, 0]
        share = rng.uniform(size=n)
        radius = np.sqrt(first**2 + share * (last**2 - first**2))  # a frustum's area grows as the radius squared
        wide = last != first
        share = np.where(wide, (radius - first) / np.where(wide, last - first, 1), share)
        z = begin[segment, 1] + share * step[segment, 1]
        around = rng.uniform(-math.pi, math.pi, n)
        return np.stack([radius * np.cos(around), radius * np.sin(around), z], axis=1)

    return Part(distance, float(areas.sum()), draw)


def superellipsoid(half: Sequence[float] | np.ndarray, upright: float, flat: float) -> Part:
    """A superquadric from boxes (exponents near 0) over ellipsoids (1) to octahedra (2).

        F(p) = (|x / a|^(2 / flat) + |y / b|^(2 / flat))^(flat / upright) + |z / c|^(2 / upright) = 1

    `distance` is measured along the ray from the centre, so its size is never less than the true distance. Points are
    drawn by their directions: a surface around the origin has the area |p|^3 / (p . n) per unit of solid angle.

    Args:
        half: the half axes (a, b, c), positive.
        upright: the exponent of sections through the z axis, in (0, 2).
        flat: the exponent of sections perpendicular to the z axis, in (0, 2).

    Raises:
        ValueError: for values out of range.

    Reference: Barr 1981, "Superquadrics and Angle-Preserving Transformations".
    """
    sides = _positive("superellipsoid: half", half)
    for name, value in (("upright", upright), ("flat", flat)):
        if not 0 < value < 2:
            raise ValueError(f"superellipsoid: {name} = {value}. Valid: above 0 and below 2")

    def implicit(p):
        """F, and a multiple of its gradient, [N] and [N, 3]."""
        share = np.maximum(np.abs(p) / sides, 1e-12)
        level = np.sum(share[:, :2] ** (2 / flat), axis=1)
        value = level ** (flat / upright) + share[:, 2] ** (2 / upright)
        across = level[:, None] ** (flat / upright - 1) * share[:, :2] ** (2 / flat - 1)
        slope = np.column_stack([across, share[:, 2] ** (2 / upright - 1)])
        return value, slope * np.sign(p) / sides

    def on_surface(directions):
        value, _ = implicit(directions)
        points = directions * value[:, None] ** (-upright / 2)  # F(s p) = s^(2 / upright) F(p)
        slope = implicit(points)[1]
        height = np.sum(points * slope, axis=1) / np.linalg.norm(slope, axis=1)  # height of the tangent plane
        return points, np.linalg.norm(points, axis=1) ** 3 / height

    def distance(p):
        length = np.linalg.norm(p, axis=1)
        centre = length == 0  # at the centre the direction is the shortest axis
        directions = np.where(centre[:, None], shortest, p) / np.where(centre, 1, length)[:, None]
        return length - implicit(directions)[0] ** (-upright / 2)

    shortest = np.eye(3)[sides.argmin()]
    inner = 1 / np.linalg.norm(1 / sides)  # the inner radius of the octahedron that lies inside every such solid
    most = np.linalg.norm(sides) ** 3 / inner

    def draw(rng, n):
        accepted = np.empty((0, 3))
        while len(accepted) < n:
            directions = rng.normal(size=(8 * n, 3))
            points, weight = on_surface(directions / np.linalg.norm(directions, axis=1, keepdims=True))
            accepted = np.concatenate([accepted, points[rng.uniform(0, most, 8 * n) < weight]])
        return accepted[:n]

    number = np.arange(NODES) + 0.5  # Fibonacci's lattice
    z, turn = 1 - 2 * number / NODES, number * math.pi * (1 + math.sqrt(5))
    nodes = np.stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z], axis=1)
    return Part(distance, float(4 * math.pi * on_surface(nodes)[1].mean()), draw)


def signed_distance(solid: Solid, points: np.ndarray) -> np.ndarray:
    """The distance of points to a solid's surface, negative inside: the least of the distances to the parts.

    Outside the solid it is exact if the parts' distances are. Inside, where parts overlap, its size can be less than
    the true distance.

    Args:
        solid: the parts.
        points: the points, [N, 3].

    Returns:
        The distances, float64 [N].
    """
    return np.min([part.distance(points) for part in solid], axis=0)


def surface_points(solid: Solid, number: int, rng: np.random.Generator) -> np.ndarray:
    """Independent points, uniform by area on the surface of the union; no point lies within another part.

    Args:
        solid: the parts.
        number: how many points to draw.
        rng: the generator.

    Returns:
        The points in random order, float64 [number, 3].
    """
    areas = np.array([part.area for part in solid])
    accepted = np.empty((0, 3))
    while len(accepted) < number:
        counts = rng.multinomial(2 * number, areas / areas.sum())
        drawn = [part.draw(rng, count) for part, count in zip(solid, counts)]
        free = []
        for i, points in enumerate(drawn):
            outside = np.ones(len(points), bool)
            for j, other in enumerate(solid):
                if j != i:  # where two surfaces coincide, only the first part's points are used
                    outside &= other.distance(points) > (ROUNDING if j < i else -ROUNDING)
            free.append(points[outside])
        accepted = np.concatenate([accepted, rng.permutation(np.concatenate(free))])
    return accepted[:number]


def grid(side: int) -> np.ndarray:
    """The centres of side^3 cells of the cube [-1, 1]^3, float64 [side^3, 3], z fastest."""
    line = (np.arange(side) + 0.5) * 2 / side - 1
    return np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1).reshape(-1, 3)


# ==== Kinds, each with random proportions ====


def _cylinder(rng: np.random.Generator) -> Solid:
    radius, half = rng.uniform(0.25, 0.65), rng.uniform(0.35, 0.8)
    return [revolved([(0, -half), (radius, -half), (radius, half), (0, half)])]


def _cone(rng: np.random.Generator) -> Solid:
    radius, half = rng.uniform(0.35, 0.75), rng.uniform(0.45, 0.8)
    return [revolved([(0, -half), (radius, -half), (0, half)])]


def _vase(rng: np.random.Generator) -> Solid:
    half = rng.uniform(0.6, 0.8)
    foot, belly, neck, lip = rng.uniform((0.2, 0.4, 0.13, 0.2), (0.35, 0.6, 0.22, 0.35))
    wide, narrow = rng.uniform((-0.4, 0.35), (-0.1, 0.6)) * half
    return [revolved([(0, -half), (foot, -half), (belly, wide), (neck, narrow), (lip, half), (0, half)])]


def _legs(x: float, y: float, top: float, foot: float, thick: float) -> list[Part]:
    """Four legs from z = foot to z = top, within the rectangle of half sides x and y."""
    leg = box((thick, thick, (top - foot) / 2))
    return [moved(leg, (i * (x - thick), j * (y - thick), (top + foot) / 2)) for i in (-1, 1) for j in (-1, 1)]


def _table(rng: np.random.Generator) -> Solid:
    x, y, board = rng.uniform((0.5, 0.4, 0.07), (0.8, 0.8, 0.11))
    height, thick = rng.uniform((0.4, 0.07), (0.7, 0.11))
    return [moved(box((x, y, board)), (0, 0, height)), *_legs(x, y, height, -height, thick)]


def _chair(rng: np.random.Generator) -> Solid:
    x, y, seat = rng.uniform((0.35, 0.35, 0.07), (0.55, 0.5, 0.1))
    level, thick, back = rng.uniform((-0.2, 0.07, 0.07), (0.1, 0.1, 0.1))
    top = rng.uniform(0.6, 0.8)
    rest = moved(box((x, back, (top - level) / 2)), (0, y - back, (top + level) / 2))
    return [moved(box((x, y, seat)), (0, 0, level)), rest, *_legs(x, y, level, -0.75, thick)]


KINDS: dict[str, Callable[[np.random.Generator], Solid]] = {
    "superellipsoid": lambda rng: [superellipsoid(rng.uniform(0.4, 0.8, 3), *rng.uniform(0.3, 1.4, 2))],
    "torus": lambda rng: [torus(rng.uniform(0.42, 0.6), rng.uniform(0.13, 0.22))],
    "cylinder": _cylinder,
    "cone": _cone,
    "box": lambda rng: [box(rng.uniform(0.3, 0.8, 3))],
    "vase": _vase,
    "table": _table,
    "chair": _chair,
}
"""Functions from a generator to a solid with random proportions, by the name of the kind."""


def draw(kind: str, rng: np.random.Generator) -> Solid:
    """A solid of a kind, with random proportions.

    Args:
        kind: a name in `KINDS`.
        rng: the generator.

    Raises:
        ValueError: for another name.
    """
    if kind not in KINDS:
        raise ValueError(f"kind = {kind!r} is not a kind of solid. Valid: {', '.join(KINDS)}")
    return KINDS[kind](rng)


def _positive(name: str, values: Sequence[float] | np.ndarray) -> np.ndarray:
    sides = np.asarray(values, float)
    if sides.shape != (3,) or not (sides > 0).all():
        raise ValueError(f"{name} = {values}. Valid: three positive numbers")
    return sides


public.declare(__name__)
