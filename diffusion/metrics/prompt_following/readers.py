"""Readers of pictures and prompts for a benchmark: functions that the caller brings, and the forms of their answers.

Each takes a list and answers with a list of the same length, so that it may read many at once. The functions below call
them and refuse an answer of another form.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion.io import limits


class ReaderError(ValueError):
    """A reader answers in another form than its kind; the message says what it answered, and the form."""


class PromptsError(ValueError):
    """A file of prompts cannot be used; the message names it, the line, and what is valid."""


class Detection(NamedTuple):
    """An object in a picture.

    Attributes:
        label: its class, by the name that the prompts have for it.
        score: confidence in [0, 1].
        box: (left, top, right, bottom) in pixels.
        mask: Bool `[H, W]` of its pixels, or None.
    """

    label: str
    score: float
    box: tuple[float, float, float, float]
    mask: np.ndarray | None = None


def overlap(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray, ends: int = 0) -> float:
    """The intersection over the union of two boxes (left, top, right, bottom), in [0, 1].

    `ends` is 1 if the right and bottom ends are pixels inside the boxes, otherwise 0.
    """
    area = lambda left, top, right, bottom: max(right - left + ends, 0) * max(bottom - top + ends, 0)
    both = area(*np.maximum(first[:2], second[:2]), *np.minimum(first[2:], second[2:]))
    union = area(*first) + area(*second) - both
    return float(both / union) if union else 0.0


class Parse(NamedTuple):
    """The grammar of a prompt.

    Attributes:
        words: each word with its part of speech, a tag of Universal Dependencies: ("bench", "NOUN").
        phrases: its noun phrases, in order: "a green bench".
    """

    words: tuple[tuple[str, str], ...]
    phrases: tuple[str, ...]


Detector = Callable[[Sequence[np.ndarray]], Sequence[Sequence[Detection]]]
"""Pictures, uint8 [H, W, 3] of any sizes -> the objects in each."""
Answerer = Callable[[Sequence[np.ndarray], Sequence[str]], Sequence[Mapping[str, float]]]
"""Pictures, a question about each -> the probability of each answer: {"yes": 0.8, "no": 0.2}."""
Depth = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]
"""Pictures, uint8 [H, W, 3] of any sizes -> for each the nearness of its pixels [H, W], larger for what is nearer."""
Grammar = Callable[[str], Parse]
"""Prompt -> its grammar."""


class Embedder(NamedTuple):
    """A network that embeds pictures and texts in one space, such as CLIP.

    Attributes:
        pictures: uint8 `[H, W, 3]` of any sizes -> `[N, D]`.
        texts: texts -> `[N, D]`.
    """

    pictures: Callable[[Sequence[np.ndarray]], np.ndarray]
    texts: Callable[[Sequence[str]], np.ndarray]


DETECTIONS = "a list for each picture, of Detections (label, score in [0, 1], box of four numbers, mask or None)"
ANSWERS = "for each question a table {answer: probability in [0, 1]}"
DEPTHS = "for each picture finite numbers [H, W], larger for what is nearer"
EMBEDDINGS = "finite numbers [N, D], a row for each, none of length zero"
PARSE = "a Parse (words as (text, part of speech), noun phrases)"


def detected(detector: Detector, pictures: Sequence[np.ndarray]) -> list[list[Detection]]:
    """The objects in pictures, the surest first, with scores and boxes as floats of Python.

    Raises:
        ReaderError: if the detector answers in another form.
    """
    all_objects = _as_many("the detector", detector(pictures), pictures, DETECTIONS)
    for objects, picture in zip(all_objects, pictures):
        if not isinstance(objects, Sequence) or isinstance(objects, str):
            raise _other("the detector", objects, DETECTIONS)
        for detection in objects:
            if not isinstance(detection, Detection) or not _is_detection(detection, picture.shape[:2]):
                raise _other("the detector", detection, DETECTIONS)
    plain = lambda detection: detection._replace(
        score=float(detection.score), box=tuple(float(side) for side in detection.box)
    )
    return [sorted(map(plain, objects), key=lambda detection: -detection.score) for objects in all_objects]


def _is_detection(detection: Detection, shape: tuple[int, ...]) -> bool:
    try:
        left, top, right, bottom = (float(side) for side in detection.box)
        numbers = (left, top, right, bottom, float(detection.score))
    except (TypeError, ValueError):
        return False
    valid = isinstance(detection.label, str) and all(map(math.isfinite, numbers)) and 0 <= detection.score <= 1
    masked = detection.mask is None or (np.shape(detection.mask) == shape and np.asarray(detection.mask).dtype == bool)
    return valid and left <= right and top <= bottom and masked


def answered(answerer: Answerer, pictures: Sequence[np.ndarray], questions: Sequence[str]) -> list[dict[str, float]]:
    """The probabilities of the answers to N questions about N pictures, one question for each picture.

    Raises:
        ReaderError: if the reader answers in another form.
    """
    answers = _as_many("the answerer", answerer(pictures, questions), questions, ANSWERS)
    for answer in answers:
        if not isinstance(answer, Mapping) or not answer:
            raise _other("the answerer", answer, ANSWERS)
        if not all(isinstance(name, str) and _is_probability(value) for name, value in answer.items()):
            raise _other("the answerer", dict(answer), ANSWERS)
    return [{name: float(value) for name, value in answer.items()} for answer in answers]


def _is_probability(value: Any) -> bool:
    return isinstance(value, (int, float, np.floating)) and bool(0 <= value <= 1 + 1e-6)


def depths(depth: Depth, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The nearness of the pixels of pictures, float64 `[H, W]`.

    Raises:
        ReaderError: if the network answers in another form.
    """
    maps = [np.asarray(answer) for answer in _as_many("the depth", depth(pictures), pictures, DEPTHS)]
    for nearness, picture in zip(maps, pictures):
        if nearness.shape != picture.shape[:2] or nearness.dtype.kind not in "fiu" or not np.isfinite(nearness).all():
            raise ReaderError(f"the depth estimator returned {nearness.dtype} {list(nearness.shape)}. Valid: {DEPTHS}.")
    return [nearness.astype(np.float64) for nearness in maps]


