"""Measures what pictures take over from a reference drawing, compared with no reference and with chance.

The judge reads content and style. The measures see the model only through its function `make`. A function that returns
the references themselves can replace it, which gives the error of the judge.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion.data import shapes
from diffusion.data.shapes import drawing
from diffusion.data.shapes.scenes import NONE, Scene, phrase
from diffusion.data.sources.made_drawings import SILENT
from diffusion.metrics import bootstrap
from diffusion.metrics.attribute_reader import Reader
from examples.control.control_metrics import Make
from examples.text import drawn_objects, judge

CONTENT = ("kind", "count", "colour", "shape", "size", "position", "relation", "second_colour", "second_shape")
STYLE = ("style", "paper")
KINDS = ("one", "several", "pair")


class References(NamedTuple):
    """Drawings of the test split, uint8 [N, 64, 64, 3], and their scenes."""

    images: np.ndarray
    scenes: list[Scene]


def references(number: int, kinds: Sequence[str] = KINDS) -> References:
    """The first drawings of some kinds in the test split of `shapes`, with their scenes."""
    every = (shapes.example("test", row) for row in itertools.count())
    drawn = ((image, judge.facing(scene)) for image, _, scene in every if scene.kind in kinds)
    images, shown = zip(*itertools.islice(drawn, number))
    return References(np.stack(images), list(shown))


def paper(images: np.ndarray) -> np.ndarray:
    """The index of the nearest paper of each picture, int [N], in `drawing.PAPERS` followed by the night paper."""
    known = np.array([*drawing.PAPERS, drawing.NIGHT], float)
    return np.array([np.abs(known - drawn_objects.paper_of(image)).sum(-1).argmin() for image in images])


def agreement(reader: Reader, images: np.ndarray, wanted: References, names: Sequence[str]) -> dict[str, Any]:
    """How often pictures show the attributes that the references of the same rows have: {attribute: share}.

    The count is an attribute of several equal shapes, the size and the position of a single shape, and the relation and
    the second shape of two shapes.

    Args:
        reader: the judge.
        images: uint8 [N, 64, 64, 3].
        wanted: the references, one for each picture.
        names: names of attributes, in `CONTENT` and `STYLE`.
    """
    right: dict[str, list[bool]] = {name: [] for name in names}
    papers = paper(images), paper(wanted.images)
    for row, (scene, shown) in enumerate(zip(wanted.scenes, judge.read_scenes(reader, images), strict=True)):
        for name in names:
            if name == "paper":
                right[name].append(bool(papers[0][row] == papers[1][row]))
            elif getattr(scene, name) != NONE and (name != "count" or scene.kind == "several"):
                right[name].append(getattr(scene, name) == getattr(shown, name))
    return {name: bootstrap.share(rights) for name, rights in right.items() if rights}


def fits(images: np.ndarray, requested: Sequence[Scene]) -> dict[str, Any]:
    """The shares of pictures whose shapes are the best of the eight drawn ones, and whole, by `drawn_objects`.

    Args:
        images: uint8 [N, 64, 64, 3].
        requested: the scene that each picture should show, with the shape of each object.
    """
    verdicts = drawn_objects.verdicts(requested, images)
    return {name: bootstrap.share([right[name] for right in verdicts]) for name in ("shape", "whole")}


def alone(make: Make, reader: Reader, number: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Measures what pictures take over from a reference if the prompt names no attribute.

    Returns:
        ({"reference": shares with the reference, "none": shares without it from the same noise, "chance": shares
        between two references, "real": shares of the references themselves}, {"images", "none": uint8 [N, 64, 64, 3],
        "references"}).
    """
    wanted = references(number)
    silent = [SILENT] * number
    with_reference = make(silent, wanted.images, range(number))
    none = make(silent, None, range(number))
    shares = lambda images: {
        **agreement(reader, images, wanted, (*STYLE, *CONTENT)),
        "templates": fits(images, wanted.scenes),
    }
    figures = {
        "reference": shares(with_reference),
        "none": shares(none),
        "chance": shares(np.roll(wanted.images, 1, axis=0)),
        "real": shares(wanted.images),
    }
    return figures, {"references": wanted.images, "images": with_reference, "none": none}


def with_prompt(make: Make, reader: Reader, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measures what pictures take from the prompt and what from the reference.

    The prompt names the colour and the shape of another drawing. The reference has all other attributes.

    Returns:
        ({"reference", "none", "chance"}, each {"prompt": shares of the requested attributes, "style", "size",
        "position", "paper": shares of the reference's attributes, "templates": `fits` to the prompt}, {"references",
        "images", "none", "prompts"}).
    """
    wanted = references(number, ("one",))
    turned = wanted.scenes[1:] + wanted.scenes[:1]
    requested = [Scene("one", "plain", scene.colour, scene.shape) for scene in turned]
    prompts = [phrase(scene) for scene in requested]
    with_reference = make(prompts, wanted.images, range(number))
    none = make(prompts, None, range(number))

    def shares(images: np.ndarray) -> dict[str, Any]:
        names = ("colour", "shape")
        pairs = list(zip(requested, judge.read_scenes(reader, images)))
        asked = {name: bootstrap.share([getattr(a, name) == getattr(b, name) for a, b in pairs]) for name in names}
        reference_agreement = agreement(reader, images, wanted, (*STYLE, "size", "position"))
        return {"prompt": asked, **reference_agreement, "templates": fits(images, requested)}

    figures = {
        "reference": shares(with_reference),
        "none": shares(none),
        "chance": shares(np.roll(wanted.images, 1, axis=0)),
    }
    return figures, {"references": wanted.images, "images": with_reference, "none": none, "prompts": prompts}
