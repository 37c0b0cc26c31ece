"""Measures of a model that was finetuned on a glyph: whether pictures show it as requested, and side effects.

All measures take pictures, uint8 [N, 64, 64, 3], so they can also measure real pictures.

A retriever measures subject fidelity. In the features of the judge, which was not trained on the glyph, it compares
each picture with real pictures of the same prompt that show the glyph or another shape in its place, and with corrupted
glyphs: broken, blended with another shape, or blurred. It rejects a picture if a corrupted glyph is nearer by a certain
factor, which is chosen such that 1 % of real pictures of the glyph are rejected. The error rate of the retriever is
measured on other pictures. A second measure compares the picture with the mask of the glyph, without a network
(`drawn_objects`).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion.data.shapes.scenes import NONE, SHAPES, Scene
from diffusion.metrics import attribute_reader, bootstrap
from diffusion.metrics.attribute_reader import Reader
from diffusion.metrics.prompt_following import clustered
from examples.glyph import glyph
from examples.text import drawn_objects, judge, prompt_metrics

EACH = 9  # pictures of a prompt with each shape, and with spoilt glyphs, three of each kind
GALLERY, RIGHT, WRONG, CALIBRATION = 10, 11, 12, 13  # streams of random numbers of the pictures
REFUSED = 0.01  # share of real pictures of the glyph that the retriever refuses


class Gallery(NamedTuple):
    """Real pictures that one picture is compared with.

    Attributes:
        features: the pictures' features, [M, D].
        names: the shape in the glyph's place in each picture; `NONE` for a spoilt glyph.
    """

    features: np.ndarray
    names: Sequence[str]


def retrieved(features: np.ndarray, galleries: Sequence[Gallery], factor: float = 1.0) -> list[str]:
    """The shape of the nearest picture, by the distance of their features.

    Args:
        features: the features of N pictures, [N, D].
        galleries: a gallery for each picture.
        factor: the factor of the distances of spoilt pictures, > 0; a larger one refuses fewer pictures.

    Raises:
        ValueError: if there is not one gallery for each picture.
    """
    if len(features) != len(galleries):
        raise ValueError(f"each of the {len(features)} pictures needs a gallery, got {len(galleries)} galleries")
    return [gallery.names[int(np.argmin(_apart(row, gallery, factor)))] for row, gallery in zip(features, galleries)]


def _apart(row: np.ndarray, gallery: Gallery, factor: float = 1.0) -> np.ndarray:
    """The distances of a picture to those of a gallery, [M]; distances to spoilt ones are multiplied by a factor."""
    spoilt_one = np.array([name == NONE for name in gallery.names])
    return np.linalg.norm(gallery.features - row, axis=1) * np.where(spoilt_one, factor, 1.0)


def refusal(features: np.ndarray, known: Sequence[Gallery], share: float = REFUSED) -> float:
    """The factor at which `retrieved` refuses a share of pictures: the quantile of order 1 - share of

        (the distance to the nearest picture of a shape) / (the distance to the nearest spoilt one).

    Args:
        features: the features of N real pictures of the glyph, [N, D].
        known: a gallery for each picture.
        share: the share, in 0..1.
    """
    ratios = []
    for row, gallery in zip(features, known, strict=True):
        apart = _apart(row, gallery)
        spoilt_one = np.array([name == NONE for name in gallery.names])
        ratios.append(apart[~spoilt_one].min() / apart[spoilt_one].min())
    return float(np.quantile(ratios, 1 - share))


def galleries(reader: Reader, requested: Sequence[Scene], number: int = EACH) -> list[Gallery]:
    """The galleries of scenes: `number` pictures with the glyph, with each other shape, and with a spoilt glyph."""
    return [_gallery(reader, scene, number * i, number) for i, scene in enumerate(requested)]


def _gallery(reader: Reader, scene: Scene, first: int, number: int) -> Gallery:
    """The gallery of a scene, whose numbers of pictures begin at `first` for each shape."""
    names = [name for name in (glyph.NAME, *others(scene), NONE) for _ in range(number)]
    numbers = [first + i % number for i in range(len(names))]
    images = [
        glyph.spoilt_picture(scene, GALLERY, number)
        if name == NONE
        else glyph.picture(with_shape(scene, name), GALLERY, number)
        for name, number in zip(names, numbers)
    ]
    return Gallery(attribute_reader.features(reader, np.stack(images)), names)


def others(scene: Scene) -> tuple[str, ...]:
    """The dataset's shapes that can replace the glyph: all but the shape of the other object."""
    return tuple(name for name in SHAPES if name not in (scene.shape, scene.second_shape))


