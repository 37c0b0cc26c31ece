"""Finds the shapes of a drawing, as connected components of one hue, and measures their distance to a plan.

It needs no network. A component is a set of neighbouring pixels that differ from the paper (the median of the picture's
border) and whose hue is nearest to the same colour of the palette. Rings are filled.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage, optimize

from diffusion.data.shapes import drawing
from diffusion.data.shapes.scenes import COLOURS
from examples.text import drawn_objects

STRONG = 60  # least distance of a shape's pixel from the paper, of 255
SMALLEST = 20  # pixels of the smallest part
RIM = 2  # pixels around a part that belong to it, for smooth edges and glow
FAR = 32.0  # largest error in pixels, half a side; also the error of a missing shape


class Found(NamedTuple):
    """A part of a picture: its colour, its middle (x, y) in pixels from the upper left corner, its pixels [H, W]."""

    colour: str
    x: float
    y: float
    mask: np.ndarray


class Matched(NamedTuple):
    """The part found for each planned shape: its index, -1 for a missing one, and its distance, at most `FAR`."""

    index: np.ndarray
    error: np.ndarray


def hues(picture: np.ndarray) -> np.ndarray:
    """The number in `COLOURS` of the nearest hue of each pixel, -1 for paper: int [H, W] of uint8 [H, W, 3]."""
    strong = np.abs(picture - drawn_objects.paper_of(picture)).max(-1) > STRONG
    return np.where(strong, drawing.nearest_hue(picture), -1)


def find_shapes(picture: np.ndarray) -> list[Found]:
    """The parts of a picture uint8 [H, W, 3], of at least `SMALLEST` pixels."""
    hue = hues(picture)
    y, x = np.mgrid[: hue.shape[0], : hue.shape[1]] + 0.5
    parts = []
    for number in np.unique(hue[hue >= 0]):
        labels, count = ndimage.label(hue == number, np.ones((3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
        for part in range(1, count + 1):
            mask = ndimage.binary_fill_holes(labels == part)
            mask = mask & ((hue == number) | (hue < 0))  # without the shapes that cover it
            if mask.sum() >= SMALLEST:
                parts.append(Found(COLOURS[number], float(x[mask].mean()), float(y[mask].mean()), mask))
    return parts


def alone(picture: np.ndarray, part: Found) -> np.ndarray:
    """A part by itself in the middle of the picture's paper, for a judge of single shapes; uint8 [H, W, 3]."""
    hue = hues(picture)
    others = (hue >= 0) & ~part.mask
    rim: Any = ndimage.binary_dilation(part.mask, iterations=RIM)
    near = rim & ~others
    paper = np.broadcast_to(drawn_objects.paper_of(picture), picture.shape).astype(np.uint8)
    cut = np.where(near[..., None], picture, paper)
    height, width = picture.shape[:2]
    down, right = round(height / 2 - part.y), round(width / 2 - part.x)
    rows, columns = np.mgrid[:height, :width]
    rows, columns = rows - down, columns - right
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    moved = cut[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]
    return np.where(inside[..., None], moved, paper)


def matched(centres: np.ndarray, parts: Sequence[Found]) -> Matched:
    """Assigns parts to planned shapes such that the sum of their distances is smallest, whatever their colours.

    Args:
        centres: the centre (x, y) of each planned shape, [K, 2] in pixels.
        parts: the parts of a picture.
    """
    index = np.full(len(centres), -1)
    error = np.full(len(centres), FAR)
    if parts:
        where = np.array([(part.x, part.y) for part in parts])
        distance = np.hypot(*np.moveaxis(centres[:, None] - where, -1, 0))
        rows, columns = optimize.linear_sum_assignment(np.minimum(distance, FAR))
        near = distance[rows, columns] < FAR
        index[rows[near]] = columns[near]
        error[rows[near]] = distance[rows, columns][near]
    return Matched(index, error)
