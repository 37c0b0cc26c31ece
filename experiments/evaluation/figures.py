"""The figures of a run for tables: numbers with their uncertainties, read from the run folder."""

import contextlib
import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.experiments.sampling import sample_files
from diffusion.io import json_lines, limits, opener

POINTS = 500  # most points of a curve
LEVEL = 0.95  # level of intervals
Z = 1.96  # the normal quantile of that level
FLOOR = "_over_floor"  # ending of the ratio of a distance to its floor
PICTURES = ("samples", "trajectory", "curves")  # NAME.png in a run's folder
LOWER, HIGHER = BETTER = ("lower", "higher")  # the values of the entry "better" of a figure in report.json
EARLIER = {  # this entry for figures in reports of earlier versions, which do not have it
    **dict.fromkeys(("fid", "sfid", "kid", "cmmd", "bits_per_dim"), LOWER),
    **dict.fromkeys(("is", "precision", "recall", "density", "coverage"), HIGHER),
}


class Figure(NamedTuple):
    """A number with its uncertainty.

    Attributes:
        value: the number, finite.
        low, high: ends of the 95 % interval, or None. The interval of a run is over its samples, not over trainings.
            The interval of a group is Student's interval of the mean over its runs.
        n: the number of samples behind a run's figure, None if it is not of samples; for a group, the number of runs.
        std: standard deviation over the runs of a group (n - 1 in the denominator); None for a run, and for a group of
            one run.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    std: float | None = None


class Measured(NamedTuple):
    """The figures, curves and pictures that a run's folder holds so far.

    Attributes:
        figures: the figures by name. Of the training: "loss" (of the last line), "step", "steps_per_second"; the last
            "held_out_loss" of the moving average and "held_out_loss_trained" of the trained weights. Of the samples:
            "nfe", "asked_class", "fd_FEATURES", "fd_FEATURES_over_floor", "nearest_over_held_out"; and "fid", "kid",
            "dgm-eval/fd" and others if they were measured.
        curves: {"loss", "grad_norm", "held_out_loss", "evaluate/FIGURE": pairs (step, value)} with growing steps, at
            most POINTS.
        images: PNG files by their content: PICTURES, and "preview" (of the last evaluation during the training).
        records: {figure: the records that it was measured on, in words}, for each figure that was measured on records.
        better: {figure: one of BETTER}, for each figure whose metric states which values are better.
        usual: names of the figures that tables show by default: those of metrics of the model, such as your own, that
            state which values are better.
    """

    figures: dict[str, Figure]
    curves: dict[str, list[tuple[int, float]]] = {}  # noqa: RUF012
    images: dict[str, pathlib.Path] = {}  # noqa: RUF012
    records: dict[str, str] = {}  # noqa: RUF012
    better: dict[str, str] = {}  # noqa: RUF012
    usual: tuple[str, ...] = ()


def read_run(folder: pathlib.Path) -> Measured:
    """Reads the figures of a run's folder. The run may still be training; nothing is changed.

    Raises:
        WorkdirError: if metrics.jsonl or report.json has another form than this program writes.
        OSError: if a file cannot be read.
    """
    lines = _steps(folder / "metrics.jsonl")
    losses = [line for line in lines if _number(line.get("loss"))]
    figures = {}
    if losses:
        figures = {"loss": Figure(losses[-1]["loss"]), "step": Figure(losses[-1]["step"])}
        rates = [line.get("steps_per_second") for line in _steps(folder / "timing.jsonl")]
        if rates := [rate for rate in rates if _number(rate)]:
            figures["steps_per_second"] = Figure(float(np.median(rates)))
    with reading(folder / "metrics.jsonl"):
        loss = last_loss(lines)
        figures |= loss_figures(loss)
        points = curves(lines)
    if _number(nfe := (sample_files.read_record(folder) or {}).get("nfe")):
        figures["nfe"] = Figure(nfe)
    images = {name: folder / f"{name}.png" for name in PICTURES}
    if previews := sorted(folder.glob("previews/*.png"), key=lambda path: (len(path.name), path.name)):
        images["preview"] = previews[-1]
    images = {name: path for name, path in images.items() if path.is_file()}
    report = read_report(folder)
    if is_of_other_samples(report, folder):
        report = {}
    with reading(folder / "report.json"):
        read = figures | parse_report(report)
        better = directions(report) | ({"steps_per_second": HIGHER} if "steps_per_second" in figures else {})
        usual = tuple(name for name in report.get("model", {}) if name in better and name in read)
        return Measured(read, points, images, records_by_figure(report, loss), better, usual)


def training_minutes(folder: pathlib.Path, step: float = math.inf) -> float:
    """The minutes that a run has trained, from the rates in timing.jsonl, which do not include compilations.

    Args:
        folder: the run folder.
        step: the step at which to stop; by default the last one.
    """
    lines = [line for line in _steps(folder / "timing.jsonl") if line.get("steps_per_second") and line["step"] <= step]
    steps = np.diff([0, *(line["step"] for line in lines)])
    return float(sum(steps / [line["steps_per_second"] for line in lines]) / 60)


@contextlib.contextmanager
def reading(path: pathlib.Path) -> Iterator[None]:
    """Turns errors of its block into one that names the file, if the file has another form than expected.

    Args:
        path: the file from which the block reads figures.

    Raises:
        WorkdirError: for an entry that is missing, or has another type.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        why = f"the entry {error} is missing" if isinstance(error, KeyError) else limits.reason(error)
        raise WorkdirError(
            f"{path} has another form than this program writes ({why}). Remove it or make it again."
        ) from error


