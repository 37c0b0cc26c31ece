"""The robustness of a watermark against JPEG, resizing, crops, noise, blur, and regeneration by a model."""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion.experiments.evaluation import plots
from diffusion.io import json_files
from diffusion.io.files import write_text
from diffusion.metrics import bootstrap, detection
from diffusion.metrics.prompt_following import clustered
from diffusion.recipe import ConfigError
from diffusion.sampling import watermarks
from diffusion.sampling.watermarks import Reading, Watermark
from diffusion.sampling.watermarks.degradations import DEGRADATIONS

REGENERATED = (0.3, 0.6)  # times t up to which noise is added before the model regenerates a picture
LEVEL = 0.01  # the level of p-values, and the rate of false positives at which hits are counted


class Maker(NamedTuple):
    """The functions of a model that watermarks need; pictures are uint8 `[N, H, W, C]`.

    Attributes:
        name: the name of the run or of the model's folder.
        make: (key file, or "" for no watermark, number) -> pictures; picture i has the same seed with any watermark.
        to_noise: pictures -> float `[N, ...]`, the noise from which the model would sample them.
        regenerate: (pictures, t) -> the pictures after noise up to t and denoising; None without a model.
        shape: the shape of its pictures, (H, W, C).
        batch: the number of pictures that are inverted at once.
    """

    name: str
    make: Callable[[str, int], np.ndarray]
    to_noise: Callable[[np.ndarray], np.ndarray]
    regenerate: Callable[[np.ndarray, float], np.ndarray] | None
    shape: tuple[int, int, int]
    batch: int = 1

    @property
    def changes(self) -> int:
        """The number of changes whose effect `measure` measures."""
        return len(DEGRADATIONS) + (len(REGENERATED) if self.regenerate is not None else 0)

    def fitted(self, picture: np.ndarray, name: str) -> np.ndarray:
        """A picture, uint8 `[1, H, W, C]`, in the form of the model's pictures, grey or in colour.

        Raises:
            ConfigError: if it has another size.
        """
        if picture.shape[1:3] != self.shape[:2]:
            raise ConfigError(
                f"{name} has {picture.shape[1]} x {picture.shape[2]} pixels, but {self.name} makes pictures of "
                f"{self.shape[0]} x {self.shape[1]} (height x width); scale it to that size first"
            )
        return picture[..., :1] if self.shape[2] == 1 else np.broadcast_to(picture, (*picture.shape[:3], 3))


def wrap_pictures(pictures: np.ndarray, name: str) -> Maker:
    """The maker of existing pictures, uint8 `[N, H, W, C]`, for a watermark that needs no model."""

    def make(key_file: str, number: int) -> np.ndarray:
        return watermarks.load(key_file).embed(pictures[:number], None) if key_file else pictures[:number]

    return Maker(name, make, lambda pictures: pictures, None, pictures.shape[1:])


def read(watermark: Watermark, to_noise: Callable[[np.ndarray], np.ndarray], pictures: np.ndarray) -> Reading:
    """The watermark's reading of pictures.

    Args:
        watermark: the watermark.
        to_noise: a function from pictures to their initial noise, for a watermark in the noise.
        pictures: the pictures, uint8 `[B, H, W, C]`.
    """
    return watermark.read(pictures if watermark.carrier == "pictures" else to_noise(pictures))


def figures(watermark: Watermark, marked: Reading, others: Reading) -> dict[str, Any]:
    """The figures of detection: how well it separates marked pictures from others.

    Args:
        watermark: the watermark.
        marked: the readings of N pictures with it.
        others: the readings of N pictures without it.

    Returns:
        auroc: the AUROC of the scores, `detection.auroc`.
        hits: the share of marked pictures above the threshold that 1 % of the others exceed.
        hits_interval: its interval over draws of both sets, `detection.hits_interval`.
        detected, false_positives: the shares of p-values below 0.01 among marked and other pictures, with Wilson's
            intervals.
        bit_accuracy: the share of correct bits in marked pictures; None for a watermark without a message.
        bit_accuracy_interval: its interval over draws of pictures, `clustered.share`; None for such a watermark.
    """
    bits = {"share": None, "interval": None}
    if marked.bits is not None:
        right = marked.bits == watermark.message
        bits = clustered.share(right.ravel(), np.repeat(np.arange(len(right)), right[0].size))
    return {
        "auroc": detection.auroc(marked.score, others.score),
        "hits": float(detection.hits_at(marked.score, others.score, LEVEL)),
        "hits_interval": list(detection.hits_interval(marked.score, others.score, LEVEL)),
        "detected": bootstrap.share(marked.p_value < LEVEL),
        "false_positives": bootstrap.share(others.p_value < LEVEL),
        "bit_accuracy": bits["share"],
        "bit_accuracy_interval": bits["interval"],
    }


