"""Files that the library keeps: where, and never half-written."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import BinaryIO


def cache(name: str) -> pathlib.Path:
    """Returns the folder of that name in DIFFUSION_CACHE, or else in ~/.cache/diffusion."""
    return pathlib.Path(os.environ.get("DIFFUSION_CACHE") or "~/.cache/diffusion").expanduser() / name


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Yields a file to write, so that a reader, or a run that was killed, finds the old or the new content, no part."""
    temporary = path.with_name(f".{path.name}.new")
    with open(temporary, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