def records_text(records: Mapping[str, Any]) -> str:
    """The records behind a figure: "validation: 180, trained on: 0".

    Args:
        records: {"split", "count", "trained_on"}; a number is None where it is not known.
    """
    numbers = ("not known" if x is None else f"{x:,}" for x in (records["count"], records["trained_on"]))
    return "{}: {}, trained on: {}".format(records["split"], *numbers)


def split_records(report: Mapping[str, Any]) -> dict[str, Any]:
    """The records of the split that a report compares its samples with, for `records_text`; {} for an empty report.

    Reports of earlier versions lack the number of records that were trained on; it is then None.
    """
    data = report.get("protocol", {}).get("dataset")
    count = report.get("figures", {}).get("trained_on", {}).get("count")
    return {"split": data["split"], "count": data.get("split_size"), "trained_on": count} if data else {}


def records_by_figure(report: Mapping[str, Any], loss: Mapping[str, Any]) -> dict[str, str]:
    """{figure of `parse_report` and `loss_figures`: the records behind it, by `records_text`}."""
    known = dict.fromkeys(loss_figures(loss), loss.get("records"))
    known |= dict.fromkeys([*read_samples(report.get("figures", {})), *report.get("model", {})], split_records(report))
    known |= dict.fromkeys(report.get("inception", {}).get("figures", {}), report.get("inception", {}).get("records"))
    for part in report.get("encoders", {}).values():
        known |= dict.fromkeys((f"{part['protocol']}/{name}" for name in part["figures"]), part.get("records"))
    return {name: records_text(records) for name, records in known.items() if records}


