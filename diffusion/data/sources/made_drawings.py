"""Drawings of shapes, drawn when a record is read: with exact controls, with silent captions, or in motion."""

import functools
import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffusion.data import identities
from diffusion.data.sources.sequences import SPLITS, Computed, Records, check_made

SEED = 2028  # the seed of `drawings`; the dataset `shapes` has another
SPELLING_SEED = 2031  # the seed of `spelled_drawings`
SILENT = "a picture"
"""Caption that says nothing of its picture."""
SPELLED = (3, 4)
"""Lengths of the words of random letters in `spelled_drawings`, in letters: those of `shapes.scenes.WORDS`."""


class Drawings(Computed):
    """Records that a function of the row draws."""

    def __init__(
        self,
        split: str,
        number: int,
        make: Callable[[int], dict[str, Any]],
        splits: tuple[str, ...] = SPLITS,
        name: str = "drawings",
    ):
        """Args:
            split: one of `splits`, which share no drawing.
            number: how many records there are, at least 1.
            make: row -> record.
            splits: the names of all splits.
            name: the name of the set of drawings, which no other set has.

        Raises:
            ValueError: another split, or a number below 1.
        """
        check_made("drawings", split, number, splits)
        super().__init__(number, make)
        self._split, self._splits, self._name = split, splits, name

    def identities(self) -> np.ndarray:
        """The identities of drawings, see `data.identities`; drawings of two rows may look alike."""
        return identities.numbered([self._name, self._splits], self._split, range(len(self)))


