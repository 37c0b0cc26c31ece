"""The measurements of a sweep's runs so far: `collect` reads a sweep's folder, `over_seeds` averages."""

import json
import math
import pathlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

from diffusion.experiments.evaluation import figures
from diffusion.experiments.evaluation.figures import Figure, Measured
from diffusion.experiments.sweeps import naming, sweep_folder
from diffusion.experiments.sweeps.sweep_folder import DONE, FAILED, Plan
from diffusion.package import commands


class Run(NamedTuple):
    """A run of the sweep.

    Attributes:
        name: its name, unique in the sweep, e.g. "parameterization=v,weighting=min_snr,seed=0".
        overrides: its overrides, {dotted field: value}, with values that JSON can hold.
        workdir: its folder, DIR/name.
        status: one of "queued", "running", "done", "failed" and "stopped".
        measured: the content of its folder, with the figures "seconds/train", "seconds/sample", ... for commands that
            are done.
        command: a command line that repeats the run, with its commands joined by " && ".
        seconds: the time that all its commands have taken so far.
        reason: the last lines of its error if it failed, otherwise "".
        attempts: the number of times that it was begun.
    """

    name: str
    overrides: dict[str, Any]
    workdir: pathlib.Path
    status: str
    measured: Measured
    command: str
    seconds: float
    reason: str
    attempts: int

    @property
    def figures(self) -> dict[str, Figure]:
        """The figures by name."""
        return self.measured.figures

    def with_seconds(self, seconds: Mapping[str, float]) -> Self:
        """The run with further figures in seconds, {name: value}, of which the lower is the better."""
        timed = {name: Figure(value) for name, value in seconds.items()}
        better = self.measured.better | dict.fromkeys(seconds, figures.LOWER)
        return self._replace(measured=self.measured._replace(figures=self.figures | timed, better=better))


class Results(NamedTuple):
    """All runs of a sweep, finished or not."""

    name: str
    file: str  # file and preset, e.g. "digits_weightings:tiny"
    fields: list[str]  # the dotted fields that vary, without the seeds, in the order in which the runs set them
    seeds: list[str]  # fields that vary and are averaged over, e.g. ["seed"]
    runs: list[Run]
    directory: pathlib.Path
    command: str  # command that starts or resumes the sweep


class Group(NamedTuple):
    """Runs that differ only in their seeds, whatever their status."""

    name: str
    overrides: dict[str, Any]  # the overrides that these runs share; the seeds are left out
    runs: list[Run]
    figures: dict[str, Figure]  # means over the seeds of the runs that are done and have the figure


def collect(directory: str | pathlib.Path) -> Results:
    """Reads the present content of a sweep's folder. The sweep may be running; nothing is changed."""
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
    seconds: dict[str, float] = {}
    for index in range(now.done):
        if index in now.seconds:
            name = f"seconds/{_kind(plan.commands[index])}"
            seconds[name] = seconds.get(name, 0.0) + now.seconds[index]
    run = Run(
        plan.name,
        plan.overrides,
        folder,
        now.status,
        figures.read_run(folder),
        " && ".join(shlex.join(words) for words in sweep_folder.commands(directory, plan)),
        sum(now.seconds.values()),
        now.reason if now.status == FAILED else "",
        now.attempts,
    )
    return run.with_seconds(seconds)


def _kind(words: list[str]) -> str:
    """The name of a command in figures: "train", or the last part of the module that it runs."""
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else pathlib.Path(words[0]).name
    return commands.name_of(words) or module.rpartition(".")[2]


def usual(runs: Iterable[Run], known: Sequence[str], names: Sequence[str]) -> list[str]:
    """The names among `known` that a table shows by default: distances, `names`, and metrics of the model."""
    own_metrics = dict.fromkeys(name for run in runs for name in run.measured.usual)
    return [name for name in dict.fromkeys((*figures.distances(known), *names, *own_metrics)) if name in known]


def records_of(runs: Iterable[Run], figure: str) -> str:
    """The records behind a figure of some runs, joined if they differ; "" if none are known."""
    texts = (run.measured.records.get(figure, "") for run in runs)
    return "; or ".join(dict.fromkeys(filter(None, texts)))


def over_seeds(results: Results) -> list[Group]:
    """Groups the runs that differ only in their seeds; the groups are in the order of their first runs."""
    settings: dict[str, list[Run]] = {}
    for run in results.runs:
        setting = {field: run.overrides[field] for field in results.fields if field in run.overrides}
        settings.setdefault(json.dumps(setting, sort_keys=True), []).append(run)
    groups = []
    labels = naming.labels_beside(results.fields, results.seeds)
    for runs in settings.values():
        overrides = {field: value for field, value in runs[0].overrides.items() if field not in results.seeds}
        names = dict.fromkeys(name for run in runs for name in run.figures)
        done = [run for run in runs if run.status == DONE]
        seed = seed_of_training(runs, results.seeds)
        values = {name: by_seed(done, seed, name) for name in names}
        means = {name: figures.mean([*numbers.values()]) for name, numbers in values.items() if numbers}
        groups.append(Group(naming.label(overrides, labels), overrides, runs, means))
    return groups


def seed_of_training(runs: Iterable[Run], seeds: Sequence[str]) -> str | None:
    """The first of the fields `seeds` that is not the same in all runs; None if all runs have equal seeds.

    Runs that share its value are not independent: samples with another seed are those of the same training.

    Args:
        runs: runs that differ in their seeds.
        seeds: the fields of the seeds; the seed of the training comes first.
    """
    runs = list(runs)
    return next((field for field in seeds if len({_seed(run, field) for run in runs}) > 1), None)


def by_seed(runs: Iterable[Run], field: str | None, figure: str) -> dict[str, float]:
    """The independent values of a figure: {value of a seed: mean over the runs that have it}.

    Args:
        runs: the runs; those that lack the figure are left out.
        field: the seed, from `seed_of_training`; None if each run counts.
        figure: the name of the figure.
    """
    numbers: dict[str, list[float]] = {}
    for run in runs:
        if figure in run.figures:
            seed = run.name if field is None else _seed(run, field)
            numbers.setdefault(seed, []).append(run.figures[figure].value)
    return {seed: math.fsum(some) / len(some) for seed, some in numbers.items()}


def _seed(run: Run, field: str) -> str:
    return json.dumps(run.overrides.get(field))
