"""Measures a remake part by part, so that an interrupted measurement continues, and records the verdicts.

The folder contains parts.jsonl with a line for each measured part, and arrays/N.npz if part N has arrays. At the end it
also contains the record remake.json, and picture.png if the remake draws one.
"""

import math
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from diffusion.experiments.evaluation import plots, report
from diffusion.experiments.remake.claims import Remake, Verdict, verdict
from diffusion.io import json_files, json_lines, limits, npz, opener
from diffusion.io.files import atomic
from diffusion.recipe import ConfigError

PARTS, ARRAYS, RECORD, PICTURE = "parts.jsonl", "arrays", "remake.json", "picture.png"


def remake_in(folder: pathlib.Path, remake: Remake, quick: bool, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measures the parts that a folder lacks, and writes and returns the record of them all.

    Args:
        folder: the remake's folder, made if missing; the caller must hold its lock.
        remake: the table or figure to measure.
        quick: whether to run the code only on little data, without a verdict.
        say: a function that receives a line before each part.

    Returns:
        The content of remake.json: {"remake", "quick", "git_commit", "versions", "device", "seconds", "figures",
        "beside"}; "beside" only if the remake has such values.

    Raises:
        ConfigError: if the folder holds another remake, or one that was measured with another `quick`.
        OSError: if the folder cannot be written.
    """
    rows = _measured(folder, remake, quick)
    for number, part in enumerate(remake.parts, 1):
        if part in rows:
            continue
        say(f"{number} of {len(remake.parts)}: {part}")
        began = time.monotonic()
        measured = remake.measure(part, quick)
        arrays = {name: np.asarray(value) for name, value in measured.items() if np.ndim(value)}
        values = {name: float(value) for name, value in measured.items() if name not in arrays}
        if arrays:
            _write_arrays(folder, number, arrays)
        rows[part] = {"remake": remake.name, "quick": quick, "part": part, "values": values}
        rows[part]["seconds"] = time.monotonic() - began
        json_lines.append(folder / PARTS, rows[part])
    record = {
        "remake": remake.name,
        "quick": quick,
        **report.software(),
        "seconds": sum(row["seconds"] for row in rows.values()),
        "figures": [] if quick else [_stated(verdict) for verdict in verdicts(remake, list(rows.values()))],
    }
    if remake.beside and not quick:
        values = {name: value for row in rows.values() for name, value in row["values"].items()}
        record["beside"] = {name: values[name] for name in remake.beside}
    json_files.write(folder / RECORD, record)
    if remake.draw is not None:
        plots.save(
            remake.draw({part: rows[part]["values"] | _arrays(folder, remake, part) for part in rows}), folder / PICTURE
        )
    return record


def verdicts(remake: Remake, rows: list[dict[str, Any]]) -> list[Verdict]:
    """The verdict on each published figure, in the order of the paper.

    Raises:
        ConfigError: if no part measures a published figure.
    """
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row["values"].items():
            values.setdefault(name, []).append(value)
    if remake.conclude is not None:
        compared = remake.conclude({name: statistics.fmean(row) for name, row in values.items()})
        values |= {name: [float(value)] for name, value in compared.items()}
    for published in remake.published:
        if published.figure not in values:
            raise ConfigError(
                f"no part of {remake.name} measures {published.figure!r}. Its parts measure {sorted(values)}."
            )
    return [verdict(published, values[published.figure]) for published in remake.published]


def read_record(path: pathlib.Path) -> dict[str, Any]:
    """A record that `remake_in` has written."""
    return limits.parse_json(opener.read(path), str(path))


def _measured(folder: pathlib.Path, remake: Remake, quick: bool) -> dict[str, dict[str, Any]]:
    """The lines of the folder's parts.jsonl, by the name of the part.

    Raises:
        ConfigError: if the folder holds parts of another remake, or with another `quick`.
    """
    rows = {}
    for row in json_lines.rows(folder / PARTS, followed=True):
        if (row["remake"], row["quick"]) != (remake.name, quick):
            was = f"{row['remake']}{' --quick' * row['quick']}"
            raise ConfigError(f"{folder} holds parts of {was}. Choose another --workdir for {remake.name}.")
        rows[row["part"]] = row
    return {part: rows[part] for part in remake.parts if part in rows}


def _write_arrays(folder: pathlib.Path, number: int, arrays: dict[str, np.ndarray]) -> None:
    (folder / ARRAYS).mkdir(exist_ok=True)
    with atomic(folder / ARRAYS / f"{number}.npz") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def _arrays(folder: pathlib.Path, remake: Remake, part: str) -> dict[str, np.ndarray]:
    """The arrays of a part; {} if it has none."""
    path = folder / ARRAYS / f"{remake.parts.index(part) + 1}.npz"
    if not path.exists():
        return {}
    return npz.load(path, npz.names(path))


def _stated(verdict: Verdict) -> dict[str, Any]:
    return {
        "figure": verdict.published.figure,
        "published": verdict.published.value,
        "half_width": verdict.published.half_width,
        "value": verdict.value,
        "standard_error": verdict.standard_error,
        "reproduced": verdict.reproduced,
        "distance": verdict.distance if math.isfinite(verdict.distance) else None,
    }