def with_shape(scene: Scene, name: str) -> Scene:
    """The scene with another shape in the glyph's place."""
    slot = "shape" if scene.shape == glyph.NAME else "second_shape"
    return scene._replace(**{slot: name})


def fidelity(
    reader: Reader, requested: Sequence[Scene], images: np.ndarray, known: Sequence[Gallery], factor: float = 1.0
) -> dict:
    """Whether pictures show the glyph and the other requested attributes.

    Args:
        reader: the judge.
        requested: the scene of each picture.
        images: the pictures, uint8 [N, 64, 64, 3].
        known: a gallery for each picture.
        factor: the factor of `retrieved`.

    Returns:
        {"subject": the share of pictures whose nearest real one has the glyph, "prompt": the share of requested
        attributes, except the shapes, that are right, "pictures": the share of pictures that show the glyph and have
        all these attributes right, "best": the share of pictures in which each requested shape overlaps most with its
        own mask, of the nine masks, "whole": the share of pictures in which these overlaps are above 0.85}. "prompt" is
        from `clustered.share`, since a picture has several attributes, and the others from `bootstrap.share`.
    """
    has_glyph = [name == glyph.NAME for name in retrieved(attribute_reader.features(reader, images), known, factor)]
    shown = judge.read_scenes(reader, images)
    verdicts = [judge.verdict(scene, scene_shown) for scene, scene_shown in zip(requested, shown)]
    beside = [[right for name, right in verdict.items() if name != "shape"] for verdict in verdicts]
    fits = drawn_objects.verdicts(requested, images, (glyph.ghost,))
    return {
        "best": bootstrap.share([fit["shape"] for fit in fits]),
        "whole": bootstrap.share([fit["whole"] for fit in fits]),
        "subject": bootstrap.share(has_glyph),
        "prompt": clustered.share(*zip(*((right, i) for i, rights in enumerate(beside) for right in rights))),
        "pictures": bootstrap.share([one and all(rest) for one, rest in zip(has_glyph, beside)]),
    }


def real_figures(
    reader: Reader,
    requested: Sequence[Scene],
    known: Sequence[Gallery],
    coded: Callable[[np.ndarray], np.ndarray],
    factor: float = 1.0,
) -> dict[str, Any]:
    """What the measures say of real pictures, which bounds what they can say of a model's.

    Args:
        reader, requested, known: the arguments of `fidelity`.
        coded: a function from pictures to the autoencoder's reconstructions of them.
        factor: the factor of `retrieved`.

    Returns:
        {"right": `fidelity` of real pictures of the scenes, "coded": `fidelity` of their reconstructions by the
        autoencoder, "mistaken" and "spoilt": the shares of real pictures with another shape in the glyph's place, and
        of spoilt glyphs, that the retriever takes for the glyph}.
    """
    right = np.stack([glyph.picture(scene, RIGHT, i) for i, scene in enumerate(requested)])
    wrong = [with_shape(scene, others(scene)[i % len(others(scene))]) for i, scene in enumerate(requested)]
    images = np.stack([glyph.picture(scene, WRONG, i) for i, scene in enumerate(wrong)])
    nearest_names = retrieved(attribute_reader.features(reader, images), known, factor)
    spoilt_ones = np.stack([glyph.spoilt_picture(scene, WRONG, i) for i, scene in enumerate(requested)])
    spoilt_names = retrieved(attribute_reader.features(reader, spoilt_ones), known, factor)
    mistaken = bootstrap.share([name == glyph.NAME for name in nearest_names])
    return {
        "right": fidelity(reader, requested, right, known, factor),
        "coded": fidelity(reader, requested, coded(right), known, factor),
        "mistaken": mistaken,
        "spoilt": bootstrap.share([name == glyph.NAME for name in spoilt_names]),
    }


def drift(reader: Reader, captions: Sequence[str], before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """The changes in pictures of captions without the glyph, from the same noise.

    Args:
        reader: the judge.
        captions: captions from the dataset.
        before: the base's pictures.
        after: the finetuned model's pictures.

    Returns:
        {"attributes": the share of the captions' attributes that are right afterwards, from `clustered.share`, "same":
        the share of pictures without any change, from `bootstrap.share`, "difference": the mean |after - before| on the
        scale of 255}.
    """
    apart = np.abs(after.astype(np.float32) - before)
    return {
        "attributes": judge.score(prompt_metrics.verdicts(reader, captions, after), captions)["attributes"],
        "same": bootstrap.share([not picture.any() for picture in apart]),
        "difference": float(apart.mean()),
    }
