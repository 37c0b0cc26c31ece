"""How a model follows controls of the drawings: position error in pixels, order, colours, and what the prompt requests.

`make` is all that is known of the model: the real pictures can stand in its place, and give the error of the measure.
"""

__all__ = ["CLOSE", "Make", "follows", "on_top", "rows"]

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffusion.data.shapes import arrangements, scenes
from diffusion.data.shapes.arrangements import Arrangement, Example
from diffusion.data.shapes.scenes import COLOURS
from diffusion.experiments.text import judge, shape_finder
from diffusion.metrics import bootstrap
from diffusion.metrics.attribute_reader import Reader

CLOSE = 4.0  # pixels, a sixteenth of a side: a shape that stands nearer than this is where it should be
LEAST = 12  # pixels that two shapes share, where their order is judged

# (prompts, controls uint8 [N, 64, 64, 3] or None, seeds) -> uint8 [N, 64, 64, 3]
Make = Callable[[Sequence[str], np.ndarray | None, Sequence[int]], np.ndarray]


def rows(make: Make, examples: Sequence[Example], seed: int = 0) -> dict[str, np.ndarray]:
    """The pictures that are measured, of one noise for each example: {"real", "with", "without": uint8 [N, 64, 64, 3]}.

    Args:
        make: the model.
        examples: of one control, which training has not seen.
        seed: of the first picture.
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
    """The figures of pictures uint8 [N, 64, 64, 3] of as many examples.

    Returns:
        {"error": mean over pictures of the mean distance of its shapes to their places, in pixels, a missing one
        counts as `shape_finder.FAR`; "median": over shapes; "close": share of shapes within `CLOSE` pixels; "colour":
        of these, of the colour that the plan has there; "extra": parts beyond the planned ones, mean over pictures;
        "order": of the overlapping shapes, the nearer one is on top, or None where none overlap; "prompt": what the
        judge says of the prompts, `judge.score`}.
    """
    errors, colours, extra, order = [], [], [], []
    for image, example in zip(images, examples, strict=True):
        arrangement = example.arrangement
        parts = shape_finder.found(image)
        match = shape_finder.matched(arrangements.centres(arrangement), parts)
        errors.append(match.error)
        extra.append(len(parts) - int((match.index >= 0).sum()))
        for thing, index, error in zip(arrangement.things, match.index, match.error):
            if error < CLOSE:
                colours.append(parts[index].colour == thing.colour)
        right = on_top(image, arrangement)
        order += [] if right is None else [right]
    verdicts = [
        judge.verdict(scenes.parsed(example.caption), shown)
        for example, shown in zip(examples, judge.seen(reader, images))
    ]
    every = np.concatenate(errors)
    return {
        "error": bootstrap.mean(np.array([error.mean() for error in errors])),
        "median": float(np.median(every)),
        "close": bootstrap.share(list(every < CLOSE)),
        "colour": bootstrap.share(colours) if colours else None,
        "extra": float(np.mean(extra)),
        "order": bootstrap.share(order) if order else None,
        "prompt": judge.score(verdicts),
    }


def on_top(image: np.ndarray, arrangement: Arrangement) -> bool | None:
    """Whether most of what two shapes share has the colour of the nearer one; None for shapes that do not overlap."""
    if len(arrangement.things) != 2:
        return None
    whole = [arrangements.visible(arrangement._replace(things=(thing,)))[0] for thing in arrangement.things]
    shared = whole[0] & whole[1]
    if shared.sum() < LEAST:
        return None
    nearer = COLOURS.index(arrangement.things[1].colour)
    return bool((shape_finder.hues(image)[shared] == nearer).mean() > 0.5)