class Described(Records):
    """Records whose condition is a function of a caption, so that a page can ask for one in words.

    Attributes:
        condition_of: caption -> condition of a record; raises ValueError for a caption that it cannot read.
    """

    def __init__(
        self,
        records: Drawings,
        split: str,
        condition_of: Callable[[str], dict[str, Any]],
        caption: Callable[[int], str],
    ):
        """Wraps records without labels; `caption` maps a row to its caption."""
        super().__init__(records, 0, split)
        self.condition_of = condition_of
        self._caption = caption

    def conditions(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """The conditions of records, whose pictures are not drawn for it."""
        return [self.condition_of(self._caption(row)) for row in rows]


def arranged_drawings(
    split: str = "train", *, kind: str = "outlines", number: int = 8_000, places: tuple[float, ...] = ()
) -> Records:
    """Opens drawings of arranged shapes, with "control" in their condition, see `shapes.arrangements`.

    A record depends only on its row and split; its picture is the same for every control.

    Args:
        split: "train" or "test".
        kind: the kind of control, "outlines", "layers" or "sketch".
        number: how many records there are, at least 1.
        places: the places of the shapes, as in `arrangements.draw`; () for anywhere.

    Raises:
        ValueError: for another split or kind, other places, or a number below 1.
    """
    from diffusion.data.shapes import arrangements  # imported here: TFDS takes half a second

    if kind not in arrangements.CONTROLS:
        raise ValueError(f"kind = {kind!r}. Valid: {', '.join(arrangements.CONTROLS)}")

    places = tuple(places)
    arrangements.check_places(places)

    def make(row: int) -> dict[str, Any]:
        scene = arrangements.example(split, row, kind, places=places)
        return {"image": scene.image, "caption": scene.caption, "condition": {"control": scene.control}}

    return Records(Drawings(split, number, functools.cache(make), name="arranged_drawings"), split=split)


def drawings(split: str = "train", *, silent: float = 0.5, number: int = 8_000) -> Records:
    """Opens drawings like the ones of the dataset `shapes`, some with a caption that says nothing: "a picture".

    Args:
        split: "train" or "test".
        silent: share of captions that say nothing, in [0, 1].
        number: how many records there are, at least 1.

    Raises:
        ValueError: for another split, a share out of range, or a number below 1.
    """
    if not 0 <= silent <= 1:
        raise ValueError(f"silent = {silent}. Valid: 0 to 1")
    from diffusion.data import shapes

    def make(row: int) -> dict[str, Any]:
        lot = shapes.scenes.Lot(SEED, SPLITS.index(split), row)
        scene = shapes.scenes.draw(lot, shares=shapes.TRAIN_SHARES)
        caption = shapes.scenes.caption(scene, lot)
        silence = lot.between(0, 1) < silent
        return {"image": shapes.drawing.draw(scene, lot), "caption": SILENT if silence else caption}

    return Records(Drawings(split, number, functools.cache(make)), split=split)


def spelled_drawings(split: str = "train", *, share: float = 0.15, number: int = 24_000) -> Records:
    """Opens drawings in the style of the dataset `shapes`; a share of them shows a word of random letters.

    A model that sees 32 words learns each as one picture; from random letters it learns to spell. No record has a pair
    or a word that the dataset withholds.

    Args:
        split: "train" or "test".
        share: the share of words of random letters, in [0, 1]; the other drawings have the shares of `shapes@train`.
        number: how many records there are, at least 1.

    Raises:
        ValueError: for another split, a share out of range, or a number below 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share = {share}. Valid: 0 to 1")
    from diffusion.data import shapes

    def make(row: int) -> dict[str, Any]:
        lot = shapes.scenes.Lot(SPELLING_SEED, SPLITS.index(split), row)
        if lot.between(0, 1) < share:
            scene = _random_word(lot)
        else:
            scene = shapes.scenes.draw(lot, shares=shapes.TRAIN_SHARES)
        caption = shapes.scenes.caption(scene, lot)
        return {"image": shapes.drawing.draw(scene, lot), "caption": caption}

    return Records(Drawings(split, number, functools.cache(make), name="spelled_drawings"), split=split)


def _random_word(lot: Any) -> Any:
    """A scene with a word of random letters that the dataset does not withhold."""
    from diffusion.data.shapes import scenes

    while True:
        word = "".join(lot.pick(string.ascii_lowercase) for _ in range(lot.pick(SPELLED)))
        scene = scenes.Scene("word", "plain", lot.pick(scenes.COLOURS), count=0, word=word)
        if not scenes.withheld(scene):
            return scene


def moving_drawings(
    split: str = "train",
    *,
    frames: int = 16,
    side: int = 64,
    number: int = 8_000,
    radii: tuple[float, float] = (6.0, 6.6),
    alone: bool = False,
    span: int = 0,
) -> Records:
    """Opens clips of moving shapes, see `shapes.motions`; the label is the first shape's motion.

    A record is {"image": uint8 [F, side, side, 3], "caption": text, "label": int}. Frames are drawn at 64 x 64, and a
    pixel of the record is the mean of the pixels that it covers. `motions.example(split, row, frames)` returns the true
    motions of the same row. A clip is drawn each time that it is read, since all of them would fill gigabytes.

    With `alone` a clip has one shape, and a turning shape begins at any angle. Instead of a label, records have the
    condition "vector", float32 [28], which says what words the caption has (`motions.words`).

    Args:
        split: "train", "test", or "withheld", whose pairs of a shape and a motion, or of a colour, train never shows.
        frames: F, at least 8.
        side: height and width of a frame in pixels, 1 to 64.
        number: how many records there are, at least 1.
        radii: least and greatest radius of a shape, in pixels of 64.
        alone: whether each clip has one shape.
        span: number of frames in which a shape covers the distance that its speed stands for; 0 for all frames of the
            clip. A longer clip begins like the clip of the same row with `frames` = span.

    Raises:
        ValueError: for another split, too few frames, another side or span, radii that do not fit, or a number below
            1.
    """
    from diffusion.data.shapes import motions

    setting = _setting(radii, span, frames)
    if alone:
        setting = setting._replace(two=0.0, tilted=True)
        return _described("one_moving_drawing", split, frames, side, number, setting, motions.words)
    kinds = tuple(motions.MOTIONS)

    def make(row: int) -> dict[str, Any]:
        clip = motions.example(split, row, frames, setting=setting)
        record = {"image": motions.shrunk(clip.frames, side), "caption": clip.caption}
        return {**record, "label": kinds.index(clip.movers[0].motion)}

    return Records(Drawings(split, number, make, tuple(motions.STREAMS), "moving_drawings"), len(kinds), split)


def moving_pairs(
    split: str = "train",
    *,
    frames: int = 16,
    side: int = 48,
    number: int = 16_000,
    radii: tuple[float, float] = (7.6, 8.2),
    span: int = 0,
) -> Records:
    """Opens clips of one or two moving shapes with the words of each, see `shapes.motions`.

    A record is {"image": uint8 [F, side, side, 3], "caption": text, "condition": {"vector": float32 [56]}}. The vector
    says what words each of the two phrases of the caption has (`motions.words_of_both`); of two shapes the first one
    is in the upper half. A turning shape begins at any angle. A clip takes 11 ms to draw, and stays in memory then.

    Args:
        split: "train", "test", or "withheld", whose pairs of a shape and a motion, or of a colour, train never shows.
        frames: F, at least 8.
        side: height and width of a frame in pixels, 1 to 64.
        number: number of records, at least 1.
        radii: least and greatest radius of a shape, in pixels of 64.
        span: number of frames in which a shape covers the distance of its speed; 0 for all frames of the clip.

    Raises:
        ValueError: as `moving_drawings`.
    """
    from diffusion.data.shapes import motions

    setting = _setting(radii, span, frames)._replace(tilted=True)
    return _described("moving_pairs", split, frames, side, number, setting, motions.words_of_both, kept=True)


def _setting(radii: tuple[float, float], span: int, frames: int) -> Any:
    """The setting of clips with these radii and this span, which are checked."""
    from diffusion.data.shapes import motions

    low, high = radii if len(radii) == 2 else (0.0, 0.0)
    if not 4 <= low <= high <= 9:
        raise ValueError(f"radii = {tuple(radii)}. Valid: two numbers from 4 to 9, the smaller one first")
    if span and not motions.LEAST <= span <= frames:
        raise ValueError(f"span = {span}. Valid: 0, or {motions.LEAST} to {frames}, the number of frames")
    return motions.Setting(radii=(low, high), span=span)


def _described(
    name: str,
    split: str,
    frames: int,
    side: int,
    number: int,
    setting: Any,
    words: Callable[[str], np.ndarray],
    kept: bool = False,
) -> Described:
    """Clips whose condition is the vector of their caption's words; `kept` ones stay in memory once they are drawn."""
    from diffusion.data.shapes import motions

    condition_of = lambda caption: {"vector": words(caption)}

    def make(row: int) -> dict[str, Any]:
        clip = motions.example(split, row, frames, setting=setting)
        record = {"image": motions.shrunk(clip.frames, side), "caption": clip.caption}
        return {**record, "condition": condition_of(clip.caption)}

    drawings = Drawings(split, number, functools.cache(make) if kept else make, tuple(motions.STREAMS), name)
    caption = lambda row: motions.caption(split, row, frames, setting=setting)
    return Described(drawings, split, condition_of, caption)
