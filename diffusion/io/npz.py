"""Arrays out of .npz files from elsewhere: without pickle, no larger than they are, row by row where they are large."""

import contextlib
import io
import lzma
import math
import pathlib
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO

import numpy as np

from diffusion.io import budgets, failures, limits, npy, opener
from diffusion.io.npy import Header

SKIP = 2**20  # bytes that are read at once on the way to a position
# What zipfile, the decompressors and NumPy's reader of headers raise for bytes that are none of theirs.
DAMAGED = (*npy.DAMAGED, NotImplementedError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)


def names(path: pathlib.Path | str) -> set[str]:
    """The names of the arrays in a file; nothing else is read.

    Raises:
        Refused: if the file is damaged.
        OSError: if it cannot be read.
    """
    with _archive(path) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist()}


def headers(path: pathlib.Path | str, only: Iterable[str] | None = None) -> dict[str, Header]:
    """The arrays in a file, by name; none of them is read.

    Args:
        path: the .npz file.
        only: the names of the arrays to look at; None for all.

    Returns:
        name -> Header.

    Raises:
        Refused: if the file is damaged, holds objects, or an array declares another size than it has.
        OSError: if it cannot be read.
    """
    with _archive(path) as archive:
        return _headers(archive, path, only)


def _headers(archive: zipfile.ZipFile, path: pathlib.Path | str, only: Iterable[str] | None) -> dict[str, Header]:
    entries = _entries(archive)
    wanted = [name for name in (entries if only is None else only) if name in entries]
    return {name: header(archive, entries[name], f"{entries[name]} in {path}") for name in wanted}


def _entries(archive: zipfile.ZipFile) -> dict[str, str]:
    """The arrays of a file: the name of an array -> the name of its entry."""
    return {name.removesuffix(".npy"): name for name in archive.namelist()}


@contextlib.contextmanager
def _archive(path: pathlib.Path | str) -> Iterator[zipfile.ZipFile]:
    """Opens an .npz file; what is damaged in it while it is open is refused."""
    with (
        opener.open_file(path) as file,
        _refusing(f"{path} is not a valid .npz file"),
        zipfile.ZipFile(file) as archive,
    ):
        yield archive


