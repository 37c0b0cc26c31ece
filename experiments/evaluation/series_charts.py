"""Charts of series: intervals of samples for partly given series, complete samples, and the exact distribution."""

import os
from typing import NamedTuple

import numpy as np

from diffusion.data import gaussian_processes
from diffusion.data.gaussian_processes import GaussianProcess
from diffusion.experiments.evaluation.plots import BLUE, FAINT, INK, ORANGE, blank, save, style

PANELS = (3, 2)  # the rows and columns of panels
BANDS = (0.9, 0.5)  # levels of the intervals
NORMAL = (1.6449, 0.6745)  # half widths of the intervals, in standard deviations of a normal distribution
FEW = 20  # fewer samples of a series than this are drawn as lines


class Part(NamedTuple):
    """Series with a given part.

    Attributes:
        given: the given values, float `[W, L, C]`.
        mask, real: True for given values, and for hidden values to predict, Bool `[W, L, C]`.
        truth: the hidden values, float `[W, L, C]`; None if they are not known.
        groups: the group of each series, int `[W]`; windows of one group overlap. None for independent series.
    """

    given: np.ndarray
    mask: np.ndarray
    real: np.ndarray
    truth: np.ndarray | None = None
    groups: np.ndarray | None = None


def grouped(samples: np.ndarray, condition: dict) -> tuple[list[np.ndarray], Part]:
    """Groups samples `[N, L, C]` by their conditions: (the samples of each distinct condition, these conditions)."""
    rows: dict[bytes, list[int]] = {}
    for row, leaves in enumerate(zip(*(condition[name] for name in ("given", "mask", "real")))):
        rows.setdefault(b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in leaves), []).append(row)
    first = [same[0] for same in rows.values()]
    part = Part(*(np.asarray(condition[name])[first] for name in ("given", "mask", "real")))
    return [samples[same] for same in rows.values()], part


def fans(
    samples: list[np.ndarray] | np.ndarray, part: Part, path: str | os.PathLike, process: GaussianProcess | None = None
) -> None:
    """Draws the first series, each channel a panel: the given values, and median and intervals of the samples.

    Args:
        samples: the samples of each series, `[S, L, C]`, zero outside of the hidden part.
        part: the series.
        path: the PNG to write.
        process: the process of the series, whose exact median and intervals are drawn as well; None if it is not known.
    """
    channels = part.given.shape[2]
    chosen = [(row, channel) for row in range(len(part.given)) for channel in range(channels)][: PANELS[0] * PANELS[1]]
    rows = -(-len(chosen) // PANELS[1])
    figure = blank(10.5, 0.5 + 2.1 * rows, layout="constrained")
    panels = figure.subplots(rows, PANELS[1], squeeze=False).ravel()
    for axes in panels[len(chosen) :]:
        axes.axis("off")
    for axes, (row, channel) in zip(panels, chosen):
        at = (slice(None), channel)
        given, mask, real = (leaf[row][at] for leaf in part[:3])
        steps = np.arange(len(given))
        complete = np.where(mask, given, np.where(real, samples[row][:, :, channel], np.nan))
        known = mask | real
        if len(complete) < FEW:
            lines = axes.plot(steps, complete.T, color=BLUE, linewidth=1.2, alpha=0.8)
            lines[0].set_label("samples")
        else:
            for level, alpha in zip(BANDS, (0.18, 0.32)):
                low, high = np.quantile(complete[:, known], ((1 - level) / 2, (1 + level) / 2), axis=0)
                name = f"samples, {level:.0%}"
                axes.fill_between(steps[known], low, high, color=BLUE, alpha=alpha, linewidth=0, label=name)
            axes.plot(steps[known], np.median(complete[:, known], axis=0), color=BLUE, linewidth=1.4, label="median")
        if process is not None:
            mean, covariance = gaussian_processes.conditional(process, part.given[row], part.mask[row])
            mean, std = mean[at], gaussian_processes.deviation(process, covariance)[at]
            axes.plot(steps, mean, color=ORANGE, linewidth=1.2, label="exact median")
            for level, width, line in zip(BANDS, NORMAL, (":", (0, (4, 2)))):
                for sign in (-1, 1):
                    name = f"exact, {level:.0%}" if sign > 0 else None
                    axes.plot(steps, mean + sign * width * std, color=ORANGE, linewidth=0.8, linestyle=line, label=name)
        if part.truth is not None:
            hidden = real & np.isfinite(part.truth[row][at])
            axes.scatter(
                steps[hidden], part.truth[row][at][hidden], s=12, facecolors="white", edgecolors=INK, linewidths=0.8,
                zorder=3, label="hidden",
            )  # fmt: skip
        axes.scatter(steps[mask], given[mask], s=10, color=INK, linewidths=0, zorder=3, label="given")
        axes.margins(x=0.01)
        axes.set_title(f"series {row}" + (f", channel {channel}" if channels > 1 else ""), fontsize=9, color=INK, pad=2)
        axes.tick_params(labelsize=8, color=FAINT)
        style(axes)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), fontsize=8, frameon=False)
    save(figure, path)


def lags(samples: np.ndarray, process: GaussianProcess, path: str | os.PathLike) -> None:
    """Draws whole series, and beside them the mean covariance at each lag of each channel, with the exact one.

    Args:
        samples: the samples, `[N, L, C]`.
        process: the process that the data are drawn from.
        path: the PNG to write.
    """
    length, channels = process.shape
    estimated = np.einsum("nic,njc->cij", samples, samples) / len(samples)
    blocks = process.covariance.reshape(length, channels, length, channels)
    exact = np.stack([blocks[:, channel, :, channel] for channel in range(channels)])
    at = np.arange(length)
    mean = lambda covariance: np.stack([np.diagonal(covariance, lag, 1, 2).mean(-1) for lag in at], axis=-1)
    figure = blank(10.5, 3.0, layout="constrained")
    left, right = figure.subplots(1, 2)
    for row, shade in zip(range(min(5, len(samples))), np.linspace(1, 0.3, 5)):
        left.plot(at, samples[row, :, 0], color=BLUE, linewidth=1.1, alpha=shade)
    left.set_title("samples" + (", channel 0" if channels > 1 else ""), fontsize=9, color=INK, pad=2)
    for channel in range(channels):
        names = (None, None) if channel else ("samples", "exact")
        right.plot(at, mean(estimated)[channel], color=BLUE, linewidth=1.4, label=names[0])
        right.plot(at, mean(exact)[channel], color=ORANGE, linewidth=1.2, linestyle=(0, (4, 2)), label=names[1])
    right.set_title("covariance at a lag of so many steps", fontsize=9, color=INK, pad=2)
    right.legend(fontsize=8, frameon=False)
    for axes in (left, right):
        axes.margins(x=0.01)
        axes.tick_params(labelsize=8, color=FAINT)
        style(axes)
    save(figure, path)
