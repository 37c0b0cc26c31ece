"""A setting of a record that users fill: its type, default, valid values and help, for commands, pages and files."""

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from diffusion.io import schema
from diffusion.text_to_image.valid_values import typed, valid_as


class Setting(NamedTuple):
    """One setting of a request.

    Attributes:
        type: int, float, bool, str or tuple; the type of a picture is str, its path.
        default: the value if the caller passes none.
        valid: the valid values.
        optional: whether the value may also be None.
        help: the description for users.
        item: conversion of the caller's value to an item of the tuple; None if the setting is no tuple.
    """

    type: type
    default: Any
    valid: schema.Valid
    optional: bool
    help: str
    item: Callable[[Any], Any] | None = None

    def read(self, name: str, value: Any) -> Any:
        """The value in the setting's type: JSON and NumPy numbers are converted, and a single value becomes a tuple.

        Raises:
            ValueError: for a value of another type, or out of range.
        """
        if value is None and self.optional:
            return None
        if self.item is None:
            value = typed(self.type, value)
        else:
            value = tuple(map(self.item, value if isinstance(value, (list, tuple)) else (value,)))
        value = valid_as(self.valid, name, value)
        return float(value) if self.type is float else value


def setting(default: Any, valid: schema.Valid, help: str, item: Callable[[Any], Any] | None = None) -> Any:
    """A field of a dataclass of settings: its default, valid values (besides None), help, and conversion of items."""
    return dataclasses.field(default=default, metadata={"valid": valid, "help": help, "item": item})


@functools.cache
def settings(record: type) -> Mapping[str, Setting]:
    """The settings of a dataclass whose fields `setting` makes, by name."""
    hints = typing.get_type_hints(record)
    table = {}
    for field in dataclasses.fields(record):
        hint = hints[field.name]
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        kind = typing.get_origin(kinds[0]) or kinds[0]
        table[field.name] = Setting(kind, field.default, optional=types.NoneType in kinds, **field.metadata)
    return types.MappingProxyType(table)
