"""A root without root's rights over files, so that a test meets the errors of a usual user, whoever runs it."""

import contextlib
import ctypes
import pathlib
from collections.abc import Iterator

VERSION = 0x20080522  # capabilities(7): CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
OVER_FILES = (1 << 1) | (1 << 2)
_libc = ctypes.CDLL(None, use_errno=True)


def drop() -> ctypes.Array:
    """From now on this thread, and those that it starts, meet the modes of files as their owner does."""
    held = (ctypes.c_uint32 * 6)()
    if _libc.capget(_header(), held):
        raise OSError(ctypes.get_errno(), "capget")
    fewer = (ctypes.c_uint32 * 6)(*held)
    fewer[0] &= ~OVER_FILES  # the effective ones; the permitted stay, so that they can be taken back
    _set(fewer)
    return held


@contextlib.contextmanager
def dropped() -> Iterator[None]:
    """`drop` within a `with` block."""
    held = drop()
    try:
        yield
    finally:
        _set(held)


@contextlib.contextmanager
def unreadable(path: pathlib.Path) -> Iterator[None]:
    """Within the block nobody may read the file, whoever runs the test; after it, its mode is as before."""
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        with dropped():
            yield
    finally:
        path.chmod(mode)


def _header() -> ctypes.Array:
    return (ctypes.c_uint32 * 2)(VERSION, 0)


def _set(rights) -> None:
    if _libc.capset(_header(), rights):
        raise OSError(ctypes.get_errno(), "capset")
