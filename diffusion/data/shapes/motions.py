"""Clips of moving shapes, with the places, turns and visibility of each: motion whose physics is known exactly.

    clip = motions.example("train", 7)      # clip.caption, for example "a red star moves left quickly"

| motion  | what happens                                                                  |
|---------|-------------------------------------------------------------------------------|
| moves   | along a straight line at one speed, left, right, up or down                   |
| bounces | straight at one speed, reflected at the borders of the picture                |
| turns   | about its centre at one angular speed, clockwise or counterclockwise          |
| hides   | at one speed behind a bar: nothing of it is seen in a frame, and it comes out |

A clip has one shape, or two, each in its half of the picture. Pairs of a shape and a motion, and the pairs of a colour
and a shape that `scenes` withholds, stand in no clip of training; each clip of the split "withheld" has one.
"""

import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from diffusion.data.shapes import drawing, scenes
from diffusion.data.shapes.drawing import DISTANCES, SIDE, Distance
from diffusion.data.shapes.scenes import Lot

SEED = 2029
"""Seed of all clips; those of the other drawings are others."""
STREAMS = {"train": 0, "test": 1, "withheld": 2}
"""Stream of draws of each split, by its name."""
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
"""Unit vectors (x right, y down) of the directions that a caption may name."""
MOTIONS = {
    "moves": tuple(DIRECTIONS),
    "bounces": ("",),
    "turns": ("clockwise", "counterclockwise"),
    "hides": ("left", "right"),
}
"""The motions, and the directions that each may have."""
WITHHELD = frozenset({("square", "bounces"), ("star", "moves"), ("heart", "turns"), ("moon", "hides")})
SPEEDS = {"slowly": (12.0, 18.0), "quickly": (30.0, 40.0)}
"""Range of the pixels from the first frame to the last, by the word for it."""
TURNS = {"slowly": (0.15, 0.25), "quickly": (0.5, 0.9)}  # share of a whole turn in the same time
SYMMETRY = {"star": 5, "square": 4, "cross": 4, "diamond": 2}  # turns of 1 / n look the same
CLEAR = 0.4  # largest share of a turn between two frames: beyond a half it would seem to turn the other way
FLIGHT = (70.0, 110.0)  # pixels of a path with reflections: longer than any line without one
TWO = 0.4  # how often there are two shapes
RADII = (6.0, 6.6)
REACH = 1.2  # radii that the widest shape reaches
ROWS = (18.0, 46.0)  # rows of the centres of two shapes
BAR = (120, 120, 128)
LEAST = 8  # frames
SILENT = frozenset({"a", "an", "and", "behind", "bar"})  # words that tell captions of one shape nothing
WORDS = (*scenes.COLOURS, *scenes.SHAPES, "moves", "bounces", "turns", "passes", "left", "right", "up", "down",
         "clockwise", "counterclockwise", "slowly", "quickly")  # fmt: skip
"""The words by which captions of one shape differ."""


class Setting(NamedTuple):
    """The appearance of clips, besides their motions.

    Attributes:
        two: how often there are two shapes.
        radii: least and greatest radius, in pixels.
        tilted: whether a turning shape begins at any angle, as in the middle of a longer clip; otherwise it begins
            upright.
        span: how many frames a speed's way takes; 0: all frames of the clip. In a longer clip, bouncing and turning
            continue at their speed, and shapes that move or hide stay where they arrive.
    """

    two: float = TWO
    radii: tuple[float, float] = RADII
    tilted: bool = False
    span: int = 0


SETTING = Setting()


class Mover(NamedTuple):
    """A shape of a colour, and where it is in each frame.

    Attributes:
        colour, shape: a name of `scenes.COLOURS` and one of `scenes.SHAPES`.
        motion: the motion, one of `MOTIONS`.
        direction: one of the motion's directions.
        speed: "slowly", "quickly", or "" for a motion that has but one.
        radius: its radius, in pixels.
        places: float64 [F, 2], the position (x, y) of its centre, in pixels from the upper left corner.
        turns: float64 [F], its angle in radians, clockwise.
        bar: (left, right, top, bottom) of the bar that hides it, in pixels; None if nothing hides it.
    """

    colour: str
    shape: str
    motion: str
    direction: str
    speed: str
    radius: float
    places: np.ndarray
    turns: np.ndarray
    bar: tuple[float, float, float, float] | None