def measure(key_file: str, maker: Maker, number: int, done: Callable[[int], None] = lambda done: None) -> dict:
    """Makes pictures with and without the watermark, changes both sets, and reads the watermark from them.

    Args:
        key_file: the key file of the watermark.
        maker: the model.
        number: N, the number of pictures in each set, at least 2; existing pictures are all used if there are fewer.
        done: a function that receives the number of finished changes, of `maker.changes`.

    Returns:
        {"watermark", "model", "number", "level", "change_of_pixels" (root mean square of 255, between pictures of the
        same seed), "changes": {name: `figures`}}.
    """
    watermark = watermarks.load(key_file)
    marked = maker.make(key_file, number)
    plain = maker.make("", number)
    changes: dict[str, Callable[[np.ndarray], np.ndarray]] = dict(DEGRADATIONS)
    regenerate = maker.regenerate
    if regenerate is not None:
        for t in REGENERATED:
            changes[f"regenerated from t = {t:g}"] = lambda pictures, t=t: regenerate(pictures, t)
    rows = {}
    for count, (name, change) in enumerate(changes.items(), 1):
        readings = [read(watermark, maker.to_noise, change(pictures)) for pictures in (marked, plain)]
        rows[name] = figures(watermark, *readings)
        done(count)
    return {
        "watermark": watermark.identity,
        "model": maker.name,
        "number": len(marked),
        "level": LEVEL,
        "change_of_pixels": float(np.sqrt(np.mean((marked.astype(float) - plain) ** 2))),
        "changes": rows,
    }


def table(content: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        f"{content['watermark']}, {content['number']} pictures of {content['model']} with the watermark and the same "
        "number without it; 95 % intervals in brackets",
        "",
        f"| change | bit accuracy | AUROC | hits at 1 % false positives | p < {content['level']:g}, marked | "
        f"p < {content['level']:g}, not marked |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in content["changes"].items():
        cells = (
            _within(row["bit_accuracy"], row["bit_accuracy_interval"]),
            _within(row["auroc"]["value"], row["auroc"]["interval"]),
            _within(row["hits"], row["hits_interval"]),
            _within(row["detected"]["share"], row["detected"]["interval"]),
            _within(row["false_positives"]["share"], row["false_positives"]["interval"]),
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _within(value: float | None, interval: Sequence[float] | None) -> str:
    return "" if value is None or interval is None else f"{value:.3f} ({interval[0]:.3f} .. {interval[1]:.3f})"


def write(content: Mapping[str, Any], out: pathlib.Path) -> None:
    """Writes robustness.json, robustness.md and robustness.png into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    json_files.write(out / "robustness.json", content)
    write_text(out / "robustness.md", table(content) + "\n")
    plot(content, out / "robustness.png")


def plot(content: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Draws the AUROC and the accuracy of bits, with their intervals, for each change."""
    names = list(content["changes"])
    rows = list(content["changes"].values())
    figure = plots.blank(7, 0.4 * len(names) + 1.2, "constrained")
    axes = figure.subplots()
    places = np.arange(len(names))[::-1]

    def draw(values: list[float], intervals: list[Sequence[float]], form: str, label: str) -> None:
        ends = np.abs(np.transpose(intervals) - np.array(values))
        axes.errorbar(np.array(values), places, xerr=ends, fmt=form, label=label)

    areas = [row["auroc"] for row in rows]
    draw([area["value"] for area in areas], [area["interval"] for area in areas], "o", "AUROC, 95 %")
    if rows[0]["bit_accuracy"] is not None:
        intervals = [row["bit_accuracy_interval"] for row in rows]
        draw([row["bit_accuracy"] for row in rows], intervals, "s", "bit accuracy, 95 %")
    axes.axvline(0.5, linestyle=":", color="grey")
    axes.set_yticks(places, names)
    axes.set_xlim(0.0, 1.02)
    axes.set_title(str(content["watermark"]))
    axes.legend(loc="lower left")
    plots.style(axes)
    plots.save(figure, path)
