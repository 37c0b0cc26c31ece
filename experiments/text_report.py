"""Measures a text-to-image model on the captioned shapes that it was trained on: report.json, report.md and pictures.

    python -m experiments.text_report --model=runs/text/model --out=runs/text/report
    python -m experiments.text_report --model=runs/text/model --out=runs/text/report --number=50 --parts=sweep,prompts

A judge reads the attributes of the pictures: a network that was trained apart from the model, on pictures of its own.
Its accuracy on real pictures stands beside every figure. The guidance is chosen on validation captions, all else is
measured on captions of the test split and of the withheld combinations. Parts, in this order:

    sweep       fidelity and variety by guidance; chooses it where --guidance is not given
    prompts     attributes that are right, on trained and on withheld combinations; counting, relations, words
    negative    how often a picture shows what the negative prompt names, before and after
    distances   Frechet distance beside the floor, and copies of training pictures
    edits       image to image, style, inpainting, outpainting, interpolation
"""

from absl import flags

from experiments.config import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("model", None, "folder of the model, with model_index.json")
    flags.DEFINE_string("out", None, "folder of the report")
    flags.DEFINE_integer("number", 400, "captions of the test split, and of the withheld combinations", lower_bound=16)
    flags.DEFINE_integer("steps", 20, "steps of the sampler", lower_bound=1)
    flags.DEFINE_float("guidance", 0.0, "scale; by default the one that is best on validation captions", lower_bound=0)
    flags.DEFINE_list("scales", ["1", "1.5", "2", "3", "4", "6", "9"], "of the sweep")
    flags.DEFINE_integer("batch_size", 50, "pictures at once", lower_bound=1)
    flags.DEFINE_list(
        "parts", ["sweep", "prompts", "negative", "distances", "edits"], "what is measured; all of it by default"
    )
    flags.mark_flags_as_required(["model", "out"])
    command_line.begin()

import contextlib
import functools
import json
import pathlib
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion import text_to_image
from diffusion.data import shapes, sources
from diffusion.metrics import neighbours
from diffusion.text_to_image import pipelines
from experiments.config import ConfigError, unknown
from experiments.evaluation import report
from experiments.run_folder import workdir
from experiments.text import edits, judge, prompt_metrics, tables
from experiments.text import figures as text_figures
from experiments.text.prompt_metrics import Subject

PARTS = ("sweep", "prompts", "negative", "distances", "edits")
SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 9.0)


class Settings(NamedTuple):
    """How much is measured, and how pictures are made.

    Attributes:
        number: captions of the test split, and as many of the withheld combinations.
        steps: of the sampler.
        guidance: scale; 0 for the one that is best on validation captions.
        scales: of the sweep.
        batch_size: pictures at once.
        parts: of `PARTS`.
    """

    number: int = 400
    steps: int = 20
    guidance: float = 0.0
    scales: tuple[float, ...] = SCALES
    batch_size: int = 50
    parts: tuple[str, ...] = PARTS


class Real(NamedTuple):
    """Real pictures of a split, uint8 [N, 64, 64, 3], and their captions."""

    images: np.ndarray
    captions: list[str]


def real(split: str, number: int = 0) -> Real:
    """The first pictures of a split of `shapes`; all of them for 0."""
    records, spec = sources.open_source("shapes", split)
    number = min(number or spec.size, spec.size)
    images = np.stack([record["image"] for record in records.__getitems__(range(number))])
    return Real(images, sources.column("shapes", split, "caption")[:number])


