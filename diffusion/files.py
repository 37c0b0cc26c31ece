"""Files that the library keeps: where, and never half-written."""

import contextlib
import os
import pathlib
import shutil
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


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a folder to fill, which then takes the place of `path` and of what was there: all of it, or nothing."""
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    shutil.rmtree(path, ignore_errors=True)
    temporary.rename(path)
