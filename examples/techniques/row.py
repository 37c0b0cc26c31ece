"""A row of the report: pictures without and with a technique from the same noise, their scores, and a comment."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion.data.shapes import drawing
from diffusion.data.shapes.scenes import COLOURS, SHAPES, Scene
from diffusion.metrics import bootstrap
from examples.text import drawn_objects

PAPER = 2.0  # largest difference of the same paper in each channel, of 255; the tints of `drawing.PAPERS` differ more


Lines = Mapping[str, np.ndarray]
"""The lines of a figure by their names, uint8 [N, 64, 64, 3] each."""


class Row(NamedTuple):
    """A technique with its pictures.

    Attributes:
        title: the technique's name.
        page: the link to its documentation, from the report's folder.
        commands: the commands that make one of the pictures with the technique.
        look: the comment of the row, which says what to look at.
        captions: the prompt of each column of the figure.
        pictures: the lines of the figure, all from the same noise.
        figures: {measure: {name of the line: share from `bootstrap.share`}}.
    """

    title: str
    page: str
    commands: tuple[str, ...]
    look: str
    captions: Sequence[str]
    pictures: Lines
    figures: Mapping[str, Mapping[str, Any]]


def shares(lines: Lines, scenes: Sequence[Scene], *names: str) -> dict[str, Any]:
    """The share of pictures of each line in which all given entries of `drawn_objects.verdict` hold.

    Args:
        lines: the lines of the figure.
        scenes: the N requested scenes.
        *names: entries such as "shape" and "colour"; an entry that a scene does not request counts as fulfilled.
    """

    def share(pictures: np.ndarray) -> dict[str, Any]:
        verdicts = drawn_objects.verdicts(scenes, pictures)
        return bootstrap.share([all(right.get(name, True) for name in names) for right in verdicts])

    return {name: share(pictures) for name, pictures in lines.items()}


def inside(lines: Lines, scenes: Sequence[Scene], boxes: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The share of pictures of each line whose single object has its centre inside a box.

    Args:
        lines: the lines of the figure.
        scenes: the N scenes of one object.
        boxes: the N boxes (left, top, right, bottom), as shares of the sides.
    """

    def is_inside(scene: Scene, one: drawn_objects.Drawn, box: Sequence[float]) -> bool:
        x, y = one.centre[SHAPES.index(scene.shape)] / drawing.SIDE
        left, top, right, bottom = box
        return bool(left <= x <= right and top <= y <= bottom and one.overlap.any())

    measured = {name: drawn_objects.measured(pictures, scenes) for name, pictures in lines.items()}
    return {
        name: bootstrap.share(
            [is_inside(*row) for row in zip(scenes, [picture.objects[0] for picture in pictures], boxes, strict=True)]
        )
        for name, pictures in measured.items()
    }


def share_of_colour(lines: Lines, scenes: Sequence[Scene], colour: str) -> dict[str, Any]:
    """The share of pictures of each line whose object has the colour in at least nine of ten pixels."""
    number, least = COLOURS.index(colour), drawn_objects.COLOURED
    measured = {name: drawn_objects.measured(pictures, scenes) for name, pictures in lines.items()}
    return {
        name: bootstrap.share([bool(picture.objects[0].colours[number] >= least) for picture in pictures])
        for name, pictures in measured.items()
    }


def close(lines: Lines, paper: np.ndarray) -> dict[str, Any]:
    """The share of pictures of each line whose paper has this colour [3], up to 2 of 255 in each channel."""
    apart = lambda picture: np.abs(drawn_objects.paper_of(picture) - paper).max()
    return {
        name: bootstrap.share([bool(apart(picture) <= PAPER) for picture in pictures])
        for name, pictures in lines.items()
    }


def every_second(lines: Lines, first: int) -> dict[str, np.ndarray]:
    """The pictures of each line in every second column, from the `first` one, 0 or 1."""
    return {name: pictures[first::2] for name, pictures in lines.items()}
