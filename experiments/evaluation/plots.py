"""The pictures of a run: a grid of samples, trajectories from noise to image, and the training curves."""

import importlib.util
import itertools
import math
import os
import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diffusion.data.transforms import to_uint8
from diffusion.io import json_lines
from diffusion.io.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100  # resolution of the layout: one unit below is one pixel of the figure
TILE = 48  # least side of an image in the figure, in pixels; small images are enlarged by whole numbers
GAP = 6
MARGIN = 12
INK, FAINT, BLUE, ORANGE = "#222222", "#b8c4d6", "#1f5fa8", "#d9822b"
HELD = "#3a8a4d"  # the colour of held-out data
COLOURS = ("#1f5fa8", "#d9822b", "#3a8a4d", "#8e5ea2", "#c0392b", "#7a4a12", "#444444", "#2aa6a6")  # colours of lines
FRAME = 225  # grey of the line around an image
SHOWN_CLASSES = 20
NAME_WIDTH = 120  # characters of a line in the legend below the curves
SHOWN_TIMES = 8
CAPTIONED = 8  # number of captioned pictures in a row


def sample_grid(
    images: np.ndarray,
    labels: np.ndarray,
    path: str | os.PathLike,
    columns: int = 10,
    classes: Sequence[str] = (),
    originals: np.ndarray | None = None,
) -> None:
    """Draws samples with a row for each class, named beside its first image; in rows if all have the same label.

    Args:
        images: the samples, uint8 `[N, H, W, C]`, C = 1 or 3.
        labels: the classes of the samples, int `[N]`.
        path: the PNG to write.
        columns: the most images in a row; further images of a class, and classes beyond the 20th, are left out.
        classes: the names of the classes, by their numbers; () for the numbers, of which 0 is left out if all have it.
        originals: the pictures from which the images were edited, in the same shape; they are drawn left of the images.
    """
    images = np.asarray(images)
    labels = np.asarray(labels)
    if images.ndim != 4 or labels.shape != (len(images),) or len(images) == 0:
        raise ValueError(f"need images [N, H, W, C] and labels [N], got {list(images.shape)} and {list(labels.shape)}")
    shown_classes = np.unique(labels)[:SHOWN_CLASSES]
    if len(shown_classes) == 1 and len(images) > columns:  # one class, or none: fill the rows
        rows = [np.arange(start, min(start + columns, len(images))) for start in range(0, len(images), columns)][:10]
    else:
        rows = [np.flatnonzero(labels == label)[:columns] for label in shown_classes]
    names = class_names(shown_classes, classes)
    if len(shown_classes) == 1:
        names += [""] * (len(rows) - 1)
    shown = [coloured(part) for part in ([] if originals is None else [originals]) + [images]]
    blocks = [[[part[i] for i in row] for row in rows] for part in shown]
    mosaic(blocks, names, [[]] * len(blocks), path, () if originals is None else ("original", "edited"))


def class_name(label: int, classes: Sequence[str]) -> str:
    """The name of a class; its number if it has none."""
    return classes[int(label)] if label < len(classes) else str(label)


def class_names(labels: np.ndarray, classes: Sequence[str]) -> list[str]:
    """The name of each label, by `class_name`; "" if classes have no names and all labels are 0, for no class."""
    return [class_name(label, classes) if classes or np.any(labels) else "" for label in labels]


def scatter(points: np.ndarray, labels: np.ndarray, path: str | os.PathLike, classes: Sequence[str] = ()) -> None:
    """Draws points in the plane as a PNG, with a colour for each of eight classes; further classes repeat them.

    Args:
        points: points, float `[N, 2]`.
        labels: their classes, int `[N]`.
        path: the file to write.
        classes: names of the classes for the legend; numbers if empty.
    """
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != 2 or np.shape(labels) != (len(points),):
        raise ValueError(f"need points [N, 2] and labels [N], got {list(points.shape)} and {list(np.shape(labels))}")
    figure = blank(4.8, 4.8, layout="constrained")
    axes = figure.add_subplot()
    _by_class(axes, points, np.asarray(labels), classes)
    axes.set_aspect("equal")
    style(axes)
    save(figure, path)


