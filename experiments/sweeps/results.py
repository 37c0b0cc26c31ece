"""The measurements of a sweep's runs so far: `collect` reads a sweep's folder, `over_seeds` averages."""

import json
import pathlib
import shlex
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from diffusion.experiments.evaluation import figures
from diffusion.experiments.evaluation.figures import Figure
from diffusion.experiments.sweeps import naming, sweep_folder
from diffusion.experiments.sweeps.sweep_folder import DONE, FAILED, Plan
from diffusion.package import commands


class Run(NamedTuple):
    """A run of the sweep; curves and images are as in `figures.Measured`.

    Attributes:
        name: unique in the sweep, made of what differs, e.g. "parameterization=v,weighting=min_snr,seed=0".
        overrides: {dotted field: value}, JSON's kinds of values.
        workdir: its folder, DIR/name.
        status: "queued", "running", "done", "failed" or "stopped".
        figures: the figures of `figures.Measured`, and "seconds/train", "seconds/sample", ... for commands that are
            done.
        command: a line that repeats it, its commands joined by " && ".
        seconds: time that all its commands have taken so far.
        reason: the last lines of its error where it failed, else "".
        attempts: how often it was begun.
        records: {figure: the records that it stands on}, see `figures.Measured`.
        better: {figure: "lower" or "higher"}, see `figures.Measured`; of seconds, too.
        usual: the figures of metrics of the model that tables show by default, see `figures.Measured`.
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
    records: dict[str, str] = {}  # noqa: RUF012
    better: dict[str, str] = {}  # noqa: RUF012
    usual: tuple[str, ...] = ()


class Results(NamedTuple):
    """All runs of a sweep, finished or not."""

    name: str
    file: str  # file and preset, e.g. "digits_weightings:tiny"
    fields: list[str]  # dotted, that vary, in the order in which the runs set them; without the seeds
    seeds: list[str]  # fields that vary and are averaged over, e.g. ["seed"]
    runs: list[Run]
    directory: pathlib.Path
    command: str  # command that starts or resumes the sweep


class Group(NamedTuple):
    """The runs that differ in their seeds alone, whatever their status."""

    name: str
    overrides: dict[str, Any]  # without the seeds, as the name
    runs: list[Run]
    figures: dict[str, Figure]  # means over the runs that are done and have the figure


def collect(directory: str | pathlib.Path) -> Results:
    """Reads what a sweep's folder holds now; works while the sweep runs, and changes nothing."""
    directory = pathlib.Path(directory)
    record = sweep_folder.read(directory)
    runs = [_run(directory, plan) for plan in record.runs]
    fields = [field for field in record.varies if field not in record.seeds]
    command = commands.line("sweep", f"--sweep={record.file}", f"--workdir={directory}")
    return Results(record.name, record.file, fields, record.seeds, runs, directory, command)


def _run(directory: pathlib.Path, plan: Plan) -> Run:
    """The measurements of one run so far."""
    folder = directory / plan.name
    now = sweep_folder.status(folder, len(plan.commands))
    measured = figures.read_run(folder)
    seconds: dict[str, float] = {}
    for index in range(now.done):
        if index in now.seconds:
            name = f"seconds/{_kind(plan.commands[index])}"
            seconds[name] = seconds.get(name, 0.0) + now.seconds[index]
    return Run(
        plan.name,
        plan.overrides,
        folder,
        now.status,
        measured.figures | {name: Figure(value) for name, value in seconds.items()},
        measured.curves,
        " && ".join(shlex.join(words) for words in sweep_folder.commands(directory, plan)),
        sum(now.seconds.values()),
        measured.images,
        now.reason if now.status == FAILED else "",
        now.attempts,
        measured.records,
        measured.better | dict.fromkeys(seconds, figures.LOWER),
        measured.usual,
    )


def _kind(words: list[str]) -> str:
    """The name of a command in figures: "train", or the last part of the module that it runs."""
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else pathlib.Path(words[0]).name
    return commands.name_of(words) or module.rpartition(".")[2]


def usual(runs: Iterable[Run], known: Sequence[str], names: Sequence[str]) -> list[str]:
    """The names among `known` that a table shows by default: distances, `names`, and metrics of the model."""
    own_metrics = dict.fromkeys(name for run in runs for name in run.usual)
    return [name for name in dict.fromkeys((*figures.distances(known), *names, *own_metrics)) if name in known]


def records_of(runs: Iterable[Run], figure: str) -> str:
    """The records behind a figure of some runs, all that occur; "" if none are known."""
    texts = (run.records.get(figure, "") for run in runs)
    return "; or ".join(dict.fromkeys(filter(None, texts)))


def over_seeds(results: Results) -> list[Group]:
    """A group of the runs that differ in their seeds alone for each combination of `results.fields`, in their order."""
    settings: dict[str, list[Run]] = {}
    for run in results.runs:
        setting = {field: run.overrides.get(field) for field in results.fields}
        settings.setdefault(json.dumps(setting, sort_keys=True), []).append(run)
    groups = []
    labels = naming.labels(results.fields)
    for runs in settings.values():
        overrides = {field: value for field, value in runs[0].overrides.items() if field not in results.seeds}
        names = dict.fromkeys(name for run in runs for name in run.figures)
        done = [run for run in runs if run.status == DONE]
        values = {name: [run.figures[name].value for run in done if name in run.figures] for name in names}
        means = {name: figures.mean(numbers) for name, numbers in values.items() if numbers}
        groups.append(Group(naming.label(overrides, labels), overrides, runs, means))
    return groups
