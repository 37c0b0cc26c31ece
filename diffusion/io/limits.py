"""Limits for files from elsewhere: sizes that this machine can hold, and names that stay inside their folder.

Checkpoints, datasets and samples are read without executing anything. A hostile file can still declare more data than
it has (a shape of 10^15, an archive that unpacks without end), or lead elsewhere (by a link, or a name with ".."). So
each reader calls these functions before it allocates memory or opens a file. The limits follow from the memory of the
machine, not from the usual size of a model.
"""

import json
import math
import os
import pathlib
import posixpath
import stat
from collections.abc import Iterable
from typing import Any

TEXT = 2**26  # bytes of a file of text, such as config.json: 64 MiB
NESTED = 64  # deepest nesting of JSON
AXES = 64  # most axes of a NumPy array
SIDE = 2**128  # longer than any array
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


class Refused(ValueError):
    """A file declares a value that is not allowed; the message states the value, the valid ones, and what to do."""


def memory() -> int:
    """Returns the bytes of memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def size(number: int) -> str:
    """Returns a number of bytes in words, for example "1.5 GiB"."""
    power = min((max(number, 1).bit_length() - 1) // 10, len(UNITS) - 1)
    return f"{min(number, 2**1000) / 1024**power:.4g} {UNITS[power]}"  # a number above 2^1024 has no float


def array_bytes(what: str, shape: Any, itemsize: int) -> int:
    """Returns the bytes of an array of a declared shape.

    Args:
        what: name of the file or the field that declares it, for the message.
        shape: the shape, as the file states it.
        itemsize: bytes of an element.

    Raises:
        Refused: if the shape is not a sequence of at most `AXES` whole numbers from 0 to `SIDE`.
    """
    valid = f"at most {AXES} whole numbers from 0 to 2^128"
    if not isinstance(shape, (list, tuple)):
        raise Refused(f"{what} declares {kind(shape)} as its shape. Valid: {valid}.")
    if len(shape) > AXES:  # checked first, because the time of their product grows with the square of their number
        raise Refused(f"{what} declares a shape with {len(shape)} sides. Valid: {valid}.")
    for number, side in enumerate(shape):
        if type(side) is not int or not 0 <= side <= SIDE:
            shown = kind(side)  # to print tuples of tuples that share their parts could take forever
            if type(side) is int:
                shown = str(side) if abs(side) <= SIDE else "beyond 2^128"
            raise Refused(f"{what} declares a shape whose side {number} is {shown}. Valid: {valid}.")
    return math.prod(shape) * itemsize


def fits(what: str, declared: int) -> None:
    """Refuses data that do not fit into the memory of this machine.

    Args:
        what: name of the file or the field that declares the size, for the message.
        declared: size in bytes, as the file states it.

    Raises:
        Refused: if the machine has less memory.
    """
    if declared > memory():
        raise Refused(
            f"{what} declares {size(declared)}, and this machine has {size(memory())} of memory. If that is "
            "its true size, read it on a larger machine; otherwise the file is damaged or hostile."
        )


def inside(what: str, names: Iterable[str]) -> None:
    """Refuses names that would lead out of a folder when they are used as paths.

    Args:
        what: name of the file that holds the names, for the message.
        names: the names, with "/" between their parts.

    Raises:
        Refused: at the first name that is absolute or empty, or has a part "." or "..", a backslash, or a NUL.
    """
    for name in names:
        if any(part in ("", ".", "..") for part in name.split("/")) or "\\" in name or "\0" in name:
            raise Refused(f"{what} holds the name {name!r}, which leads out of its folder: it is damaged or hostile.")


def inner(where: str, name: str) -> str:
    """The path of a file relative to the folder of the table that names it, without the parts "." and "..".

    Args:
        where: the table and the line, for the message.
        name: the name, such as "1.png", "./1.png" or "cats/../dogs/1.png".

    Raises:
        Refused: if the name is empty or absolute, leads out of the folder or to the folder itself, or has a backslash
            or a NUL.
    """
    plain = posixpath.normpath(name)
    reasons = {
        "is empty": not name.strip(),
        "is an absolute path": name.startswith("/"),
        "has a backslash, where this system has /": "\\" in name,
        "has the character NUL": "\0" in name,
        "leads out of its folder": plain.split("/")[0] == "..",
        "is the folder itself": plain == ".",
    }
    if wrong := next((reason for reason, holds in reasons.items() if holds), ""):
        raise Refused(f"{where} names the file {short(name)}, which {wrong}. Valid: a path from the table's folder on.")
    return plain


def plain_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Refuses a folder that holds, at any depth, anything but files and folders: links, pipes, devices.

    Args:
        folder: the folder, which may itself be a link.

    Returns:
        The paths of all files, at any depth.

    Raises:
        Refused: at the first entry that is neither a file nor a folder.
        OSError: if a folder cannot be read.
    """

    def stop(error):
        raise error

    plain = []
    for parent, folders, files in os.walk(folder, onerror=stop):
        for name in (*folders, *files):
            kind = os.lstat(os.path.join(parent, name)).st_mode
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                word = "a link" if stat.S_ISLNK(kind) else "neither a file nor a folder"
                raise Refused(
                    f"{os.path.join(parent, name)} is {word}, which could lead anywhere. Replace it by the file that "
                    "it points to (cp -rL copies links as files)."
                )
        plain += [pathlib.Path(parent, name) for name in files]
    return plain


