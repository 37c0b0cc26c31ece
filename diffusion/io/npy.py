"""Arrays in NumPy's own format, .npy: no larger than the bytes that hold them, and never by pickle."""

import io
import os
import struct
import tokenize
from typing import IO, NamedTuple

import numpy as np

from diffusion.io import limits, opener

# What NumPy's reader of headers raises for other bytes.
DAMAGED = (ValueError, LookupError, TypeError, OverflowError, RuntimeError, EOFError, MemoryError, SyntaxError,
           struct.error, tokenize.TokenError)  # fmt: skip
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}

ROWS = 2**20  # most rows of an array without bytes, whose length nothing else bounds


class Header(NamedTuple):
    """The shape, dtype and layout that an array's file declares.

    Attributes:
        shape: the shape of the array.
        dtype: the dtype of its elements.
        start: number of bytes before the first element.
        fortran: whether its elements are stored column by column.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    start: int
    fortran: bool


def read_header(file: IO[bytes], size: int, what: str) -> Header:
    """Reads the header of an array, whose declared size must be the size of its bytes.

    Args:
        file: the bytes, from their beginning.
        size: the number of these bytes.
        what: name of the array, for messages.

    Returns:
        The header.

    Raises:
        limits.Refused: if the two differ, or the array is of a kind that is not read.
        OSError: if the file cannot be read.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version not in _READERS:
            raise limits.Refused(f"{what} has version {version} of NumPy's format; only 1.0 and 2.0 are read.")
        shape, fortran, kind = _READERS[version](file)
    except limits.Refused:
        raise
    except DAMAGED as error:
        raise limits.Refused(f"{what} is not an array ({limits.reason(error)}).") from error
    if kind.hasobject:
        raise limits.Refused(f"{what} holds Python objects. Object arrays are pickles, so they are not read.")
    declared = limits.array_bytes(what, shape, kind.itemsize)
    held = size - file.tell()
    if declared != held:
        limits.fits(what, declared)
        raise limits.Refused(f"{what} declares {limits.size(declared)}, but holds {limits.size(held)}.")
    if not declared and max(shape, default=0) > ROWS:
        raise limits.Refused(
            f"{what} declares the shape {list(shape)}, which holds no numbers. Valid: at most {ROWS:,} empty rows."
        )
    return Header(shape, kind, file.tell(), bool(fortran))


def decoded(content: bytes, what: str) -> np.ndarray:
    """The array in the content of a .npy file, read-only; it shares these bytes.

    Args:
        content: the bytes.
        what: name of the array, for messages.

    Raises:
        limits.Refused: as in `read_header`.
    """
    header = read_header(io.BytesIO(content), len(content), what)
    flat = np.frombuffer(content, header.dtype, offset=header.start) if all(header.shape) else np.empty(0, header.dtype)
    return flat.reshape(header.shape, order="F" if header.fortran else "C")


def mapped(path: str | os.PathLike, within: str | os.PathLike | None = None) -> np.ndarray:
    """The array of a .npy file, mapped into memory, read-only.

    Args:
        path, within: the file, and the folder that it must lie in, as in `opener.open_file`.

    Raises:
        OSError: as in `opener.open_file`.
        limits.Refused: as in `opener.open_file` and `read_header`.
    """
    with opener.open_file(path, within=within) as file:
        try:
            header = read_header(file, os.fstat(file.fileno()).st_size, "it")
        except limits.Refused as error:
            raise limits.Refused(f"{path} is not an intact array: {error}") from error
        order = "F" if header.fortran else "C"
        if not all(header.shape):  # nothing to map
            return np.empty(header.shape, header.dtype, order)
        return np.memmap(file, header.dtype, "r", header.start, header.shape, order)
