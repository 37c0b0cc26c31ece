"""The rows of the zoo by name: the TOML files in this folder, and the rows that a user adds in Python.

    [edm2_m_imagenet64]                      # a table is a row, and its fields are those of `row.Row`
    like = "edm2_s_imagenet64"               # an earlier row of the file, whose values are the defaults
    method = "EDM2-M, ImageNet 64"
    checkpoint.file = "edm2-img64-m-2147483-0.060.pkl"
    changes.model = {width = 256}            # other arguments of the entry; with a name it is another entry
    published.value = 1.43

TOML has no None, so "null" among the changes means None. `checkpoint.stored` holds the network's fields that differ in
the file. `checkpoint.taken` names a function of `TAKEN`, and `checkpoint.export` a program of the file's table
`programs`. Reading a file executes no code.
"""

import pathlib
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from diffusion.experiments.zoo.row import Checkpoint, Measured, Published, Row
from diffusion.experiments.zoo.velocity_signs import negated, toward_noise
from diffusion.io import opener
from diffusion.recipe import ConfigError, unknown

TOPICS = ("transformers", "unets", "few_steps")  # the order of the page
OF_ONE_ROW = {"measured": None, "loss": ""}  # fields that a row never takes from another one
TAKEN = {"negated": negated, "toward_noise": toward_noise}


def read(path: pathlib.Path) -> list[Row]:
    """The rows in a TOML file, in their order.

    Raises:
        ConfigError: for an unknown field, row, function or program, a missing field, or text that is not TOML.
    """
    try:
        tables = tomllib.loads(opener.read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    programs = tables.pop("programs", {})
    stated: dict[str, Mapping[str, Any]] = {}
    for name, table in tables.items():
        like = table.pop("like", None)
        if like is not None and like not in stated:
            raise unknown(f"{path.name}: {name}.like", like, stated, "earlier row")
        stated[name] = table if like is None else _merged({**stated[like], **OF_ONE_ROW}, table)
    return [_row(f"{path.name}: {name}", {"name": name, **table}, programs) for name, table in stated.items()]


def _merged(base: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """The base with the values of the table. A mapping with a name replaces the whole mapping; others are merged."""
    nested = lambda name, value: isinstance(value, dict) and isinstance(base.get(name), dict) and "name" not in value
    return {
        **base,
        **{name: _merged(base[name], value) if nested(name, value) else value for name, value in table.items()},
    }


def _row(path: str, table: dict[str, Any], programs: Mapping[str, str]) -> Row:
    checkpoint = dict(table.get("checkpoint", {}))
    if stored := checkpoint.get("stored"):
        checkpoint["stored"] = lambda network: network.clone(**stored)
    for name, values, kind in (("taken", TAKEN, "function"), ("export", programs, "program")):
        if name in checkpoint:
            if checkpoint[name] not in values:
                raise unknown(f"{path}.checkpoint.{name}", checkpoint[name], values, kind)
            checkpoint[name] = values[checkpoint[name]]
    parts = {
        "checkpoint": _record(Checkpoint, f"{path}.checkpoint", checkpoint),
        "changes": {name: _value(value) for name, value in table.get("changes", {}).items()},
        "published": _record(Published, f"{path}.published", table.get("published", {})),
        "notes": tuple(table.get("notes", ())),
    }
    if table.get("measured") is not None:
        parts["measured"] = _record(Measured, f"{path}.measured", table["measured"])
    return _record(Row, path, {**table, **parts})


def _record(kind: type, path: str, fields: Mapping[str, Any]) -> Any:
    """A named tuple of these fields."""
    for name in fields:
        if name not in kind._fields:
            raise unknown(path, name, kind._fields, "field")
    for name in kind._fields:
        if name not in fields and name not in kind._field_defaults:
            raise ConfigError(f"{path}.{name} is missing.")
    return kind(**fields)


def _value(value: Any) -> Any:
    """A value in the form of configs: tuples in place of arrays, and None in place of "null"."""
    if isinstance(value, dict):
        return {name: _value(part) for name, part in value.items()}
    if isinstance(value, list):
        return tuple(_value(part) for part in value)
    return None if value == "null" else value


ROWS: dict[str, Row] = {
    row.name: row for topic in TOPICS for row in read(pathlib.Path(__file__).with_name(f"{topic}.toml"))
}


def add(row: Row) -> None:
    """Adds a row, which the command then lists and measures. Call it in a file that --extend names.

    Raises:
        ConfigError: if there is already a row of this name, or the name is invalid.
    """
    if not re.fullmatch(r"\w+", row.name):
        raise ConfigError(f"zoo: a row cannot be named {row.name!r}. Valid: letters, digits and underscores.")
    if row.name in ROWS:
        raise ConfigError(f"zoo: there is already a row {row.name!r}. Choose another name.")
    ROWS[row.name] = row


def find(name: str) -> Row:
    """The row of that name.

    Raises:
        ConfigError: for an unknown name; the message lists the valid ones.
    """
    if name not in ROWS:
        raise unknown("--row", name, ROWS, "row")
    return ROWS[name]
