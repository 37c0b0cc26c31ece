"""Opens the files that a user's data, or someone else's file, names: plain files, in their folder, of a limited size.

    with opener.open_file(folder / name, within=folder, most=2**26) as file:
        content = file.read()

A named pipe would wait for a writer, a device may have no end, and a link can lead to any file of this user. So readers
open nothing by themselves: they call `open_file` or a function here that does, or `check` before a library that opens
by name. `budgets` bounds what a file unpacks to.
"""

import codecs
import contextlib
import functools
import io
import os
import pathlib
import stat
from typing import Any

from diffusion.io import limits

KINDS = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
CHUNK = 2**16  # bytes
SNAPSHOTS, BLOBS = "snapshots", "blobs"  # folders of Hugging Face's cache; links in the first lead to the second


def open_file(
    path: str | os.PathLike, *, within: str | os.PathLike | None = None, most: int | None = None
) -> io.BufferedReader:
    """Opens a plain file to be read; it never waits, and nothing of it is read yet.

    Args:
        path: the file; it may be a link, which is followed.
        within: the folder that the file must lie in after links are followed, where the folder or a file in it gave
            the name; None where the user named the file itself. Links of Hugging Face's cache may lead to its blobs.
        most: the largest size in bytes; None for any.

    Returns:
        The file, open in binary mode.

    Raises:
        OSError: if there is no such file, it is a folder, or this user may not read it.
        limits.Refused: if it is no plain file, lies elsewhere, or is larger.
    """
    _require_plain(path, os.stat(path))  # first, for to open a device can act on it
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        status = os.fstat(descriptor)
        _require_plain(path, status)  # again: what is open may be another file than the one before
        if within is not None:
            _require_inside(path, _place(descriptor, path, status), within)
        if most is not None and status.st_size > most:
            raise limits.Refused(f"{path} has {limits.size(status.st_size)}; at most {limits.size(most)} are read.")
        os.set_blocking(descriptor, True)
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check(path: str | os.PathLike, *, within: str | os.PathLike | None = None, most: int | None = None) -> pathlib.Path:
    """Refuses the files that `open_file` refuses, before a library opens one by its name.

    Args:
        path, within, most: the file, the folder that it must lie in, and its largest size, as in `open_file`.

    Returns:
        The path for the library; with `within`, links are resolved.

    Raises:
        OSError, limits.Refused: as in `open_file`.
    """
    open_file(path, within=within, most=most).close()
    return pathlib.Path(path if within is None else os.path.realpath(path))


def read(path: str | os.PathLike, *, within: str | os.PathLike | None = None, most: int | None = None) -> bytes:
    """The content of a plain file.

    Args:
        path, within: the file, and the folder that it must lie in, as in `open_file`.
        most: the largest size in bytes; None for the memory of this machine.

    Raises:
        OSError, limits.Refused: as in `open_file`.
    """
    most = limits.memory() if most is None else most
    with open_file(path, within=within, most=most) as file:
        content = file.read(os.fstat(file.fileno()).st_size)
        while len(content) <= most and (more := file.read(CHUNK)):  # it may grow; one of /proc has content, and no size
            content += more
    if len(content) > most:
        raise limits.Refused(f"{path} has more than {limits.size(most)}, the most that is read.")
    return content


def read_text(path: str | os.PathLike, *, within: str | os.PathLike | None = None, most: int = limits.TEXT) -> str:
    """The text of a plain file in UTF-8, its lines ended by "\\n".

    Args:
        path, within, most: the file, the folder that it must lie in, and its largest size, as in `open_file`.

    Raises:
        OSError: if it cannot be read.
        limits.Refused: as in `open_file` and `text_of`.
    """
    text = text_of(read(path, within=within, most=most), path)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: str | os.PathLike, *, within: str | os.PathLike | None = None) -> list[str]:
    """The lines of a plain file in UTF-8; a line may hold other ends of lines than "\n", such as U+2028 or U+0085.

    Args:
        path, within: the file, and the folder that it must lie in, as in `open_file`.

    Raises:
        OSError, limits.Refused: as in `read_text`.
    """
    text = read_text(path, within=within)
    return text.removesuffix("\n").split("\n") if text else []


def text_of(content: bytes, path: str | os.PathLike) -> str:
    """The text of a file's content in UTF-8, without the mark that some editors put before it.

    Args:
        content: the bytes of the file.
        path: its name, for the message.

    Raises:
        limits.Refused: if it is not text; the message names the line of the first wrong byte, and the remedy.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        name = os.path.basename(path)
        marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as Excel writes "Unicode text"
        how, code = ("As its mark says, it is in UTF-16;", "UTF-16") if marked else ("If it is in Latin-1,", "LATIN1")
        raise limits.Refused(
            f"{path} is not UTF-8 text: line {line} has the byte 0x{content[error.start]:02x}. {how} "
            f"convert it by: iconv -f {code} -t UTF-8 {name} > new && mv new {name}"
        ) from None


def read_json(path: str | os.PathLike, *, within: str | os.PathLike | None = None) -> Any:
    """The value in a file of JSON, with the limits of `read_text`.

    Args:
        path, within: the file, and the folder that it must lie in, as in `open_file`.

    Raises:
        OSError: if it cannot be read.
        limits.Refused: as in `read_text`, or if it is not JSON.
    """
    return limits.parse_json(read_text(path, within=within), str(path))


def read_table(path: str | os.PathLike, *, within: str | os.PathLike | None = None) -> dict[str, Any]:
    """The table of fields in a file of JSON, with the limits of `read_text`.

    Args:
        path, within: the file, and the folder that it must lie in, as in `open_file`.

    Raises:
        OSError: if it cannot be read.
        limits.Refused: as in `read_json`, or if it holds no table.
    """
    table = read_json(path, within=within)
    if not isinstance(table, dict):
        raise limits.Refused(f"{path} holds {type(table).__name__}, not a table of fields.")
    return table


def _require_plain(path: str | os.PathLike, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(f"{path} is a folder, not a file.")
    if not stat.S_ISREG(status.st_mode):
        raise limits.Refused(f"{path} is not a file, but {KINDS.get(stat.S_IFMT(status.st_mode), 'something else')}.")


def _place(descriptor: int, path: str | os.PathLike, status: os.stat_result) -> str:
    """The path of an open file, with links resolved."""
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/self/fd/{descriptor}")
    place = os.path.realpath(path)  # for systems without /proc
    if not os.path.samestat(os.lstat(place), status):
        raise limits.Refused(f"{path} was replaced while it was opened.")
    return place


def _require_inside(path: str | os.PathLike, place: str, within: str | os.PathLike) -> None:
    if not place.startswith(_root(os.fspath(within))):
        raise limits.Refused(
            f"{path} leads out of its folder {within}, to {place}: the folder is damaged or hostile. If you trust the "
            "link, replace it by the file that it points to (cp -rL copies links as files)."
        )


@functools.lru_cache(maxsize=1024)
def _root(within: str) -> str:
    """The beginning of the paths of all files in a folder."""
    folder = pathlib.Path(os.path.realpath(within))
    for parent in folder.parents:
        if parent.name == SNAPSHOTS and (parent.parent / BLOBS).is_dir():
            folder = parent.parent
    return os.path.join(folder, "")
