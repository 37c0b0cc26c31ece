"""The content of a config as plain values, JSON or a hash; the fields in which two configs differ; errors of fields.

A config is an `ml_collections.ConfigDict` of numbers, strings, booleans, None, sequences and mappings, so that it is
written to and read from JSON without executing anything.
"""

import contextlib
import functools
import hashlib
import json
import operator
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict, FieldReference

from diffusion.io import limits
from diffusion.recipe.config_errors import ConfigError

MISSING = "(absent)"
GONE = {  # sections of earlier versions
    "prior": '; its fields are those of {"name": "prior_preservation"} in objective.wrappers'
}


def plain(value: Any, path: str = "config") -> Any:
    """A config as plain dicts with sorted keys, tuples and scalars, so that two of the same content compare equal.

    Numpy's scalars and arrays become numbers and tuples; `path` is where the value stands, for the error.

    Raises:
        ConfigError: where a value has no exact form in JSON (a function, an infinity ...).
    """
    if isinstance(value, FieldReference):
        value = value.get()
    if isinstance(value, ConfigDict):
        value = value.to_dict()
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{path}: the key {key!r} is {limits.kind(key)}. Valid: strings.")
        return {key: plain(value[key], f"{path}.{key}") for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return tuple(plain(item, f"{path}[{i}]") for i, item in enumerate(value))
    if isinstance(value, float) and not np.isfinite(value):
        raise ConfigError(f"{path} = {value!r} is not a finite number. Valid: finite numbers.")
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise ConfigError(
        f"{path} = {value!r} is {limits.kind(value)}. Valid: numbers, strings, booleans, None, and sequences and "
        "mappings of these; write a function by its name."
    )


def put(config: ConfigDict, field: str, value: Any) -> None:
    """Sets a dotted field of a config in place; a mapping replaces the whole entry.

    Raises:
        KeyError: for a section that the config does not have.
    """
    *sections, name = field.split(".")
    for section in sections:
        if section not in config:
            raise KeyError(f"there is no {section!r} in {field}{GONE.get(section, '')}")
        config = config[section]
    config[name] = ConfigDict(value) if isinstance(value, Mapping) else value


def value_at(config: Mapping, field: str) -> Any:
    """The value of a dotted field of a config.

    Raises:
        KeyError: for a field that the config does not have.
    """
    return functools.reduce(operator.getitem, field.split("."), config)


def to_json(config: ConfigDict | Mapping) -> str:
    """A config as JSON text with sorted keys, which `from_json` turns back into an equal config.

    Raises:
        ConfigError: where a value has no exact form in JSON.
    """
    return json.dumps(plain(config), indent=2, allow_nan=False)


def from_json(text: str) -> ConfigDict:
    """The config that `to_json` wrote; nothing is executed, and sequences come back as tuples.

    Raises:
        ConfigError: where the text is not JSON, or not an object.
    """
    try:
        value = limits.parse_json(text, "config.json")
    except limits.Refused as refused:
        raise ConfigError(
            f"{refused} It is written by diffusion train; restore it, or start the run again."
        ) from refused
    if not isinstance(value, dict):
        raise ConfigError(f"config.json holds {limits.kind(value)}, not an object of fields.")
    value = plain(value)
    try:
        return ConfigDict(value)
    # A field that would hide a method of ConfigDict's, as "__class__", or has a dot in its name.
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"config.json has an invalid field: {error}.") from error


def built_in_python(config: Mapping) -> bool:
    """Whether Python built the run: then its config describes the parts, and a command finds no names there.

    A description of the schedule holds its functions; a dot in a name may also come from a user's name,
    "mypaper.power".
    """
    schedule = config.get("schedule")
    if not isinstance(schedule, (Mapping, ConfigDict)):
        return False
    return "." in str(schedule.get("name")) and {"alpha", "sigma"} <= set(schedule)


def require_sections(config: Mapping, workdir: Any) -> None:
    """Refuses the config.json of a folder that is no run, e.g. the folder of a network.

    Raises:
        ConfigError: naming a section that every run has.
    """
    if lacking := [section for section in ("model", "train", "sample") if section not in config]:
        raise ConfigError(
            f"--workdir={workdir} holds no run: its config.json has no section {lacking[0]!r}, and may belong to a "
            "network. Valid: a folder that diffusion train made."
        )


def require_names(config: Mapping, workdir: Any) -> None:
    """Refuses, for a command, the run of a recipe that was built in Python.

    Raises:
        ConfigError: saying how to go on.
    """
    if built_in_python(config):
        raise ConfigError(
            f"--workdir={workdir}: this run was built in Python from objects that a command cannot name. Continue "
            "from Python with the Recipe that made it: train(recipe, folder), sample(recipe, folder) or "
            "evaluate(recipe, folder); see docs/extend.md."
        )


def refused(config: Mapping, field: str, why: str, valid: str) -> ConfigError:
    """The error for a field: its path, its value, why it is refused, and what is valid."""
    return ConfigError(f"config.{field} = {value_at(plain(config), field)!r}, but {why}. Valid: {valid}.")


def wrappers(config: Mapping) -> str:
    """The field that has the wrappers of the objective; the objective's own where Python built it."""
    return "objective.name" if built_in_python(config) else "objective.wrappers"


@contextlib.contextmanager
def blamed_on(config: Mapping, *fields: str) -> Iterator[None]:
    """Turns a ValueError in its block into a ConfigError that begins with these dotted fields and their values.

    Fields that the config lacks are left out. The parts of a recipe from Python have no fields: their errors do not
    change.
    """
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        if built_in_python(config):
            raise
        named = []
        for field in fields:
            *sections, last = field.split(".")
            entry = plain(config)
            for section in sections:
                entry = entry.get(section, {})
            if last in entry:
                named.append(f"config.{field} = {entry[last]!r}")
        raise ConfigError(f"{', '.join(named)}: {error}." if named else f"{error}.") from error


def config_hash(config: ConfigDict | Mapping) -> str:
    """12 hexadecimal digits, on every machine the same, and equal exactly for configs that do not differ."""
    return hashlib.sha256(canonical(plain(config)).encode()).hexdigest()[:12]


def canonical(value: Any) -> str:
    """One text for each value: 1.0 is written as 1 (a flag may have turned one into the other), but True is not."""

    def spell(value):
        if isinstance(value, dict):
            return {key: spell(item) for key, item in value.items()}
        if isinstance(value, tuple):
            return [spell(item) for item in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    return json.dumps(spell(value))


class Difference(NamedTuple):
    """One dotted field in which two configs differ; `MISSING` stands for a field that one of them lacks."""

    field: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.field}: {self.old!r} -> {self.new!r}"


def differences(old: ConfigDict | Mapping, new: ConfigDict | Mapping) -> list[Difference]:
    """The dotted fields in which two configs differ, sorted; sequences are compared whole."""
    old = flattened(plain(old))
    new = flattened(plain(new))
    text = lambda values, field: canonical(values[field]) if field in values else None
    return [
        Difference(field, old.get(field, MISSING), new.get(field, MISSING))
        for field in sorted(old.keys() | new.keys())
        if text(old, field) != text(new, field)
    ]


def flattened(tree: dict, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict of dotted names; an empty dict stays, so that its absence shows."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