def _by_class(axes, points: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> None:
    """Draws points with the colours of their classes, and a legend of the first classes if there are several."""
    present = np.unique(labels)
    for label in present:
        name, colour = class_name(label, classes), COLOURS[label % len(COLOURS)]
        axes.scatter(*points[labels == label].T, s=3, color=colour, linewidths=0, label=name)
    if len(present) > 1:
        _legend(axes, axes.collections[:SHOWN_CLASSES], markerscale=3, fontsize=8)


def _legend(on: "Axes | Figure", handles: Sequence, **how: Any) -> None:
    """A legend of these handles, whose names appear as they are written: "$" begins no mathematics in them."""
    for text in on.legend(handles=handles, **how).get_texts():
        text.set_parse_math(False)


def beside(
    real: np.ndarray,
    samples: np.ndarray,
    labels: Sequence[np.ndarray],
    path: str | os.PathLike,
    classes: Sequence[str] = (),
) -> None:
    """Draws real examples and samples in two panels of one scale, a colour for each class.

    Vectors of more than two numbers are projected onto the first two principal components of the real ones.

    Args:
        real: real examples, `[N, D]`, D >= 2.
        samples: samples, `[M, D]`.
        labels: the classes of both, int `[N]` and int `[M]`.
        path: the PNG to write.
        classes: the names of the classes, by their numbers; () for the numbers.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if real.ndim != 2 or real.shape[1] < 2 or real.shape[1:] != samples.shape[1:]:
        raise ValueError(f"need real [N, D] and samples [M, D], D >= 2; got {list(real.shape)}, {list(samples.shape)}")
    if real.shape[1] > 2:
        middle = real.mean(0)
        rows = np.pad(real - middle, ((0, max(0, 2 - len(real))), (0, 0)))  # one vector has two directions as well
        axes_of = np.linalg.svd(rows, full_matrices=False)[2][:2].T
        real, samples = (rows @ axes_of - middle @ axes_of for rows in (real, samples))
    low, high = np.quantile(real, (0.001, 0.999), axis=0)
    room = 0.2 * (high - low) + 1e-9  # samples far away lie outside the figure; the metrics count them
    low, high = low - room, high + room
    outside = len(samples) - int(((low <= samples) & (samples <= high)).all(axis=1).sum())  # NaN is outside
    sample_title = f"samples, {outside} of {len(samples)} outside" if outside else "samples"
    figure = blank(9.6, 4.8, layout="compressed")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, rows, numbers, title in zip(panels, (real, samples), labels, ("real examples", sample_title)):
        _by_class(axes, rows, np.asarray(numbers), classes)
        axes.set_aspect("equal")
        axes.set_title(title)
        style(axes)
    panels[0].set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    save(figure, path)


def trajectory(
    x: np.ndarray,
    x0: np.ndarray,
    ts: np.ndarray,
    labels: np.ndarray,
    path: str | os.PathLike,
    rows: int = 5,
    classes: Sequence[str] = (),
) -> None:
    """Draws trajectories from noise to image: the sample x_t on the left, the predicted x_0 on the right, t above.

    Args:
        x: the samples at each time, float `[N + 1, B, H, W, C]`, data on the scale [-1, 1].
        x0: the prediction of the clean image in each step, float `[N, B, H, W, C]`.
        ts: the times of x, float `[N + 1]`, decreasing.
        labels: the classes of the samples, int `[B]`.
        path: the PNG to write.
        rows: the most samples to show.
        classes: the names of the classes, by their numbers; () for the numbers.
    """
    x, x0, ts, labels = map(np.asarray, (x, x0, ts, labels))
    if x.ndim != 5 or x0.shape != (len(x) - 1, *x.shape[1:]) or ts.shape != (len(x),) or labels.shape != (x.shape[1],):
        raise ValueError(
            "need x [N + 1, B, H, W, C], x0 [N, B, H, W, C], ts [N + 1] and labels [B], got "
            f"{list(x.shape)}, {list(x0.shape)}, {list(ts.shape)} and {list(labels.shape)}"
        )
    chosen = np.unique(np.linspace(0, len(x0) - 1, SHOWN_TIMES - 1).round().astype(int))
    chosen = np.append(chosen, len(x0))
    predicted = np.concatenate([x0, x[-1:]])  # at the last time the sample is the prediction
    # Noise has larger values than data, much larger if the variance explodes, so each time has its own grey scale.
    width = [max(1.0, 1.25 * float(x[i].std())) for i in chosen]
    noisy = np.stack([x[i] / scale for i, scale in zip(chosen, width)])
    blocks = [np.swapaxes(coloured(to_uint8(a[:, :rows])), 0, 1) for a in (noisy, predicted[chosen])]
    times = [_time(ts[index], column == 0) for column, index in enumerate(chosen)]
    titles = ("sample x\N{LATIN SUBSCRIPT SMALL LETTER T}", "prediction of x\N{SUBSCRIPT ZERO}")
    mosaic(blocks, class_names(labels, classes)[:rows], (times, times), path, titles)


def mosaic(
    blocks: Sequence,
    names: Sequence[str],
    columns: Sequence[Sequence[str]],
    path: str | os.PathLike,
    titles: Sequence[str] = (),
) -> None:
    """Draws blocks of images side by side, with names beside the rows and above the columns.

    Small images are enlarged by a whole number.

    Args:
        blocks: the blocks of images, uint8 `[R, C, H, W, 3]`, from `coloured`, with equal R, H and W; rows may differ
            in length.
        names: the names of the R rows; "" for a row without one.
        columns: the texts above the C columns of each block.
        path: the PNG to write.
        titles: the title of each block.
    """
    image = blocks[0][0][0]
    factor = max(1, -(-TILE // max(image.shape[:2])))
    height = image.shape[0] * factor
    width = image.shape[1] * factor
    longest = max(map(len, names), default=0)
    small, large = (ImageFont.truetype(_typeface(), points * DPI / 72) for points in (9, 12))
    wide = math.ceil(max(map((large if longest <= 2 else small).getlength, names), default=0))  # of wide letters
    beside = 0 if not longest else max(26, wide) if longest <= 2 else 14 + max(8 * longest, wide)
    more = max((text.count("\n") for texts in columns for text in texts), default=0)  # number of lines above a column
    top = max((46 if titles else 28 if any(map(any, columns)) else 0) + 16 * more, MARGIN)
    widest = max(len(row) for block in blocks for row in block)
    upper = lambda row: top + row * (height + GAP)
    left = lambda block, column: MARGIN + beside + block * (widest * (width + GAP) + 20) + column * (width + GAP)
    size = (upper(max(map(len, blocks))) - GAP + MARGIN, left(len(blocks) - 1, widest) - GAP + MARGIN)
    canvas = np.full((*size, 3), 255, np.uint8)
    for b, block in enumerate(blocks):
        for r, row in enumerate(block):
            for c, tile in enumerate(row):
                y = upper(r)
                x = left(b, c)
                canvas[y - 1 : y + height + 1, x - 1 : x + width + 1] = FRAME
                canvas[y : y + height, x : x + width] = tile.repeat(factor, 0).repeat(factor, 1)
    picture = Image.fromarray(canvas)
    write = ImageDraw.Draw(picture).text
    for r, name in enumerate(names):
        if longest <= 2:
            write((MARGIN + beside / 2 - 4, upper(r) + height / 2), name, INK, large, "mm")
        else:
            write((MARGIN + beside - 10, upper(r) + height / 2), name, INK, small, "rm")
    for b, texts in enumerate(columns):
        if titles:
            write((left(b, 0), 16), titles[b], INK, large, "lm")
        for c, text in enumerate(texts):
            write((left(b, c) + width / 2, top - 10 - 8 * more), text, INK, small, "mm", align="center")
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        picture.save(file, format="PNG")


def _typeface() -> str:
    """The file of the typeface that plots use, which matplotlib contains; matplotlib itself is not imported."""
    spec = importlib.util.find_spec("matplotlib")
    assert spec is not None and spec.origin is not None
    return str(pathlib.Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")


def captioned(images: np.ndarray, captions: Sequence[str], right: Sequence[bool], path: str | os.PathLike) -> None:
    """Writes a PNG of the first pictures, with their captions below.

    Args:
        images: pictures, uint8 `[N, H, W, C]`, C = 1 or 3.
        captions: the N captions.
        right: N values; a caption is orange if its value is False.
        path: the file to write.
    """
    count = min(len(images), 6 * CAPTIONED)
    lines = -(-count // CAPTIONED)
    figure = blank(1.3 * CAPTIONED, 1.72 * lines, layout="constrained")
    panels = np.ravel(figure.subplots(lines, CAPTIONED, squeeze=False))
    for panel in panels:
        panel.axis("off")
    for panel, image, caption, well in zip(panels, coloured(images[:count]), captions, right):
        panel.imshow(image, interpolation="nearest")
        text = textwrap.fill(caption, 21)
        how = {"va": "top", "fontsize": 7, "color": INK if well else ORANGE, "parse_math": False}
        panel.set_title(text, y=-0.05, pad=-2, **how)
    save(figure, path)


def coloured(images: np.ndarray) -> np.ndarray:
    """Images for display, uint8 `[..., H, W, 3]`; a single channel is repeated to three.

    Args:
        images: uint8 `[..., H, W, C]`, C = 1 or 3.

    Raises:
        ValueError: for another number of channels.
    """
    if images.shape[-1] not in (1, 3):
        raise ValueError(f"an image of {images.shape[-1]} channels cannot be shown. Valid: 1 or 3 channels")
    return np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images


def curves(runs: str | os.PathLike | Mapping[str, Sequence[str | os.PathLike]], path: str | os.PathLike) -> None:
    """Draws the loss by step and by t: early and late for a single run, or a colour for each of several runs.

    Args:
        runs: metrics.jsonl of a run, whose rows have "step", "loss" and, if known, "loss_by_t", the means over ten
            equal bins of t in [0, 1] (null for an empty bin); or {name: such files} for several runs, where the files
            under a name share a colour.
        path: the PNG to write.
    """
    names = [textwrap.fill(name, NAME_WIDTH) for name in runs] if isinstance(runs, Mapping) else []
    figure = blank(9.0, 3.2 + 0.2 * sum(1 + name.count("\n") for name in names), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.set(xlabel="step", ylabel="loss", title="Loss by step")
    right.set(xlabel="t  (0 data, 1 noise)", ylabel="loss", title="Loss by t", xlim=(0, 1))
    if isinstance(runs, Mapping):
        named = []
        lines = {name: [_losses(pathlib.Path(file)) for file in files] for name, files in zip(names, runs.values())}
        for colour, (name, curves) in zip(itertools.cycle(COLOURS), lines.items()):
            for number, (steps, loss, by_t) in enumerate(curves):
                (line,) = left.plot(steps, _smooth(loss), color=colour, linewidth=1.6, label=None if number else name)
                named += [] if number else [line]
                if len(by_t):
                    _by_t(right, by_t[-max(1, len(by_t) // 10) :], colour, None)
        right.set_title("Loss by t, last tenth of training")
        _legend(figure, named, frameon=False, fontsize=9, loc="outside lower left")  # names may be longer than a panel
        every = [loss for curves in lines.values() for _, loss, _ in curves]
    else:
        steps, loss, by_t = _losses(pathlib.Path(runs))
        held = [row for row in json_lines.rows(pathlib.Path(runs)) if (row.get("held_out_loss") or {}).get("average")]
        left.plot(steps, loss, color=FAINT, linewidth=0.8, label="logged")
        left.plot(steps, _smooth(loss), color=BLUE, linewidth=1.8, label="smoothed")
        part = max(1, len(by_t) // 10)
        share = "tenth of training" if len(by_t) >= 10 else f"{part} of {len(by_t)} logged"
        if len(by_t):
            _by_t(right, by_t[:part], ORANGE, f"first {share}")
            _by_t(right, by_t[-part:], BLUE, f"last {share}")
        every = [loss]
        if held:
            average = [row["held_out_loss"]["average"] for row in held]
            mean = np.array([np.nan if row["loss"] is None else row["loss"] for row in average])
            last = np.array([np.nan if x is None else x for x in average[-1]["by_t"]])
            left.plot([row["step"] for row in held], mean, color=HELD, linewidth=1.6, label="held out, average")
            _by_t(right, last[None], HELD, f"held out, average, step {held[-1]['step']}")
            every.append(mean[np.isfinite(mean)])
    _hold(left, np.concatenate(every))
    if right.lines:
        lowest = min(np.nanmin(line.get_ydata(), initial=0) for line in right.lines)
        right.set_ylim(bottom=None if lowest < 0 else 0)
    else:
        right.text(0.5, 0.5, "not recorded in this run", ha="center", va="center", color=INK, transform=right.transAxes)
    for axes in (left, right):
        axes.title.set_fontsize(11)
        style(axes)
        if not names and axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9)
    save(figure, path)


def _losses(metrics: pathlib.Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(steps `[N]`, losses `[N]`, losses by t `[M, bins]`) of metrics.jsonl; unknown values are NaN."""
    if not metrics.is_file():
        raise FileNotFoundError(f"{metrics} does not exist; diffusion train writes it into the run folder")
    rows = [row for row in json_lines.rows(metrics) if "step" in row and row.get("loss") is not None]
    if not rows:
        raise ValueError(f"{metrics} has no row with a step and a loss")
    rows.sort(key=lambda row: row["step"])
    steps = np.array([row["step"] for row in rows], float)
    loss = np.array([row["loss"] for row in rows], float)
    return steps, loss, np.array([row["loss_by_t"] for row in rows if row.get("loss_by_t")], float)


def _by_t(axes: "Axes", by_t: np.ndarray, colour: str, name: str | None) -> None:
    mean = np.ma.masked_invalid(by_t).mean(0).filled(np.nan)
    centers = (np.arange(len(mean)) + 0.5) / len(mean)
    axes.plot(centers, mean, color=colour, marker="o", markersize=3.5, linewidth=1.6, label=name)


def _hold(axes: "Axes", loss: np.ndarray) -> None:
    """Makes the axis logarithmic if losses differ by orders of magnitude; otherwise cuts off the high first losses."""
    positive = loss[np.isfinite(loss) & (loss > 0)]
    low = np.nanmin(loss)
    high = np.nanquantile(loss, 0.99)
    if len(positive) == len(loss) and positive.max() > 20 * positive.min():
        axes.set_yscale("log")
    elif high > low:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.15 * (high - low))