def embedded_pictures(embedder: Embedder, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """The embeddings of pictures, float64 `[N, D]` of length one.

    Raises:
        ReaderError: if the network answers in another form.
    """
    return _unit(embedder.pictures(pictures), len(pictures))


def embedded_texts(embedder: Embedder, texts: Sequence[str]) -> np.ndarray:
    """The embeddings of texts, float64 `[N, D]` of length one.

    Raises:
        ReaderError: if the network answers in another form.
    """
    return _unit(embedder.texts(texts), len(texts))


def _unit(rows: Any, count: int) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim != 2 or len(rows) != count or rows.dtype.kind != "f" or not np.isfinite(rows).all():
        raise ReaderError(
            f"the embedder returned {rows.dtype} {list(rows.shape)} for {count} inputs. Valid: {EMBEDDINGS}."
        )
    rows = rows.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not lengths.all():
        raise ReaderError(f"the embedder returned a row of zeros. Valid: {EMBEDDINGS}.")
    return rows / lengths


def parsed(grammar: Grammar, text: str) -> Parse:
    """The grammar of a prompt.

    Raises:
        ReaderError: if the reader answers in another form.
    """
    parse = grammar(text)
    pairs = lambda words: all(
        isinstance(word, tuple) and len(word) == 2 and all(isinstance(part, str) for part in word) for word in words
    )
    if (
        not isinstance(parse, Parse)
        or not isinstance(parse.words, Sequence)
        or not pairs(parse.words)
        or not isinstance(parse.phrases, Sequence)
        or not all(isinstance(phrase, str) for phrase in parse.phrases)
    ):
        raise _other("the grammar", parse, PARSE)
    return parse


def _as_many(who: str, results: Any, inputs: Sequence, form: str) -> list:
    if not isinstance(results, Sequence) or isinstance(results, str) or len(results) != len(inputs):
        count = f" of {len(results)}" if isinstance(results, Sequence) else ""
        raise ReaderError(f"{who} returned {limits.kind(results)}{count} for {len(inputs)} inputs. Valid: {form}.")
    return list(results)


def _other(who: str, result: Any, form: str) -> ReaderError:
    shown = " ".join(repr(result).split())
    return ReaderError(f"{who} returned {shown[:100]}{'...' if len(shown) > 100 else ''}. Valid: {form}.")
