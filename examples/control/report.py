"""Measures ControlNets and an IP-Adapter for the model of drawings, and shows pictures of them.

    python -m examples.control.report --runs=runs/outlines,runs/layers,runs/sketch --out=runs/control
    python -m examples.control.report --reference=runs/reference --out=runs/image_prompt

The runs come from the recipes `tuning/drawings_control` and `tuning/drawings_image_prompt`. The controls belong to
drawings that were not used in training, and the planned positions of their shapes are known exactly. The report
compares these positions, in pixels, with those in the generated pictures, with and without the control, from the same
noise. Real pictures of the same plans give the error of the measure itself. For a reference drawing, the judge of
`examples.text` measures what pictures take over from it, compared with no reference and with chance. One figure per run
shows the first examples.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_list("runs", [], "run folders of ControlNets, separated by commas")
    flags.DEFINE_string(
        "reference", "", "run folder of an IP-Adapter; without it, the report has no reference pictures"
    )
    flags.DEFINE_string("out", None, "folder for the report")
    flags.DEFINE_integer("number", 1000, "number of pictures per figure", lower_bound=8)
    flags.DEFINE_integer("steps", 20, "number of sampling steps", lower_bound=1)
    flags.DEFINE_float("guidance", 2.0, "guidance scale; 1 means no guidance", lower_bound=0)
    flags.mark_flags_as_required(["out"])
    command_line.begin()

import collections
import functools
import pathlib
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion import text_to_image
from diffusion.adapters import control, image_prompt
from diffusion.data.shapes import arrangements
from diffusion.data.shapes.drawing import SIDE
from diffusion.experiments.evaluation import plots, report
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import tuned_run
from diffusion.metrics.attribute_reader import Reader
from diffusion.recipe import ConfigError
from diffusion.training.runtime import progress
from examples.control import control_metrics, reference_metrics
from examples.text import drawn_objects, judge

SHOWN = 8  # examples in a picture
BESIDE = {"with": "with the control", "without": "without it, the same noise", "real": "real pictures of the plans"}


class Settings(NamedTuple):
    """The flags of the command: the number of pictures and their settings."""

    number: int = 1000
    steps: int = 20
    guidance: float = 2.0


def run(
    runs: Sequence[str], reference: str, out: pathlib.Path, settings: Settings, reader: Reader | None = None
) -> dict[str, Any]:
    """Measures tuned runs and writes the report; returns the content of report.json.

    Args:
        runs: the folders of ControlNets.
        reference: the folder of an IP-Adapter; "" for none.
        out: the folder of the report.
        settings: the settings of the command.
        reader: the judge; by default that of `judge.reader`, which is trained if it is not in the cache.

    Raises:
        ConfigError: if there is no run, two runs learned the same control, or a run was trained by another recipe.
        WorkdirError, CheckpointError: as `tuned_run.load`.
    """
    if not runs and not reference:
        raise ConfigError("--runs and --reference are both empty. Valid: at least one run folder.")
    controls = {run: _arranged(run) for run in runs}
    if twice := [
        name for name, count in collections.Counter(name for name, _ in controls.values()).items() if count > 1
    ]:
        raise ConfigError(f"two of --runs={','.join(runs)} learned {twice[0]}. Valid: one run of each control.")
    reader = reader or judge.reader()
    out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {"control": {}}
    steps: dict[str, int] = {}
    for folder, (name, places) in controls.items():
        model, steps[folder], _ = tuned_run.load(folder)
        examples = [arrangements.example("test", row, name, places=places) for row in range(settings.number)]
        rows = control_metrics.rows(functools.partial(_made, model, control.NAME, settings), examples)
        figures["control"][name] = {which: control_metrics.follows(rows[which], examples, reader) for which in BESIDE}
        tiles = [np.stack([example.control for example in examples]), rows["with"], rows["without"]]
        _draw(tiles, ["control", "with it", "without"], [example.caption for example in examples], out / f"{name}.png")
    if reference:
        model, steps[reference], _ = tuned_run.load(reference)
        make = functools.partial(_made, model, image_prompt.NAME, settings)
        figures["reference"], rows = reference_metrics.alone(make, reader, settings.number)
        figures["reference_with_prompt"], mixed = reference_metrics.with_prompt(make, reader, settings.number)
        names = ["reference", "with it", "without"]
        tiles = [rows[name] for name in ("references", "images", "none")]
        _draw(tiles, names, [""] * settings.number, out / "reference.png")
        tiles = [mixed[name] for name in ("references", "images", "none")]
        _draw(tiles, names, mixed["prompts"], out / "reference_with_prompt.png")
    protocol = {"runs": steps, **settings._asdict(), "seeds": "0..", **report.software()}
    return report.write(out, {"figures": figures, "protocol": protocol}, lambda content: markdown(content, out))


def _arranged(run: str) -> tuple[str, tuple[float, ...]]:
    """The control that a run has learned from, and the positions of its shapes."""
    config: Any = workdir.read_config(run)
    source = config["data"]["source"]
    if source["name"] != "arranged_drawings":
        raise ConfigError(
            f"{run} learned from the source {source['name']!r}. Valid for --runs: runs of tuning/drawings_control."
        )
    return source["kind"], tuple(source.get("places", arrangements.ANYWHERE))


def _made(
    model: text_to_image.TextToImage,
    attachment: str,
    settings: Settings,
    prompts: Sequence[str],
    pictures: np.ndarray | None,
    seeds: Sequence[int],
) -> np.ndarray:
    """A picture for each prompt and seed, with the control of the same row if there are controls."""
    how = {"steps": settings.steps, "guidance": settings.guidance, "height": SIDE, "width": SIDE}
    if pictures is None:
        return text_to_image.generate(model, list(prompts), seeds=list(seeds), batch_size=50, **how)
    drawings = []
    with progress.bar("drawing", len(prompts), "pictures") as advance:
        for prompt, picture, seed in zip(prompts, pictures, seeds, strict=True):
            controls = [(attachment, picture)]
            drawings.append(text_to_image.generate(model, prompt, seeds=seed, controls=controls, **how)[0])
            advance(len(drawings))
    return np.stack(drawings)


def _draw(tiles: Sequence[np.ndarray], names: Sequence[str], prompts: Sequence[str], path: pathlib.Path) -> None:
    """Writes a PNG with the first examples side by side, and the pictures of each example one below the other."""
    columns = [textwrap.fill(prompt, 16) for prompt in prompts[:SHOWN]]
    twice = lambda row: row.repeat(2, axis=1).repeat(2, axis=2)  # makes room for the captions
    plots.mosaic([[twice(row[:SHOWN]) for row in tiles]], names, [columns], path)


def markdown(content: dict, folder: pathlib.Path) -> str:
    """The report as Markdown, with relative links to the pictures that are in the folder."""
    figures = content["figures"]
    parts = ["# Control of the drawings' model"]
    if figures["control"]:
        parts += [control_table(figures["control"])]
        parts += report.pictures(folder, {f"{name}.png": name.capitalize() for name in figures["control"]})
    if "reference" in figures:
        parts += [reference_table(figures["reference"]), prompt_table(figures["reference_with_prompt"])]
        parts += report.pictures(
            folder,
            {
                "reference.png": "A prompt without colour and shape, and a reference",
                "reference_with_prompt.png": "The prompt names colour and shape; the reference provides the rest",
            },
        )
    return report.page([*parts, report.table(("", ""), content["protocol"].items())])


def control_table(figures: dict) -> str:
    """The table of the controls: pictures with the control, without it, and real ones."""

    def cell(row: dict, which: str, name: str) -> str:
        if row[name] is None or (which == "without" and name in ("there", "whole", "order")):
            return "—"
        return f"{row[name]['value']:.2f}" if name == "covered" else f"{100 * row[name]['share']:.0f} %"

    columns = {
        "close": f"within {control_metrics.CLOSE:g}",
        "there": "right one there",
        "covered": "overlap",
        "whole": "whole",
        "order": "order",
        "prompt": "prompt",
        "count": "number",
    }
    rows = [
        (control, words, report.with_error(row["error"]), f"{row['median']:.2g}")
        + tuple(cell(row, which, name) for name in columns)
        for control, rows_by_kind in figures.items()
        for which, words in BESIDE.items()
        for row in [rows_by_kind[which]]
    ]
    return report.table(("control", "pictures", "error, pixels", "median", *columns.values()), rows)


def reference_table(figures: dict) -> str:
    """The table of attributes: with the reference, without it, by chance, and for the references themselves."""
    order = ("reference", "none", "chance", "real")
    header = ("of the reference", "with it", "no reference", "chance", "the judge on the references")
    groups = {"style": reference_metrics.STYLE, "content": reference_metrics.CONTENT}
    rows = [
        (f"{group}: {name.replace('_', ' ')}", *(report.percent(figures[which][name]) for which in order))
        for group, names in groups.items()
        for name in names
        if name in figures["reference"]
    ]
    return report.table(header, rows + template_rows(figures, order))


def template_rows(figures: dict, order: Sequence[str]) -> list[tuple[str, ...]]:
    """The rows of `reference_metrics.fits`, in the columns of an order."""
    words = {
        "shape": "templates: the shape is the best of the eight",
        "whole": f"templates: overlap above {drawn_objects.WHOLE:g}",
    }
    return [
        (what, *(report.percent(figures[which]["templates"][name]) for which in order)) for name, what in words.items()
    ]


def prompt_table(figures: dict) -> str:
    """The table of attributes for prompts that name a colour and a shape."""
    order = ("reference", "none", "chance")
    rows = [
        (f"of the prompt: {name}", *(report.percent(figures[which]["prompt"][name]) for which in order))
        for name in figures["reference"]["prompt"]
    ]
    rows += template_rows(figures, order)
    rows += [
        (f"of the reference: {name}", *(report.percent(figures[which][name]) for which in order))
        for name in (*reference_metrics.STYLE, "size", "position")
    ]
    return report.table(("", "with the reference", "no reference", "another drawing"), rows)


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    out = pathlib.Path(values.out)
    settings = Settings(values.number, values.steps, values.guidance)
    print(markdown(run(values.runs, values.reference, out, settings), out))


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES, compiles=True)
