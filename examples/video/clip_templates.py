"""Classifies frames of one moving shape without a network: the best of eight drawn shapes, and the nearest colour.

The chroma c of a pixel is the maximum minus the minimum of red, green and blue; paper and bars have none. Cubic splines
enlarge the chroma of a frame to 64 pixels a side. Let C be the full chroma, the 80 % quantile of c over the pixels with
c > 54. The mask of the object is {c > C / 2}. It is compared with rotated drawings by intersection over union.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from diffusion.data.shapes import drawing, scenes, templates
from examples.video import moving_objects
from examples.video.moving_objects import Tracks

RADII = (6.4, 9.6)  # radii of the templates, in pixels of a frame of 64; those of the clips are 7.6 to 8.2
OFFSETS = (-0.5, 0.0, 0.5)
CHROMA = moving_objects.PALE + moving_objects.RANGE / 2  # chroma of a pixel that belongs to an object by half
WHOLE = 0.85  # overlap above which an object is whole; 99 % of real frames have more


class Templates(NamedTuple):
    """The shape and the colour in each frame.

    Attributes:
        overlap: float64 [N, F, 8], the intersection over union with the best template of each of `scenes.SHAPES`; 0 in
            a frame without an object.
        shape: int64 [N, F], the index of the shape with the largest overlap; -1 in a frame without an object.
        colour: int64 [N, F], the index in `scenes.COLOURS` of the hue nearest to the mean colour; -1 likewise.
    """

    overlap: np.ndarray
    shape: np.ndarray
    colour: np.ndarray


def measured(clips: np.ndarray, tracks: Tracks) -> Templates:
    """The best templates of all frames.

    Args:
        clips: uint8 [N, F, H, H, 3].
        tracks: the `moving_objects.tracks` of the clips.
    """
    number, frames, side = clips.shape[:3]
    chroma = clips.max(-1).astype(np.float32) - clips.min(-1)
    large: Any = ndimage.zoom(
        chroma, (1, 1, drawing.SIDE / side, drawing.SIDE / side), order=3, mode="nearest", grid_mode=True
    )
    masks = np.stack([_mask(frame) for frame in large.reshape(-1, drawing.SIDE, drawing.SIDE)])
    known = templates.drawn(*RADII, turned=True, offsets=OFFSETS)
    overlap = templates.fits(masks, known).overlap.reshape(number, frames, -1)
    there = (tracks.area >= moving_objects.LEAST) & overlap.any(-1)
    colour = drawing.nearest_hue(np.nan_to_num(tracks.colour))
    overlap = np.where(there[..., None], overlap, 0.0)
    return Templates(overlap, np.where(there, overlap.argmax(-1), -1), np.where(there, colour, -1))


def agreement(best: Templates, shapes: Sequence[str], colours: Sequence[str]) -> dict[str, np.ndarray]:
    """Whether each frame shows what is requested of its clip, Bool [N, F] each.

    Args:
        best: the best templates of N clips.
        shapes: the requested shape of each clip, in `scenes.SHAPES`.
        colours: the requested colour of each clip, in `scenes.COLOURS`.

    Returns:
        {"shape": the requested shape has the largest overlap of the eight, "whole": its overlap is above 0.85,
        "colour": the requested colour is the nearest}.
    """
    shape = np.array([scenes.SHAPES.index(name) for name in shapes])[:, None]
    colour = np.array([scenes.COLOURS.index(name) for name in colours])[:, None]
    overlap = np.take_along_axis(best.overlap, shape[..., None], axis=-1)[..., 0]
    return {"shape": best.shape == shape, "whole": overlap > WHOLE, "colour": best.colour == colour}


def _mask(chroma: np.ndarray) -> np.ndarray:
    strong = chroma[chroma > CHROMA]
    return chroma > (np.quantile(strong, 0.8) / 2 if len(strong) else np.inf)
