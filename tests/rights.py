"""Takes root's rights over files away, so that a test that root runs meets the errors of an ordinary user."""

import contextlib
import ctypes
import pathlib
from collections.abc import Iterator

VERSION = 0x20080522  # capabilities(7): CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
OVER_FILES = (1 << 1) | (1 << 2)
_libc = ctypes.CDLL(None, use_errno=True)


def drop() -> ctypes.Array:
    """Makes this thread, and the threads that it starts, subject to the modes of files, as their owner is.

    Returns:
        The rights before, which `dropped` restores.
    """
    held = (ctypes.c_uint32 * 6)()
    if _libc.capget(_header(), held):
        raise OSError(ctypes.get_errno(), "capget")
    fewer = (ctypes.c_uint32 * 6)(*held)
    fewer[0] &= ~OVER_FILES  # only the effective rights; the permitted ones stay, so that they can be restored
    _set(fewer)
    return held


@contextlib.contextmanager
def dropped() -> Iterator[None]:
    """Drops the rights within the block, see `drop`, and restores them afterwards."""
    held = drop()
    try:
        yield
    finally:
        _set(held)


@contextlib.contextmanager
def unreadable(path: pathlib.Path) -> Iterator[None]:
    """Makes a file unreadable within the block, also for root, and restores its mode afterwards."""
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
