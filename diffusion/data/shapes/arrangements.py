"""Drawings of shapes that stand anywhere and may lie over each other, with controls that are exact.

    example = arrangements.example("train", 7, "outlines")    # the caption says what is there, and not where

| control  | what it shows                                                                            |
|----------|------------------------------------------------------------------------------------------|
| outlines | the edges of what is seen of each shape, white on black                                  |
| layers   | the shapes' insides by their order, as a depth map: the nearest white, farther ones grey |
| sketch   | wavy and broken outlines, dark on white, as if drawn by hand                             |

A picture has the style, the colours and the sizes of `scenes`. Its shapes stand anywhere, or at places that are given.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy  # reads its parts where they are first used

from diffusion.data.controls import coloured
from diffusion.data.shapes import drawing, scenes
from diffusion.data.shapes.drawing import DISTANCES, SIDE
from diffusion.data.shapes.scenes import NONE, Lot, Scene

SEED = 2027  # another seed than that of the dataset `shapes`
STREAMS = {"train": 0, "test": 1}
SHARES = scenes.Shares(kinds=(0.3, 0.25, 0.45, 0.0), styles=(0.7, 0.15, 0.15))
REACH = 1.2  # radii that the widest shape reaches
OVER = 0.6  # how often two plain shapes lie over each other
GAP = 6.0  # pixels between shapes of neon, whose glow would join
TRIED = 100  # draws of two given places until the shapes are set apart
SEEN = 0.5  # least share of a shape that no other shape covers
FARTHER = 48  # grey values from a shape to the next farther one
ANYWHERE: tuple[float, ...] = ()
"""Places of shapes that keep to none."""
GREY = 60  # grey value of a sketch's lines
WAVES = 1.0  # pixels by which a sketch departs from the outline
GAPS = 0.3  # approximate share of a sketch's outline that is left out


class Thing(NamedTuple):
    """A shape of a colour about (x, y), in pixels from the upper left corner."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float


class Arrangement(NamedTuple):
    """A style of `scenes.STYLES`, and shapes from the farthest to the nearest: each lies over those before it."""

    style: str
    things: tuple[Thing, ...]


class Example(NamedTuple):
    """An arrangement, its caption without places, its picture and its control, both uint8 [64, 64, 3]."""

    arrangement: Arrangement
    caption: str
    image: np.ndarray
    control: np.ndarray


Control = Callable[[Arrangement, Lot], np.ndarray]
"""(an arrangement, draws) -> uint8 [64, 64, 3]."""


def example(split: str, number: int, control: str, seed: int = SEED, places: tuple[float, ...] = ANYWHERE) -> Example:
    """Example `number` of a split: the same whatever others are made, and the same picture for every control.

    Args:
        split: "train" or "test".
        number: the example's number, >= 0.
        control: a name in `CONTROLS`.
        seed: the seed of all examples.
        places: the places of `draw`.
    """
    lot = Lot(seed, STREAMS[split], number)
    arrangement, caption = draw(lot, places)
    image = picture(arrangement, lot)
    return Example(arrangement, caption, image, CONTROLS[control](arrangement, lot))


def draw(lot: Lot, places: tuple[float, ...] = ANYWHERE) -> tuple[Arrangement, str]:
    """An arrangement of one to five shapes, in the colours and shapes of training, and its caption without places.

    Args:
        lot: the draws.
        places: the positions at which centres stand, along each side, in pixels from the upper left corner, from 16 to
            48 and with 16, 32 and 48 among them; `ANYWHERE` for all that leave a shape inside.

    Raises:
        ValueError: for other places.
    """
    check_places(places)
    scene = scenes.draw(lot, shares=SHARES)
    size = scene.size if lot.between(0, 1) < scenes.STATED["size"] else NONE
    radii = [lot.between(*_radii(scene)) for _ in range(2 if scene.kind == "pair" else 1)]
    looks = [(scene.colour, scene.shape)] * scene.count
    if scene.kind == "pair":
        looks[1] = scene.second_colour, scene.second_shape
    over = scene.kind == "pair" and scene.style == "plain" and lot.between(0, 1) < OVER
    for tried in itertools.count():
        over = over and (not places or tried < TRIED)  # a few places may have none where enough of both is seen
        things = tuple(_placed(lot, look, radii[min(i, len(radii) - 1)], places) for i, look in enumerate(looks))
        if _fits(things, over, GAP if scene.style == "neon" else 0.0):
            break
    if lot.between(0, 1) < 0.5:  # the shape that the caption names first may be the farther one or the nearer one
        things = things[::-1]
    return Arrangement(scene.style, things), scenes.phrase(scene._replace(size=size, position=NONE, relation=NONE))


def check_places(places: tuple[float, ...]) -> None:
    """Refuses places at which five shapes find no room, see `draw`.

    Raises:
        ValueError: naming them.
    """
    if places and not (set(drawing.PLACES) <= set(places) and all(16 <= place <= 48 for place in places)):
        raise ValueError(
            f"places = {tuple(places)}. Valid: () for anywhere, or some of the positions 16, 32, 48 and the numbers "
            "between them"
        )


def _radii(scene: Scene) -> tuple[float, float]:
    if scene.kind == "one":
        return drawing.RADII[scene.size]
    return drawing.RADIUS_OF_TWO if scene.kind == "pair" else drawing.RADIUS_OF_MANY


def _placed(lot: Lot, look: tuple[str, str], radius: float, places: tuple[float, ...]) -> Thing:
    margin = REACH * radius + 1
    x, y = (lot.pick(places) if places else lot.between(margin, SIDE - margin) for _ in range(2))
    return Thing(*look, x, y, radius)


