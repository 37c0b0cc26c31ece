"""The valid values in a request, and the conversion of values from JSON or other libraries to their types."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from diffusion.io import schema

TEXT = 20_000  # characters of a prompt
PATH = 4096  # characters


def text(longest: int) -> schema.Valid:
    """Texts of at most `longest` letters, without the letter NUL, which ends a path."""
    valid = schema.text(longest)
    return schema.Valid(f"{valid.words}, without NUL", lambda value: valid.holds(value) and "\0" not in value)


def one_of(*values: str) -> schema.Valid:
    """These texts and no others."""
    return schema.Valid(f"one of {', '.join(values)}", lambda value: isinstance(value, str) and value in values)


PROMPT = text(TEXT)
FILE = text(PATH)
NAME = text(100)
PICTURE = schema.Valid(
    f"the path of a picture ({FILE.words}) or an array",
    lambda value: isinstance(value, np.ndarray) or FILE.holds(value),
)


def valid_as(valid: schema.Valid, name: str, value: Any) -> Any:
    """The value itself; a ValueError if it is not valid."""
    if why := schema.objection(name, value, valid):
        raise ValueError(why)
    return value


def typed(kind: type, value: Any) -> Any:
    """A value as a setting has it: lists as tuples, arrays of one number as the number, paths as texts."""
    if kind is tuple:
        if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
            value = (value,)
        return value if isinstance(value, Mapping) else tuple(typed(object, one) for one in value)
    if isinstance(value, os.PathLike):
        return str(value)
    if kind is str and hasattr(value, "shape") and not isinstance(value, str):
        return np.asarray(value)
    if np.ndim(value) == 0 and (item := getattr(value, "item", None)):
        value = item()
    if isinstance(value, float) and kind is not float and value % 1 == 0:
        return int(value)
    return value
