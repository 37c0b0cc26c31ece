"""Measures clips of one or two moving shapes without a network, each shape separately.

Two shapes occupy separate halves of the picture. So a clip of two shapes is measured as two clips of one shape, in
which paper replaces the other half. Drawn templates classify the shape in a frame (`clip_templates`), and
`moving_objects` computes its position. The ground truth of a real clip with the same caption says which frames should
show the complete shape.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion.data.shapes import drawing, motions
from diffusion.data.shapes.motions import Clip, Mover
from diffusion.metrics import bootstrap, frechet
from diffusion.metrics.prompt_following import clustered
from examples.video import clip_templates, moving_objects

PAPER = 255  # value that replaces the half of the other shape
LAST = 16  # frames at the end of a longer clip
TIMES = 4  # how many times as long an extended clip is
ENDLESS = ("bounces", "turns")  # a shape that moves or hides would leave the picture


class Objects(NamedTuple):
    """The shapes of N clips, M in all.

    Attributes:
        clips: uint8 [M, F, S, S, 3], each with one shape.
        movers: the M true shapes, with the motion of the real clip.
        clip: int64 [M], the index of each shape's clip.
        visible: float64 [M, F], the share of each shape that should be visible.
    """

    clips: np.ndarray
    movers: list[Mover]
    clip: np.ndarray
    visible: np.ndarray


def objects(clips: np.ndarray, truth: Sequence[Clip]) -> Objects:
    """The shapes of clips. Of two shapes the first lies in the upper half, the second in the lower half.

    Args:
        clips: uint8 [N, F, S, S, 3], S even.
        truth: real clips of the same captions, with as many frames.
    """
    half = clips.shape[2] // 2
    rows, movers, numbers, visible = [], [], [], []
    for number, (frames, clip) in enumerate(zip(clips, truth)):
        for k, mover in enumerate(clip.movers):
            alone = frames.copy()
            if len(clip.movers) == 2:
                alone[:, half:] = PAPER if k == 0 else frames[:, half:]
                alone[:, :half] = frames[:, :half] if k == 0 else PAPER
            rows.append(alone)
            movers.append(mover)
            numbers.append(number)
            visible.append(clip.visible[:, k])
    return Objects(np.stack(rows), movers, np.array(numbers), np.stack(visible))


def measured(clips: np.ndarray, truth: Sequence[Clip], known: int = 0, last: int = 0) -> dict[str, Any]:
    """The figures of clips.

    Args:
        clips: uint8 [N, F, S, S, 3].
        truth: real clips of the same captions, with as many frames.
        known: the number of given frames at the beginning, which do not count in shares of frames.
        last: the number of frames at the end that count; 0 for all.

    Returns:
        Shares with intervals, of the frames that should show the whole of a shape, clustered by clip: "shape" (the
        requested one has the largest overlap of the eight), "whole" (its overlap is above 0.85), "colour" (the
        requested one is the nearest) and "one" (one connected part); of clips: "constant" (each shape has one and the
        same shape and colour, whichever they are, in all of these frames); "direction" of what moves and hides, and
        "permanence" of what hides, where there are some and `last` is 0. "speed" is the mean distance of what moves
        from the range of its word, divided by its middle; "flicker" is the median of `moving_objects.flicker`.
    """
    shown = objects(clips, truth)
    tracks = moving_objects.tracks(shown.clips)
    frames = np.arange(clips.shape[1])
    complete = shown.visible >= moving_objects.WHOLE
    if last:
        complete = complete & (frames >= clips.shape[1] - last)
    counted = complete & (frames >= known)
    best = clip_templates.measured(shown.clips, tracks)
    right = clip_templates.agreement(best, *zip(*((mover.shape, mover.colour) for mover in shown.movers)))
    share = lambda frames, some: clustered.share(frames[some], shown.clip[np.nonzero(some)[0]])
    constant = [
        all(len(set(row[rows])) == 1 and row[rows][0] >= 0 for row in (one, other)) if rows.any() else True
        for one, other, rows in zip(best.shape, best.colour, counted)
    ]
    by_clip = lambda flags: [all(np.array(flags)[shown.clip == i]) for i in range(len(clips))]
    figures: dict[str, Any] = {
        **{name: share(frames_right, counted) for name, frames_right in right.items()},
        "one": share(tracks.count == 1, counted),
        "constant": bootstrap.share(by_clip(constant)),
        "flicker": float(np.nanmedian(moving_objects.flicker(clips[:, max(0, known - 1) :]))),
    }
    if len(clips[0]) == len(truth[0].visible) and not last:
        figures |= _motion(shown, tracks, complete, clips.shape[2] / drawing.SIDE)
    for two in (False, True):
        rows = np.array([len(truth[i].movers) == 2 for i in shown.clip]) == two
        some = counted & rows[:, None]
        if some.any():
            figures["shape of two" if two else "shape of one"] = share(right["shape"], some)
    return figures


def _motion(shown: Objects, tracks: moving_objects.Tracks, complete: np.ndarray, scale: float) -> dict[str, Any]:
    """Direction, speed and permanence; distances are of pictures of 64 pixels times `scale`."""
    kind = np.array([mover.motion for mover in shown.movers])
    places = np.where(complete[..., None], tracks.centre, np.nan)
    velocity = np.nan_to_num(moving_objects.velocity(places))
    figures: dict[str, Any] = {}
    straight = np.flatnonzero(np.isin(kind, ("moves", "hides")))
    if len(straight):
        way = np.array([motions.DIRECTIONS[shown.movers[i].direction] for i in straight])
        along, across = (velocity[straight] * way).sum(1), np.abs(velocity[straight] - _along(velocity[straight], way))
        figures["direction"] = bootstrap.share(list(along > 2 * across.max(1)))
    moving = np.flatnonzero(kind == "moves")
    if len(moving):
        speed = np.linalg.norm(velocity[moving], axis=-1)
        ranges = np.array([motions.SPEEDS[shown.movers[i].speed] for i in moving]) * scale / (complete.shape[1] - 1)
        figures["speed"] = float(moving_objects.outside(speed, ranges).mean())
    hidden = np.flatnonzero(kind == "hides")
    if len(hidden):
        true_places = scale * np.stack([mover.places for mover in shown.movers])
        back = moving_objects.returns(tracks, true_places, shown.visible, most=2 * scale)
        figures["permanence"] = bootstrap.share(list(back[hidden]))
    return figures


def _along(velocity: np.ndarray, way: np.ndarray) -> np.ndarray:
    """The part of velocities [N, 2] along unit vectors [N, 2]."""
    return (velocity * way).sum(1, keepdims=True) * way


def speed_error(clips: np.ndarray, real: np.ndarray, truth: Sequence[Clip], last: int = LAST) -> float:
    """The median of |v - v_0| / v_0 over what bounces, with its mean step v in the last frames and the real clip's v_0.

    A clip that shows nothing counts as 1.

    Args:
        clips: uint8 [N, F, S, S, 3], which go on from the first frames of real ones.
        real: the real clips, of the same shape.
        truth: their truth; clips without a single shape that bounces are left out.
        last: how many frames at the end.

    Returns:
        NaN where nothing bounces.
    """
    bouncing = np.array([[mover.motion for mover in clip.movers] == ["bounces"] for clip in truth])
    if not bouncing.any():
        return float("nan")
    window = slice(-last, None)

    def mean_steps(some: np.ndarray) -> np.ndarray:
        steps = moving_objects.speeds(moving_objects.tracks(some[bouncing, window]).centre)
        known = ~np.isnan(steps)
        return np.where(known.any(1), np.nan_to_num(steps).sum(1) / np.maximum(known.sum(1), 1), np.nan)

    off = np.abs(mean_steps(clips) / mean_steps(real) - 1)
    return float(np.median(np.where(np.isnan(off), 1.0, off)))


def frechet_distances(clips: Objects, real: Objects, others: Objects) -> dict[str, float]:
    """The Frechet distance of the tracks of shapes from real ones, beside its floor, the distance of other real ones.

        FD = |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)),   of (x, y, area, mean colour) in every frame, 6 F numbers

    Each of about unit variance; 0 where nothing is seen. As many shapes of each set are compared.
    """
    number = min(len(some.clips) for some in (clips, real, others))

    def moments(some: Objects) -> frechet.Moments:
        tracks = moving_objects.tracks(some.clips[:number])
        side = some.clips.shape[2]
        numbers = [(tracks.centre - side / 2) / (side / 4), tracks.area[..., None] / (side / 6) ** 2,
                   (tracks.colour - 128) / 64]  # fmt: skip
        return frechet.moments(np.nan_to_num(np.concatenate(numbers, axis=-1)).reshape(number, -1))

    reference = moments(real)
    return {
        "distance": float(frechet.frechet_distance(moments(clips), reference)),
        "floor": float(frechet.frechet_distance(moments(others), reference)),
        "shapes": number,
    }
