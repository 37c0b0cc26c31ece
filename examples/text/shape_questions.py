"""GenEval's questions for captioned shapes, with the judge as the detector, and the error rate of the judge.

The prompts have GenEval's six forms ("a circle", "a circle and a star", "three stars", "a red circle", "a circle left
of a star", "a red circle and a blue star"). GenEval's rules decide whether a picture is right, from the objects that
the judge detects. The error rate of the judge is measured on drawn pictures for the same prompts: some show the
request, and the others differ from it in one attribute.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffusion.data.shapes import drawing, scenes
from diffusion.data.shapes.scenes import COLOURS, NONE, RELATIONS, SHAPES, Lot, Scene
from diffusion.metrics import bootstrap
from diffusion.metrics.prompt_following import geneval
from diffusion.metrics.prompt_following.geneval import TAGS, Clause, Prompt
from diffusion.metrics.prompt_following.readers import Detection
from examples.text import judge, judge_error
from examples.text.prompt_metrics import Subject

SEED = 3_001  # seed of the prompts and of the pictures of known content
FIRST_SEED = 20_000  # first seed of the model's pictures
COUNTS = (2, 3, 4)  # as in GenEval
KNOWN = 200  # least number of pictures of known content of each kind and task
SIDE = 12.0  # side of a detected box in pixels


def prompts(tag: str, number: int) -> list[tuple[Prompt, Scene]]:
    """Prompts of a task with their scenes, none of a withheld combination.

    Args:
        tag: the tag of a task of GenEval.
        number: the number of prompts.
    """
    pairs = []
    for index in range(number):
        lot = Lot(SEED, TAGS.index(tag), index)
        scene = _scene(tag, lot)
        while scenes.withheld(scene):
            scene = _scene(tag, lot)
        include, exclude = _clauses(tag, scene)
        pairs.append((Prompt(scenes.phrase(scene), tag, include, exclude, {}), scene))
    return pairs


def _scene(tag: str, lot: Lot) -> Scene:
    """A random scene for a prompt of a task."""
    shape = lot.pick(SHAPES)
    colour = lot.pick(COLOURS)
    other = lot.pick([name for name in SHAPES if name != shape])
    pair = Scene("pair", "plain", NONE, shape, count=2, second_shape=other)
    match tag:
        case "single_object":
            return Scene("one", "plain", NONE, shape)
        case "two_object":
            return pair
        case "counting":
            return Scene("several", "plain", NONE, shape, count=lot.pick(COUNTS))
        case "colors":
            return Scene("one", "plain", colour, shape)
        case "position":
            return pair._replace(relation=lot.pick(RELATIONS))
        case _:
            return pair._replace(colour=colour, second_colour=lot.pick([name for name in COLOURS if name != colour]))


def _clauses(tag: str, scene: Scene) -> tuple[tuple[Clause, ...], tuple[Clause, ...]]:
    """The objects that a prompt of a task requires, and those that must not be there."""
    colour = lambda value: "" if value == NONE else value
    if tag == "counting":
        return (Clause(scene.shape, scene.count),), (Clause(scene.shape, scene.count + 1),)
    if scene.kind == "one":
        return (Clause(scene.shape, 1, colour(scene.colour)),), ()
    second = Clause(scene.second_shape, 1, colour(scene.second_colour))
    first = Clause(scene.shape, 1, colour(scene.colour))
    if tag == "position":
        return (second, first._replace(relation=scene.relation)), ()
    return (first, second), ()


def changed(tag: str, scene: Scene, lot: Lot) -> Scene:
    """A scene that differs from a prompt's scene in one requested attribute."""
    other = lambda values, *shown: lot.pick([value for value in values if value not in shown])
    match tag:
        case "single_object":
            return scene._replace(shape=other(SHAPES, scene.shape))
        case "two_object":
            return scene._replace(second_shape=other(SHAPES, scene.shape, scene.second_shape))
        case "counting":
            return scene._replace(count=other((2, 3, 4, 5), scene.count))
        case "colors":
            return scene._replace(colour=other(COLOURS, scene.colour))
        case "position":
            return scene._replace(relation=other(RELATIONS, scene.relation))
        case _:
            return scene._replace(colour=scene.second_colour, second_colour=scene.colour)


def right(prompt: Prompt, shown: Scene) -> bool:
    """Whether GenEval's rules find in a scene what a prompt requests."""
    colours = dict(_objects(shown))
    objects = geneval.counted_objects(list(colours), prompt.tag)
    return geneval.judged(prompt, objects, lambda label, some: [colours[index] for index in some])[0]


