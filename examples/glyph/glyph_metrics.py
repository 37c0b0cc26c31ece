"""Figures of a model that was taught a glyph: whether it shows it, as requested, and what else has changed.

All take pictures, uint8 [N, 64, 64, 3], so that real ones can stand in a model's place.

Subject fidelity is a retriever's: in the features of the judge, which never saw the glyph, each picture is compared
with real ones of its own prompt, which have the glyph or any other shape in the glyph's place. How often the retriever
is mistaken is measured on real pictures.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion.data.shapes.scenes import SHAPES, Scene
from diffusion.metrics import attribute_reader, bootstrap
from diffusion.metrics.attribute_reader import Reader
from examples.glyph import glyph
from examples.text import judge, prompt_metrics

EACH = 16  # real pictures of a prompt with each shape
GALLERY, RIGHT, WRONG = 10, 11, 12  # streams of real pictures: to compare with, and of known content


class Gallery(NamedTuple):
    """Real pictures that one picture is compared with.

    Attributes:
        features: the pictures' features, [M, D].
        names: the name of the shape that each has in the glyph's place.
    """

    features: np.ndarray
    names: Sequence[str]


def retrieved(features: np.ndarray, galleries: Sequence[Gallery]) -> list[str]:
    """The shape of the nearest real picture, by the distance of their features.

    Args:
        features: the features of N pictures, [N, D].
        galleries: a gallery for each picture.
    """
    if len(features) != len(galleries):
        raise ValueError(f"{len(features)} pictures need a gallery each, and got {len(galleries)}")
    nearest = lambda row, gallery: int(np.argmin(np.linalg.norm(gallery.features - row, axis=1)))
    return [gallery.names[nearest(row, gallery)] for row, gallery in zip(features, galleries)]


def galleries(reader: Reader, requested: Sequence[Scene], each: int = EACH) -> list[Gallery]:
    """`each` real pictures of each scene with each shape that may stand in the glyph's place, and with it."""
    names = [[name for name in (glyph.NAME, *others(scene)) for _ in range(each)] for scene in requested]
    shown = [with_shape(scene, name) for scene, row in zip(requested, names) for name in row]
    images = np.stack([glyph.picture(scene, GALLERY, i) for i, scene in enumerate(shown)])
    features = np.split(attribute_reader.features(reader, images), np.cumsum([len(row) for row in names])[:-1])
    return [Gallery(*both) for both in zip(features, names)]


def others(scene: Scene) -> tuple[str, ...]:
    """The dataset's shapes that can stand in the glyph's place, without the shape of a second object."""
    return tuple(name for name in SHAPES if name not in (scene.shape, scene.second_shape))


def with_shape(scene: Scene, name: str) -> Scene:
    """The scene with another shape in the glyph's place."""
    slot = "shape" if scene.shape == glyph.NAME else "second_shape"
    return scene._replace(**{slot: name})


def fidelity(reader: Reader, requested: Sequence[Scene], images: np.ndarray, known: Sequence[Gallery]) -> dict:
    """Whether pictures show the glyph, and all else that is requested.

    Returns:
        {"subject": the share of pictures whose nearest real one has the glyph, "prompt": the share of requested
        attributes beside the shapes that are right, "pictures": the share of pictures of which both hold, with all of
        these attributes}, each from `bootstrap.share`.
    """
    has_glyph = [name == glyph.NAME for name in retrieved(attribute_reader.features(reader, images), known)]
    shown = judge.seen(reader, images)
    verdicts = [judge.verdict(scene, scene_shown) for scene, scene_shown in zip(requested, shown)]
    beside = [[right for name, right in verdict.items() if name != "shape"] for verdict in verdicts]
    return {
        "subject": bootstrap.share(has_glyph),
        "prompt": bootstrap.share([right for rights in beside for right in rights]),
        "pictures": bootstrap.share([one and all(rest) for one, rest in zip(has_glyph, beside)]),
    }


def real_figures(
    reader: Reader, requested: Sequence[Scene], known: Sequence[Gallery], coded: Callable[[np.ndarray], np.ndarray]
) -> dict[str, Any]:
    """What the measures say of real pictures, which bounds what they can say of a model's.

    Args:
        reader, requested, known: the arguments of `fidelity`.
        coded: a function from pictures to the autoencoder's reconstructions of them.

    Returns:
        {"right": `fidelity` of real pictures of the scenes, "coded": `fidelity` of their reconstructions by the
        autoencoder, "mistaken": the share of real pictures with another shape in the glyph's place that the retriever
        takes for the glyph}.
    """
    right = np.stack([glyph.picture(scene, RIGHT, i) for i, scene in enumerate(requested)])
    wrong = [with_shape(scene, others(scene)[i % len(others(scene))]) for i, scene in enumerate(requested)]
    images = np.stack([glyph.picture(scene, WRONG, i) for i, scene in enumerate(wrong)])
    nearest_names = retrieved(attribute_reader.features(reader, images), known)
    mistaken = bootstrap.share([name == glyph.NAME for name in nearest_names])
    return {
        "right": fidelity(reader, requested, right, known),
        "coded": fidelity(reader, requested, coded(right), known),
        "mistaken": mistaken,
    }


def drift(reader: Reader, captions: Sequence[str], before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """What has changed in pictures of captions that do not name the glyph, from the same noise.

    Args:
        reader: the judge.
        captions: captions from the dataset.
        before: the base's pictures.
        after: the pictures of the model that was taught.

    Returns:
        {"attributes": the share of the captions' attributes that are right after, "same": the share of pictures without
        any change, each from `bootstrap.share`, "difference": the mean |after - before| on the scale of 255}.
    """
    apart = np.abs(after.astype(np.float32) - before)
    return {
        "attributes": judge.score(prompt_metrics.verdicts(reader, captions, after))["attributes"],
        "same": bootstrap.share([not picture.any() for picture in apart]),
        "difference": float(apart.mean()),
    }