@contextlib.contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Turns errors of damaged content into refusals; errors of the disk pass unchanged."""
    try:
        yield
    except limits.Refused:
        raise
    except DAMAGED as error:
        raise limits.Refused(f"{what} ({limits.reason(error)}).") from error
    except OSError as error:
        if not failures.is_impossible_place(error):  # one to which the table of contents points
            raise
        raise limits.Refused(f"{what} ({limits.reason(error)}).") from error


def header(archive: zipfile.ZipFile, name: str, what: str) -> Header:
    """Reads the header of an array, whose declared size must be the size of its entry in the file.

    Args:
        archive: the file.
        name: the name of the array's entry, e.g. "images.npy".
        what: the name of the array in messages.

    Returns:
        The header.

    Raises:
        Refused: if the two differ, or the array is of a kind that is not read.
    """
    with archive.open(name) as file:  # NumPy would allocate what the header declares before it reads
        declared = npy.read_header(file, archive.getinfo(name).file_size, what)  # type: ignore[arg-type]
    if declared.fortran and len(declared.shape) > 1:
        raise limits.Refused(
            f"{what} is stored column by column, which is not read; save it with np.ascontiguousarray."
        )
    return declared._replace(fortran=False)


def load(path: pathlib.Path | str, wanted: Iterable[str]) -> dict[str, np.ndarray]:
    """Reads arrays whole.

    Args:
        path: the .npz file.
        wanted: names of the arrays to read; the result lacks those that the file does not have.

    Returns:
        name -> array.

    Raises:
        Refused: as in `headers`, or if one is larger than this machine's memory.
        OSError: if it cannot be read.
    """
    with _archive(path) as archive:
        there = _headers(archive, path, wanted)
        for name, declared in there.items():
            limits.fits(f"{name} in {path}", limits.array_bytes(name, declared.shape, declared.dtype.itemsize))
        return {name: _array(archive, name, declared) for name, declared in there.items()}


def decoded(content: bytes, what: str) -> dict[str, np.ndarray]:
    """The arrays in the content of a .npz file, whole; they unpack to no more than `budgets` allows.

    Args:
        content: the bytes.
        what: the name of the file, for messages.

    Raises:
        Refused: as in `headers`, or if they unpack to more.
    """
    budget = budgets.Budget(what, budgets.unpacked(len(content)))
    with _refusing(f"{what} is not a valid .npz file"), zipfile.ZipFile(io.BytesIO(content)) as archive:
        there = _headers(archive, what, None)
        for declared in there.values():
            budget.spend(limits.array_bytes(what, declared.shape, declared.dtype.itemsize), members=1)
        return {name: _array(archive, name, declared) for name, declared in there.items()}


def _array(archive: zipfile.ZipFile, name: str, declared: Header) -> np.ndarray:
    """An array whose header has been checked."""
    array = np.empty(declared.shape, declared.dtype)
    rest = memoryview(array.reshape(-1).view(np.uint8)) if array.nbytes else memoryview(b"")  # type: ignore[arg-type]
    with archive.open(_entries(archive)[name]) as file:
        _skip(file, declared.start)
        while rest:
            count = file.readinto(rest)  # type: ignore[attr-defined]
            if not count:
                raise limits.Refused(f"{name} is truncated.")
            rest = rest[count:]
    return array


def stored(path: pathlib.Path | str) -> dict[str, int]:
    """The positions of the uncompressed arrays, which can be mapped into memory.

    Args:
        path: the .npz file.

    Returns:
        name -> the byte of the file at which its .npy begins; compressed and empty arrays are left out.

    Raises:
        Refused: if the file is damaged.
        OSError: if it cannot be read.
    """
    starts = {}
    with opener.open_file(path) as file, _refusing(f"{path} is not a valid .npz file"):
        with zipfile.ZipFile(file) as archive:
            infos = [info for info in archive.infolist() if info.compress_type == zipfile.ZIP_STORED]
        for info in infos:
            file.seek(info.header_offset)
            local = file.read(30)
            if len(local) < 30:
                raise limits.Refused(f"{path} is truncated.")
            extra = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
            starts[info.filename.removesuffix(".npy")] = info.header_offset + 30 + extra
    return starts


def _skip(file: IO[bytes], position: int) -> None:
    """Goes to a position of a member by reading, so that its checksum is compared at its end.

    From Python 3.12 on a forward `seek` in a member that is not compressed ends that comparison without a word.
    """
    if position < file.tell():
        file.seek(0)
    while (left := position - file.tell()) > 0 and file.read(min(left, SKIP)):
        pass


def rows(path: pathlib.Path | str, name: str) -> Callable[[int, int], np.ndarray]:
    """A function that reads some rows of an array, which need not fit into memory; it is fast in ascending order.

    Args:
        path: the .npz file.
        name: the name of the array.

    Returns:
        (start, stop) -> array [stop - start, ...]; raises Refused if the file is damaged there. Several threads may
        call it, which wait for one another.
    """
    declared = headers(path, [name])[name]
    row = math.prod(declared.shape[1:]) * declared.dtype.itemsize
    file = zipfile.ZipFile(opener.open_file(path)).open(f"{name}.npy")
    turn = threading.Lock()  # of the file, whose position all calls share

    def read(start: int, stop: int) -> np.ndarray:
        try:
            with turn:
                _skip(file, declared.start + start * row)
                data = file.read((stop - start) * row)
            return np.frombuffer(data, declared.dtype).reshape(-1, *declared.shape[1:])
        except (*DAMAGED, OSError) as error:
            raise limits.Refused(f"{name} in {path} is damaged ({limits.reason(error)}).") from error

    return read
