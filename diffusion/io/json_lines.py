"""Files of one JSON object a line, which a crash or a second writer leaves whole up to a torn last line."""

import errno
import json
import os
import pathlib
from collections.abc import Mapping

from diffusion.io import failures, files, limits, opener


def append(path: pathlib.Path, row: Mapping) -> None:
    """Adds one line of JSON by a single write, so that a run that is killed leaves it whole or not at all."""
    line = (json.dumps(row, allow_nan=False) + "\n").encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        written = os.write(descriptor, line)
        if written != len(line):  # the next line must not stick to a part of this one
            os.ftruncate(descriptor, os.lseek(descriptor, 0, os.SEEK_CUR) - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        why = failures.full_disk(error)
        raise failures.no_room(path, why) if why else OSError(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        os.close(descriptor)


def rows(path: pathlib.Path, followed: bool = False) -> list[dict]:
    """The lines of a .jsonl file that a run is perhaps writing; a torn last one is left out.

    Args:
        path: metrics.jsonl or its like; may be missing.
        followed: whether the next writer may have gone on after a torn line; a line that is no JSON is then left out
            wherever it is.

    Raises:
        OSError: if a line before the torn one is no JSON object; the message has its number.
    """
    try:
        lines = opener.read(path).splitlines(keepends=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    objects = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = limits.parse_json(line, f"{path}: line {number}")
        except limits.Refused as error:
            if line.endswith(b"\n") and not followed:
                raise OSError(f"{error} Repair the line or remove it.") from error
            continue
        if not isinstance(row, dict):
            raise OSError(f"{path}: line {number} is not a JSON object: {line.decode()[:40].strip()}.")
        objects.append(row)
    return objects


def rewind(path: pathlib.Path, step: int) -> None:
    """Drops the lines that a run wrote after the step at which it goes on, and a torn last one.

    Args:
        path: metrics.jsonl or timing.jsonl; may be missing.
        step: the largest step whose lines stay.
    """
    if not path.exists():
        return
    lines = opener.read(path).splitlines(keepends=True)
    stay = []
    for line in lines:
        try:
            if limits.parse_json(line, str(path))["step"] <= step and line.endswith(b"\n"):
                stay.append(line)
        except (ValueError, KeyError, TypeError):
            break  # a crash of the machine tore this line, and what follows is none of this run's
    if stay != lines:
        with files.atomic(path) as file:
            file.write(b"".join(stay))


def mend(path: pathlib.Path) -> None:
    """Drops a last line that a crash of the machine tore, so that the next one does not stick to it.

    Args:
        path: the file, which no other process appends to at the same time; may be missing.
    """
    if not path.exists():
        return
    content = opener.read(path)
    complete = content.rfind(b"\n") + 1
    if complete < len(content):
        os.truncate(path, complete)


def sync(path: pathlib.Path) -> None:
    """Sees a file to the disk, before something relies on it, such as a checkpoint on the lines before it."""
    if path.is_file():
        with open(path) as file:
            os.fsync(file.fileno())
