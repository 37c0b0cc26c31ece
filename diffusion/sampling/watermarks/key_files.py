"""Key files: a watermark's name, secret key and arguments as JSON, which is read and never executed."""

import dataclasses
import functools
import hashlib
import inspect
import json
import os
import pathlib
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from diffusion.io import files, limits, opener
from diffusion.package import public
from diffusion.sampling.watermarks.gaussian_shading import gaussian_shading
from diffusion.sampling.watermarks.spread_spectrum import spread_spectrum
from diffusion.sampling.watermarks.tree_ring import tree_ring
from diffusion.sampling.watermarks.watermark import Reading, Watermark, check_finite

WATERMARKS: dict[str, Callable[..., Watermark]] = {
    "gaussian_shading": gaussian_shading,
    "spread_spectrum": spread_spectrum,
    "tree_ring": tree_ring,
}
"""Functions (key, ...) -> `Watermark` by their names in key files."""


def from_entry(entry: Mapping[str, Any]) -> Watermark:
    """The watermark for an entry {"name": ..., "key": ..., **arguments}.

    Raises:
        ValueError: if the name or an argument is unknown, or the watermark refuses an argument.
    """
    arguments = dict(entry)
    name = arguments.pop("name", None)
    if not isinstance(name, str) or name not in WATERMARKS:
        near = public.nearest(name, WATERMARKS)
        hint = f" (did you mean {near!r}?)" if near else ""
        raise ValueError(
            f"name = {limits.short(name)} is not a watermark{hint}. Valid: {', '.join(sorted(WATERMARKS))}"
        )
    function = WATERMARKS[name]
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"{name}: {error}; its arguments are {inspect.signature(function)}") from None
    digest = hashlib.sha256(json.dumps(dict(entry), sort_keys=True).encode()).hexdigest()
    try:
        watermark = function(**arguments)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from None
    if not isinstance(watermark, Watermark):
        raise ValueError(f"{name} returns {limits.kind(watermark)}. Valid: a function that returns a Watermark")
    identity = f"{name} {digest[:16]}"
    return dataclasses.replace(watermark, identity=identity, read=_checked(name, watermark.read))


def _checked(name: str, read: Callable[[Any], Reading]) -> Callable[[Any], Reading]:
    """The function `read` of a watermark, which refuses noise or pictures that are not finite, and a wrong result.

    A p-value that is NaN is not below any level: a picture of it would have no watermark.
    """

    def checked(values: Any) -> Reading:
        check_finite(name, values)
        reading = read(values)
        valid = f"Valid: a Reading of arrays [{len(values)}], with p-values in [0, 1]"
        if not isinstance(reading, Reading):
            raise ValueError(f"read of {name} returns {limits.kind(reading)}. {valid}")
        for field in ("score", "p_value"):
            array = np.asarray(getattr(reading, field))
            if array.shape != (len(values),) or array.dtype.kind != "f" or np.isnan(array).any():
                raise ValueError(f"read of {name}: {field} is {limits.short(array.tolist())}. {valid}")
        if not ((reading.p_value >= 0) & (reading.p_value <= 1)).all():
            raise ValueError(
                f"read of {name}: p_value is {limits.short(np.asarray(reading.p_value).tolist())}. {valid}"
            )
        return reading

    return checked


def load(path: str | pathlib.Path) -> Watermark:
    """The watermark of a key file.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if it is not a key file; the message names the file.
    """
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such key file; diffusion watermark make writes one.")
    try:
        return _parsed(json.dumps(opener.read_table(path)))
    except limits.Refused:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


@functools.lru_cache(16)
def _parsed(text: str) -> Watermark:
    """The watermark of a key file's text; equal texts give the same object, so that its programs are compiled once."""
    return from_entry(json.loads(text))


def make(path: str | pathlib.Path, name: str, **arguments: Any) -> Watermark:
    """Writes a key file with a new random key, readable only by its owner, and returns its watermark.

    Args:
        path: the key file, which must not exist, because the watermarks of an overwritten key could never be read
            again.
        name: name of the watermark in `WATERMARKS`.
        **arguments: the watermark's arguments besides the key.

    Raises:
        FileExistsError: if the file exists.
        ValueError: under the conditions of `from_entry`.
    """
    path = pathlib.Path(path).expanduser()
    if path.exists():
        raise FileExistsError(f"{path} exists already, and pictures may carry its key. Choose another name.")
    entry = {"name": name, "key": secrets.token_hex(32), **arguments}
    watermark = from_entry(entry)
    with files.atomic(path) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write((json.dumps(entry, indent=2) + "\n").encode())
    return watermark
