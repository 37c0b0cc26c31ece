"""Draws docs/images/first.png, the README's picture: the predictions of the model of drawings, from noise to the end.

python -m tools.docs.first_picture
"""

__all__ = ["PLACE", "PROMPTS", "SEEDS", "SHOWN", "draw"]

import pathlib
import textwrap

import numpy as np

from diffusion import text_to_image
from diffusion.experiments.evaluation import plots

ROOT = pathlib.Path(__file__).parents[2]
PLACE = ROOT / "docs" / "images" / "first.png"
PROMPTS = (
    "a large red heart",
    "a green star left of a blue moon",
    "a large orange diamond",
    "a purple circle above a yellow star",
    "a blue square right of a red cross",
    "a large pink moon",
)
SEEDS = (0, 1, 2, 8, 4, 5)
SHOWN = (1, 4, 7, 20)  # the steps whose predictions are shown; the last is the number of steps
LETTERS = 16  # the most letters of a line above a column
SCALE = 2  # the pixels of the PNG for one pixel of the model, along each side


def draw(path: pathlib.Path) -> None:
    """Draws the predictions of x_0 after the steps `SHOWN`, with a column for each prompt, as a PNG file.

    Args:
        path: the file to write.
    """
    model = text_to_image.load(ROOT / "weights" / "drawings")
    watched = text_to_image.watch(model, PROMPTS, steps=max(SHOWN), seeds=SEEDS)
    frames = [frame for frame in watched if frame.step in SHOWN]
    pictures = np.stack([frame.pictures for frame in frames]).repeat(SCALE, 2).repeat(SCALE, 3)
    names = ["\n".join(textwrap.wrap(prompt, LETTERS)) for prompt in PROMPTS]
    plots.mosaic([pictures], [f"t = {frame.t:.2f}" for frame in frames], [names], path)


if __name__ == "__main__":
    draw(PLACE)
