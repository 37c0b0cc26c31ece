"""Pictures of clips: several side by side as one animation, and their frames in rows."""

import pathlib

import numpy as np

from diffusion.experiments.evaluation import plots
from diffusion.experiments.evaluation.real_images import balanced_order
from diffusion.io import clips as clip_files

ROWS = 8  # the most clips in the picture of frames
COLUMNS = 8  # columns of the animation, and the most frames in a row
MOST = 40  # the most clips in the animation
SIDE = 64  # the least side of a frame, in pixels
RATE = 10.0  # frames per second, if the data do not state it


def draw(clips: np.ndarray, labels: np.ndarray, out: pathlib.Path, rate: float = RATE) -> list[pathlib.Path]:
    """Writes samples.gif with clips side by side, and samples.png with a row of frames for each of a few clips.

    Args:
        clips: the clips, uint8 [N, F, H, W, C], of 1 or 3 channels.
        labels: the classes of the clips, int [N]; they take turns.
        out: the folder.
        rate: the frames per second of the animation.

    Returns:
        The paths of the files.
    """
    order = balanced_order(labels)
    frames = plots.coloured(clips[order[:MOST]])
    factor = max(1, SIDE // max(frames.shape[2:4]))
    frames = frames.repeat(factor, 2).repeat(factor, 3)
    some = np.linspace(0, frames.shape[1] - 1, min(COLUMNS, frames.shape[1])).round().astype(int)
    names = plots.class_names(labels[order], ())[:ROWS]
    plots.mosaic([frames[:ROWS, some]], names, [[f"frame {i + 1}" for i in some]], out / "samples.png")

    clip_files.write_gif(out / "samples.gif", beside(frames), rate)
    return [out / "samples.gif", out / "samples.png"]


def beside(clips: np.ndarray) -> np.ndarray:
    """The frames of an animation that shows clips, uint8 [N, F, H, W, 3], in rows of eight: uint8 [F, H', W', 3]."""
    columns = min(COLUMNS, len(clips))
    empty = np.full((-len(clips) % columns, *clips.shape[1:]), 255, np.uint8)
    grid = np.concatenate([clips, empty]).reshape(-1, columns, *clips.shape[1:])
    grid = np.pad(grid, [(0, 0)] * 3 + [(2, 2), (2, 2), (0, 0)], constant_values=255)
    return grid.transpose(2, 0, 3, 1, 4, 5).reshape(clips.shape[1], -1, columns * grid.shape[4], 3)
