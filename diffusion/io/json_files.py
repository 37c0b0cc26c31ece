"""Files of one JSON value, which are written completely or not at all; NaN and infinity become null."""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffusion.io import files


def write(path: pathlib.Path, content: Any) -> None:
    """Writes a value as indented JSON, completely or not at all.

    Args:
        path: file to write, in a folder that exists.
        content: value that `plain` accepts.
    """
    files.write_text(path, json.dumps(finite(plain(content)), indent=2, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """A nested value of Python, NumPy or JAX as dicts with text keys, lists and Python's numbers.

    Args:
        value: mapping with keys of any type, sequence, number, text, bool or None, nested to any depth.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) or getattr(value, "shape", None) == () else value


def finite(value: Any) -> Any:
    """A value that `plain` returned, with None in place of NaN and infinity, which JSON does not have.

    Args:
        value: dict, list, number, text, bool or None, nested to any depth.
    """
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
