"""Names of runs: they state the fields that differ, are valid names of folders, and are distinct."""

import collections
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffusion.experiments.sweeps.combinators import Overrides, SweepError, identity

LONGEST = 150  # the most letters of a name; file systems allow 255 bytes, and some need room for endings
SAME = "base"  # the name of a run that changes nothing


def varying(runs: Sequence[Overrides], titles: Sequence[str] = ()) -> list[str]:
    """The fields that differ between the runs, or that some run lacks, in the order in which the runs set them.

    A field is left out if the values of `titles` determine its value.
    """
    fields = dict.fromkeys(field for run in runs for field in run)
    value = lambda run, *some: identity({field: run[field] for field in some if field in run})
    count = lambda *some: len({value(run, *some) for run in runs})
    follows = lambda field: bool(titles) and field not in titles and count(field, *titles) == count(*titles)
    return [field for field in fields if count(field) > 1 and not follows(field)]


def labels(fields: Sequence[str]) -> dict[str, str]:
    """{dotted field: its label in names}; the label is the shortest ending of the field that no other field has.

    A ".name" at the end is left out: the label of "objective.weighting.name" is "weighting".
    """

    def ends_of(field: str) -> list[str]:
        parts = field.removesuffix(".name").split(".")
        return [".".join(parts[i:]) for i in reversed(range(len(parts)))]

    ends = {field: ends_of(field) for field in fields}
    common = collections.Counter(end for suffixes in ends.values() for end in set(suffixes))
    return {field: next((end for end in ends[field] if common[end] == 1), field) for field in fields}


def labels_beside(fields: Sequence[str], others: Sequence[str]) -> dict[str, str]:
    """The `labels` of some fields, of which none is a label of other fields either."""
    called = labels([*fields, *others])
    return {field: called[field] for field in fields}


def label(run: Overrides, called: Mapping[str, str]) -> str:
    """The name of a run, such as "parameterization=v,weighting=min_snr"; `called` is {field: label}."""
    return ",".join(f"{called[field]}={text(run[field])}" for field in called if field in run) or SAME


def names(runs: Sequence[Overrides], titles: Sequence[str] = ()) -> list[str]:
    """The names of distinct runs: letters, digits and ._=,+- only, and distinct even without regard to capitals.

    A run gets a hash of its overrides at the end if its label is too long, or equals another label apart from capitals.
    """
    called = labels(varying(runs, titles))
    first = [label(run, called) for run in runs]
    count = collections.Counter(name.casefold() for name in first)
    unclear = lambda name: count[name.casefold()] > 1 or len(name) > LONGEST
    unique = [f"{name[:LONGEST]}-{identity(run)[:8]}" if unclear(name) else name for name, run in zip(first, runs)]
    if len({name.casefold() for name in unique}) < len(unique):
        raise SweepError(
            "two runs would have the same name. Valid: runs that differ in a further field, such as one of `titles`."
        )
    return unique


def texts(run: Overrides, fields: Iterable[str]) -> list[str]:
    """The values of some fields as parts of a name; "" for a field that the run lacks."""
    return [text(run[field]) if field in run else "" for field in fields]


def distinct_texts(runs: Sequence[Overrides], fields: Iterable[str]) -> list[list[str]]:
    """The `texts` of each run; a text that several values of a field have ends with a hash of the value."""
    fields = list(fields)
    rows = [texts(run, fields) for run in runs]
    for column, field in enumerate(fields):
        values = [identity({field: run[field]}) if field in run else "" for run in runs]
        alike = collections.defaultdict(set)
        for row, value in zip(rows, values):
            alike[row[column]].add(value)
        for row, value in zip(rows, values):
            if value and len(alike[row[column]]) > 1:
                row[column] += f"-{value[:8]}"
    return rows


def text(value: Any) -> str:
    """A value as a part of a name: {"name": "min_snr", "gamma": 5} becomes "min_snr-gamma-5"."""
    if isinstance(value, Mapping):
        rest = [f"{key}-{text(item)}" for key, item in value.items() if key != "name"]
        return "-".join([text(value["name"]), *rest] if "name" in value else rest) or "none"
    if isinstance(value, (list, tuple)):
        return "+".join(text(item) for item in value) or "none"
    if value is None or value == "":
        return "none"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", str(value))