def style(axes: "Axes") -> None:
    """Sets the style of all plots: no frame at the top and on the right, a faint grid behind the lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e8e8e8", linewidth=0.8)
    axes.set_axisbelow(True)


def blank(width: float, height: float, layout: Literal["constrained", "compressed", "tight"] | None = None) -> "Figure":
    """An empty figure of `width` x `height` inches, with this layout engine of matplotlib."""
    from matplotlib.figure import Figure  # imported here: matplotlib takes half a second, and figures come last

    return Figure(figsize=(width, height), dpi=DPI, layout=layout)


def save(figure: "Figure", path: str | os.PathLike) -> None:
    """Writes a figure as a PNG, which appears complete or not at all; equal figures have equal bytes."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    with atomic(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})


def _time(t, first):
    text = f"{t:.2f}" if t >= 0.005 or t == 0 else f"{t:.0e}"
    return f"t = {text}" if first else text


def _smooth(values):
    """The mean over a centred window of a twentieth of the run, shorter at the ends; NaN where no loss is known."""
    window = np.ones(2 * max(1, len(values) // 40) + 1)
    known = np.isfinite(values)
    at_ends = lambda row: np.convolve(row, window)[len(window) // 2 :][: len(values)]
    number = at_ends(known.astype(float)).round()
    return np.where(number > 0, at_ends(np.where(known, values, 0)) / np.maximum(number, 1), np.nan)
