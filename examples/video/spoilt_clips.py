"""Clips of one moving shape that is none of the eight, from which the judge of frames learns to reject."""

import numpy as np

from diffusion.data.shapes import motions, spoilt
from diffusion.data.shapes.motions import Mover, Setting
from diffusion.data.shapes.scenes import SHAPES, Lot

STREAM = 21  # stream of random numbers, which no real clip uses
BEYOND = "spoilt"  # the name of the shape while it is painted


def example(number: int, seed: int, frames: int, setting: Setting) -> tuple[np.ndarray, Mover]:
    """A clip whose shape is spoilt in one of the ways of `spoilt.KINDS`, and completely visible in each frame.

    Args:
        number: the clip's number, >= 0.
        seed: the seed of all clips.
        frames: F, at least 8.
        setting: the setting of all clips, of one shape.

    Returns:
        (uint8 [F, 64, 64, 3], the moving shape with its visible colour).
    """
    lot = Lot(seed, STREAM, number)
    while (mover := motions.draw(lot, frames, setting=setting)[0]).motion == "hides":
        pass
    kind = lot.pick(spoilt.KINDS)
    again = int(lot.between(0, 2**53))  # so that all frames, and both pictures of a mean, have the same draws
    paint = lambda one, more=None: motions.painted((one,), Lot(again, STREAM, 0), more or {})
    if kind == "blurred":
        return np.stack([spoilt.blurred(frame, Lot(again, STREAM, 1)) for frame in paint(mover)]), mover
    if kind == "averaged":
        share = lot.between(*spoilt.SHARES)
        other = lot.pick([name for name in SHAPES if name != mover.shape])
        mean = share * paint(mover) + (1 - share) * paint(mover._replace(shape=other))
        return np.round(mean).astype(np.uint8), mover
    distance = lot.pick([one.distance for one in spoilt.shapes() if one.kind == kind])
    return paint(mover._replace(shape=BEYOND), {BEYOND: distance}), mover
