"""Shared code of all reports: report.json, report.md, Markdown tables, formatted figures, provenance."""

import importlib.metadata
import pathlib
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from diffusion.experiments.evaluation.figures import Figure
from diffusion.io import json_files
from diffusion.io.files import write_text

WIDE = 200  # letters in a line of a log, where nothing is cut off
NOT_FINITE = "value not finite"  # of a figure without a value and a reason: JSON has neither infinity nor NaN
PACKAGES = ("jax", "flax", "optax", "grain", "numpy")

Row = tuple[str, str, str]
"""A row of a table: (name, its figure, the reference beside it)."""


def write(folder: pathlib.Path, content: Mapping, markdown: Callable[[dict[str, Any]], str]) -> dict[str, Any]:
    """Writes a report as report.json and report.md; each file appears complete or not at all.

    Args:
        folder: the folder of the report.
        content: the figures and their protocol.
        markdown: a function from the result of `json_files.plain(content)` to the text of report.md.

    Returns:
        The result of `json_files.plain(content)`.
    """
    plain = json_files.plain(content)
    json_files.write(folder / "report.json", plain)
    write_text(folder / "report.md", markdown(plain))
    return plain


def software() -> dict[str, Any]:
    """The present code and machine: {"git_commit" (or None), "versions", "device"}."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    return {"git_commit": git_commit(), "versions": versions, "device": jax.devices()[0].device_kind}


def git_commit() -> str | None:
    """The commit of this code, with "-dirty" where files differ from it; None outside a git checkout."""
    git = ["git", "-C", str(pathlib.Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")


def version(name: str) -> str | None:
    """The version of an installed package; None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table, without a line break at its end; what would end a cell is escaped, a line break by a space."""
    escaped = lambda cell: " ".join(str(cell).splitlines()).replace("|", r"\|")
    line = lambda cells: f"| {' | '.join(map(escaped, cells))} |"
    return "\n".join(map(line, [header, ["---"] * len(header), *rows]))


def show(title: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Prints a table; in a file, its rows are not cut at the width of a terminal."""
    shown = Table(*header, title=title, title_justify="left")
    for row in rows:
        shown.add_row(*map(str, row))
    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDE).print(shown)


def cell(figure: Figure | None) -> str:
    """A figure with its interval: "1.23 ± 0.04 (1.1 to 1.3)" for several runs, "1.23 (1.1 to 1.3)" for one."""
    if figure is None:
        return "—"
    around = f" ± {figure.std:.2g}" if figure.std is not None else ""
    interval = None if figure.low is None or figure.high is None else (figure.low, figure.high)
    return f"{figure.value:.4g}{around}{span(interval)}"


def page(parts: Iterable[str]) -> str:
    """A page of Markdown paragraphs, with a link to report.json at its end."""
    return "\n\n".join([*parts, "Every number in full: [report.json](report.json)."]) + "\n"


def protocol(entries: Mapping[str, Any]) -> str:
    """The section that lists how the figures of a page were measured."""
    return f"## Protocol\n\n{table(('', ''), entries.items())}"


def pictures(folder: pathlib.Path, captions: Mapping[str, str]) -> list[str]:
    """Markdown paragraphs that embed those of the named files that the folder holds, each above its caption."""
    return [f"![{text}]({name})\n*{text}.*" for name, text in captions.items() if (folder / name).is_file()]


def percent(share: Mapping) -> str:
    """A share with its interval, {"share", "interval"}: "97.1% (95.2% to 98.3%)"."""
    low, high = share["interval"]
    return f"{share['share']:.1%} ({low:.1%} to {high:.1%})"


def with_error(figure: Mapping) -> str:
    """A mean with its standard error, {"value", "standard_error"}: "0.97 ± 0.012"; "0.97" if the error is None."""
    error = figure["standard_error"]
    return f"{figure['value']:.4g}" + ("" if error is None else f" ± {error:.2g}")


def span(interval: Sequence[float] | None, form: str = ".3g") -> str:
    """An interval in brackets after a space: " (1.2 to 1.4)"; "" where there is none."""
    return f" ({interval[0]:{form}} to {interval[1]:{form}})" if interval else ""


def metric_rows(metrics: Mapping[str, Mapping]) -> list[tuple[str, str, str]]:
    """Metrics of `image_metrics` and `model_metrics` as text: (name, value with its error, number of samples)."""
    rows = []
    for name, metric in metrics.items():
        if metric["value"] is None:
            rows.append((name, "—", metric.get("why", NOT_FINITE)))
            continue
        value = f"{metric['value']:.5g}"
        if metric.get("standard_error") is not None:
            value += f" ± {metric['standard_error']:.2g}"
        elif metric.get("standard_deviation") is not None:
            value += f" (sd {metric['standard_deviation']:.2g})"
        else:
            value += span(metric.get("interval"))
        against = f" against {metric['reference']:,}" if metric.get("reference") else ""
        size = f", subsets of {metric['size']:,}" if "size" in metric else ""
        space = f", {metric['space']}" if metric.get("space") else ""
        rows.append((name, value, f"{metric['samples']:,} samples{against}{size}{space}"))
    return rows


def beside_table(rows: Iterable[Row]) -> str:
    """Figures and their references as a Markdown table."""
    return table(("", "model", "beside"), ((what, f"**{value}**", beside) for what, value, beside in rows))


def frechet_row(space: str, frechet: Mapping, form: str) -> Row:
    """A row of a report: a Frechet distance beside its floor and the distance of noise.

    Args:
        space: name of the feature space.
        frechet: the result of `sample_metrics.distance`.
        form: format specification of the numbers, such as ".3g".
    """
    floor = f"{floor_text(frechet['floor'], form)}, {frechet['ratio']:.2f} times"
    beside = f"{floor}; noise {frechet['noise']:{form}}"
    return f"Frechet distance ({space})", f"{frechet['distance']:{form}}", beside


def floor_text(floor: Mapping, form: str) -> str:
    """The distance of real examples, as "floor 2.1 ± 0.3"; without "±" where one subset holds all of them.

    Args:
        floor: the result of `figures.spread`.
        form: format specification of the mean, such as ".3g".
    """
    error = "" if floor["std"] is None else f" ± {floor['std']:.2g}"
    return f"floor {floor['mean']:{form}}{error}"


def copies_row(others: str, copies: Mapping, kind: str = "pictures") -> Row:
    """A row of a report: how often samples are nearer to training examples than 1 % and 5 % of other examples are.

    Args:
        others: name of the other examples, such as "test images".
        copies: the result of `neighbours.copying`.
        kind: name of the examples, in the plural.
    """
    exact = f"exact copies {exact_copies(copies['samples'])}"
    return f"nearer to training {kind} than 1 % / 5 % of {others}", nearer(copies), exact


def nearer(copies: Mapping) -> str:
    """The shares of samples that are nearer to training examples than 1 % and 5 % of other examples, with intervals."""
    shares = copies["share_below_held_out_percentile"]
    intervals = copies.get("interval_below_held_out_percentile", {})  # reports of earlier versions have none
    return " / ".join(f"{shares[end]:.1%}{span(intervals.get(end), '.1%')}" for end in ("1", "5"))


def exact_copies(part: Mapping) -> str:
    """The number of exact copies among the examples whose nearest training example was sought, as "3 of 2,000"."""
    return f"{part['exact_duplicates']:,} of {part['count']:,}"
