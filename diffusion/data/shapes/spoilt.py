"""Drawings whose shapes are none of the eight: broken, blended, blobs, averaged, blurred; what judges should refuse.

| kind     | what it is                                                                           |
|----------|--------------------------------------------------------------------------------------|
| broken   | a shape that a line has cut, or that a gap parts                                     |
| blended  | a d_1 + (1 - a) d_2 of the signed distances of two shapes, with a sharp edge         |
| blob     | the inside of r (1 + sum over k of a_k cos(k angle + b_k)), k = 2 .. 5               |
| averaged | a p_1 + (1 - a) p_2 of the pictures of two shapes at one place                       |
| blurred  | a picture under a Gaussian filter                                                    |

A shape of the first three kinds is kept only if it has more than one piece, or if none of the eight drawings, at any
size, place and turn, covers it by 0.8. Otherwise it would not count as broken: half of a diamond is a triangle.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
import scipy  # reads its parts where they are first used

from diffusion.data.shapes import drawing, templates
from diffusion.data.shapes.drawing import DISTANCES, Distance
from diffusion.data.shapes.scenes import NONE, SHAPES, Lot, Scene

KINDS = ("broken", "blended", "blob", "averaged", "blurred")
"""The kinds of spoilt drawings."""
COVERED = 0.8  # a shape of which a drawing covers at least this share is not spoilt
NUMBER = 300  # shapes of which a drawing has one
SHARES = (0.35, 0.65)
"""Range of the share of the first of two shapes that are blended or averaged."""
DEVIATIONS = (1.5, 3.0)  # deviations of the Gaussian filter, in pixels of a picture of 64
RADIUS = 12.0  # radius at which shapes are compared with drawings
SMALLEST = 4  # pixels of a piece


class Spoilt(NamedTuple):
    """A shape that is none of the eight: its kind, one of the first three of `KINDS`, and its signed distance."""

    kind: str
    distance: Distance


@functools.cache
def shapes(number: int = NUMBER, seed: int = 0) -> tuple[Spoilt, ...]:
    """Spoilt shapes, of the first three kinds in turn.

    Args:
        number: how many shapes, at least 1.
        seed: the seed of all of them.
    """
    known = templates.drawn(0.6 * RADIUS, 1.15 * RADIUS, turned=True, offsets=(0.0,))
    along = np.arange(64) - 31.5
    spoilt: list[list[Spoilt]] = [[], [], []]
    index = 0
    while any(len(some) < -(-number // 3) for some in spoilt):
        some = [_shape(KINDS[i % 3], Lot(seed, 11, i)) for i in range(index, index + 2 * number)]
        index += len(some)
        masks = np.stack([one.distance(along, along[:, None], RADIUS) < 0 for one in some])
        overlap = templates.fits(masks, known).overlap.max(1)
        for one, mask, covered in zip(some, masks, overlap):
            if (covered < COVERED and mask.any()) or templates.pieces(mask, SMALLEST) > 1:
                spoilt[KINDS.index(one.kind)].append(one)
    return tuple(spoilt[i % 3][i // 3] for i in range(number))


def _shape(kind: str, lot: Lot) -> Spoilt:
    """A spoilt shape of a kind, by lot."""
    name = lot.pick(SHAPES)
    first, second = DISTANCES[name], DISTANCES[lot.pick([other for other in SHAPES if other != name])]
    match kind:
        case "broken":
            return Spoilt(kind, broken(first, lot))
        case "blended":
            return Spoilt(kind, blended(first, second, lot))
        case _:
            return Spoilt(kind, _blob(lot))


def blended(first: Distance, second: Distance, lot: Lot) -> Distance:
    """A weighted mean of the signed distances of two shapes."""
    share = lot.between(*SHARES)
    return lambda x, y, radius: share * first(x, y, radius) + (1 - share) * second(x, y, radius)


def broken(distance: Distance, lot: Lot) -> Distance:
    """The part of a shape beyond a line, or the shape without a straight band, at any angle."""
    angle = lot.between(0, 2 * math.pi)
    parted = lot.between(0, 1) < 0.5
    middle = lot.between(-0.4, 0.4)
    half = lot.between(0.12, 0.3)

    def cut(x, y, radius):
        across = math.cos(angle) * x + math.sin(angle) * y - middle * radius
        return np.maximum(distance(x, y, radius), half * radius - np.abs(across) if parted else across)

    return cut


def _blob(lot: Lot) -> Distance:
    """The distance function of a disc with a wavy edge, by lot."""
    waves = [(k, lot.between(0, 0.6 / k), lot.between(0, 2 * math.pi)) for k in (2, 3, 4, 5)]

    def waved(x, y, radius):
        angle = np.arctan2(y, x)
        return np.hypot(x, y) - 0.9 * radius * (1 + sum(a * np.cos(k * angle + b) for k, a, b in waves))

    return waved


def draw(scene: Scene, lot: Lot, kind: str, seed: int = 0) -> tuple[np.ndarray, Scene]:
    """Draws a scene with spoilt shapes.

    If there are two objects and the kind is one of the first three, either or both are spoilt; of several objects all
    are.

    Args:
        scene: the scene, not a word.
        lot: the draws.
        kind: the kind, one of `KINDS`.
        seed: the seed of the spoilt `shapes`; a judge has seen all shapes of the seed that it learned from.

    Returns:
        (uint8 [64, 64, 3], the scene with the shape `NONE` for what is spoilt).

    Raises:
        ValueError: for another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"spoilt drawings have no kind {kind!r}. Valid: {', '.join(KINDS)}")
    pair = scene.kind == "pair"
    slots = ("shape", "second_shape") if pair else ("shape",)
    if kind in ("averaged", "blurred"):
        spoilt = scene._replace(**dict.fromkeys(slots, NONE))
        if kind == "blurred":
            return blurred(drawing.draw(scene, lot), lot), spoilt
        share = lot.between(*SHARES)
        number = int(lot.between(0, 2**53))  # seed of the draws of both pictures
        others = {slot: lot.pick([name for name in SHAPES if name != getattr(scene, slot)]) for slot in slots}
        one, other = (drawing.draw(either, Lot(number, 12, 0)) for either in (scene, scene._replace(**others)))
        return np.round(share * one + (1 - share) * other).astype(np.uint8), spoilt
    some = [one.distance for one in shapes(seed=seed) if one.kind == kind]
    chosen = lot.pick((slots, slots[:1], slots[1:])) if pair else slots
    more = {f"spoilt {slot}": lot.pick(some) for slot in chosen}
    picture = drawing.draw(scene._replace(**{slot: f"spoilt {slot}" for slot in chosen}), lot, more)
    return picture, scene._replace(**dict.fromkeys(chosen, NONE))


def blurred(picture: np.ndarray, lot: Lot) -> np.ndarray:
    """A picture uint8 [H, W, 3] under a Gaussian filter, whose deviation is drawn for a side H of 64 pixels."""
    deviation = lot.between(*DEVIATIONS) * len(picture) / drawing.SIDE
    smooth = scipy.ndimage.gaussian_filter(picture.astype(np.float64), (deviation, deviation, 0), mode="nearest")
    return drawing.rounded(smooth)
