"""Reads a written word letter by letter, without a network: compares the cell of each letter with 26 drawn letters.

The mask of a picture is {|p - w| > D / 2}, as in `drawn_objects`. A word of n letters occupies n cells of 12 x 22
pixels in the middle of a row, at one of three heights. Each cell is read as the letter with the largest overlap
(intersection over union). Of the words for all lengths and heights, the result is the one whose drawing overlaps most
with the whole mask.
"""

import functools
import string
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diffusion.data.shapes import drawing, scenes
from diffusion.data.shapes.scenes import NONE
from diffusion.metrics.prompt_following import clustered
from examples.text import drawn_objects

LENGTHS = (3, 4)  # letters of the dataset's words
CELL = (22, 12)  # rows and columns of a letter
COLOURED = 0.9  # least share of a word's pixels that have its colour


class Reading(NamedTuple):
    """The word in a picture, and the overlap of the picture's mask with that word's drawing, 0..1."""

    word: str
    overlap: float


@functools.cache
def _drawn(word: str) -> np.ndarray:
    """The mask of a word of n letters in drawings, Bool [22, 12 n]."""
    rows, columns = CELL
    small = Image.new("L", (len(word) * columns // 2, rows // 2))
    ImageDraw.Draw(small).text((0, 0), word, fill=255, font=ImageFont.load_default_imagefont())
    return np.asarray(small).repeat(2, 0).repeat(2, 1) > 0


@functools.cache
def _letters() -> np.ndarray:
    """The masks of the letters a to z, Bool [26, 22, 12]."""
    return np.stack([_drawn(letter) for letter in string.ascii_lowercase])


def read(picture: np.ndarray) -> Reading:
    """The word that a picture shows.

    Args:
        picture: uint8 [64, 64, 3].
    """
    mask = drawn_objects.mask(drawn_objects.distance_to_paper(picture), "plain")
    return max((_word(mask, length, place) for length in LENGTHS for place in drawing.PLACES), key=lambda r: r.overlap)


def _word(mask: np.ndarray, length: int, place: float) -> Reading:
    """The word of a length at a height that overlaps most with a mask, Bool [64, 64]."""
    rows, columns = CELL
    top, left = int(place) - rows // 2, (drawing.SIDE - length * columns) // 2
    part = mask[top : top + rows, left : left + length * columns]
    cells = part.reshape(rows, length, 1, columns).transpose(1, 2, 0, 3)
    overlap = (cells & _letters()).sum((2, 3)) / (cells | _letters()).sum((2, 3))
    word = "".join(string.ascii_lowercase[letter] for letter in overlap.argmax(1))
    outside = mask.sum() - part.sum()
    return Reading(word, float((part & _drawn(word)).sum() / ((part | _drawn(word)).sum() + outside)))


def score_of(captions: Sequence[str], pictures: np.ndarray) -> dict[str, Any]:
    """Shares of pictures of words with the requested word and colour, from `clustered.share`.

    Args:
        captions: the captions; those that name no word are left out.
        pictures: uint8 [N, 64, 64, 3].

    Returns:
        {"word": the letters read as the requested word, "word_colour": at least 0.9 of the word's pixels have the
        requested colour, for the captions that name one}; {} if no caption names a word.
    """
    requested = [scenes.parsed(caption) for caption in captions]
    rows = [row for row, scene in enumerate(requested) if scene.kind == "word"]
    score = {}
    if rows:
        rights = [read(pictures[row]).word == requested[row].word for row in rows]
        score["word"] = clustered.share(rights, [captions[row] for row in rows])
    coloured = [row for row in rows if requested[row].colour != NONE]
    if coloured:
        rights = [_is_coloured(pictures[row], requested[row].colour) for row in coloured]
        score["word_colour"] = clustered.share(rights, [captions[row] for row in coloured])
    return score


def _is_coloured(picture: np.ndarray, colour: str) -> bool:
    mask = drawn_objects.distance_to_paper(picture) > drawn_objects.STRONG
    right = drawing.nearest_hue(picture) == scenes.COLOURS.index(colour)
    return bool(mask.any() and right[mask].mean() >= COLOURED)
