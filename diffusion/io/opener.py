"""Opens files whose names come from a user's data or another file: only plain ones, in their folder, of limited size.

    with opener.open_file(folder / name, within=folder, most=2**26) as file:
        content = file.read()

A named pipe would wait for a writer, a device may have no end, and a link can lead to any file of this user. So readers
open nothing by themselves. They call `open_file` or another function of this module, or they call `check` before a
library opens a file by its name. `budgets` limits the size to which a file unpacks.
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
CHUNK = 2**16  # bytes that are read at once from a file that is longer than its stated size
SNAPSHOTS, BLOBS = "snapshots", "blobs"  # folders of Hugging Face's cache; links in the first lead to the second


def open_file(
    path: str | os.PathLike, *, within: str | os.PathLike | None = None, most: int | None = None
) -> io.BufferedReader:
    """Opens a plain file for reading, without ever waiting; nothing of the file is read yet.

    Args:
        path: the file; it may be a link, which is followed.
        within: the folder in which the file must lie after links are followed, if this folder or a file in it stated
            the name; None if the user named the file. In Hugging Face's cache, links may lead to the cache's blobs.
        most: the largest size in bytes; None for any size.

    Returns:
        The file, open in binary mode.

    Raises:
        OSError: if there is no such file, it is a folder, or this user may not read it.
        limits.Refused: if it is no plain file, lies outside `within`, or is larger than `most`.
    """
    _require_plain(path, os.stat(path))  # before it is opened, because opening a device can have effects
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        status = os.fstat(descriptor)
        _require_plain(path, status)  # again, because another file may have taken the name in the meantime
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
        # A file may grow while it is read, and files of /proc have content although their stated size is 0.
        while len(content) <= most and (more := file.read(CHUNK)):
            content += more
    if len(content) > most:
        raise limits.Refused(f"{path} has more than {limits.size(most)}, the most that is read.")
    return content


def read_text(path: str | os.PathLike, *, within: str | os.PathLike | None = None, most: int = limits.TEXT) -> str:
    """The text of a plain file in UTF-8, in which each line ends with "\\n".

    Args:
        path, within, most: the file, the folder that it must lie in, and its largest size, as in `open_file`.

    Raises:
        OSError: if the file cannot be read.
        limits.Refused: under the conditions of `open_file` and `text_of`.
    """
    text = text_of(read(path, within=within, most=most), path)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: str | os.PathLike, *, within: str | os.PathLike | None = None) -> list[str]:
    """The lines of a plain file in UTF-8, without their ends.

    Characters such as U+2028 and U+0085, which Unicode also regards as ends of lines, do not end a line here.

    Args:
        path, within: the file, and the folder that it must lie in, as in `open_file`.

    Raises:
        OSError, limits.Refused: as in `read_text`.
    """
    text = read_text(path, within=within)
    return text.removesuffix("\n").split("\n") if text else []


def text_of(content: bytes, path: str | os.PathLike) -> str:
    """The text of a file's content in UTF-8, without the byte order mark that some editors put before it.

    Args:
        content: the bytes of the file.
        path: the name of the file, for the message.

    Raises:
        limits.Refused: if the content is not UTF-8; the message names the line of the first wrong byte, and the remedy.
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
        OSError: if the file cannot be read.
        limits.Refused: under the conditions of `read_text`, or if the file is not JSON.
    """
    return limits.parse_json(read_text(path, within=within), str(path))


def read_table(path: str | os.PathLike, *, within: str | os.PathLike | None = None) -> dict[str, Any]:
    """The table of fields in a file of JSON, with the limits of `read_text`.

    Args:
        path, within: the file, and the folder that it must lie in, as in `open_file`.

    Raises:
        OSError: if the file cannot be read.
        limits.Refused: under the conditions of `read_json`, or if the file holds no table.
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
    """The beginning of the paths of all files in a folder, or in the cache of Hugging Face around the folder."""
    folder = pathlib.Path(os.path.realpath(within))
    for parent in folder.parents:
        if parent.name == SNAPSHOTS and (parent.parent / BLOBS).is_dir():
            folder = parent.parent
    return os.path.join(folder, "")
