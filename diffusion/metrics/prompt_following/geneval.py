"""GenEval: whether a picture shows the objects of its prompt, as many, of the colours and at the places requested.

A detector finds objects; a network such as CLIP names the colour of each, from its crop. The rules are those of
djghosh13/geneval, evaluation/evaluate_images.py and summary_scores.py, whose figures the paper reports.

Paper: Ghosh et al. 2023, "GenEval: An Object-Focused Framework for Evaluating Text-to-Image Alignment".
"""

__all__ = [
    "TAGS",
    "Clause",
    "Prompt",
    "Rules",
    "colours",
    "counted_objects",
    "crop",
    "judged",
    "parse",
    "read",
    "relations",
]

import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion.io import limits, opener
from diffusion.metrics.prompt_following.readers import (
    Detection,
    Embedder,
    PromptsError,
    embedded_pictures,
    embedded_texts,
    overlap as boxes_overlap,
)
from diffusion.package import public

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""Tasks of the benchmark, by the names that its file of prompts gives them."""
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")
TEMPLATES = ("a photo of a {colour} {label}", "a photo of a {colour}-colored {label}", "a photo of a {colour} object")
GREY = 0x99  # around an object in its crop


class Clause(NamedTuple):
    """The requirements of a prompt.

    Attributes:
        label: the class of the objects.
        count: the least number of objects that passes; in an excluded clause, the least number that fails.
        colour: the colour that all of them must have; "" for any.
        relation: the place of each of them relative to the objects of another clause; "" for none.
        target: the number of that clause.
    """

    label: str
    count: int
    colour: str = ""
    relation: str = ""
    target: int = 0


class Prompt(NamedTuple):
    """A line of evaluation_metadata.jsonl.

    Attributes:
        text: the prompt.
        tag: its task, one of TAGS.
        include: the clauses that a picture must show.
        exclude: the clauses that it must not show.
        content: the line itself.
    """

    text: str
    tag: str
    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...]
    content: dict[str, Any]


class Rules(NamedTuple):
    """The numbers of the protocol.

    Attributes:
        threshold: the score above which an object counts.
        counting_threshold: the same threshold, where objects are counted.
        most: the number of objects of a class that count, the surest ones.
        overlap: the overlap of two boxes of a class from which the less sure one is dropped; 1 drops none.
        margin: the share of both sizes by which two objects must be apart to be beside each other.
    """

    threshold: float = 0.3
    counting_threshold: float = 0.9
    most: int = 16
    overlap: float = 1.0
    margin: float = 0.1


PUBLISHED = Rules()


def read(path: pathlib.Path) -> list[Prompt]:
    """The prompts of a file in the published form, evaluation_metadata.jsonl: a table of JSON a line.

    Raises:
        PromptsError: at the first line of another form, or if the file holds no prompts.
        OSError: if the file cannot be read.
    """
    prompts = []
    try:
        lines = opener.read_lines(path)
        for number, line in enumerate(lines, start=1):
            if line.strip():
                prompts.append(parse(limits.parse_json(line, f"{path}, line {number}"), f"{path}, line {number}"))
    except limits.Refused as error:
        raise PromptsError(str(error)) from error
    if not prompts:
        raise PromptsError(f"{path} holds no prompts. Valid: one table with tag, prompt, include in each line.")
    return prompts


def parse(content: Any, where: str) -> Prompt:
    """The prompt of a table.

    Args:
        content: the table {"tag", "prompt", "include": [{"class", "count", "color", "position": [relation, number]}],
            "exclude"}.
        where: the place of the table in its file, for messages.

    Raises:
        PromptsError: if it has another form.
    """
    if not isinstance(content, dict) or not isinstance(content.get("prompt"), str):
        raise PromptsError(f"{where}: this is not a prompt of GenEval. Valid: a table with tag, prompt, include.")
    if content.get("tag") not in TAGS:
        raise PromptsError(f"{where}: tag = {limits.short(content.get('tag'))}. Valid: {', '.join(TAGS)}.")
    include = _clauses(content, "include", where)
    if not include:
        raise PromptsError(
            f"{where}: the prompt {content['prompt']!r} cannot be answered: include names no object that the prompt "
            "requests."
        )
    return Prompt(content["prompt"], content["tag"], include, _clauses(content, "exclude", where), content)


def _clauses(content: Mapping, field: str, where: str) -> tuple[Clause, ...]:
    clauses: list[Clause] = []
    entries = content.get(field, [])
    if not isinstance(entries, list):
        raise PromptsError(f"{where}: {field} = {limits.short(entries)}. Valid: a list of tables.")
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("class"), str):
            raise PromptsError(f"{where}: {field} has {limits.short(entry)}. Valid: a table with class and count.")
        count = entry.get("count")
        if type(count) is not int or count < 1:
            raise PromptsError(f"{where}: {field} has count = {limits.short(count)}. Valid: an integer, at least 1.")
        colour = entry.get("color", "")
        if colour and colour not in COLOURS:
            raise PromptsError(f"{where}: color = {limits.short(colour)}. Valid: {', '.join(COLOURS)}.")
        relation, target = "", 0
        if "position" in entry:
            relation, target = _position(entry["position"], len(clauses), where)
        clauses.append(Clause(entry["class"], count, colour, relation, target))
    return tuple(clauses)


def _position(position: Any, before: int, where: str) -> tuple[str, int]:
    if not (
        isinstance(position, (list, tuple))
        and len(position) == 2
        and position[0] in RELATIONS
        and type(position[1]) is int
        and 0 <= position[1] < before
    ):
        raise PromptsError(
            f"{where}: position = {limits.short(position)}. Valid: one of {', '.join(RELATIONS)}, and the number of an "
            "earlier clause."
        )
    return position[0], position[1]


def counted_objects(detections: Sequence[Detection], tag: str, rules: Rules = PUBLISHED) -> dict[str, list[Detection]]:
    """The objects that count, by class, the surest first.

    Args:
        detections: the detections in a picture.
        tag: the tag of its prompt.
        rules: the rules of the protocol.
    """
    least = rules.counting_threshold if tag == "counting" else rules.threshold
    by_class: dict[str, list[Detection]] = {}
    for detection in sorted(detections, key=lambda item: -item.score):
        if detection.score > least:
            by_class.setdefault(detection.label, []).append(detection)
    return {label: _apart(objects[: rules.most], rules.overlap) for label, objects in by_class.items()}


def _apart(objects: Sequence[Detection], overlap: float) -> list[Detection]:
    chosen: list[Detection] = []
    for candidate in objects:
        if overlap == 1 or all(boxes_overlap(candidate.box, other.box, 1) < overlap for other in chosen):
            chosen.append(candidate)
    return chosen


def relations(first: Sequence[float], second: Sequence[float], margin: float = 0.1) -> set[str]:
    """The directions of one object from another; the empty set if they are too near.

    Of the offset of the centres, max(|offset| - margin (size + other size), 0) is left along each side; a relation
    holds where that is more than half of the length of the whole offset.

    Args:
        first: the box (left, top, right, bottom) of the object, in pixels.
        second: the box of the other object.
        margin: the share of both sizes by which their sides must be apart, >= 0.

    Returns:
        Some of "left of", "right of", "above" and "below".

    Raises:
        ValueError: if margin is negative.
    """
    if not margin >= 0:
        raise ValueError(f"relations: margin = {margin} must be at least 0")
    boxes = np.array([first, second], np.float64).reshape(2, 2, 2)
    centres = boxes.mean(axis=1)
    sizes = np.abs(boxes[:, 1] - boxes[:, 0])
    offset = centres[0] - centres[1]
    left_over = np.maximum(np.abs(offset) - margin * sizes.sum(axis=0), 0) * np.sign(offset)
    if (np.abs(left_over) < 1e-3).all():
        return set()
    right, down = left_over / math.hypot(*offset)
    holds = {"left of": right < -0.5, "right of": right > 0.5, "above": down < -0.5, "below": down > 0.5}
    return {name for name, true in holds.items() if true}


def judged(
    prompt: Prompt,
    objects: Mapping[str, Sequence[Detection]],
    colours_of: Callable[[str, Sequence[Detection]], Sequence[str]],
    rules: Rules = PUBLISHED,
) -> tuple[bool, str]:
    """Whether a picture shows what its prompt requests.

    Colours and places are tested for the surest objects, as many as requested.

    Args:
        prompt: the picture's prompt.
        objects: the objects in the picture, from `counted_objects`.
        colours_of: a function (class, objects) -> the colour of each.
        rules: the rules of the protocol.

    Returns:
        (whether the picture does, the reason if it does not).
    """
    reasons: list[str] = []
    groups: list[Sequence[Detection] | None] = []
    for clause in prompt.include:
        chosen = list(objects.get(clause.label, ()))[: clause.count]
        why = _objection(clause, chosen, groups, colours_of, rules)
        groups.append(None if why else chosen)
        reasons += [why] if why else []
    for clause in prompt.exclude:
        count = len(objects.get(clause.label, ()))
        if count >= clause.count:
            reasons.append(f"expected {clause.label}<{clause.count}, found {count}")
    return not reasons, "; ".join(reasons)


def _objection(clause, chosen, groups, colours_of, rules) -> str:
    """Why a clause does not hold; "" where it does."""
    if len(chosen) < clause.count:
        return f"expected {clause.label}>={clause.count}, found {len(chosen)}"
    if clause.colour:
        names = list(colours_of(clause.label, chosen))
        if names.count(clause.colour) < clause.count:
            return f"expected {clause.colour} {clause.label}>={clause.count}, found {', '.join(names)}"
    if clause.relation:
        target = groups[clause.target]
        if target is None:
            return f"no target for {clause.label} to be {clause.relation}"
        for candidate in chosen:
            for other in target:
                holds = relations(candidate.box, other.box, rules.margin)
                if clause.relation not in holds:
                    return f"expected {clause.label} {clause.relation} target, found {' and '.join(sorted(holds))}"
    return ""


def crop(picture: np.ndarray, detection: Detection) -> np.ndarray:
    """The picture inside the box of an object, grey around its mask.

    Args:
        picture: uint8 `[H, W, 3]`.
        detection: the object.

    Returns:
        uint8 `[h, w, 3]`, at least one pixel.
    """
    if detection.mask is not None:
        picture = np.where(detection.mask[..., None], picture, np.uint8(GREY))
    height, width = picture.shape[:2]
    left, top, right, bottom = (round(side) for side in detection.box)
    left = min(max(left, 0), width - 1)
    top = min(max(top, 0), height - 1)
    return picture[top : max(bottom, top + 1), left : max(right, left + 1)]


def colours(embedder: Embedder, picture: np.ndarray, label: str, objects: Sequence[Detection]) -> list[str]:
    """The colour of each object by a network such as CLIP: the colour whose texts are nearest to its crop.

    Args:
        embedder: the network; OpenAI's CLIP ViT-L/14 in the paper.
        picture: uint8 `[H, W, 3]`.
        label: the class of the objects.
        objects: the objects in the picture, at least one.
    """
    texts = [template.format(colour=colour, label=label) for colour in COLOURS for template in TEMPLATES]
    rows = embedded_texts(embedder, texts).reshape(len(COLOURS), len(TEMPLATES), -1).mean(axis=1)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    crop_rows = embedded_pictures(embedder, [crop(picture, detection) for detection in objects])
    return [COLOURS[best] for best in (crop_rows @ rows.T).argmax(axis=1)]


public.declare(__name__, renamed={"kept": "counted_objects"})
