"""Measures how well a model follows controls: position error in pixels, order, and agreement with the prompt.

The measures see the model only through its function `make`. A function that returns real pictures can replace it, which
gives the error of the measure itself.
"""

import collections
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffusion.data.shapes import arrangements
from diffusion.data.shapes.arrangements import Arrangement, Example
from diffusion.data.shapes.scenes import COLOURS
from diffusion.metrics import bootstrap
from diffusion.metrics.attribute_reader import Reader
from diffusion.metrics.prompt_following import clustered
from examples.control import shape_finder
from examples.control.shape_finder import Found
from examples.text import drawn_objects, judge

CLOSE = 4.0  # pixels, a sixteenth of a side; a shape within this distance is at its planned position
LEAST = 12  # least number of pixels that two shapes share, for their order to be judged

# (prompts, controls or references uint8 [N, 64, 64, 3] or None, seeds) -> uint8 [N, 64, 64, 3]
Make = Callable[[Sequence[str], np.ndarray | None, Sequence[int]], np.ndarray]


def rows(make: Make, examples: Sequence[Example], seed: int = 0) -> dict[str, np.ndarray]:
    """The pictures to measure, with and without the control from the same noise, and real ones.

    Args:
        make: the model.
        examples: examples of one control that were not used in training.
        seed: the seed of the first picture.

    Returns:
        {"real", "with", "without": uint8 [N, 64, 64, 3]}.
    """
    prompts = [example.caption for example in examples]
    controls = np.stack([example.control for example in examples])
    seeds = range(seed, seed + len(examples))
    return {
        "real": np.stack([example.image for example in examples]),
        "with": make(prompts, controls, seeds),
        "without": make(prompts, None, seeds),
    }


def follows(images: np.ndarray, examples: Sequence[Example], reader: Reader) -> dict[str, Any]:
    """The figures of pictures, uint8 [N, 64, 64, 3], of N examples.

    The judge learned from shapes at nine positions, so each part is moved to the middle before it reads the part's
    colour and shape. It must choose one of the eight shapes, since a partly covered shape looks broken to it. The
    overlap takes the covered part into account, and can therefore reject broken shapes.

    Returns:
        {"error": the mean over pictures of the mean distance of a picture's shapes from their planned positions, in
        pixels, where a missing shape counts as `shape_finder.FAR`; "median": the median distance over shapes; "close":
        the share of shapes within `CLOSE` pixels; "there": the share of shapes with a shape of the planned colour and
        kind within `CLOSE` pixels; "covered": the mean over pictures of the mean overlap of a shape with its plan, see
        `covered`; "whole": the share of shapes whose overlap is above `drawn_objects.WHOLE`; "prompt": the share of the
        requested colours and shapes that the picture shows anywhere; "count": the share of pictures with the requested
        number of shapes; "order": the share of overlapping pairs whose nearer shape is on top, or None without such
        pairs}.
    """
    errors, there, overlaps, prompt, count, order = [], [], [], [], [], []
    all_parts = [shape_finder.find_shapes(image) for image in images]
    parts = [
        shape_finder.alone(image, part) for image, picture_parts in zip(images, all_parts) for part in picture_parts
    ]
    shown = iter(judge.seen_without_refusal(reader, np.stack(parts))) if parts else iter(())
    for image, example, picture_parts in zip(images, examples, all_parts, strict=True):
        arrangement = example.arrangement
        looks = [(scene.colour, scene.shape) for _, scene in zip(picture_parts, shown)]
        planned = [(thing.colour, thing.shape) for thing in arrangement.things]
        match = shape_finder.matched(arrangements.centres(arrangement), picture_parts)
        errors.append(match.error)
        there += [
            bool(error < CLOSE and looks[index] == plan)
            for plan, index, error in zip(planned, match.index, match.error)
        ]
        overlaps.append(covered(image, arrangement, picture_parts, match.index))
        common = (collections.Counter(looks) & collections.Counter(planned)).total()
        prompt += [True] * common + [False] * (len(planned) - common)
        count.append(len(picture_parts) == len(planned))
        right = on_top(image, arrangement)
        order += [] if right is None else [right]
    every = np.concatenate(errors)
    picture = np.repeat(np.arange(len(errors)), [len(error) for error in errors])  # of each planned shape
    return {
        "error": bootstrap.mean(np.array([error.mean() for error in errors])),
        "median": float(np.median(every)),
        "close": clustered.share(every < CLOSE, picture),
        "there": clustered.share(there, picture),
        "covered": bootstrap.mean(np.array([overlap.mean() for overlap in overlaps])),
        "whole": clustered.share(np.concatenate(overlaps) > drawn_objects.WHOLE, picture),
        "prompt": clustered.share(prompt, picture),
        "count": bootstrap.share(count),
        "order": bootstrap.share(order) if order else None,
    }


def covered(image: np.ndarray, arrangement: Arrangement, parts: Sequence[Found], index: np.ndarray) -> np.ndarray:
    """The overlaps of K planned shapes with their parts at the planned positions, float64 [K].

        |M and V| / |M or V|,    V the visible pixels of the drawn shape, M the part's mask by `drawn_objects.mask`

    The overlap with a missing part, or with a part of another colour, is 0.

    Args:
        image: the picture, uint8 [64, 64, 3].
        arrangement: the plan.
        parts: the parts of the picture.
        index: the index of the part for each of the K shapes; -1 for none.
    """
    apart = drawn_objects.distance_to_paper(image)
    overlaps = []
    for thing, plan, number in zip(arrangement.things, arrangements.visible(arrangement), index):
        if number < 0 or parts[number].colour != thing.colour:
            overlaps.append(0.0)
            continue
        part = parts[number].mask
        mask = drawn_objects.mask(np.where(part, apart, 0.0), arrangement.style) & part
        overlaps.append(float((mask & plan).sum() / (mask | plan).sum()))
    return np.array(overlaps)


def on_top(image: np.ndarray, arrangement: Arrangement) -> bool | None:
    """Whether most pixels that two shapes share have the colour of the nearer one; None if shapes do not overlap."""
    if len(arrangement.things) != 2:
        return None
    masks = [arrangements.visible(arrangement._replace(things=(thing,)))[0] for thing in arrangement.things]
    shared = masks[0] & masks[1]
    if shared.sum() < LEAST:
        return None
    nearer = COLOURS.index(arrangement.things[1].colour)
    return bool((shape_finder.hues(image)[shared] == nearer).mean() > 0.5)