def last_loss(lines: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The last measurement of the loss on held-out records among lines of metrics.jsonl, with its "step"; {} if none.

    `experiments.run.held_out_loss` writes it: for the "trained" weights and for their "average" the loss, its standard
    error and its means by t; the number of draws; and the records, with the number of them that were trained on.
    """
    rows = [line for line in lines if "held_out_loss" in line]
    return {"step": rows[-1]["step"], **rows[-1]["held_out_loss"]} if rows else {}


def loss_figures(measured: Mapping[str, Any]) -> dict[str, Figure]:
    """The figures of a held-out loss, with intervals over the records."""
    figures = {}
    for name, weights in (("held_out_loss", "average"), ("held_out_loss_trained", "trained")):
        part = measured.get(weights) or {}
        if _number(value := part.get("loss")):
            error = part["standard_error"]  # None for draws of a single record
            low, high = (None, None) if error is None else (value - Z * error, value + Z * error)
            figures[name] = Figure(value, low, high, measured["draws"])
    return figures


def read_report(folder: pathlib.Path) -> dict[str, Any]:
    """The content of report.json in a folder; {} if there is none, or it cannot be read."""
    try:
        return opener.read_json(folder / "report.json")
    except (FileNotFoundError, NotADirectoryError, limits.Refused):
        return {}


def checkpoint_of_samples(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """The checkpoint behind the samples of a report: its "step" and its "weights", "ema" for the moving average.

    It is empty in a report of an earlier version, and for samples of another program.
    """
    return report.get("protocol", {}).get("sampling", {}).get("checkpoint") or {}


def is_of_other_samples(report: Mapping[str, Any], folder: pathlib.Path) -> bool:
    """Whether a folder holds other samples than its report measured, with other settings, conditions or weights.

    Args:
        report: the content of report.json.
        folder: the folder of the report, whose samples.json describes the samples that it holds now.

    Raises:
        WorkdirError: if the report has another form than this program writes.
    """
    now = sample_files.read_record(folder)
    with reading(folder / "report.json"):
        measured = report.get("protocol", {}).get("sampling")
        if not measured or not now or "note" in measured:
            return False
        parts = ["checkpoint", "sample"]
        if "conditions" in measured and "conditions" in now:  # earlier versions did not write them
            parts.append("conditions")
        return any(_sampling_part(measured, part) != _sampling_part(now, part) for part in parts)


def _sampling_part(record: Mapping[str, Any], part: str) -> Any:
    """A part of samples.json, without the size of the batches, which changes no sample."""
    value = record.get(part)
    return {name: value[name] for name in value if name != "batch_size"} if isinstance(value, Mapping) else value


def parse_report(report: Mapping[str, Any]) -> dict[str, Figure]:
    """The figures in the content of report.json, with their intervals where it has them."""
    count = report.get("protocol", {}).get("distance", {}).get("N")
    figures = read_samples(report.get("figures", {}), count)
    for name, part in named(report).items():
        if not _number(value := part.get("value")):
            continue
        low, high = part.get("interval") or (None, None)
        if low is None and _number(error := part.get("standard_error")):
            low = value - Z * error
            high = value + Z * error
        figures[name] = Figure(value, low, high, part.get("samples"))
    for name, figure in figures.items():
        if wrong := [end for end in figure[1:] if end is not None and not _number(end)]:
            raise ValueError(f"the interval of {name} has {limits.short(wrong[0])}")
    return {name: figure for name, figure in figures.items() if _number(figure.value)}


def named(report: Mapping[str, Any]) -> dict[str, Mapping]:
    """The figures of the model, and those under published protocols, in report.json, by their names in tables.

    Figures in Inception's features have the names of the literature, "fid". Figures in an encoder's features begin with
    its protocol, "dgm-eval/fd", since two encoders have an "fd" each.
    """
    figures = {**report.get("model", {}), **report.get("inception", {}).get("figures", {})}
    for part in report.get("encoders", {}).values():
        figures |= {f"{part['protocol']}/{name}": figure for name, figure in part["figures"].items()}
    return figures


def directions(report: Mapping[str, Any]) -> dict[str, str]:
    """{figure of `parse_report`: one of BETTER}, for figures whose metric states which values are better."""
    sample_entries = entries_of_samples(report.get("figures", {}))
    ways = {}
    if not any("better" in part for part in sample_entries.values()):  # a report of an earlier version
        ways = {name: way for name, way in EARLIER.items() if name in named(report)}
        ways |= {name: HIGHER if name == "asked_class" else LOWER for name in sample_entries}
    stated = {**sample_entries, **named(report)}
    return ways | {name: way for name, part in stated.items() if (way := part.get("better")) in BETTER}


def entries_of_samples(measured: Mapping[str, Any]) -> dict[str, Mapping]:
    """{figure of `read_samples`: its entry in report.json}; a distance and its ratio to the floor share one entry."""
    entries = {"asked_class": accuracy} if (accuracy := measured.get("asked_class")) else {}
    distances = {f"fd_{name}": part for name, part in measured.get("frechet", {}).items()}
    for name, part in {**distances, **measured.get("distances", {})}.items():
        entries |= {name: part, f"{name}{FLOOR}": part}
    return entries


def read_samples(measured: Mapping[str, Any], count: int | None = None) -> dict[str, Figure]:
    """The figures of `sample_metrics.measure` that tables and training loops show.

    Args:
        measured: the result of `sample_metrics.measure`.
        count: the number of samples behind the distances; None if unknown.
    """
    figures = {}
    if accuracy := measured.get("asked_class"):
        figures["asked_class"] = Figure(accuracy["share"], *accuracy["interval"], n=accuracy["count"])
    for name, part in measured.get("frechet", {}).items():
        figures[f"fd_{name}"] = Figure(part["distance"], *(part["interval"] or (None, None)), n=count)
        figures[f"fd_{name}{FLOOR}"] = Figure(part["ratio"], *(part["ratio_interval"] or (None, None)), n=count)
    for name, part in measured.get("distances", {}).items():
        figures[name] = Figure(part["value"], *(part["interval"] or (None, None)), n=count)
        figures[f"{name}{FLOOR}"] = Figure(part["ratio"], *(part["ratio_interval"] or (None, None)), n=count)
    if near := measured.get("neighbours"):
        samples, held_out = (near[name]["quantiles"]["0.5"] for name in ("samples", "held_out"))
        if held_out:  # 0 where most held-out images are training images
            figures["nearest_over_held_out"] = Figure(samples / held_out, n=near["samples"]["count"])
    return figures


def distances(names: Sequence[str]) -> list[str]:
    """The names of distances from real data: those whose ratio to a floor is among the names too."""
    return [name for name in names if f"{name}{FLOOR}" in names]


def curves(lines: Iterable[Mapping]) -> dict[str, list[tuple[int, float]]]:
    """The numbers of metrics.jsonl by name, each as (step, value); at most POINTS, the last of them always."""
    points: dict[str, dict[int, float]] = {}
    for line in lines:
        losses = {name: figure.value for name, figure in loss_figures(last_loss([line])).items()}
        flat = {**line, **{f"evaluate/{name}": value for name, value in line.get("evaluate", {}).items()}, **losses}
        for name, value in flat.items():
            if name != "step" and _number(value):
                points.setdefault(name, {})[line["step"]] = value
    chosen = lambda curve: np.linspace(0, len(curve) - 1, min(len(curve), POINTS)).round().astype(int)
    thinned = lambda curve: [curve[i] for i in chosen(curve)]
    return {name: thinned(sorted(curve.items())) for name, curve in points.items()}


def mean(values: Sequence[float]) -> Figure:
    """The mean over at least one run, with Student's interval, mean +- t s / sqrt(n), for several runs that scatter.

    Equal values, such as shares of few samples, say nothing about the scatter of further runs: they have no interval.
    """
    from scipy import special  # imported here: every training imports this module, and few need the quantile

    n = len(values)
    middle = float(np.mean(values))
    if n == 1:
        return Figure(middle, n=1)
    std = float(np.std(values, ddof=1)) if np.ptp(values) else 0.0  # rounding scatters equal values
    if not std:
        return Figure(middle, n=n, std=std)
    half = float(special.stdtrit(n - 1, (1 + LEVEL) / 2)) * std / math.sqrt(n)
    return Figure(middle, middle - half, middle + half, n, std)


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """The mean over random subsets, and the standard deviation between them: {"mean", "std" (None for one subset)}."""
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def _number(value: Any) -> TypeGuard[float]:
    """Whether a value of a JSON file is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _steps(path: pathlib.Path) -> list[dict]:
    """The lines of a .jsonl file that have a step."""
    return [line for line in json_lines.rows(path) if isinstance(line.get("step"), int)]
