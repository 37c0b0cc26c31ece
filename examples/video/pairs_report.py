"""Measures a model of clips of one or two moving shapes with masks of drawings, for each kind of clip.

    python -m examples.video.pairs_report --model=runs/pairs/denoiser --out=runs/pairs/report --number=200

No network reads the clips (`pair_figures`), so the command needs no judge. Kinds of clips:

    test                captions without withheld combinations
    withheld            captions with a withheld combination
    image_to_video      test captions, continued from the first frame of a real clip
    extension           64 frames, continued from the first 8 of a real clip by windows that see the 8 frames before;
                        only shapes that bounce or turn, and a quarter of --number

The command writes report.json, report.md, and for each kind KIND.gif with the first clips and KIND.txt with their
captions. The report lists the same measures for real clips.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("model", None, "run folder of video/pairs")
    flags.DEFINE_string("out", None, "folder for the report")
    flags.DEFINE_integer("number", 400, "number of clips of each kind", lower_bound=8)
    flags.DEFINE_integer("steps", 0, "number of sampling steps; 0 uses the default of the model", lower_bound=0)
    flags.DEFINE_float("guidance", 0.0, "guidance scale; 0 uses the default of the model", lower_bound=0)
    flags.mark_flags_as_required(["model", "out"])
    command_line.begin()

import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from diffusion.arrays import chunks
from diffusion.data.shapes import motions
from diffusion.data.shapes.motions import Clip
from diffusion.experiments.evaluation import report
from diffusion.experiments.sampling import autoencoder_folders, trained_run
from examples.video import clip_maker, clip_sheets, pair_figures
from examples.video.pair_figures import ENDLESS, TIMES

FRAMES, SIDE = 16, 48
SETTING = motions.Setting(radii=(7.6, 8.2), tilted=True, span=FRAMES)
KINDS = {
    "test": "clips of captions",
    "withheld": "clips of withheld combinations",
    "image_to_video": "from a first picture",
    "extension": "four times the length, last 16 frames",
}
SEEDS = {"test": 0, "withheld": 10_000, "image_to_video": 20_000, "extension": 30_000}
ROWS = {"test": 0, "withheld": 0, "image_to_video": 1_000, "extension": 2_000}  # the first example of the split
RATE = 8.0  # frames per second of the animations
SHARES = {
    "shape": "frames in which the asked shape is the best of the eight",
    "shape of one": "the same of clips with one shape",
    "shape of two": "the same of clips with two shapes",
    "whole": "frames in which its overlap is above 0.85",
    "colour": "frames in the asked colour",
    "one": "frames with the shape in one part",
    "constant": "clips of the same shapes and colours in all frames",
    "direction": "direction of what moves or hides as asked",
    "permanence": "what hides is hidden, and comes out where it should",
}
NUMBERS = {"speed": "outside of the requested speed, of the speed", "flicker": "change where nothing moves, of 255"}


def example(split: str, row: int, frames: int = FRAMES) -> tuple[np.ndarray, Clip]:
    """A real clip in the recipe's size, uint8 [F, 48, 48, 3], and its truth; longer clips keep their speed."""
    clip = motions.example(split, row, frames, setting=SETTING)
    return motions.shrunk(clip.frames, SIDE), clip


def real_clips(kind: str, number: int, after: int = 0) -> tuple[np.ndarray, list[Clip]]:
    """The first real clips of a kind, uint8 [N, F, 48, 48, 3], and their truth.

    Args:
        kind: one of `KINDS`.
        number: N.
        after: the number of rows at the beginning of the split that are skipped.
    """
    split = "withheld" if kind == "withheld" else "test"

    def matching() -> Iterator[tuple[np.ndarray, Clip]]:
        row = ROWS[kind] + after
        while True:
            if kind != "extension":
                yield example(split, row)
            elif _is_endless(motions.caption(split, row, FRAMES, setting=SETTING)):
                yield example(split, row, TIMES * FRAMES)
            row += 1

    clips, truth = zip(*(some for some, _ in zip(matching(), range(number))))
    return np.stack(clips), list(truth)


def _is_endless(caption: str) -> bool:
    return all(motions.said(phrase)["motion"] in ENDLESS for phrase in caption.split(" and "))


