"""The plot of a guidance sweep: fidelity against variety."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffusion.experiments.evaluation import plots


def guidance_curve(rows: Sequence[dict[str, Any]], best: float, path: pathlib.Path) -> None:
    """Writes a PNG with two plots of a sweep: fidelity against variety, and both by guidance scale."""
    scales = [row["guidance"] for row in rows]
    fidelity = [row["scores"]["attributes"]["share"] for row in rows]
    low, high = np.array([row["scores"]["attributes"]["interval"] for row in rows]).T
    varied = [row["variety"] for row in rows]
    figure = plots.blank(9.6, 4.0, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(varied, fidelity, color=plots.FAINT, linewidth=1.5, zorder=1)
    sizes = [60 if scale == best else 24 for scale in scales]
    colours = [plots.ORANGE if scale == best else plots.BLUE for scale in scales]
    left.scatter(varied, fidelity, s=sizes, zorder=2, color=colours)
    for scale, x, y in zip(scales, varied, fidelity):
        left.annotate(f"{scale:g}", (x, y), textcoords="offset points", xytext=(6, -11), fontsize=9, color=plots.INK)
    left.axvline(1, color=plots.FAINT, linestyle=":", linewidth=1.2)
    left.set(
        xlabel="variety (1: as varied as real pictures)",
        ylabel="requested attributes that are right",
        title="Literal or varied, by guidance",
    )
    right.fill_between(scales, low, high, color=plots.BLUE, alpha=0.15, linewidth=0)
    saturation = [row["saturation"] for row in rows]
    right.plot(
        scales, fidelity, color=plots.BLUE, marker="o", markersize=4, label="requested attributes that are right"
    )
    right.plot(scales, varied, color=plots.ORANGE, marker="o", markersize=4, label="variety")
    right.plot(scales, saturation, color=plots.INK, linestyle="--", linewidth=1.2, label="values at 0 or 255")
    right.axvline(best, color=plots.FAINT, linestyle=":", linewidth=1.2)
    right.set(xlabel="guidance", title="By scale (dotted: the chosen one)", ylim=(0, None))
    figure.legend(*right.get_legend_handles_labels(), frameon=False, fontsize=9, loc="outside lower right", ncols=3)
    for axes in (left, right):
        axes.title.set_fontsize(11)
        plots.style(axes)
    plots.save(figure, path)
