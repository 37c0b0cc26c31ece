"""The pictures of a text-to-image report: guidance as a curve and as rows of pictures, asked and made, edits."""

import pathlib
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from diffusion.io.files import whole
from experiments.evaluation import plots
from experiments.evaluation.plots import BLUE, DPI, FAINT, INK, ORANGE

ROWS = 6  # captions shown in the sweep
COLUMNS = 8


def guidance_curve(rows: Sequence[dict[str, Any]], best: float, path: pathlib.Path) -> None:
    """Fidelity against variety, a point for each scale, and both by scale.

    Args:
        rows: of `text_measures.sweep`.
        best: the scale that was chosen.
        path: the PNG to write.
    """
    scales = [row["guidance"] for row in rows]
    fidelity = [row["scores"]["attributes"]["share"] for row in rows]
    low, high = np.array([row["scores"]["attributes"]["interval"] for row in rows]).T
    varied = [row["variety"] for row in rows]
    figure = Figure(figsize=(9.6, 4.0), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(varied, fidelity, color=FAINT, linewidth=1.5, zorder=1)
    left.scatter(
        varied,
        fidelity,
        s=[60 if scale == best else 24 for scale in scales],
        zorder=2,
        color=[ORANGE if scale == best else BLUE for scale in scales],
    )
    for scale, x, y in zip(scales, varied, fidelity):
        left.annotate(f"{scale:g}", (x, y), textcoords="offset points", xytext=(6, -11), fontsize=9, color=INK)
    left.axvline(1, color=FAINT, linestyle=":", linewidth=1.2)
    left.set(
        xlabel="variety (1: that of real pictures)",
        ylabel="asked attributes that are right",
        title="Literal or varied, by guidance",
    )
    right.fill_between(scales, low, high, color=BLUE, alpha=0.15, linewidth=0)
    right.plot(scales, fidelity, color=BLUE, marker="o", markersize=4, label="asked attributes that are right")
    right.plot(scales, varied, color=ORANGE, marker="o", markersize=4, label="variety")
    right.plot(
        scales,
        [row["saturation"] for row in rows],
        color=INK,
        linestyle="--",
        linewidth=1.2,
        label="values at 0 or 255",
    )
    right.axvline(best, color=FAINT, linestyle=":", linewidth=1.2)
    right.set(xlabel="guidance", title="By scale (dotted: the one chosen)", ylim=(0, None))
    figure.legend(*right.get_legend_handles_labels(), frameon=False, fontsize=9, loc="outside lower right", ncols=3)
    for axes in (left, right):
        axes.title.set_fontsize(11)
        plots.plain(axes)
    _save(figure, path)


def guidance_rows(rows: Sequence[dict[str, Any]], captions: Sequence[str], path: pathlib.Path) -> None:
    """A row for each caption, a column for each scale, the same seed along a row.

    Args:
        rows: of `text_measures.sweep`.
        captions: of the rows' pictures.
        path: the PNG to write.
    """
    shown = np.stack([row["images"][:ROWS, 0] for row in rows], axis=1)
    columns = [f"{'guidance ' if i == 0 else ''}{row['guidance']:g}" for i, row in enumerate(rows)]
    plots.mosaic([shown], list(captions[:ROWS]), [columns], path)


def variety_rows(row: dict[str, Any], captions: Sequence[str], path: pathlib.Path) -> None:
    """A row for each caption, its pictures at one scale by seed."""
    shown = row["images"][: ROWS + 2]
    columns = [f"seed {i}" for i in range(shown.shape[1])]
    plots.mosaic([shown], list(captions[: ROWS + 2]), [columns], path)


def gallery(images: np.ndarray, captions: Sequence[str], right: Sequence[bool], path: pathlib.Path) -> None:
    """The first pictures with their captions below, in another colour where something asked is not there.

    Args:
        images: uint8 [N, H, W, 3].
        captions: N, what was asked.
        right: N, whether all of it is there.
        path: the PNG to write.
    """
    count = min(len(images), 6 * COLUMNS)
    lines = -(-count // COLUMNS)
    figure = Figure(figsize=(1.3 * COLUMNS, 1.72 * lines), dpi=DPI, layout="constrained")
    panels = np.ravel(figure.subplots(lines, COLUMNS, squeeze=False))
    for panel in panels:
        panel.axis("off")
    for panel, image, caption, well in zip(panels, images[:count], captions, right):
        panel.imshow(image, interpolation="nearest")
        told = "\n".join(textwrap.wrap(caption, 21))
        panel.set_title(told, y=-0.05, pad=-2, va="top", fontsize=7, color=INK if well else ORANGE)
    _save(figure, path)


def rows(named: Sequence[tuple[str, np.ndarray]], path: pathlib.Path) -> None:
    """Rows of pictures, each with its name.

    Args:
        named: (name, uint8 [C, H, W, 3]) of each row.
        path: the PNG to write.
    """
    names, images = zip(*named)
    plots.mosaic([list(images)], list(names), [[""] * len(images[0])], path)


def _save(figure: Figure, path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    with whole(path) as file:
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
