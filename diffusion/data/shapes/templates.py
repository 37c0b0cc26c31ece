"""How well drawn shapes cover masks: the best overlap of each of the eight shapes, over size, place and turn.

The shapes of the data are known exactly, so no network is needed. A template is the mask of a drawing, {pixels whose
centre lies inside the shape's edge}. A mask M is compared with each template T by

    |M and T| / |M or T|,    with |M or T| = |M| + |T| - |M and T|,

the intersection over union. All intersections of a mask are one matrix product with the templates.
"""

import functools
from typing import NamedTuple

import numpy as np
import scipy  # reads its parts where they are first used

from diffusion.data.shapes.drawing import DISTANCES, Distance
from diffusion.data.shapes.scenes import SHAPES

STEP = 1.04  # ratio of two neighbouring radii
OFFSETS = tuple(np.arange(-2.0, 2.01, 0.5))  # pixels by which a template's centre of mass may stand beside a mask's
TURN = 7.5  # degrees from one turn to the next
TURNS = {"circle": 0.0, "star": 72.0, "square": 90.0, "cross": 90.0, "diamond": 180.0}  # after which it looks the same
REACH = 1.2  # radii that the widest shape reaches
CHUNK = 512  # masks in one product


class Templates(NamedTuple):
    """Masks of drawn shapes about the middle of a square.

    Attributes:
        masks: float32 [T, side * side], 1 inside of the shape and 0 outside.
        shape: int64 [T], the index in `SHAPES`, and after them of a further shape.
        radius: float64 [T], the radius in pixels.
        turn: float64 [T], the angle in degrees, clockwise.
        centre: float64 [T, 2], (x, y) of the shape's own centre, in pixels from the square's middle.
        side: the square's side in pixels.
    """

    masks: np.ndarray
    shape: np.ndarray
    radius: np.ndarray
    turn: np.ndarray
    centre: np.ndarray
    side: int


class Fits(NamedTuple):
    """The best template of each shape for N masks.

    Attributes:
        overlap: float64 [N, S], the intersection over union of the best template of each of the S shapes, the eight of
            `SHAPES` and further ones; 0 if M is empty.
        radius: float64 [N, S], that template's radius in pixels.
        centre: float64 [N, S, 2], (x, y) of its centre, in pixels from the upper left corner.
    """

    overlap: np.ndarray
    radius: np.ndarray
    centre: np.ndarray


@functools.cache
def drawn(
    smallest: float,
    largest: float,
    turned: bool = False,
    offsets: tuple[float, ...] = OFFSETS,
    more: tuple[Distance, ...] = (),
) -> Templates:
    """The templates of all shapes with radii from `smallest` to `largest`, about 4 % apart.

    Args:
        smallest, largest: the radii in pixels, above 0.
        turned: whether shapes may stand at any angle, in steps of 7.5 degrees; otherwise they are upright.
        offsets: the offsets of a template's centre of mass from the middle, along x and along y, in pixels.
        more: the signed distances of further shapes, whose numbers follow those of `SHAPES`.
    """
    number = int(np.ceil(np.log(largest / smallest) / np.log(STEP))) + 1
    radii = np.geomspace(smallest, largest, number)
    side = 2 * int(np.ceil(REACH * largest + max(offsets)))
    along = np.arange(side) + 0.5 - side / 2
    rows = []
    named = [(DISTANCES[name], TURNS.get(name, 360.0)) for name in SHAPES] + [(one, 360.0) for one in more]
    for index, (shape, turns) in enumerate(named):
        period = turns if turned else 0.0
        for turn in np.arange(0.0, max(period, TURN), TURN):
            for radius in radii:
                middle = radius * _centre_of_mass(shape, turn)
                for dy in offsets:
                    for dx in offsets:
                        centre = np.array([dx, dy]) - middle
                        mask = _inside(shape, along - centre[0], along[:, None] - centre[1], radius, turn)
                        rows.append((mask.ravel(), index, radius, turn, centre))
    masks, shapes, sizes, turns, centres = map(np.array, zip(*rows))
    return Templates(masks.astype(np.float32), shapes, sizes, turns, centres, side)


def _inside(shape: Distance, x: np.ndarray, y: np.ndarray, radius: float, turn: float) -> np.ndarray:
    """Whether points lie inside of a shape that is turned clockwise by `turn` degrees."""
    cos, sin = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    return shape(cos * x + sin * y, cos * y - sin * x, radius) < 0


@functools.cache
def _centre_of_mass(shape: Distance, turn: float) -> np.ndarray:
    """(x, y) of the mean of a shape's inside, from its own centre, in radii."""
    along = np.linspace(-REACH, REACH, 160)
    inside = _inside(shape, along, along[:, None], 1.0, turn)
    return np.array([inside.sum(0) @ along, inside.sum(1) @ along]) / inside.sum()


@functools.cache
def edge_length(shape: Distance) -> float:
    """The length of a shape's edge, in radii: the area within 0.01 radii of it, over 0.02."""
    step = 0.002
    along = np.arange(-1.3, 1.3, step)
    near = np.abs(shape(along, along[:, None], 1.0)) < 0.01
    return float(near.sum() * step**2 / 0.02)


def fits(masks: np.ndarray, known: Templates) -> Fits:
    """The best template of each shape for each mask, whose centre of mass lies within the offsets of the template's.

    Args:
        masks: Bool [N, H, W].
        known: the templates, from `drawn`.
    """
    number, height, width = masks.shape
    area = masks.sum((1, 2)).astype(np.float64)
    share = masks / np.maximum(area, 1)[:, None, None]
    middle = np.stack([share.sum(1) @ (np.arange(width) + 0.5), share.sum(2) @ (np.arange(height) + 0.5)], axis=1)
    corner = np.round(middle).astype(int) - known.side // 2
    padded = np.pad(masks, ((0, 0), (known.side, known.side), (known.side, known.side)))
    steps = np.arange(known.side) + known.side
    rows = (corner[:, 1, None] + steps)[:, :, None]
    parts = padded[np.arange(number)[:, None, None], rows, (corner[:, 0, None] + steps)[:, None, :]]
    kinds = int(known.shape.max()) + 1
    best = np.zeros((number, kinds), int)
    overlap = np.zeros((number, kinds))
    sizes = known.masks.sum(1)
    for first in range(0, number, CHUNK):
        some = slice(first, first + CHUNK)
        both = parts[some].reshape(-1, known.side**2).astype(np.float32) @ known.masks.T
        ratio = both / (area[some, None] + sizes - both)
        for index in range(kinds):
            rows_of_shape = np.flatnonzero(known.shape == index)
            chosen = ratio[:, rows_of_shape].argmax(1)
            best[some, index] = rows_of_shape[chosen]
            overlap[some, index] = ratio[np.arange(len(ratio)), rows_of_shape[chosen]]
    centre = known.centre[best] + (corner + known.side // 2)[:, None]
    return Fits(overlap, known.radius[best], centre)


def pieces(mask: np.ndarray, least: float) -> int:
    """How many connected parts of a mask, Bool [H, W], have at least `least` pixels; corners connect."""
    labels, number = scipy.ndimage.label(mask, np.ones((3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
    return int((scipy.ndimage.sum_labels(mask, labels, np.arange(1, number + 1)) >= least).sum())
