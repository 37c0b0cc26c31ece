"""Measures of a text-to-image model on captioned shapes, for `examples.text.report`.

Each measure is a function of a `Subject` and sees the model only through its function `make`. A function that returns
real pictures, or pictures of other captions, can replace it; the tests of the measures do this.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion.data import shapes
from diffusion.data.shapes import drawing, scenes, spoilt
from diffusion.data.shapes.scenes import COLOURS, NONE, SHAPES, Lot, Scene
from diffusion.data.sources import DataSpec
from diffusion.experiments.evaluation import real_images, sample_metrics
from diffusion.metrics import attribute_reader, bootstrap
from diffusion.metrics.attribute_reader import Reader
from diffusion.metrics.features import Extractor
from diffusion.metrics.prompt_following import clustered
from examples.text import drawn_objects, drawn_words, judge

SEED = 0  # seed of all random choices, so that the same model gives the same report
SPOILT_SEED = 1  # seed of the spoilt shapes that measure the judge, which learned from those of seed 0
SEEDS = 4  # pictures of each prompt in a measurement of variety
SQUARE = 8  # side of the squares of `small_pixels`

# (prompts, seeds, guidance, negative prompt or None) -> uint8 [N, 64, 64, 3]
Make = Callable[[Sequence[str], Sequence[int], float, str | None], np.ndarray]


class Subject(NamedTuple):
    """The function that makes pictures of prompts, and the judge that reads them."""

    make: Make
    judge: Reader


def verdicts(reader: Reader, captions: Sequence[str], images: np.ndarray) -> list[dict[str, bool]]:
    """`judge.verdict` of each picture, for the scene of its caption."""
    shown = judge.read_scenes(reader, images)
    return [judge.verdict(scenes.parsed(text), scene) for text, scene in zip(captions, shown)]


def refusals(reader: Reader, number: int) -> dict[str, Any]:
    """How often the judge answers "none of these" for new real drawings and for new spoilt ones.

    Args:
        reader: the judge.
        number: the number of spoilt drawings of each kind; there are four times as many real ones.

    Returns:
        {"real" and each of `spoilt.KINDS`: the share, from `bootstrap.share`}.
    """
    shares = {}
    for stream, kind in enumerate(("real", *spoilt.KINDS)):
        images = []
        for index in range(4 * number if kind == "real" else number):
            lot = Lot(SEED, 80 + stream, index)
            while (scene := scenes.draw(lot)).kind == "word":
                pass
            images.append(drawing.draw(scene, lot) if kind == "real" else spoilt.draw(scene, lot, kind, SPOILT_SEED)[0])
        shares[kind] = bootstrap.share([judge.refused(scene) for scene in judge.read_scenes(reader, np.stack(images))])
    return shares


def sweep(subject: Subject, captions: Sequence[str], scales: Sequence[float]) -> list[dict[str, Any]]:
    """Fidelity and variety at each scale of the guidance, on the same captions and seeds.

    Fidelity is the share of requested attributes that are right. Variety is the mean distance, in the judge's features,
    between `SEEDS` pictures of one caption, divided by the same for real pictures of the caption.

    Returns:
        For each scale {"guidance", "scores", "error" (standard error of the share of attributes), "variety",
        "saturation" (share of values at 0 or 255), "images" uint8 [len(captions), SEEDS, 64, 64, 3]}.
    """
    prompts = [text for text in captions for _ in range(SEEDS)]
    features = lambda images: attribute_reader.features(subject.judge, images).reshape(len(captions), SEEDS, -1)
    real = variety(features(np.stack([real_picture(text, number) for number, text in enumerate(prompts)])))
    rows = []
    for scale in scales:
        images = subject.make(prompts, range(len(prompts)), scale, None)
        rights = verdicts(subject.judge, prompts, images)
        rows.append(
            {
                "guidance": scale,
                "scores": judge.score(rights, prompts),
                "error": clustered.mean(*judge.attributes(rights, prompts)).standard_error,
                "variety": variety(features(images)) / real,
                "saturation": float(np.isin(images, (0, 255)).mean()),
                "images": images.reshape(len(captions), SEEDS, *images.shape[1:]),
            }
        )
    return rows


def chosen(rows: Sequence[dict[str, Any]]) -> float:
    """The smallest guidance of a sweep whose attributes are right nearly as often as those of the best one.

    Its share lies within one standard error of the best share, over draws of the captions. This is the rule of Breiman
    et al. (1984, "Classification and Regression Trees", section 3.4.3). Smaller guidance gives more varied pictures.
    """
    share = lambda row: row["scores"]["attributes"]["share"]
    best = max(rows, key=share)
    return min(row["guidance"] for row in rows if share(row) >= share(best) - best["error"])


def real_picture(caption: str, number: int) -> np.ndarray:
    """A real picture of a caption, uint8 [64, 64, 3], with random values for the attributes that it does not name."""
    lot = Lot(SEED, 99, number)
    return drawing.draw(scenes.completed(scenes.parsed(caption), lot), lot)


def new_drawings(number: int) -> tuple[np.ndarray, list[str]]:
    """New pictures uint8 [number, 64, 64, 3] and captions from the distribution of `shapes`, in none of its splits."""
    first = shapes.SIZES["train"]
    pictures, captions, _ = zip(*(shapes.example("train", first + row) for row in range(number)))
    return np.stack(pictures), list(captions)


def by_templates(captions: Sequence[str], pictures: np.ndarray) -> dict[str, Any]:
    """The shares of `drawn_objects.score_of` for captions of objects, and of `drawn_words.score_of` for words."""
    words = drawn_words.score_of(captions, pictures)
    only_words = all(scenes.parsed(caption).kind == "word" for caption in captions)
    return words if only_words else drawn_objects.score_of(captions, pictures) | words


def variety(features: np.ndarray) -> float:
    """The mean distance between rows of one group, from features [G, S, D]."""
    apart = np.linalg.norm(features[:, :, None] - features[:, None], axis=-1)
    several = features.shape[1]
    return float(apart.sum((1, 2)).mean() / (several * (several - 1)))


def negatives(subject: Subject, guidance: float, number: int) -> dict[str, Any]:
    """How often a picture shows the attribute of a negative prompt, without and with this prompt.

    First, captions name no colour ("a circle"), and each colour in turn is the negative prompt ("a red shape"). Then
    captions name no shape ("a red shape"), and each shape is the negative prompt ("a circle"). Each negative prompt has
    `number` pictures.

    Returns:
        {"colour": {"before", "after"}, "shape": likewise}, each from `clustered.share` over all prompts and values.
    """
    figures = {}
    open_colour = lambda shape: Scene("one", "plain", NONE, shape)
    open_shape = lambda colour: Scene("one", "plain", colour)
    cases = (("colour", COLOURS, SHAPES, open_colour), ("shape", SHAPES, COLOURS, open_shape))
    for turn, (name, values, others, requested) in enumerate(cases):
        prompts = [scenes.phrase(requested(others[i % len(others)])) for i in range(number)]
        seeds = range(10_000 + turn * number, 10_000 + (turn + 1) * number)

        def shows(negative: str | None, prompts=prompts, seeds=seeds, name=name) -> list[str]:
            images = subject.make(prompts, seeds, guidance, negative)
            return [getattr(scene, name) for scene in judge.read_scenes(subject.judge, images)]

        before = shows(None)
        hits = {"before": [shown == value for value in values for shown in before], "after": []}
        for value in values:
            negative = scenes.phrase(Scene("one", "plain", NONE)._replace(**{name: value}))
            hits["after"] += [shown == value for shown in shows(negative)]
        prompt_of_hit = [*range(number)] * len(values)
        figures[name] = {when: clustered.share(shares, prompt_of_hit) for when, shares in hits.items()}
    return figures


def judge_features(reader: Reader) -> Extractor:
    """The features of the judge, its last hidden layer."""
    record = {"features": "last hidden layer of the judge", "unit": "its activations", "sha256": reader.digest}
    return Extractor(lambda batch: attribute_reader.features(reader, batch), record, keep=True)


def small_pixels() -> Extractor:
    """The means of 8 x 8 pixels, 192 numbers per picture: its layout and colours, without a trained network."""

    def extract(batch: np.ndarray) -> np.ndarray:
        count, height, width, channels = batch.shape
        squares = batch.reshape(count, height // SQUARE, SQUARE, width // SQUARE, SQUARE, channels)
        return squares.mean((2, 4), dtype=np.float32).reshape(count, -1) / 255

    return Extractor(extract, {"features": f"means of {SQUARE} x {SQUARE} pixels", "unit": "[0, 1]", "sha256": None})


def distance_to(
    extractor: Extractor,
    images: np.ndarray,
    real: np.ndarray,
    others: np.ndarray,
    effort: sample_metrics.Effort = sample_metrics.FULL,
) -> dict[str, Any]:
    """The Frechet distance to real pictures, with its floor: `sample_metrics.distance`.

    Args:
        extractor: the features, of `judge_features` or `small_pixels`.
        images: the pictures of a model, uint8 [N, 64, 64, 3].
        real: real pictures that the model was not trained on, uint8 [M, 64, 64, 3], whose captions have the same
            distribution.
        others: further real pictures, whose distance to `real` is the floor.
        effort: the number of subsets and of draws.
    """
    none = lambda rows: np.zeros(len(rows), np.int64)
    sets = (
        real_images.Split(rows, none(rows), DataSpec("shapes", "", (64, 64, 3), 0, len(rows)))
        for rows in (others, real)
    )
    return sample_metrics.distance(
        extractor, images, none(images), *sets, count=min(len(images), len(real)), balanced=False, effort=effort
    )
