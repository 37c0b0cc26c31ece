"""VBench's dimensions of films, as functions of clips and of the outputs of networks that you provide.

| dimension                                   | function             | network of the paper's figures            |
|---------------------------------------------|----------------------|-------------------------------------------|
| subject consistency                         | `consistency`        | DINO ViT-B/16, of each frame              |
| background consistency                      | `consistency`        | CLIP ViT-B/32, of each frame              |
| temporal flickering                         | `flickering`         | none; of films that do not move           |
| motion smoothness                           | `motion_smoothness`  | AMT-S, which interpolates frames          |
| dynamic degree                              | `dynamic`            | RAFT, optical flow                        |
| object class, multiple objects              | `objects`            | GRiT, 16 frames                           |
| color                                       | `colour`             | GRiT, captions of objects, 16 frames      |
| spatial relationship                        | `relation`           | GRiT, 16 frames                           |
| human action                                | `action`             | UMT ViT-L/16, Kinetics-400                |
| scene                                       | `scene`              | Tag2Text, captions of frames              |
| appearance style                            | `text_consistency`   | CLIP ViT-B/32, of each frame              |
| temporal style, overall consistency         | `text_consistency`   | ViCLIP, of the whole film                 |

Aesthetic quality and imaging quality are the mean over frames of a predictor's score (LAION's and MUSIQ), in [0, 1].
Each function returns a number for each film; a figure is the mean over films. This library contains no weights.

Reference: Huang et al. 2024, "VBench: Comprehensive Benchmark Suite for Video Generative Models",
https://arxiv.org/abs/2311.17982; where the paper is silent, the authors' code, Vchitect/VBench.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from diffusion.metrics.prompt_following.readers import Detection, overlap

Interpolate = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A function from frames, uint8 [M, H, W, 3], and the frames after them to the frames in between, of that shape."""
Flow = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A function from frames, uint8 [M, H, W, 3], and the frames after them to each pixel's motion in pixels, [M, H, W, 2].
"""

SHARE = 0.05  # the share of pixels that move most, whose mean is the motion of a step
SURE = 0.85  # the least probability at which an action counts as recognised
APART = 0.1  # the least intersection over union at which two objects overlap
COLOURS = ("white", "red", "pink", "blue", "silver", "purple", "orange", "green", "gray", "yellow", "black", "grey")
SIDES = ("on the right of", "on the left of")
HEIGHTS = ("on the bottom of", "on the top of")


# ==== Dimensions from frames and their features ====


def consistency(features: np.ndarray) -> np.ndarray:
    """The likeness of a film's frames: subject consistency with DINO's features, background consistency with CLIP's.

        1 / (F - 1) sum_{f > 0} (max(0, cos(x_f, x_{f - 1})) + max(0, cos(x_f, x_0))) / 2

    Args:
        features: the features of each frame, [N, F, D], not zero; F >= 2.

    Returns:
        float64 [N], in [0, 1].

    Raises:
        ValueError: for another shape, or features that are not finite or zero.
    """
    x = _unit("features", features, 3)
    _several(x.shape)
    before = np.maximum((x[:, 1:] * x[:, :-1]).sum(-1), 0)
    first = np.maximum((x[:, 1:] * x[:, :1]).sum(-1), 0)
    return ((before + first) / 2).mean(1)


def flickering(clips: np.ndarray) -> np.ndarray:
    """Temporal flickering: 1 if consecutive frames are equal; for films that should not move (see `dynamic`).

        (255 - 1 / (F - 1) sum_f mean |x_f - x_{f - 1}|) / 255

    Args:
        clips: uint8 [N, F, H, W, 3], F >= 2.

    Returns:
        float64 [N], in [0, 1].

    Raises:
        TypeError, ValueError: for clips of another type or shape.
    """
    _checked(clips)
    return np.array([1 - np.abs(np.diff(clip.astype(np.int16), axis=0)).mean() / 255 for clip in clips])


def motion_smoothness(clips: np.ndarray, interpolate: Interpolate) -> np.ndarray:
    """Motion smoothness: how close the odd frames are to frames that are interpolated between the even frames.

        (255 - mean_k mean |x_{2k + 1} - I(x_{2k}, x_{2k + 2})|) / 255

    Args:
        clips: uint8 [N, F, H, W, 3], F >= 3; if F is even, the last frame is left out.
        interpolate: the interpolation I of two frames.

    Returns:
        float64 [N], in [0, 1].

    Raises:
        TypeError: if the clips are not uint8.
        ValueError: if the clips have another shape, or `interpolate` returns another shape or type.
    """
    _checked(clips, 3)
    scores = []
    for clip in clips:
        even = clip[::2]
        interpolated = np.asarray(interpolate(even[:-1], even[1:]))
        if interpolated.shape != even[:-1].shape or interpolated.dtype != np.uint8:
            raise ValueError(
                f"interpolate returned {interpolated.dtype} {list(interpolated.shape)}. Valid: uint8 "
                f"{list(even[:-1].shape)}"
            )
        left_out = clip[1::2][: len(interpolated)]
        scores.append(1 - np.abs(left_out.astype(np.int16) - interpolated).mean() / 255)
    return np.array(scores)


def dynamic(clips: np.ndarray, flow: Flow, rate: float) -> np.ndarray:
    """Whether each film moves. Dynamic degree is the share of films that move; flickering is measured on the others.

    M frames are selected at even steps, about 8 per second. The motion r of a step is the mean length of the flow over
    the 5 % of pixels that move most. A film moves if

        #{steps: r > 6 max(1, 8 / rate) min(H, W) / 256} >= round(4 M / 16)

    Args:
        clips: uint8 [N, F, H, W, 3], with at least 20 pixels in a frame.
        flow: the optical flow from a frame to the next selected one.
        rate: frames per second of the clips, > 0.

    Returns:
        Bool [N].

    Raises:
        TypeError: if the clips are not uint8.
        ValueError: if the clips have another shape, the rate is not positive, or `flow` returns another shape.
    """
    if not rate > 0:
        raise ValueError(f"rate must be positive; got {rate}")
    _checked(clips)
    height, width = clips.shape[2:4]
    most = int(height * width * SHARE)
    taken = clips[:, :: max(1, round(rate / 8))]
    _several(taken.shape)
    if not most:
        raise ValueError(f"frames must have at least 20 pixels; got {height} x {width}")
    least = 6 * max(1.0, 8 / rate) * min(height, width) / 256
    moves = []
    for clip in taken:
        motion = np.asarray(flow(clip[:-1], clip[1:]), np.float64)
        if motion.shape != (len(clip) - 1, height, width, 2):
            raise ValueError(
                f"flow returned the shape {list(motion.shape)}. Valid: {[len(clip) - 1, height, width, 2]}"
            )
        lengths = np.linalg.norm(motion, axis=-1).reshape(len(motion), -1)
        steps = np.sort(lengths, axis=1)[:, -most:].mean(1)
        moves.append((steps > least).sum() >= round(4 * len(clip) / 16))
    return np.array(moves)


def text_consistency(features: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """How well films fit texts: 1 / F sum_f cos(x_f, text), float64 [N].

    Args:
        features: the features of each frame, [N, F, D] (appearance style, CLIP), or of the complete film with F = 1
            (temporal style and overall consistency, ViCLIP).
        texts: the features of the style or of the prompt, [N, D].

    Raises:
        ValueError: if the shapes do not fit, or features are zero or not finite.
    """
    x, y = _unit("features", features, 3), _unit("texts", texts, 2)
    if y.shape != (x.shape[0], x.shape[2]):
        raise ValueError(
            f"texts have the shape {list(y.shape)}, which does not fit features [N, F, D] of the shape {list(x.shape)}"
        )
    return np.einsum("nfd,nd->n", x, y) / x.shape[1]


# ==== Dimensions from the findings of networks ====


def objects(detections: Sequence[Sequence[Detection]], names: Sequence[str]) -> float:
    """The share of a film's frames in which all objects are found: object class (one name), multiple objects (two).

    Args:
        detections: the objects in each frame, from a function such as a `readers.Detector`.
        names: the labels of the objects.

    Raises:
        ValueError: without a frame or a name.
    """
    if not detections or not names:
        raise ValueError(f"give at least one frame and one name; got {len(detections)} and {len(names)}")
    return sum(set(names) <= {detection.label for detection in frame} for frame in detections) / len(detections)


def colour(answers: Sequence[Sequence[tuple[str, str]]], name: str, wanted: str) -> float | None:
    """The number of frames that show an object in the wanted colour, divided by the number that name its colour.

    Args:
        answers: the (label, caption) of each object in each frame.
        name: the object's label.
        wanted: the colour, one of COLOURS.

    Returns:
        The share, or None if no caption names a colour of the object; such a film does not count.

    Raises:
        ValueError: for an unknown colour.
    """
    if wanted not in COLOURS:
        raise ValueError(f"unknown colour {wanted!r}. Valid: {', '.join(COLOURS)}")
    captions_of_object = [[caption for label, caption in frame if label == name] for frame in answers]
    said = [
        any(name_of_colour in caption for caption in captions for name_of_colour in COLOURS)
        for captions in captions_of_object
    ]
    right = [any(wanted in caption for caption in captions) for captions in captions_of_object]
    return sum(right) / sum(said) if any(said) else None


def relation(detections: Sequence[Sequence[Detection]], first: str, second: str, place: str) -> float:
    """How well two objects stand beside or above one another, as the mean score of a film's frames.

    A frame's score is the largest score of a pair of boxes with these labels. A pair scores 0 if its centres are not
    further apart along the place's axis than across it. Otherwise it scores 1, or `APART` / IoU if the IoU of the boxes
    is `APART` or more. As in the authors' code, the order (left or right) does not count, and two boxes with the same
    label are also a pair.

    Args:
        detections: the objects in each frame, from a function such as a `readers.Detector`.
        first, second: the labels of the two objects.
        place: the place, one of SIDES or HEIGHTS.

    Raises:
        ValueError: for another place, or without a frame.
    """
    if place not in (*SIDES, *HEIGHTS) or not detections:
        raise ValueError(
            f"give at least one frame, and a place out of {', '.join((*SIDES, *HEIGHTS))}; got {len(detections)} "
            f"frames and {place!r}"
        )
    scores = []
    for frame in detections:
        boxes = [np.asarray(detection.box, np.float64) for detection in frame if detection.label in (first, second)]
        pairs = [_placed(a, b, place in SIDES) for i, a in enumerate(boxes) for b in boxes[i + 1 :]]
        scores.append(max(pairs, default=0.0))
    return float(np.mean(scores))


def _placed(a: np.ndarray, b: np.ndarray, beside: bool) -> float:
    apart = np.abs((a[:2] + a[2:]) - (b[:2] + b[2:])) / 2
    if not (apart[0] > apart[1] if beside else apart[1] > apart[0]):
        return 0.0
    share = overlap(a, b)
    return 1.0 if share < APART else APART / share


def action(probabilities: Mapping[str, float], wanted: str) -> bool:
    """Whether an action is among a film's five likeliest actions, and has a probability of at least 0.85.

    Args:
        probabilities: the probability of each action, in [0, 1]; each is a separate sigmoid, so their sum is not 1.
        wanted: the action of the prompt.

    Raises:
        ValueError: if the action has no probability.
    """
    if wanted not in probabilities:
        raise ValueError(f"{wanted!r} is not one of the {len(probabilities)} actions")
    five = sorted(probabilities, key=lambda name: -probabilities[name])[:5]
    return wanted in five and round(probabilities[wanted], 4) >= SURE


def scene(captions: Sequence[str], wanted: str) -> float:
    """The share of a film's frames whose caption contains every word of the scene.

    Args:
        captions: the caption of each frame.
        wanted: the scene, words separated by single spaces.

    Raises:
        ValueError: if there is no caption.
    """
    if not captions:
        raise ValueError("give the caption of at least one frame")
    return sum(all(word in caption for word in wanted.split(" ")) for caption in captions) / len(captions)


# ==== The total ====


class Dimension(NamedTuple):
    """The share of a dimension in the total.

    Attributes:
        least, most: the figures that are mapped to 0 and 1.
        weight: the dimension's weight in the mean of its half.
        semantic: whether the dimension belongs to the semantic half, rather than to the half of quality.
    """

    least: float = 0.0
    most: float = 1.0
    weight: float = 1.0
    semantic: bool = False


DIMENSIONS: dict[str, Dimension] = {
    "subject consistency": Dimension(0.1462),
    "background consistency": Dimension(0.2615),
    "temporal flickering": Dimension(0.6293),
    "motion smoothness": Dimension(0.706, 0.9975),
    "dynamic degree": Dimension(weight=0.5),
    "aesthetic quality": Dimension(),
    "imaging quality": Dimension(),
    "object class": Dimension(semantic=True),
    "multiple objects": Dimension(semantic=True),
    "human action": Dimension(semantic=True),
    "color": Dimension(semantic=True),
    "spatial relationship": Dimension(semantic=True),
    "scene": Dimension(most=0.8222, semantic=True),
    "appearance style": Dimension(0.0009, 0.2855, semantic=True),
    "temporal style": Dimension(most=0.364, semantic=True),
    "overall consistency": Dimension(most=0.364, semantic=True),
}
"""The sixteen dimensions, with the ranges and weights of the authors' scripts."""


