"""Gives the memory that is no longer used back to the system."""

import ctypes
import gc


def release() -> None:
    """Frees what only cycles of objects hold, and hands free memory back to the system where it can (glibc).

    An evaluation in the loop allocates and frees arrays in many threads. The C library keeps what they free, in
    pieces, so that a run that evaluates often would seem to grow for hours.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
