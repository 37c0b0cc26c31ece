"""A row of the report: pictures without and with a technique from the same noise, their scores, and a comment."""

__all__ = ["Row", "close", "inside", "share_of_colour", "shares"]

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion.data.shapes import drawing
from diffusion.data.shapes.scenes import COLOURS, SHAPES, Scene
from diffusion.metrics import bootstrap
from examples.text import drawn_objects

PAPER = 2.0  # of 255: how far a paper may lie from another in each channel; the tints of `drawing.PAPERS` differ more


class Row(NamedTuple):
    """A technique with its pictures.

    Attributes:
        title: the technique's name.
        page: the link to its documentation, from the report's folder.
        commands: the commands that make one of the pictures with the technique.
        look: a sentence that says what to look at.
        captions: the prompt of each column of the picture.
        pictures: the lines of the picture, {name: uint8 [N, 64, 64, 3]}; all from the same noise.
        figures: {what is measured: {name of the line: share, as `bootstrap.share` returns it}}.
    """

    title: str
    page: str
    commands: tuple[str, ...]
    look: str
    captions: Sequence[str]
    pictures: Mapping[str, np.ndarray]
    figures: Mapping[str, Mapping[str, Any]]


def shares(scenes: Sequence[Scene], pictures: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """The share of pictures in which all of some entries of `drawn_objects.verdict` hold.

    Args:
        scenes: the N requested scenes.
        pictures: the pictures, uint8 [N, 64, 64, 3].
        names: entries such as "shape" and "colour"; one that a scene leaves open holds.
    """
    verdicts = [
        drawn_objects.verdict(scene, picture)
        for scene, picture in zip(scenes, drawn_objects.measured(pictures, scenes), strict=True)
    ]
    return bootstrap.share([all(right.get(name, True) for name in names) for right in verdicts])


def inside(scenes: Sequence[Scene], pictures: np.ndarray, boxes: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The share of pictures whose one object has its centre inside of a box.

    Args:
        scenes: the N scenes of one object.
        pictures: the pictures, uint8 [N, 64, 64, 3].
        boxes: the N boxes (left, top, right, bottom), as shares of the sides.
    """
    inside_box = []
    for scene, picture, (left, top, right, bottom) in zip(
        scenes, drawn_objects.measured(pictures, scenes), boxes, strict=True
    ):
        x, y = picture.objects[0].centre[SHAPES.index(scene.shape)] / drawing.SIDE
        inside_box.append(bool(left <= x <= right and top <= y <= bottom and picture.objects[0].overlap.any()))
    return bootstrap.share(inside_box)


def share_of_colour(scenes: Sequence[Scene], pictures: np.ndarray, colour: str) -> dict[str, Any]:
    """The share of pictures whose object has a colour in at least nine of ten pixels."""
    measured = drawn_objects.measured(pictures, scenes)
    least = drawn_objects.COLOURED
    return bootstrap.share([bool(picture.objects[0].colours[COLOURS.index(colour)] >= least) for picture in measured])


def close(pictures: np.ndarray, paper: np.ndarray) -> dict[str, Any]:
    """The share of pictures [N, 64, 64, 3] whose paper is this colour [3], up to 2 of 255 in each channel."""
    papers = [drawn_objects.paper_of(picture) for picture in pictures]
    return bootstrap.share([bool(np.abs(one - paper).max() <= PAPER) for one in papers])
