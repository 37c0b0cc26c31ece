"""Measures a text-to-image model that was trained on captioned shapes: writes report.json, report.md and pictures.

    python -m examples.text.report --model=runs/text/model --out=runs/text/report
    python -m examples.text.report --model=runs/text/model --out=runs/text/report --number=50 --parts=sweep,prompts

A judge reads the attributes of the pictures. It is a network that was trained separately from the model, on other
pictures, and that rejects shapes which are none of the eight. A second measure needs no network: it compares the
overlap with drawn masks, the connected components, the edges and the colours of each object. The report also lists both
measures for real pictures. The guidance scale is chosen on validation captions. Everything else is measured on captions
of the test split and of the withheld combinations. The parts are, in this order:

    sweep       fidelity and variety for several guidance scales; chooses the scale if --guidance is not set
    prompts     share of right attributes, for trained and withheld combinations; counting, relations, words
    geneval     GenEval's six tasks for shapes, as the judge sees them, and corrected for its error rate
    negative    how often a picture shows what the negative prompt names, without and with this prompt
    distances   Frechet distance and its floor, and copies of training pictures
    edits       image to image, style, inpainting, outpainting, interpolation
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("model", None, "folder of the model, with model_index.json")
    flags.DEFINE_string("out", None, "folder for the report")
    flags.DEFINE_integer(
        "number", 1000, "number of captions of the test split, and of the withheld combinations", lower_bound=16
    )
    flags.DEFINE_integer("steps", 20, "number of sampling steps", lower_bound=1)
    flags.DEFINE_float(
        "guidance",
        0.0,
        "guidance scale; 0 chooses the best of --scales on validation captions, or the first one if --parts leaves out "
        "the sweep",
        lower_bound=0,
    )
    flags.DEFINE_list("scales", ["1", "1.5", "2", "3", "4", "6", "9"], "guidance scales of the sweep")
    flags.DEFINE_integer("batch_size", 50, "number of pictures at once", lower_bound=1)
    flags.DEFINE_list(
        "parts", ["sweep", "prompts", "geneval", "negative", "distances", "edits"], "parts to measure; by default all"
    )
    flags.mark_flags_as_required(["model", "out"])
    command_line.begin()

import contextlib
import functools
import pathlib
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion import text_to_image
from diffusion.data import shapes
from diffusion.experiments.evaluation import plots, real_images, report
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.text import model as model_folder
from diffusion.metrics import neighbours
from diffusion.recipe import ConfigError, unknown
from diffusion.text_to_image import model_index
from examples.text import edits, judge, prompt_metrics, report_pictures, shape_questions, shapes_report
from examples.text.prompt_metrics import Subject

PARTS = ("sweep", "prompts", "geneval", "negative", "distances", "edits")
SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 9.0)
SHOWN = 6  # captions in a picture of the sweep


class Settings(NamedTuple):
    """The flags of the command: the parts and their size, and the settings of the pictures."""

    number: int = 1000
    steps: int = 20
    guidance: float = 0.0
    scales: tuple[float, ...] = SCALES
    batch_size: int = 50
    parts: tuple[str, ...] = PARTS


def run(model: text_to_image.TextToImage, folder: pathlib.Path, out: pathlib.Path, settings: Settings) -> dict:
    """Measures a model and writes the report; returns the content of report.json.

    Args:
        model: the model.
        folder: the model's folder, for the record.
        out: the folder of the report, made if missing.
        settings: the flags of the command.

    Raises:
        ConfigError: if the model's pictures have another size than the shapes.
    """
    judge.check_side(str(folder), model.side)
    out.mkdir(parents=True, exist_ok=True)
    reader = judge.reader()
    subject = Subject(functools.partial(_make, model, settings), reader)
    real = lambda split, number=0: real_images.captioned(f"shapes@{split}", number=number)
    eighth = max(8, settings.number // 8)
    splits = {name: real(name, settings.number) for name in ("test", "withheld")}
    verdicts = {name: prompt_metrics.verdicts(reader, split.captions, split.images) for name, split in splits.items()}
    figures: dict[str, Any] = {
        "judge": {name: judge.score(verdict, splits[name].captions) for name, verdict in verdicts.items()}
    }
    figures["refused"] = prompt_metrics.refusals(reader, max(50, settings.number // 4))
    figures["drawings"] = {
        name: prompt_metrics.by_templates(split.captions, split.images) for name, split in splits.items()
    }
    guidance = settings.guidance or settings.scales[0]
    if "sweep" in settings.parts:
        captions = real("validation", max(8, settings.number // 20)).captions
        with _timed("sweep of the guidance"):
            rows = prompt_metrics.sweep(subject, captions, settings.scales)
        guidance = settings.guidance or prompt_metrics.chosen(rows)
        report_pictures.guidance_curve(rows, guidance, out / "guidance.png")
        _draw_sweep(rows, captions, guidance, out)
        figures["sweep"] = [{key: value for key, value in row.items() if key != "images"} for row in rows]
    figures["guidance"] = guidance
    if "prompts" in settings.parts:
        figures["prompts"], figures["templates"] = {}, {}
    pictures = {}
    for name, first_seed, parts in (("test", 0, {"prompts", "distances"}), ("withheld", 5_000, {"prompts"})):
        if not parts & set(settings.parts):
            continue
        captions = splits[name].captions
        with _timed(f"pictures of the {name} captions"):
            pictures[name] = subject.make(captions, range(first_seed, first_seed + len(captions)), guidance, None)
        if "prompts" in settings.parts:
            verdicts = prompt_metrics.verdicts(reader, captions, pictures[name])
            figures["prompts"][name] = judge.score(verdicts, captions)
            figures["templates"][name] = prompt_metrics.by_templates(captions, pictures[name])
            right = [all(verdict.values()) for verdict in verdicts]
            plots.captioned(pictures[name], captions, right, out / f"{name}.png")
    if "geneval" in settings.parts:
        with _timed("GenEval's questions"):
            figures["geneval"] = shape_questions.measured(subject, guidance, max(8, settings.number // 4))
    if "negative" in settings.parts:
        with _timed("negative prompts"):
            figures["negative"] = prompt_metrics.negatives(subject, guidance, eighth)
    if "distances" in settings.parts:
        with _timed("distances"):
            held_out, others, train = (real(split).images for split in ("test", "validation", "train"))
            features = prompt_metrics.judge_features(reader)
            figures["frechet"] = prompt_metrics.distance_to(features, pictures["test"], held_out, others)
            figures["copies"] = neighbours.copying(pictures["test"], held_out, train)
    if "edits" in settings.parts:
        figures["edits"] = {}
        for name, edit in edits.EDITS.items():
            with _timed(name):
                edited = edit(model, reader, max(2, settings.number // 40), guidance=guidance, steps=settings.steps)
            figures["edits"][name] = edited["figures"]
            names, images = zip(*edited["rows"])
            blank = [""] * len(images[0])
            plots.mosaic([list(images)], list(names), [blank], out / f"{name.replace(' ', '_')}.png")
    protocol = {
        "model": str(folder),
        "checkpoint": model_index.fingerprint(folder),
        "dataset": f"shapes {shapes.Shapes.VERSION}",
        **settings._asdict(),
        "seeds": "0.. of test captions, 5000.. of withheld ones, 0.. of the sweep, 20000.. of GenEval's questions",
        **report.software(),
    }
    content = {"figures": figures, "protocol": protocol}
    return report.write(out, content, lambda content: shapes_report.markdown(content, out))


def _draw_sweep(rows: Sequence[dict], captions: Sequence[str], guidance: float, out: pathlib.Path) -> None:
    """Draws captions by guidance at one seed, and captions by seed at the chosen guidance."""
    by_scale = np.stack([row["images"][:SHOWN, 0] for row in rows], axis=1)
    scales = [f"{'guidance ' if i == 0 else ''}{row['guidance']:g}" for i, row in enumerate(rows)]
    plots.mosaic([by_scale], list(captions[:SHOWN]), [scales], out / "guidance_rows.png")
    by_seed = min(rows, key=lambda row: abs(row["guidance"] - guidance))["images"][: SHOWN + 2]
    seeds = [f"seed {i}" for i in range(by_seed.shape[1])]
    plots.mosaic([by_seed], list(captions[: SHOWN + 2]), [seeds], out / "variety.png")


def _make(model: text_to_image.TextToImage, settings: Settings, prompts, seeds, guidance, negative) -> np.ndarray:
    """Pictures of prompts, without the warning about a negative prompt that has no effect without guidance."""
    how = {"steps": settings.steps, "batch_size": settings.batch_size}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return text_to_image.generate(model, prompts, seeds=seeds, guidance=guidance, negative=negative, **how)


@contextlib.contextmanager
def _timed(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - began:.0f} s", flush=True)


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    for name in values.parts:
        if name not in PARTS:
            raise unknown("--parts", name, PARTS, "part")
    try:
        scales = tuple(float(scale) for scale in values.scales)
    except ValueError:
        raise ConfigError(
            f"--scales={','.join(values.scales)}. Valid: numbers separated by commas, such as 1,2,4."
        ) from None
    settings = Settings(values.number, values.steps, values.guidance, scales, values.batch_size, tuple(values.parts))
    folder = model_folder.folder_of(values.model)
    out = pathlib.Path(values.out)
    content = run(model_folder.load(folder), folder, out, settings)
    for what, value, beside in shapes_report.rows(content["figures"]):
        print(f"{what:48} {value:24} {beside}")
    print(f"{out / 'report.md'}")


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES, compiles=True)