def total(figures: Mapping[str, float]) -> dict[str, float]:
    """The scores of the authors' table, {"quality", "semantic", "total"}.

        half = sum_d w_d (figure_d - least_d) / (most_d - least_d) / sum_d w_d;    total = (4 quality + semantic) / 5

    Args:
        figures: the figure of every dimension, by the names of DIMENSIONS.

    Raises:
        ValueError: if dimensions are missing or unknown; the message names them.
    """
    if figures.keys() != DIMENSIONS.keys():
        raise ValueError(
            f"missing: {', '.join(sorted(DIMENSIONS.keys() - figures.keys())) or 'none'}; "
            f"unknown: {', '.join(sorted(figures.keys() - DIMENSIONS.keys())) or 'none'}"
        )
    halves = {}
    for half, semantic in (("quality", False), ("semantic", True)):
        half_dimensions = {name: dimension for name, dimension in DIMENSIONS.items() if dimension.semantic == semantic}
        scored = [d.weight * (figures[name] - d.least) / (d.most - d.least) for name, d in half_dimensions.items()]
        halves[half] = sum(scored) / sum(dimension.weight for dimension in half_dimensions.values())
    return {**halves, "total": (4 * halves["quality"] + halves["semantic"]) / 5}


# ==== Checks ====


def _unit(name: str, rows: np.ndarray, rank: int) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    if rows.ndim != rank or 0 in rows.shape or not np.isfinite(rows).all():
        raise ValueError(
            f"{name} must be finite numbers [{'N, F, D' if rank == 3 else 'N, D'}]; got {list(rows.shape)}"
        )
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    if not lengths.all():
        raise ValueError(f"{name} have a row of zeros, which has no direction")
    return rows / lengths


def _checked(clips: np.ndarray, least: int = 2) -> None:
    if clips.dtype != np.uint8:
        raise TypeError(f"clips must be uint8; got {clips.dtype}")
    if clips.ndim != 5 or clips.shape[-1] != 3 or 0 in clips.shape:
        raise ValueError(f"clips must be [N, F, H, W, 3]; got {list(clips.shape)}")
    _several(clips.shape, least)


def _several(shape: tuple[int, ...], least: int = 2) -> None:
    if shape[1] < least:
        raise ValueError(f"this figure needs films of at least {least} frames; got {shape[1]}")
