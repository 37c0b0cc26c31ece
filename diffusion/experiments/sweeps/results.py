"""What the runs of a sweep have measured so far: `collect` reads a sweep's folder, `over_seeds` averages."""

import json
import math
import pathlib
import shlex
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from diffusion import commands
from diffusion.experiments.sampling import sample_files
from diffusion.experiments.sweeps import naming, sweep_folder
from diffusion.experiments.sweeps.sweep_folder import DONE, FAILED, Plan
from diffusion.io import json_lines, limits

POINTS = 500  # of a curve, at most
LEVEL = 0.95  # of intervals over seeds
PICTURES = ("samples", "trajectory", "curves")  # NAME.png in a run's folder


class Figure(NamedTuple):
    """A number with its uncertainty.

    Attributes:
        value: finite.
        low, high: ends of the 95 % interval, or None. Of a run: over its samples, from its report (not over trainings).
            Of a group: Student's interval of the mean over the runs.
        n: of how many it is: samples of a run's figure (None where it does not apply), runs of a group's.
        std: over the runs of a group (n - 1 in the denominator); None for a run, and for a group of one.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    std: float | None = None


class Run(NamedTuple):
    """A run of the sweep.

    Attributes:
        name: unique in the sweep, made of what differs, e.g. "parameterization=v,weighting=min_snr,seed=0".
        overrides: {dotted field: value}, JSON's kinds of values.
        workdir: its folder, DIR/name.
        status: "queued", "running", "done", "failed" or "stopped".
        figures: by name; empty as long as nothing was measured. Of training: "loss" (of the last line), "step",
            "steps_per_second". Of samples: "nfe", "asked_class", "fd_FEATURES", "fd_FEATURES_over_floor",
            "nearest_over_held_out"; "fid", "kid", ... where they were measured. Seconds of each command:
            "seconds/train", "seconds/sample", "seconds/evaluate".
        curves: by name ("loss", "grad_norm", "evaluate/FIGURE"), (step, value) with growing steps, at most 500 of them.
        command: what can be copied to repeat it, its commands joined by " && ".
        seconds: of all its commands so far.
        images: PNG files by what they show: "samples", "trajectory", "curves", "preview" (of the last evaluation in the
            loop); only those that are there.
        reason: the last lines of its error where it failed, else "".
        attempts: how often it was begun.
    """

    name: str
    overrides: dict[str, Any]
    workdir: pathlib.Path
    status: str
    figures: dict[str, Figure]
    curves: dict[str, list[tuple[int, float]]]
    command: str
    seconds: float
    images: dict[str, pathlib.Path]
    reason: str
    attempts: int


class Results(NamedTuple):
    """All runs of a sweep, finished or not.

    Attributes:
        name: of the sweep.
        file: the sweep file, with its preset, e.g. "digits_weightings:tiny".
        fields: that vary, dotted, in the order in which the runs set them; without the seeds.
        seeds: the fields that vary and that are averaged over, e.g. ["seed"].
        runs: in the sweep's order.
        directory: of the sweep.
        command: that starts or goes on with the sweep.
    """

    name: str
    file: str
    fields: list[str]
    seeds: list[str]
    runs: list[Run]
    directory: pathlib.Path
    command: str


class Group(NamedTuple):
    """The runs that differ in their seeds alone.

    Attributes:
        name: of what differs, without the seeds.
        overrides: likewise.
        runs: all of them, whatever their status.
        figures: means over those runs that are done and have the figure; n says over how many.
    """

    name: str
    overrides: dict[str, Any]
    runs: list[Run]
    figures: dict[str, Figure]


def collect(directory: str | pathlib.Path) -> Results:
    """Reads what a sweep's folder holds now; works while the sweep runs, and changes nothing.

    Args:
        directory: of the sweep, with its sweep.json.

    Returns:
        Results.

    Raises:
        WorkdirError: if the folder holds no sweep.
    """
    directory = pathlib.Path(directory)
    record = sweep_folder.read(directory)
    runs = [_run(directory, plan) for plan in record.runs]
    fields = [field for field in record.varies if field not in record.seeds]
    command = commands.line("sweep", f"--sweep={record.file}", f"--workdir={directory}")
    return Results(record.name, record.file, fields, record.seeds, runs, directory, command)


def _run(directory: pathlib.Path, plan: Plan) -> Run:
    folder = directory / plan.name
    now = sweep_folder.status(folder, len(plan.commands))
    rows = _steps(folder / "metrics.jsonl")
    figures = _of_training(rows, folder) | _of_samples(folder)
    for index, seconds in now.seconds.items():
        if index < now.done:
            name = f"seconds/{_kind(plan.commands[index])}"
            figures[name] = Figure(seconds + (figures[name].value if name in figures else 0))
    images = {name: folder / f"{name}.png" for name in PICTURES}
    if previews := sorted(folder.glob("previews/*.png"), key=lambda path: (len(path.name), path.name)):
        images["preview"] = previews[-1]
    return Run(
        plan.name,
        plan.overrides,
        folder,
        now.status,
        figures,
        curves(rows),
        command(directory, plan),
        sum(now.seconds.values()),
        {name: path for name, path in images.items() if path.is_file()},
        now.reason if now.status == FAILED else "",
        now.attempts,
    )


def command(directory: pathlib.Path, plan: Plan) -> str:
    """The commands of a run as one line for a shell."""
    return " && ".join(shlex.join(words) for words in sweep_folder.commands(directory, plan))


def _kind(words: list[str]) -> str:
    """What a command is called in figures: its name, e.g. "train", or the last part of the module that it runs."""
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else pathlib.Path(words[0]).name
    return commands.name_of(words) or module.rpartition(".")[2]


def curves(rows: Iterable[Mapping]) -> dict[str, list[tuple[int, float]]]:
    """The numbers of metrics.jsonl by name, each as (step, value); at most POINTS, the last of them always."""
    points: dict[str, dict[int, float]] = {}
    for row in rows:
        flat = {**row, **{f"evaluate/{name}": value for name, value in row.get("evaluate", {}).items()}}
        for name, value in flat.items():
            if name != "step" and _number(value):
                points.setdefault(name, {})[row["step"]] = value
    thinned = lambda curve: [
        curve[i] for i in np.linspace(0, len(curve) - 1, min(len(curve), POINTS)).round().astype(int)
    ]
    return {name: thinned(sorted(curve.items())) for name, curve in points.items()}


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _of_training(rows: list[dict], folder: pathlib.Path) -> dict[str, Figure]:
    lines = [row for row in rows if _number(row.get("loss"))]
    if not lines:
        return {}
    last = {"loss": Figure(lines[-1]["loss"]), "step": Figure(lines[-1]["step"])}
    rates = [row.get("steps_per_second") for row in _steps(folder / "timing.jsonl")]
    rates = [rate for rate in rates if _number(rate)]
    return last | ({"steps_per_second": Figure(float(np.median(rates)))} if rates else {})


def _of_samples(folder: pathlib.Path) -> dict[str, Figure]:
    """The figures of samples.json and report.json."""
    try:
        report = limits.read_json(folder / "report.json")
    except (FileNotFoundError, NotADirectoryError, limits.Refused):
        report = {}
    measured = report.get("figures", {})
    figures = {"nfe": Figure((sample_files.read_record(folder) or {}).get("nfe"))}
    if accuracy := measured.get("asked_class"):
        figures["asked_class"] = Figure(accuracy["share"], *accuracy["interval"], n=accuracy["count"])
    for name, part in measured.get("frechet", {}).items():
        count = report["protocol"]["distance"]["N"]
        figures[f"fd_{name}"] = Figure(part["distance"], *(part["interval"] or (None, None)), n=count)
        figures[f"fd_{name}_over_floor"] = Figure(part["ratio"], *(part["ratio_interval"] or (None, None)), n=count)
    if near := measured.get("neighbours"):
        samples, held_out = (near[name]["quantiles"]["0.5"] for name in ("samples", "held_out"))
        figures["nearest_over_held_out"] = Figure(samples / held_out, n=near["samples"]["count"])
    for name, part in {**report.get("model", {}), **report.get("inception", {}).get("figures", {})}.items():
        figures[name] = _metric(part)
    return {name: figure for name, figure in figures.items() if _number(figure.value)}


def _metric(part: Mapping) -> Figure:
    """A metric of `image_metrics` or `model_metrics`: {"value", "interval" or "standard_error", "samples"}."""
    value = part.get("value")
    low, high = part.get("interval") or (None, None)
    if low is None and _number(value) and _number(error := part.get("standard_error")):
        low = value - 1.96 * error
        high = value + 1.96 * error
    return Figure(value, low, high, part.get("samples"))


def _steps(path: pathlib.Path) -> list[dict]:
    """The lines of a .jsonl file that have a step."""
    return [row for row in json_lines.rows(path) if isinstance(row.get("step"), int)]


def over_seeds(results: Results) -> list[Group]:
    """Averages over the runs that differ in their seeds alone.

    Args:
        results: from `collect`.

    Returns:
        A group for each combination of `results.fields`, in the order of its first run.
    """
    groups: dict[str, list[Run]] = {}
    for run in results.runs:
        rest = {field: run.overrides.get(field) for field in results.fields}
        groups.setdefault(json.dumps(rest, sort_keys=True), []).append(run)
    made = []
    called = naming.labels(results.fields)
    for runs in groups.values():
        overrides = {field: value for field, value in runs[0].overrides.items() if field not in results.seeds}
        names = dict.fromkeys(name for run in runs for name in run.figures)
        done = [run for run in runs if run.status == DONE]
        values = {name: [run.figures[name].value for run in done if name in run.figures] for name in names}
        figures = {name: mean(each) for name, each in values.items() if each}
        made.append(Group(naming.label(overrides, called), overrides, runs, figures))
    return made


def mean(values: list[float]) -> Figure:
    """The mean over runs with Student's interval of it, mean +- t s / sqrt(n).

    Args:
        values: [n], n >= 1.

    Returns:
        Figure; without interval and deviation for n = 1.
    """
    n = len(values)
    middle = float(np.mean(values))
    if n == 1:
        return Figure(middle, n=1)
    std = float(np.std(values, ddof=1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * std / math.sqrt(n)
    return Figure(middle, middle - half, middle + half, n, std)