class Clip(NamedTuple):
    """Frames, and the truth about them.

    Attributes:
        caption: the clip in words.
        movers: the one or two shapes.
        frames: uint8 [F, 64, 64, 3].
        visible: float64 [F, K], the share of each mover that no bar covers.
    """

    caption: str
    movers: tuple[Mover, ...]
    frames: np.ndarray
    visible: np.ndarray


def example(split: str, number: int, frames: int = 16, seed: int = SEED, setting: Setting = SETTING) -> Clip:
    """Clip `number` of a split, the same whatever others are made.

    Args:
        split: the split, "train", "test" (both without withheld pairs) or "withheld".
        number: the clip's number, >= 0.
        frames: F, at least 8.
        seed: the seed of all clips.
        setting: the setting of all clips.

    Raises:
        ValueError: for another split, or fewer frames.
    """
    lot, movers = _movers(split, number, frames, seed, setting)
    visible = np.stack([_seen(mover) for mover in movers], axis=1)
    return Clip(_in_words(movers), movers, painted(movers, lot), visible)


def caption(split: str, number: int, frames: int = 16, seed: int = SEED, setting: Setting = SETTING) -> str:
    """The caption that `example` has for the same arguments, a hundred times as fast because no frame is drawn."""
    return _in_words(_movers(split, number, frames, seed, setting)[1])


def _movers(split: str, number: int, frames: int, seed: int, setting: Setting) -> tuple[Lot, tuple[Mover, ...]]:
    """Checks the arguments of `example`, and draws its moving shapes."""
    if split not in STREAMS:
        raise ValueError(f"moving drawings have no split {split!r}. Valid: {', '.join(STREAMS)}")
    if frames < LEAST:
        raise ValueError(f"frames = {frames}. Valid: at least {LEAST}, so that at least one frame shows the occlusion")
    lot = Lot(seed, STREAMS[split], number)
    return lot, draw(lot, frames, split == "withheld", setting)


def _in_words(movers: tuple[Mover, ...]) -> str:
    return " and ".join(map(_phrase, movers))


def draw(lot: Lot, frames: int, of_withheld: bool = False, setting: Setting = SETTING) -> tuple[Mover, ...]:
    """One or two movers, none of them withheld; with `of_withheld` the first one is."""
    two = lot.between(0, 1) < setting.two
    kinds = [kind for kind in MOTIONS if not (two and kind == "bounces")]
    movers = []
    for i in range(2 if two else 1):
        while True:
            look = lot.pick(scenes.COLOURS), lot.pick(scenes.SHAPES)
            motion = lot.pick(kinds)
            withheld = look in scenes.WITHHELD or (look[1], motion) in WITHHELD
            round_ = look[1] == "circle" and motion == "turns"  # nobody would see a circle turn
            again = movers and look == (movers[0].colour, movers[0].shape)
            if withheld == (of_withheld and i == 0) and not round_ and not again:
                break
        direction = lot.pick(MOTIONS[motion][:2] if two else MOTIONS[motion])  # two shapes stay in their halves
        speed = lot.pick(tuple(SPEEDS)) if motion in ("moves", "turns") else ""
        radius = lot.between(*setting.radii)
        span = setting.span or frames
        clock = np.arange(frames) / (span - 1)
        places, turns = _path(lot, clock, look[1], motion, direction, speed, radius, ROWS[i] if two else None)
        if setting.tilted and motion == "turns":
            turns = turns + lot.between(0, 2 * math.pi)
        bar = _bar(radius, span, i if two else None) if motion == "hides" else None
        movers.append(Mover(*look, motion, direction, speed, radius, places, turns, bar))
    return tuple(movers)


