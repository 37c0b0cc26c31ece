"""The files that the library keeps: their folder, and how to write them whole."""

__all__ = ["array", "atomic", "cache", "file_name", "lock", "other_names", "whole_folder", "write_text"]

import contextlib
import fcntl
import os
import pathlib
import secrets
import shutil
from collections.abc import Callable, Iterator
from typing import BinaryIO, Literal

import numpy as np

from diffusion.io import failures, npy
from diffusion.package import public


def cache(name: str) -> pathlib.Path:
    """Returns the folder of that name in DIFFUSION_CACHE, or else in ~/.cache/diffusion."""
    return pathlib.Path(os.environ.get("DIFFUSION_CACHE") or "~/.cache/diffusion").expanduser() / name


def file_name(text: str) -> str:
    """A text as the name of a file, or a part of it: "/" becomes "%2F", since it would begin a folder."""
    return text.replace("/", "%2F")


def other_names(folder: pathlib.Path, belongs: Callable[[str], bool]) -> str:
    """Returns the names in a folder that do not belong there, at most three of them; "" without any.

    Args:
        folder: the folder, which may be new.
        belongs: a function name -> whether it belongs there; hidden names belong everywhere.
    """
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    others = [name for name in names if not (name.startswith(".") or belongs(name))]
    return ", ".join(others[:3]) + (" ..." if len(others) > 3 else "")


def array(path: pathlib.Path, mmap_mode: Literal["r"] | None = None) -> np.ndarray | None:
    """Returns the array in a .npy file, or None where the file is missing or torn, and may be written again.

    Args:
        path: the .npy file.
        mmap_mode: "r" for an array that is mapped into memory, None for one in memory.

    Raises:
        failures.Unreadable: if this machine could not read it, so that it may be sound.
    """
    try:
        mapped = npy.mapped(path)
        return mapped if mmap_mode else np.array(mapped)
    except (OSError, ValueError, EOFError) as error:
        if failures.is_machine_failure(error):
            raise failures.Unreadable(f"{path} could not be read: {error}.") from error
        return None


@contextlib.contextmanager
def atomic(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Yields a file to write; a reader, or a run that was killed, finds the old content or the new, never a part.

    If several processes write a file at once, the file has the content of the last one to end.

    Raises:
        OSError: if the disk is full; the message names the file.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        file = open(temporary, "wb", opener=_alone)
    except BlockingIOError:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
        file = open(temporary, "wb")
    with file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            if (why := failures.full_disk(error)) is None:
                raise
            temporary.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # closing writes what is left in the buffer
                file.close()
            raise failures.no_room(path, why) from error


def _alone(path: str, flags: int) -> int:
    """Opens a file that an ended process may have left, and empties it.

    Raises:
        BlockingIOError: if another process writes it.
    """
    descriptor = os.open(path, flags & ~os.O_TRUNC, 0o666)
    lock(descriptor, path)
    os.ftruncate(descriptor, 0)
    return descriptor


def lock(descriptor: int, path: str | os.PathLike) -> None:
    """Locks an open file or folder until its descriptor is closed.

    Raises:
        BlockingIOError: if another process writes it; the descriptor is then closed.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        named = os.stat(path).st_ino == os.fstat(descriptor).st_ino
    except (BlockingIOError, FileNotFoundError):
        named = False
    except OSError:  # a file system without locks
        named = True
    if not named:  # another process writes this file, or has just given it its name
        os.close(descriptor)
        raise BlockingIOError(f"another process writes {path}.")


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all."""
    with atomic(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a folder to fill, which then takes the place of `path` and of what was there: all of it, or nothing.

    What was there is moved aside before, and removed after. If the process ends in between, the next call moves it
    back. If several processes fill a folder at once, it has the content of the last one to end.
    """
    path = pathlib.Path(path).resolve()
    before = path.with_name(f".{path.name}.old")
    if before.exists() and not path.exists():
        before.rename(path)
    temporary = path.with_name(f".{path.name}.new")
    try:
        descriptor = _empty_folder(temporary)
    except (BlockingIOError, FileNotFoundError):
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
        descriptor = _empty_folder(temporary)
    try:
        yield temporary
        shutil.rmtree(before, ignore_errors=True)
        if path.exists():
            path.rename(before)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)
    shutil.rmtree(before, ignore_errors=True)


def _empty_folder(path: pathlib.Path) -> int:
    """Makes and locks a folder, and removes what an ended process may have left in it; returns its descriptor.

    Raises:
        BlockingIOError: if another process fills it.
    """
    path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY)
    lock(descriptor, path)
    for item in path.iterdir():
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        else:
            item.unlink()
    return descriptor


public.declare(__name__, renamed={"whole": "atomic"})
