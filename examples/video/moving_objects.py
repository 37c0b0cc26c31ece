"""Measures moving objects in clips of coloured shapes on pale paper: positions, areas and colours per frame.

No network is used. A pixel belongs to an object to the degree to which it has a colour,

    w = clip((max - min of its red, green and blue - 24) / 60, 0, 1),

so white, grey and black pixels, such as those of paper and bars, do not count. Lengths are in pixels of the clip.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from diffusion.data.shapes import templates

PALE, RANGE = 24.0, 60.0  # the weight rises from 0 to 1 as a pixel's chroma rises from PALE to PALE + RANGE
LEAST = 2.0  # least area of an object in pixels
WHOLE = 0.9  # visible share of an object from which on it counts as complete
SAME = 40.0  # largest distance between tints of one colour, in red, green and blue of 255
NEAR = 2  # pixels around an object in which changes belong to it


class Tracks(NamedTuple):
    """The positions, areas and colours of objects in each frame.

    Attributes:
        area: float64 [N, F], the sum of the weights, in pixels.
        centre: float64 [N, F, 2], (x, y) of the weights' centre of mass, from the upper left corner; NaN if area < 2.
        colour: float64 [N, F, 3], the mean colour by weight; NaN likewise.
        count: int64 [N, F], number of connected parts of w > 1/2 with an area of 2 or more.
    """

    area: np.ndarray
    centre: np.ndarray
    colour: np.ndarray
    count: np.ndarray


def weights(clips: np.ndarray) -> np.ndarray:
    """The degree to which each pixel belongs to an object, float64 [N, F, H, W] in [0, 1].

    Args:
        clips: uint8 [N, F, H, W, 3].

    Raises:
        TypeError, ValueError: if the clips have another type or shape.
    """
    if clips.dtype != np.uint8:
        raise TypeError(f"clips must be uint8, got {clips.dtype}")
    if clips.ndim != 5 or clips.shape[-1] != 3:
        raise ValueError(f"clips must be [N, F, H, W, 3], got {list(clips.shape)}")
    chroma = clips.max(-1).astype(np.float64) - clips.min(-1)
    return np.clip((chroma - PALE) / RANGE, 0, 1)


def tracks(clips: np.ndarray) -> Tracks:
    """The tracks of the objects in clips; arguments and errors are those of `weights`."""
    weight = weights(clips)
    height, width = weight.shape[2:]
    area = weight.sum((2, 3))
    visible_area = np.where(area < LEAST, np.nan, area)
    x = weight.sum(2) @ (np.arange(width) + 0.5) / visible_area
    y = weight.sum(3) @ (np.arange(height) + 0.5) / visible_area
    colour = np.einsum("nfhw,nfhwc->nfc", weight, clips.astype(np.float64)) / visible_area[..., None]
    count = np.array([[templates.pieces(frame, LEAST) for frame in clip] for clip in weight > 0.5], np.int64).reshape(
        area.shape
    )
    return Tracks(area, np.stack([x, y], -1), colour, count)


def around(clips: np.ndarray, places: np.ndarray, side: int) -> np.ndarray:
    """The part of each frame around a position, rounded to whole pixels, uint8 [N, F, side, side, 3].

    Args:
        clips: uint8 [N, F, H, W, 3].
        places: [N, F, 2], (x, y); NaN means the middle of the frame.
        side: the side of the part in pixels, even. Outside of the frame, its border is repeated.
    """
    number, frames, height, width = clips.shape[:4]
    middle = np.array([width / 2, height / 2])
    left = np.round(np.where(np.isnan(places), middle, places) - side / 2).astype(int)
    rows = np.clip(left[..., 1, None] + np.arange(side), 0, height - 1)[..., :, None]
    columns = np.clip(left[..., 0, None] + np.arange(side), 0, width - 1)[..., None, :]
    clip = np.arange(number)[:, None, None, None]
    return clips[clip, np.arange(frames)[:, None, None], rows, columns]


def velocity(places: np.ndarray) -> np.ndarray:
    """The velocity of the straight, even motion that is nearest to positions, in pixels per frame.

        v = sum (f - mean f) (p_f - mean p) / sum (f - mean f)^2,    over the frames f with an object

    Args:
        places: [N, F, 2]; NaN where nothing is seen.

    Returns:
        float64 [N, 2]; NaN with fewer than two frames.
    """
    is_seen = ~np.isnan(places[..., 0])
    share = is_seen / np.maximum(is_seen.sum(1, keepdims=True), 1)
    clock = np.arange(places.shape[1]) - (share * np.arange(places.shape[1])).sum(1, keepdims=True)
    clock = np.where(is_seen, clock, 0.0)
    spread = np.square(clock).sum(1)
    moved = np.einsum("nf,nfc->nc", clock, np.nan_to_num(places))
    return moved / np.where(spread > 0, spread, np.nan)[:, None]


def line_error(places: np.ndarray) -> np.ndarray:
    """The root mean square distance of positions from straight, even motion, pixels [N].

    Args:
        places: [N, F, 2]; NaN where nothing is seen.
    """
    is_seen = ~np.isnan(places[..., 0])
    number = np.maximum(is_seen.sum(1), 1)
    mean = np.nan_to_num(places).sum(1) / number[:, None]
    clock = np.arange(places.shape[1]) - ((is_seen * np.arange(places.shape[1])).sum(1) / number)[:, None]
    line = mean[:, None] + clock[..., None] * velocity(places)[:, None]
    off = np.where(is_seen, np.square(np.nan_to_num(places) - line).sum(-1), 0.0)
    return np.sqrt(off.sum(1) / number)


def speeds(places: np.ndarray) -> np.ndarray:
    """The distance between the positions in each frame and the next, pixels [N, F - 1]; NaN if one has no object."""
    return np.linalg.norm(np.diff(places, axis=1), axis=-1)


def outside(speed: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """The distances of speeds [N] from the requested ranges (least, greatest) [N, 2], divided by their middles."""
    return np.maximum(np.maximum(ranges[:, 0] - speed, speed - ranges[:, 1]), 0) / ranges.mean(1)


def size_drift(tracks: Tracks, complete: np.ndarray) -> np.ndarray:
    """The standard deviation of the area divided by its mean, over the frames that show the complete object, [N].

    Args:
        tracks: the positions, areas and colours, from the function `tracks`.
        complete: Bool [N, F], the frames that should show the complete object. Without an object the area is 0.

    Returns:
        float64 [N]; NaN for clips without such frames, or without an object in them.
    """
    area = np.where(complete, tracks.area, np.nan)
    mean = _over_frames(np.nanmean, area)
    return _over_frames(np.nanstd, area) / np.where(mean > 0, mean, np.nan)


def colour_drift(tracks: Tracks, complete: np.ndarray) -> np.ndarray:
    """The root mean square distance of the colour from its mean, of 255, over frames with the complete object, [N]."""
    colour = np.where(complete[..., None], tracks.colour, np.nan)
    off = np.square(colour - _over_frames(np.nanmean, colour)[:, None]).sum(-1)
    return np.sqrt(_over_frames(np.nanmean, off))


def _over_frames(statistic: Callable[..., np.ndarray], values: np.ndarray) -> np.ndarray:
    """A statistic over axis 1 by a function of NumPy that ignores NaN; NaN for rows with nothing else."""
    some = ~np.isnan(values).all(axis=1)
    result = np.full(some.shape, np.nan)
    filled = np.where(np.isnan(values).all(axis=1, keepdims=True), 0.0, values)
    return np.where(some, statistic(filled, axis=1), result)


def returns(tracks: Tracks, places: np.ndarray, seen: np.ndarray, most: float = 1.0) -> np.ndarray:
    """Whether an object is hidden when it should be, and reappears unchanged where its motion takes it, Bool [N].

    Let p_f be its position, q_f its true position, and b the frames that show the complete object before it is hidden.
    Then

        max_f |p_f - q_f - mean_b (p_b - q_b)| <= most,    over all frames f that show the complete object,

    so another start of the same motion is allowed. In each such frame the object must have, within bounds, the colour
    and at least half the area that it had before. In frames in which it should be hidden, no object must be visible.

    Args:
        tracks: the positions, areas and colours, from the function `tracks`.
        places: the positions of the true motion, [N, F, 2], in the same pixels.
        seen: the share of the object that should be visible, [N, F]: 0 if it is hidden; from 0.9 on it is complete.
        most: the largest allowed distance from the true position, in pixels.
    """
    hidden, in_full = seen == 0, seen >= WHOLE
    before = in_full & (np.arange(seen.shape[1]) < hidden.argmax(1)[:, None])
    after = in_full & ~before
    there = tracks.area >= LEAST
    asked = hidden.any(1) & before.any(1) & after.any(1)
    sound = asked & (there | ~in_full).all(1) & ~(there & hidden).any(1)
    mean_before = lambda values: _over_frames(np.nanmean, np.where(before[..., None], values, np.nan))[:, None]
    from_before = lambda values: np.linalg.norm(values - mean_before(values), axis=-1)
    same = from_before(tracks.centre - places) <= most
    same &= from_before(tracks.colour) <= SAME
    same &= tracks.area >= 0.5 * mean_before(tracks.area[..., None])[..., 0]
    return sound & (same | ~in_full).all(1)


def flicker(clips: np.ndarray) -> np.ndarray:
    """The mean change of a pixel from one frame to the next where nothing moves, of 255, [N].

    Pixels within 2 pixels of an object in either frame do not count.

    Args:
        clips: uint8 [N, F, H, W, 3].

    Returns:
        float64 [N]; NaN for clips without any other pixel, such as noise.
    """
    things = weights(clips) > 0
    wide: Any = ndimage.maximum_filter(things, size=(1, 1, 2 * NEAR + 1, 2 * NEAR + 1))
    still = ~(wide[:, 1:] | wide[:, :-1])
    change = np.abs(np.diff(clips.astype(np.int16), axis=1)).mean(-1)
    number = still.sum((1, 2, 3))
    return (change * still).sum((1, 2, 3)) / np.where(number > 0, number, np.nan)