def no_links(folder: pathlib.Path) -> None:
    """Refuses a run folder that holds a link to a file, through which a write would change another file, or a device.

    Args:
        folder: the folder; folders in it may be links, so that checkpoints may lie on another disk.

    Raises:
        Refused: at the first entry that is a link to a file, or is neither a file nor a folder.
        OSError: if the folder cannot be read.
    """
    for entry in os.scandir(folder):
        if not entry.is_dir() and (entry.is_symlink() or not entry.is_file()):
            word = "a link to a file" if entry.is_symlink() else "no file"
            raise Refused(f"{entry.path} is {word}; in a run folder only folders may be links. Remove it.")


def parse_json(text: str | bytes, what: str) -> Any:
    """The value of a text in JSON, nested no deeper than a recursive function can follow.

    Args:
        text: the JSON.
        what: name of the file that holds the text, for the message.

    Raises:
        Refused: if the text is not JSON, has a number that Python does not read, names a field twice with different
            values, or is nested deeper than `NESTED`.
    """
    try:
        value = json.loads(text, object_pairs_hook=_table)
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, not text, or a number of over 4,300 digits
        raise Refused(f"{what} is not valid JSON: {error}.") from error
    level = [value]
    for _ in range(NESTED):
        level = [
            item
            for node in level
            if isinstance(node, (list, dict))
            for item in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return value
    raise Refused(f"{what} is not valid JSON: its lists and tables are nested more than {NESTED} deep.")


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of a table in JSON; Python itself would take the last of two values, and other programs the first."""
    table = dict(pairs)
    if len(table) < len(pairs):
        for name, value in pairs:
            if value != table[name]:
                raise ValueError(f"the field {short(name)} occurs twice, with different values")
    return table


def reason(error: BaseException) -> str:
    """Returns the message of an error on one line, cut after 200 characters; without a message, the error's type."""
    message = " ".join(str(error).split())
    return message[:200] or type(error).__name__


def kind(value: Any) -> str:
    """Returns the name of a value's type with its article, as an error message shows it: "an int"."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeioAEIO' else 'a'} {name}"


def short(value: Any) -> str:
    """Returns a value from elsewhere as an error message shows it: on one line, cut after 100 characters."""
    text = json.dumps(value, default=repr) if isinstance(value, (dict, list, tuple)) else repr(value)
    return text if len(text) <= 100 else f"{text[:100]} ..."