def _objects(scene: Scene) -> list[tuple[Detection, str]]:
    """The objects of a scene with their colours, as detections of confidence 1."""
    scene = judge.facing(scene)
    first = (scene.shape, scene.colour)
    second = (scene.second_shape, scene.second_colour)
    match scene.kind:
        case "one":
            places = [(1, 1, *first)]
        case "several":
            places = [(i % 3, i // 3, *first) for i in range(scene.count)]
        case "pair":
            down = scene.relation == "above"
            aside = scene.relation == "left of"
            places = [(0, 0, *first), (2 * aside, 2 * down, *second)]
        case _:
            places = []
    box = lambda x, y: (16.0 * x, 16.0 * y, 16.0 * x + SIDE, 16.0 * y + SIDE)
    return [(Detection(shape, 1.0, box(x, y)), colour) for x, y, shape, colour in places]


def error_rates(subject: Subject, tag: str, number: int) -> dict[str, dict[str, Any]]:
    """How often the judge accepts pictures of known content for a prompt.

    Args:
        subject: the subject with the judge.
        tag: the task's tag.
        number: the number of right pictures, and of wrong ones.

    Returns:
        {"right", "wrong"}, each from `bootstrap.share`: over pictures that show what is requested, and over pictures
        that do not.
    """
    pairs = prompts(tag, number)
    shares = {}
    for stream, kind in enumerate(("right", "wrong")):
        images = []
        for index, (_, scene) in enumerate(pairs):
            lot = Lot(SEED, 10 + 10 * TAGS.index(tag) + stream, index)
            shown = scene if kind == "right" else changed(tag, scene, lot)
            images.append(drawing.draw(completed(shown, lot), lot))
        scenes_read = judge.read_scenes(subject.judge, np.stack(images))
        shares[kind] = bootstrap.share([right(prompt, shown) for (prompt, _), shown in zip(pairs, scenes_read)])
    return shares


def completed(scene: Scene, lot: Lot) -> Scene:
    """The scene with random values for what the prompt does not name, the colours of two objects included."""
    if scene.kind == "pair" and scene.colour == NONE:
        colour = lot.pick(COLOURS)
        second = lot.pick([name for name in COLOURS if name != colour])
        scene = scene._replace(colour=colour, second_colour=second)
    return scenes.completed(scene, lot)


def measured(subject: Subject, guidance: float, number: int) -> dict[str, Any]:
    """GenEval's table of a model on the shapes.

    Args:
        subject: the model, and the judge.
        guidance: the guidance scale of the pictures.
        number: the number of prompts of each task, with one picture each.

    Returns:
        For each task {"seen": the share that the judge accepts, with its interval, "known": the judge's `error_rates`,
        "corrected": {"share", "interval"}, or None if the judge does not tell right from wrong}; for "overall", the
        means of "seen" and "corrected".
    """
    figures: dict[str, Any] = {}
    for turn, tag in enumerate(TAGS):
        pairs = prompts(tag, number)
        first = FIRST_SEED + turn * number
        images = subject.make([prompt.text for prompt, _ in pairs], range(first, first + number), guidance, None)
        shown = judge.read_scenes(subject.judge, images)
        accepted = bootstrap.share([right(prompt, scene) for (prompt, _), scene in zip(pairs, shown)])
        known = error_rates(subject, tag, max(KNOWN, number))
        truth = judge_error.corrected(_counts(accepted), _counts(known["right"]), _counts(known["wrong"]))
        figures[tag] = {"seen": accepted, "known": known, "corrected": _share(truth)}
    return {**figures, "overall": _overall(figures)}


def _counts(share: Mapping) -> tuple[int, int]:
    return round(share["share"] * share["count"]), share["count"]


def _share(truth: judge_error.Corrected) -> dict[str, Any] | None:
    return None if math.isnan(truth.value) else {"share": truth.value, "interval": list(truth.interval)}


def _overall(figures: Mapping[str, Mapping]) -> dict[str, Any]:
    """The mean over tasks, which are independent, as each task has its own error rates of the judge."""

    def mean(shares: Sequence[Mapping | None]) -> dict[str, Any] | None:
        known = [share for share in shares if share is not None]
        if len(known) < len(shares):
            return None
        middle = sum(share["share"] for share in known) / len(known)
        ends = [(share["share"] - share["interval"][0], share["interval"][1] - share["share"]) for share in known]
        low, high = (math.hypot(*(end[side] for end in ends)) / len(known) for side in (0, 1))
        return {"share": middle, "interval": [max(0.0, middle - low), min(1.0, middle + high)]}

    parts = list(figures.values())
    return {name: mean([part[name] for part in parts]) for name in ("seen", "corrected")}
