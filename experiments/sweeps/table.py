"""The table of a sweep, for a terminal, as CSV and as Markdown; a line is a run, or the runs that differ in seeds."""

import csv
import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from diffusion.experiments.evaluation import report
from diffusion.experiments.evaluation.figures import Figure
from diffusion.experiments.sweeps import naming
from diffusion.experiments.sweeps.results import Results, over_seeds, records_of, usual
from diffusion.experiments.sweeps.sweep_folder import DONE, RUNNING, tally
from diffusion.experiments.sweeps.terminal import last_line
from diffusion.io.files import write_text
from diffusion.recipe import unknown

USUAL = ("held_out_loss", "asked_class", "fid", "nfe")  # the figures shown by default, beside those that `usual` adds


class Table(NamedTuple):
    """The table of a sweep."""

    columns: list[str]  # labels of the fields
    figures: list[str]  # names of the figures
    rows: list[tuple[list[str], str, dict[str, Figure]]]  # (values of the fields, "3 of 5" runs done, {name: Figure})
    averaged: list[str]  # fields that are averaged over
    records: dict[str, str]  # the records behind each figure, in words


def table(results: Results, figures: Sequence[str] = ()) -> Table:
    """The figures of a sweep, averaged over its seeds.

    Args:
        results: the results of the sweep.
        figures: the names of the figures to show; ("all",) for all, () for the usual ones.

    Raises:
        ConfigError: for a figure that no run has.
    """
    groups = over_seeds(results)
    known = list(dict.fromkeys(name for group in groups for name in group.figures))
    columns = naming.labels_beside(results.fields, results.seeds)
    rows = []
    for group, values in zip(groups, naming.distinct_texts([group.overrides for group in groups], columns)):
        done = sum(run.status == DONE for run in group.runs)
        rows.append((values, f"{done} of {len(group.runs)}", group.figures))
    chosen = _chosen(known, figures, usual(results.runs, known, USUAL))
    records = {name: text for name in chosen if (text := records_of(results.runs, name))}
    return Table(list(columns.values()), chosen, rows, results.seeds, records)


def _chosen(known: Sequence[str], requested: Sequence[str], default: Sequence[str]) -> list[str]:
    """The names of the figures to show: the requested ones, all, or the usual ones."""
    if tuple(requested) == ("all",):
        return list(known)
    for name in requested:
        if known and name not in known:
            raise unknown("--figures", name, known, "figure")
    return list(requested) or list(default) or list(known)


def markdown(table: Table) -> str:
    """The table as Markdown, with a line on how to read it."""
    return f"{report.table(*_cells(table))}\n\n{note(table)}\n"


def note(table: Table) -> str:
    """How to read the table, and which records its figures are measured on."""
    sentence = "Each line is one run."
    if table.averaged:
        alone = f"that differ in {', '.join(table.averaged)} alone"
        sentence = (
            f"Mean ± standard deviation over the runs {alone}, and Student's 95 % interval of the mean. Runs that are "
            "not done are left out."
        )
    if len(table.averaged) > 1:
        sentence += f" Runs with the same {table.averaged[0]} count as one, by their mean."
    by_records: dict[str, list[str]] = {}
    for name, text in table.records.items():
        by_records.setdefault(text, []).append(name)
    return " ".join([sentence, *(f"Records of {', '.join(names)}: {text}." for text, names in by_records.items())])


def averages_csv(table: Table) -> str:
    """The table as CSV: for each figure its mean, standard deviation, 95 % interval of the mean, and number of runs."""
    parts = ("", "_std", "_low", "_high", "_n")
    lines = [[*table.columns, "runs_done", *(name + part for name in table.figures for part in parts)]]
    for values, done, figures in table.rows:
        lines.append([*values, done])
        for name in table.figures:
            value, low, high, n, std = figures.get(name, [""] * len(Figure._fields))
            lines[-1] += [value, std, low, high, n]
    return _csv(lines)


def runs_csv(results: Results) -> str:
    """Every run of a sweep as CSV: name, status, attempts, overrides, all figures, seconds and command."""
    fields = list(dict.fromkeys(field for run in results.runs for field in run.overrides))
    figures = sorted({name for run in results.runs for name in run.figures})
    lines: list[list[Any]] = [["run", "status", "attempts", *fields, *figures, "seconds", "command"]]
    for run in results.runs:
        values = [run.overrides.get(field) for field in fields]
        values = [json.dumps(value) if isinstance(value, (dict, list, tuple)) else value for value in values]
        numbers = [run.figures[name].value if name in run.figures else None for name in figures]
        seconds = round(run.seconds, 1)
        lines.append([run.name, run.status, run.attempts, *values, *numbers, seconds, run.command])
    return _csv(lines)


def _csv(lines) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def write(results: Results, table: Table) -> list[pathlib.Path]:
    """Writes table.md, table.csv and runs.csv into the sweep's folder, each complete or not at all."""
    texts = {"table.md": markdown(table), "table.csv": averages_csv(table), "runs.csv": runs_csv(results)}
    for name, text in texts.items():
        write_text(results.directory / name, text)
    return [results.directory / name for name in texts]


def show(table: Table, title: str) -> None:
    """Prints the table."""
    report.show(title, *_cells(table))
    print(note(table))


def show_progress(results: Results) -> None:
    """Prints how many runs have each status, and the last line of each running run's log."""
    print(tally(run.status for run in results.runs))
    for run in results.runs:
        if run.status == RUNNING:
            print(f"running {run.name}  {last_line(run.workdir / 'output.log')}")


def _cells(table: Table) -> tuple[list[str], list[list[str]]]:
    """The header, and the rows of cells."""
    rows = [
        [*values, done, *(report.cell(figures.get(name)) for name in table.figures)]
        for values, done, figures in table.rows
    ]
    return [*table.columns, "runs done", *table.figures], rows