def measure(
    model: str | pathlib.Path, out: pathlib.Path, number: int, changes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Makes the clips of a report, measures and writes them; returns the content of report.json.

    Args:
        model: the model, an argument of `trained_run.load`.
        out: the folder of the report, made if missing.
        number: the number of clips of each kind; of the clips of four times the length a quarter, at least 4.
        changes: fields of the config and their values, an argument of `trained_run.load`.
    """
    out.mkdir(parents=True, exist_ok=True)
    run = trained_run.load(model, changes, any_kind=True)
    config: Any = run.config
    make, known = clip_maker.maker(run, 16, motions.words_of_both), clip_maker.context(run)
    began = time.process_time()
    figures: dict[str, Any] = {}
    for kind in KINDS:
        some = max(4, number // 4) if kind == "extension" else number
        real, truth = real_clips(kind, some)
        first = {"image_to_video": 1, "extension": known}.get(kind, 0)
        seeds = range(SEEDS[kind], SEEDS[kind] + some)
        clips = make([clip.caption for clip in truth], seeds, real[:, :first] if first else None, real.shape[1])
        last = pair_figures.LAST if kind == "extension" else 0
        shown, beside = (pair_figures.measured(x, truth, first, last) for x in (clips, real))
        figures[kind] = {"made": shown, "real": beside, "clips": some}
        if kind == "extension":
            figures["bounce_speed_error"] = pair_figures.speed_error(clips, real, truth)
        if kind == "test":
            others = [pair_figures.objects(*real_clips("test", some, after)) for after in (10_000, 20_000)]
            figures["frechet"] = pair_figures.frechet_distances(pair_figures.objects(clips, truth), *others)
        clip_sheets.write(clips, out / kind, [clip.caption for clip in truth], RATE)
        print(f"{kind}: {report.percent(shown['shape'])} of frames have the asked shape", flush=True)
    if run.recipe.on_latents:
        code = autoencoder_folders.reconstruction(autoencoder_folders.load(config.data.latents.autoencoder))
        real, truth = real_clips("test", min(number, 64))
        coded = chunks.applied(code, real, 8)
        figures["autoencoder"] = {"made": pair_figures.measured(coded, truth), "clips": len(real)}
    protocol = {
        "model": str(model),
        "sampler": config.sample.sampler.name,
        "steps": config.sample.steps,
        "guidance": config.sample.guidance.scale,
        "shift": config.sample.shift,
        "clips": number,
        "seeds": SEEDS,
        "seconds of CPU": round(time.process_time() - began),
        **report.software(),
    }
    return report.write(out, {"figures": figures, "protocol": protocol}, lambda content: markdown(content, out))


def rows(figures: Mapping[str, Any]) -> list[report.Row]:
    """The figures as text, each with that of real clips."""
    lines: list[report.Row] = []
    for kind, title in KINDS.items():
        shown, real = figures[kind]["made"], figures[kind]["real"]
        for name, what in SHARES.items():
            if name in shown:
                lines.append((f"{title}: {what}", report.percent(shown[name]), f"real {real[name]['share']:.1%}"))
        for name, what in NUMBERS.items():
            if name in shown:
                lines.append((f"{title}: {what}", f"{shown[name]:.3g}", f"real {real[name]:.3g}"))
    error, distance = figures["bounce_speed_error"], figures["frechet"]
    lines.append(("four times the length: speed of what bounces, off the real one", f"{error:.1%}", "median"))
    floor = f"floor {distance['floor']:.3g}; {distance['shapes']} shapes"
    lines.append(("Frechet distance of the tracks", f"{distance['distance']:.3g}", floor))
    if "autoencoder" in figures:
        coded = figures["autoencoder"]["made"]
        beside = f"{figures['autoencoder']['clips']} real clips, decoded of their latents"
        for name in ("shape", "whole", "colour"):
            lines.append((f"autoencoder: {SHARES[name]}", report.percent(coded[name]), beside))
    return lines


def markdown(content: Mapping[str, Any], folder: pathlib.Path) -> str:
    """The report as Markdown, with the animations that are in the folder."""
    protocol = content["protocol"]
    parts = [
        f"# Clips of one or two shapes: {protocol['model']}",
        report.beside_table(rows(content["figures"])),
        *clip_sheets.embedded(folder, KINDS),
        report.protocol(protocol),
    ]
    return report.page(parts)


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    changes = {"sample.steps": values.steps, "sample.guidance.scale": values.guidance}
    chosen = {name: value for name, value in changes.items() if value}
    content = measure(values.model, pathlib.Path(values.out), values.number, chosen)
    for row in rows(content["figures"]):
        print(f"{row[0]:80} {row[1]:28} {row[2]}")


if __name__ == "__main__":
    command_line.run(main, autoencoder_folders.FAILURES, compiles=True)
