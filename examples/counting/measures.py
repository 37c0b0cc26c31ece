"""Measures of pictures for captions: counts without a network, the verdicts of both judges, and variety."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffusion import text_to_image
from diffusion.data.shapes import scenes
from diffusion.data.shapes.scenes import Lot
from diffusion.metrics import attribute_reader, frechet
from diffusion.metrics.attribute_reader import Reader
from diffusion.metrics.prompt_following import clustered
from diffusion.text_to_image import TextToImage
from examples.counting import judges
from examples.text import judge, prompt_metrics

SEED = 7_304  # seed of the captions, which no training uses
SEEDS = 4  # pictures of each caption
CAPTIONS = {"several": 100, "one": 40, "pair": 50, "word": 24}
"""The number of captions of each kind of scene. The words are those of the training pictures."""
FIRST_SEED = 500_000  # first seed of the pictures
STEPS = 10  # sampling steps, without guidance
BATCH = 50  # pictures at once

Make = Callable[[Sequence[str], Sequence[int]], np.ndarray]
"""A function (captions, seeds) -> pictures, uint8 [N, 64, 64, 3]."""


def captions(number: dict[str, int] = CAPTIONS) -> list[str]:
    """Captions of trained combinations, `number` of each kind, in which every count of objects is equally frequent."""
    left, texts, index = dict(number), [], 0
    while sum(left.values()):
        lot = Lot(SEED, 0, index)
        scene = scenes.draw(lot)
        index += 1
        if left[scene.kind]:
            left[scene.kind] -= 1
            if scene.kind == "several":
                scene = scene._replace(count=2 + left["several"] % 4)
            texts.append(scenes.caption(scene, lot))
    return texts


def make(model: TextToImage, **how: Any) -> Make:
    """The function that makes a model's pictures.

    Args:
        model: the model.
        **how: arguments of `text_to_image.generate`, such as guidance.
    """
    return lambda texts, seeds: text_to_image.generate(model, list(texts), seeds=list(seeds), batch_size=BATCH, **how)


def measured(texts: Sequence[str], pictures: np.ndarray, rewarding: Reader, measuring: Reader) -> dict[str, Any]:
    """The figures of pictures.

    Args:
        texts: the caption of each picture.
        pictures: the pictures, uint8 [N, 64, 64, 3], with the `SEEDS` pictures of each caption one after the other.
        rewarding: the judge that gave the rewards.
        measuring: the judge that no training used.

    Returns:
        {"templates": the shares of `drawn_objects` and `drawn_words`, without a network, "count": {"templates",
        "rewarding", "measuring": the share of pictures with the right number of several objects, by each measure},
        "all": {"rewarding", "measuring": the share of pictures without words whose kind, colours, shapes and counts are
        all right, by each judge}, "gap": the share of right counts by the rewarding judge minus the share by the
        measuring one, "variety": the mean distance between pictures of a caption divided by the mean distance between
        real ones, "frechet": the Frechet distance to real pictures of the same captions}. The last two are measured in
        the measuring judge's features.
    """
    requested = [scenes.parsed(text) for text in texts]
    several = np.array([scene.kind == "several" for scene in requested])
    templates = prompt_metrics.by_templates(texts, pictures)
    last = judges.features(measuring, pictures)
    scenes_shown = {
        "rewarding": judges.read(rewarding, attribute_reader.features(rewarding, pictures)),
        "measuring": judges.read(measuring, last),
    }
    rights = {name: [judge.verdict(*pair) for pair in zip(requested, shown)] for name, shown in scenes_shown.items()}
    count = {
        name: _share([(right["count"], text) for right, text, counted in zip(verdicts, texts, several) if counted])
        for name, verdicts in rights.items()
    }
    pictured = {
        name: _share([(all(right.get(part, True) for part in ("kind", "colour", "shape", "count")), text)
                      for right, text, scene in zip(verdicts, texts, requested) if scene.kind != "word"])
        for name, verdicts in rights.items()
    }  # fmt: skip
    real = judges.features(measuring, np.stack([prompt_metrics.real_picture(text, i) for i, text in enumerate(texts)]))
    grouped = lambda rows: prompt_metrics.variety(rows.reshape(-1, SEEDS, rows.shape[-1]))
    return {
        "templates": templates,
        "count": {"templates": templates["count"], **count},
        "all": pictured,
        "gap": count["rewarding"]["share"] - count["measuring"]["share"],
        "variety": grouped(last) / grouped(real),
        "frechet": frechet.frechet_distance(frechet.moments(last), frechet.moments(real)),
    }


def _share(rows: Sequence[tuple[bool, str]]) -> dict[str, Any]:
    """The share of right pictures, from (whether each is right, its caption), clustered by caption."""
    return clustered.share(*zip(*rows))


def ratio(after: dict[str, Any], before: dict[str, Any]) -> float:
    """The Frechet distance after a training as a multiple of the distance before."""
    return after["frechet"] / before["frechet"]
