"""The figure of the report: the training pictures, and below them the pictures of each model."""

import pathlib
import textwrap
from collections.abc import Sequence

import numpy as np

from diffusion.experiments.evaluation import plots


def draw(
    taught: Sequence[np.ndarray],
    captions: Sequence[str],
    rows: Sequence[np.ndarray],
    names: Sequence[str],
    prompts: Sequence[str],
    path: pathlib.Path,
) -> None:
    """Writes a PNG with a row of the training pictures, and a row of each model's pictures of the same prompts.

    Args:
        taught: the training pictures, uint8 [H, W, 3] each, at most as many as prompts.
        captions: the captions of these pictures.
        rows: the pictures of each model, uint8 [P, H, W, 3].
        names: the models' names.
        prompts: the P prompts.
        path: the PNG to write.
    """
    figure = plots.blank(1.45 * len(prompts) + 1.2, 1.72 * (len(rows) + 1) + 0.5, layout="constrained")
    panels = figure.subplots(len(rows) + 1, len(prompts), squeeze=False)
    lines = [
        ("the five pictures", list(taught), captions),
        *((name, list(row), prompts) for name, row in zip(names, rows)),
    ]
    for number, (line, (name, images, texts)) in enumerate(zip(panels, lines)):
        for panel in line:
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(False)
        for panel, image, text in zip(line, images, texts):
            panel.imshow(image, interpolation="nearest")
            if number < 2:  # the prompts of all models stand above the first one's pictures
                panel.set_title(textwrap.fill(text, 20), fontsize=7.5, color=plots.INK)
        line[0].set_ylabel(name, fontsize=9, color=plots.INK)
    plots.save(figure, path)