def _fits(things: tuple[Thing, ...], over: bool, gap: float) -> bool:
    """Whether shapes are `gap` pixels apart or, with `over`, two overlap and enough is seen of each, in one piece."""
    if over:
        near = REACH * (things[0].radius + things[1].radius)
        if np.hypot(things[0].x - things[1].x, things[0].y - things[1].y) > near:  # most draws, at no cost
            return False
        insides = [_distance(thing) < 0 for thing in things]
        if (insides[0] & insides[1]).sum() < 20:
            return False
        rests = [a & ~b for a, b in (insides, insides[::-1])]  # whichever is the nearer
        return all(
            rest.sum() >= SEEN * inside.sum() and scipy.ndimage.label(rest)[1] == 1  # pyright: ignore[reportIndexIssue]
            for rest, inside in zip(rests, insides)
        )
    apart = lambda a, b: np.hypot(a.x - b.x, a.y - b.y) > REACH * (a.radius + b.radius) + gap
    return all(apart(a, b) for a, b in itertools.combinations(things, 2))


def _distance(thing: Thing, dx: np.ndarray | float = 0.0, dy: np.ndarray | float = 0.0) -> np.ndarray:
    """Signed distance of each pixel, moved by (dx, dy), to the edge of a shape, float [64, 64]."""
    along = np.arange(SIDE) + 0.5
    x = along - thing.x + dx
    y = along[:, None] - thing.y + dy
    return DISTANCES[thing.shape](x + np.zeros_like(y), y + np.zeros_like(x), thing.radius)


def picture(arrangement: Arrangement, lot: Lot) -> np.ndarray:
    """The picture, uint8 [64, 64, 3], in tints and on a paper of its draws."""
    paper = drawing.NIGHT if arrangement.style == "neon" else lot.pick(drawing.PAPERS)
    canvas = np.broadcast_to(np.array(paper, np.float64), (SIDE, SIDE, 3)).copy()
    for thing in arrangement.things:
        tint = drawing.tint(thing.colour, lot)
        drawing.paint(canvas, DISTANCES[thing.shape], tint, (thing.x, thing.y), thing.radius, arrangement.style)
    return drawing.rounded(canvas)


def visible(arrangement: Arrangement) -> np.ndarray:
    """The inside of each shape without what nearer ones cover, Bool [K, 64, 64]."""
    covered = np.zeros((SIDE, SIDE), bool)
    parts = []
    for thing in arrangement.things[::-1]:
        inside = _distance(thing) < 0
        parts.append(inside & ~covered)
        covered = covered | inside
    return np.stack(parts[::-1])


def centres(arrangement: Arrangement) -> np.ndarray:
    """(x, y) of the mean of the visible part of each shape, float64 [K, 2] in pixels."""
    along = np.arange(SIDE) + 0.5
    mean = lambda mask: ((mask.sum(0) @ along) / mask.sum(), (mask.sum(1) @ along) / mask.sum())
    return np.array([mean(mask) for mask in visible(arrangement)])


def outlines(arrangement: Arrangement, lot: Lot | None = None) -> np.ndarray:
    """Edges two pixels wide of the visible part of each shape, white on black; uint8 [64, 64, 3]."""
    canvas = np.zeros((SIDE, SIDE))
    for thing in arrangement.things:
        distance = _distance(thing)
        canvas *= np.clip(0.5 + distance, 0, 1)  # hides what lies behind
        canvas = np.maximum(canvas, np.clip(1.5 - np.abs(distance), 0, 1))
    return coloured(255 * canvas)


def layers(arrangement: Arrangement, lot: Lot | None = None) -> np.ndarray:
    """The insides of the shapes in the grey of their order, on black; uint8 [64, 64, 3]."""
    canvas = np.zeros((SIDE, SIDE))
    for behind, thing in zip(itertools.count(len(arrangement.things) - 1, -1), arrangement.things):
        cover = np.clip(0.5 - _distance(thing), 0, 1)
        canvas += cover * (255 - FARTHER * behind - canvas)
    return coloured(canvas)


def sketch(arrangement: Arrangement, lot: Lot) -> np.ndarray:
    """Outlines that waver by about a pixel, with gaps, dark on white; uint8 [64, 64, 3]."""
    canvas = np.zeros((SIDE, SIDE))
    x, y = np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5)
    for thing in arrangement.things:
        dx, dy = (WAVES * _waves(x, y, lot) for _ in range(2))
        distance = _distance(thing, dx, dy)
        canvas *= np.clip(0.5 + distance, 0, 1)
        angle = np.arctan2(y - thing.y, x - thing.x)
        beat = np.sin(3 * angle + lot.between(0, 2 * np.pi)) + np.sin(5 * angle + lot.between(0, 2 * np.pi))
        drawn = beat > 4 * GAPS - 2  # two sines of any phases: about this share lies below
        canvas = np.maximum(canvas, drawn * np.clip(1.2 - np.abs(distance), 0, 1))
    return coloured(255 - (255 - GREY) * canvas)


def _waves(x: np.ndarray, y: np.ndarray, lot: Lot) -> np.ndarray:
    """A smooth field of about [-1, 1], with waves of 16 to 40 pixels."""
    total = np.zeros_like(x)
    for _ in range(3):
        turn = lot.between(0, 2 * np.pi)
        across = x * np.cos(turn) + y * np.sin(turn)
        total += np.sin(2 * np.pi * across / lot.between(16, 40) + lot.between(0, 2 * np.pi))
    return total / np.sqrt(4.5)


CONTROLS: dict[str, Control] = {"outlines": outlines, "layers": layers, "sketch": sketch}
"""The controls by name."""
