"""Arrays out of .npz files from elsewhere: without pickle, no larger than they are, row by row where they are large."""

__all__ = ["Header", "header", "headers", "load", "names", "rows"]

import contextlib
import errno
import lzma
import math
import pathlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, NamedTuple

import numpy as np

from diffusion.io import limits

SKIP = 2**20  # bytes that are read at once on the way to a position
# What zipfile, the decompressors and NumPy's reader of headers raise for bytes that are none of theirs.
DAMAGED = (ValueError, LookupError, TypeError, OverflowError, RuntimeError, NotImplementedError, EOFError, MemoryError,
           SyntaxError, struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError, tokenize.TokenError)  # fmt: skip
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class Header(NamedTuple):
    """What an array of a file declares.

    Attributes:
        shape: of the array.
        dtype: of its elements.
        start: bytes before the first element.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    start: int


def names(path: pathlib.Path | str) -> set[str]:
    """The names of the arrays in a file, of which nothing else is read.

    Raises:
        Refused: if the file is damaged.
        OSError: if it cannot be read.
    """
    with _refusing(f"{path} is not a valid .npz file"), zipfile.ZipFile(path) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist()}


def headers(path: pathlib.Path | str, only: Iterable[str] | None = None) -> dict[str, Header]:
    """The arrays in a file, by name; none of them is read.

    Args:
        path: of the .npz.
        only: the arrays to look at, where others of the file are not to be read; None: all.

    Returns:
        name -> Header.

    Raises:
        Refused: if the file is damaged, holds objects, or an array declares another size than it has.
        OSError: if it cannot be read.
    """
    with _refusing(f"{path} is not a valid .npz file"), zipfile.ZipFile(path) as archive:
        listed = {name.removesuffix(".npy"): name for name in archive.namelist()}
        return {name: header(archive, listed[name]) for name in (listed if only is None else only) if name in listed}


@contextlib.contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Errors of damaged content become refusals; those of the disk stay what they are."""
    try:
        yield
    except limits.Refused:
        raise
    except DAMAGED as error:
        raise limits.Refused(f"{what} ({limits.reason(error)}).") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # raised where the table of contents points before the file's beginning
            raise
        raise limits.Refused(f"{what} ({limits.reason(error)}).") from error


def header(archive: zipfile.ZipFile, name: str) -> Header:
    """What an array declares, which must be what its entry in the file holds.

    Args:
        archive: the file.
        name: of the array in it, e.g. "images.npy".

    Returns:
        The header.

    Raises:
        Refused: if the two differ, or the array is of a kind that is not read.
    """
    what = f"{name} in {archive.filename}"
    with archive.open(name) as file:  # NumPy would allocate what the header declares before it reads
        with _refusing(f"{what} is not an array"):
            version = np.lib.format.read_magic(file)
            if version not in _READERS:
                raise limits.Refused(f"{what} is of NumPy's format {version}, not 1.0 or 2.0.")
            shape, fortran, kind = _READERS[version](file)
        if kind.hasobject:
            raise limits.Refused(f"{what} holds Python objects. Object arrays are pickles, and are not read.")
        if fortran and len(shape) > 1:
            raise limits.Refused(f"{what} is stored column by column; save it by np.ascontiguousarray.")
        declared = limits.array_bytes(what, shape, kind.itemsize)
        held = archive.getinfo(name).file_size - file.tell()
        if declared != held:
            limits.fits(what, declared)
            raise limits.Refused(f"{what} declares {limits.size(declared)}, but holds {limits.size(held)}.")
        return Header(shape, kind, file.tell())


def load(path: pathlib.Path | str, wanted: Iterable[str]) -> dict[str, np.ndarray]:
    """Reads arrays whole.

    Args:
        path: of the .npz.
        wanted: names of the arrays to read; the result lacks those that the file does not have.

    Returns:
        name -> array.

    Raises:
        Refused: as in `headers`, or if one is larger than this machine's memory.
        OSError: if it cannot be read.
    """
    there = headers(path, wanted)
    for name, declared in there.items():
        limits.fits(f"{name} in {path}", limits.array_bytes(name, declared.shape, declared.dtype.itemsize))
    with _refusing(f"{path} cannot be read"), np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in there}


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
        path: of the .npz.
        name: of the array.

    Returns:
        (start, stop) -> array [stop - start, ...]; raises Refused if the file is damaged there.
    """
    found = headers(path, [name])[name]
    row = math.prod(found.shape[1:]) * found.dtype.itemsize
    file = zipfile.ZipFile(path).open(f"{name}.npy")

    def read(start: int, stop: int) -> np.ndarray:
        try:
            _skip(file, found.start + start * row)
            data = file.read((stop - start) * row)
            return np.frombuffer(data, found.dtype).reshape(-1, *found.shape[1:])
        except (*DAMAGED, OSError) as error:
            raise limits.Refused(f"{name} in {path} is damaged ({limits.reason(error)}).") from error

    return read
