"""The pictures of text-to-image reports: guidance as a curve, and captions below their pictures."""

import pathlib
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffusion.experiments.evaluation import plots
from diffusion.experiments.evaluation.plots import BLUE, FAINT, INK, ORANGE

COLUMNS = 8  # of a gallery


def guidance_curve(rows: Sequence[dict[str, Any]], best: float, path: pathlib.Path) -> None:
    """Writes a PNG of fidelity against variety, a point for each scale of a sweep, and of both by scale."""
    scales = [row["guidance"] for row in rows]
    fidelity = [row["scores"]["attributes"]["share"] for row in rows]
    low, high = np.array([row["scores"]["attributes"]["interval"] for row in rows]).T
    varied = [row["variety"] for row in rows]
    figure = plots.blank(9.6, 4.0, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(varied, fidelity, color=FAINT, linewidth=1.5, zorder=1)
    sizes = [60 if scale == best else 24 for scale in scales]
    colours = [ORANGE if scale == best else BLUE for scale in scales]
    left.scatter(varied, fidelity, s=sizes, zorder=2, color=colours)
    for scale, x, y in zip(scales, varied, fidelity):
        left.annotate(f"{scale:g}", (x, y), textcoords="offset points", xytext=(6, -11), fontsize=9, color=INK)
    left.axvline(1, color=FAINT, linestyle=":", linewidth=1.2)
    left.set(
        xlabel="variety (1: that of real pictures)",
        ylabel="requested attributes that are right",
        title="Literal or varied, by guidance",
    )
    right.fill_between(scales, low, high, color=BLUE, alpha=0.15, linewidth=0)
    saturation = [row["saturation"] for row in rows]
    right.plot(scales, fidelity, color=BLUE, marker="o", markersize=4, label="requested attributes that are right")
    right.plot(scales, varied, color=ORANGE, marker="o", markersize=4, label="variety")
    right.plot(scales, saturation, color=INK, linestyle="--", linewidth=1.2, label="values at 0 or 255")
    right.axvline(best, color=FAINT, linestyle=":", linewidth=1.2)
    right.set(xlabel="guidance", title="By scale (dotted: the one chosen)", ylim=(0, None))
    figure.legend(*right.get_legend_handles_labels(), frameon=False, fontsize=9, loc="outside lower right", ncols=3)
    for axes in (left, right):
        axes.title.set_fontsize(11)
        plots.style(axes)
    plots.save(figure, path)


def gallery(images: np.ndarray, captions: Sequence[str], right: Sequence[bool], path: pathlib.Path) -> None:
    """Writes a PNG of the first pictures with their captions below, orange where something requested is missing."""
    count = min(len(images), 6 * COLUMNS)
    lines = -(-count // COLUMNS)
    figure = plots.blank(1.3 * COLUMNS, 1.72 * lines, layout="constrained")
    panels = np.ravel(figure.subplots(lines, COLUMNS, squeeze=False))
    for panel in panels:
        panel.axis("off")
    for panel, image, caption, well in zip(panels, images[:count], captions, right):
        panel.imshow(image, interpolation="nearest")
        text = "\n".join(textwrap.wrap(caption, 21))
        panel.set_title(text, y=-0.05, pad=-2, va="top", fontsize=7, color=INK if well else ORANGE)
    plots.save(figure, path)


def glyph_rows(
    taught: Sequence[np.ndarray],
    captions: Sequence[str],
    rows: Sequence[np.ndarray],
    names: Sequence[str],
    prompts: Sequence[str],
    path: pathlib.Path,
) -> None:
    """Writes a PNG of the pictures that were taught, and below them a row of each model's pictures of the same prompts.

    Args:
        taught: the pictures that were taught, uint8 [H, W, 3] each, at most as many as prompts.
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
                panel.set_title("\n".join(textwrap.wrap(text, 20)), fontsize=7.5, color=INK)
        line[0].set_ylabel(name, fontsize=9, color=INK)
    plots.save(figure, path)