def run(model: text_to_image.TextToImage, folder: pathlib.Path, out: pathlib.Path, settings: Settings) -> dict:
    """Measures a model, and writes the report.

    Args:
        model: of `text_to_image.load`.
        folder: of the model, for the record.
        out: where to write.
        settings: how much.

    Returns:
        The content of report.json.

    Raises:
        ConfigError: if the model's pictures have another size than the shapes.
    """
    if model.side != 64:
        raise ConfigError(
            f"{folder} makes pictures of {model.side} pixels, and the shapes have 64: the judge does not "
            "read others. Train on shapes: experiments.text_demo --config=configs/text/shapes.py."
        )
    out.mkdir(parents=True, exist_ok=True)
    reader = judge.reader()
    subject = Subject(functools.partial(_make, model, settings), reader)
    content: dict[str, Any] = {"figures": {}, "protocol": _protocol(folder, settings)}
    figures = content["figures"]
    test = real("test", settings.number)
    withheld = real("withheld", settings.number)
    figures["judge"] = {
        name: prompt_metrics.scores(reader, split.captions, split.images)
        for name, split in (("test", test), ("withheld", withheld))
    }
    guidance = settings.guidance or settings.scales[0]
    if "sweep" in settings.parts:
        captions = real("validation", max(8, settings.number // 8)).captions
        with _said("sweep of the guidance"):
            rows = prompt_metrics.sweep(subject, captions, settings.scales)
        guidance = settings.guidance or prompt_metrics.chosen(rows)
        near = min(rows, key=lambda row: abs(row["guidance"] - guidance))
        text_figures.guidance_curve(rows, guidance, out / "guidance.png")
        text_figures.guidance_rows(rows, captions, out / "guidance_rows.png")
        text_figures.variety_rows(near, captions, out / "variety.png")
        figures["sweep"] = [{key: value for key, value in row.items() if key != "images"} for row in rows]
    figures["guidance"] = guidance
    made = None
    if {"prompts", "distances"} & set(settings.parts):
        with _said("pictures of the test captions"):
            made = prompt_metrics.accuracy(subject, test.captions, guidance)
    if "prompts" in settings.parts and made is not None:
        with _said("pictures of withheld combinations"):
            unseen = prompt_metrics.accuracy(subject, withheld.captions, guidance, first_seed=5_000)
        figures["prompts"] = {"test": made["scores"], "withheld": unseen["scores"]}
        for name, images, captions in (
            ("test", made["images"], test.captions),
            ("withheld", unseen["images"], withheld.captions),
        ):
            text_figures.gallery(images, captions, prompt_metrics.whole(reader, captions, images), out / f"{name}.png")
    if "negative" in settings.parts:
        with _said("negative prompts"):
            figures["negative"] = prompt_metrics.negatives(subject, guidance, max(8, settings.number // 8))
    if "distances" in settings.parts and made is not None:
        with _said("distances"):
            held_out, others, train = (real(split).images for split in ("test", "validation", "train"))
            figures["frechet"] = prompt_metrics.distance_to(subject, made["images"], held_out, others)
            figures["copies"] = neighbours.copying(made["images"], held_out, train)
    if "edits" in settings.parts:
        figures["edits"] = {}
        for name, edit in edits.EDITS.items():
            with _said(name):
                found = edit(model, reader, max(2, settings.number // 16), guidance=guidance, steps=settings.steps)
            figures["edits"][name] = found["figures"]
            text_figures.rows(found["rows"], out / f"{name.replace(' ', '_')}.png")
    content = report.plain(content)
    workdir.write_text(out / "report.json", json.dumps(content, indent=2) + "\n")
    workdir.write_text(out / "report.md", tables.markdown(content, out))
    return content


def _make(
    model: text_to_image.TextToImage,
    settings: Settings,
    prompts: Sequence[str],
    seeds: Sequence[int],
    guidance: float,
    negative: str | None,
) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a negative prompt without guidance
        return text_to_image.generate(
            model,
            list(prompts),
            seeds=list(seeds),
            guidance=guidance,
            negative=negative,
            steps=settings.steps,
            batch_size=settings.batch_size,
        )


def _protocol(folder: pathlib.Path, settings: Settings) -> dict[str, Any]:
    return {
        "model": str(folder),
        "checkpoint": pipelines.fingerprint(folder),
        "dataset": f"shapes {shapes.Shapes.VERSION}",
        **settings._asdict(),
        "seeds": "0.. of test captions, 5000.. of withheld ones, 0.. of the sweep",
        **report.software(),
    }


@contextlib.contextmanager
def _said(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - began:.0f} s", flush=True)


def main(argv: list[str]) -> None:
    """Runs the command line."""
    given = flags.FLAGS
    for name in given.parts:
        if name not in PARTS:
            raise unknown("--parts", name, PARTS, "part")
    try:
        scales = tuple(float(scale) for scale in given.scales)
    except ValueError:
        raise ConfigError(f"--scales={','.join(given.scales)}: write numbers, such as 1,2,4.") from None
    settings = Settings(given.number, given.steps, given.guidance, scales, given.batch_size, tuple(given.parts))
    folder = pathlib.Path(given.model)
    out = pathlib.Path(given.out)
    content = run(prompt_metrics.load(folder), folder, out, settings)
    for what, value, beside in tables.summary(content["figures"]):
        print(f"{what:48} {value:24} {beside}")
    print(f"{out / 'report.md'}")


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES)