def painted(movers: tuple[Mover, ...], lot: Lot, more: Mapping[str, Distance] = MappingProxyType({})) -> np.ndarray:
    """The frames, uint8 [F, 64, 64, 3], in tints and on a paper of their draws, the same in all frames.

    Args:
        movers: the shapes.
        lot: the draws.
        more: further shapes that the movers may name.
    """
    distances = DISTANCES | dict(more)
    paper = np.array(lot.pick(drawing.PAPERS), np.float64)
    tints = [drawing.tint(mover.colour, lot) for mover in movers]
    canvases = np.broadcast_to(paper, (len(movers[0].places), SIDE, SIDE, 3)).copy()
    for frame, canvas in enumerate(canvases):
        for tint, mover in zip(tints, movers):
            shape = _turned(distances[mover.shape], mover.turns[frame])
            drawing.paint(canvas, shape, tint, tuple(mover.places[frame]), mover.radius, "plain")
        for mover in movers:
            if mover.bar is not None:
                canvas += _cover(mover.bar)[..., None] * (np.array(BAR) - canvas)
    return drawing.rounded(canvases)


def shrunk(frames: np.ndarray, side: int) -> np.ndarray:
    """Frames of 64 x 64 pixels as smaller ones, uint8 [F, side, side, 3], whose pixels are means.

    A pixel of another side may cover parts of pixels; each counts by its share.

    Args:
        frames: uint8 [F, 64, 64, 3].
        side: the new height and width, 1 to 64.

    Raises:
        ValueError: for another side.
    """
    if not 1 <= side <= SIDE:
        raise ValueError(f"side = {side}. Valid: 1 to {SIDE}")
    groups = math.gcd(side, SIDE)  # of `before` pixels each, which become `after` new ones
    before, after = SIDE // groups, side // groups
    share = np.zeros((after, before), np.int64)
    parts = np.arange(before * after)
    np.add.at(share, (parts // before, parts // after), 1)  # parts of a pixel in each new one, which has `before`
    grouped = frames.astype(np.int64).reshape(len(frames), groups, before, groups, before, 3)
    sums = np.einsum("jx,fgihxc->fgihjc", share, np.einsum("iy,fgyhxc->fgihxc", share, grouped))
    return np.round(sums / before**2).astype(np.uint8).reshape(len(frames), side, side, 3)


def _path(
    lot: Lot, clock: np.ndarray, look: str, motion: str, direction: str, speed: str, radius: float, row: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """(places [F, 2], turns [F]) of a shape, `look`, at times where 1 ends the way.

    `row` is the y of one of two shapes.
    """
    margin = REACH * radius + 1
    low, high = margin, SIDE - margin
    frames = len(clock)
    start = np.array([lot.between(low, high), lot.between(low, high) if row is None else row])
    still = np.broadcast_to(start, (frames, 2)).copy()
    upright = np.zeros(frames)
    if motion == "turns":
        least, most = TURNS[speed]
        most = min(most, CLEAR / (SYMMETRY.get(look, 1) * clock[1]))
        way = 2 * math.pi * lot.between(least, most)
        return still, clock * (way if direction == "clockwise" else -way)
    if motion == "bounces":
        angle = lot.between(0, 2 * math.pi)
        way = lot.between(*FLIGHT) * np.array([math.cos(angle), math.sin(angle)])
        return _reflected(start + clock[:, None] * way, low, high), upright
    step = np.array(DIRECTIONS[direction])
    axis = int(np.argmax(np.abs(step)))
    way = high - low if motion == "hides" else min(lot.between(*SPEEDS[speed]), high - low)
    first = lot.between(low, high - way)  # distance from the lower end of the line
    passed = np.minimum(clock, 1.0)
    still[:, axis] = first + way * (passed if step[axis] > 0 else 1 - passed)
    return still, upright


def _reflected(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Lines folded into [low, high]: what would leave comes back at the same speed."""
    width = high - low
    return low + width - np.abs((x - low) % (2 * width) - width)


def _turned(distance: drawing.Distance, angle: float) -> drawing.Distance:
    """The shape turned clockwise, y down, by an angle in radians."""
    cos, sin = math.cos(angle), math.sin(angle)
    return lambda x, y, radius: distance(cos * x + sin * y, -sin * x + cos * y, radius)


def _bar(radius: float, frames: int, half: int | None) -> tuple[float, float, float, float]:
    """A bar so wide that a shape that passes at one speed is entirely behind it in at least one frame.

    `half` is the half of the picture in which it stands, 0 or 1; None: the whole picture.
    """
    step = (SIDE - 2 * (REACH * radius + 1)) / (frames - 1)
    wide = REACH * radius + step / 2
    ends = (0.0, float(SIDE)) if half is None else (half * SIDE / 2, (half + 1) * SIDE / 2)
    return SIDE / 2 - wide, SIDE / 2 + wide, *ends


def _cover(bar: tuple[float, float, float, float]) -> np.ndarray:
    """The share of each pixel that the bar covers, [64, 64]."""
    along = np.arange(SIDE) + 0.5
    line = lambda low, high: np.clip(0.5 + np.minimum(along - low, high - along), 0, 1)
    return line(*bar[2:])[:, None] * line(*bar[:2])


def _seen(mover: Mover) -> np.ndarray:
    """The share of the mover's inside that its bar does not cover, [F]."""
    if mover.bar is None:
        return np.ones(len(mover.places))
    along = np.arange(SIDE) + 0.5
    free = 1 - _cover(mover.bar)
    shares = []
    for (x, y), angle in zip(mover.places, mover.turns):
        inside = _turned(DISTANCES[mover.shape], angle)(along - x, along[:, None] - y, mover.radius) < 0
        shares.append((inside * free).sum() / inside.sum())
    return np.array(shares)


def _phrase(mover: Mover) -> str:
    """The words for a mover's motion."""
    what = {
        "moves": f"moves {mover.direction} {mover.speed}",
        "bounces": "bounces",
        "turns": f"turns {mover.direction} {mover.speed}",
        "hides": f"passes {mover.direction} behind a bar",
    }
    article = "an" if mover.colour[0] in "aeiou" else "a"
    return f"{article} {mover.colour} {mover.shape} {what[mover.motion]}"


def words(caption: str) -> np.ndarray:
    """The words of `WORDS` in a caption of one shape: float32 [P] of 0 and 1; their order says nothing more.

    Raises:
        ValueError: for a word that no caption of one shape has.
    """
    spoken = caption.lower().replace(",", " ").replace(".", " ").split()
    for word in spoken:
        if word not in WORDS and word not in SILENT:
            raise ValueError(f"{caption!r}: the word {word!r} is not known. Valid: {', '.join(WORDS)}")
    return np.isin(WORDS, spoken).astype(np.float32)


def words_of_both(caption: str) -> np.ndarray:
    """The words of both shapes' phrases in order: float32 [2 P], with zeros for a missing second shape.

    Raises:
        ValueError: as `words`, and for a caption of more than two shapes.
    """
    phrases = re.split(" and ", caption, flags=re.IGNORECASE)
    if len(phrases) > 2:
        raise ValueError(f'{caption!r} has {len(phrases)} shapes. Valid: one, or two joined by " and "')
    return np.concatenate([words(phrase) for phrase in (*phrases, "")[:2]])


def said(caption: str) -> dict[str, str]:
    """The attributes that a caption of one shape states, by name: colour, shape, motion, direction, speed.

    Raises:
        ValueError: as `words`, and for a caption that names two values of one attribute.
    """
    stated = [word for word, there in zip(WORDS, words(caption)) if there]
    values = {
        "colour": scenes.COLOURS,
        "shape": scenes.SHAPES,
        "motion": ("moves", "bounces", "turns", "passes"),
        "direction": (*DIRECTIONS, "clockwise", "counterclockwise"),
        "speed": tuple(SPEEDS),
    }
    named = {name: [word for word in stated if word in options] for name, options in values.items()}
    for name, some in named.items():
        if len(some) > 1:
            raise ValueError(f"{caption!r} has two values of its {name}: {', '.join(some)}. Valid: one shape")
    return {name: "hides" if some[0] == "passes" else some[0] for name, some in named.items() if some}
