"""The memory that a run holds: how much it is, and how to give back what is no longer used."""

__all__ = ["of_machine", "release", "used"]

import ctypes
import gc
import os
import pathlib
import resource
import sys

import jax


def used() -> tuple[int, int | None]:
    """Returns the bytes in use, and how many there are or None where that is not known.

    Of the accelerator that this process holds, where it tells them: the fullest one. Else of the process in the
    system's memory; where the system tells no current value (macOS), the most that it was.
    """
    told = [device.memory_stats() for device in jax.local_devices()]
    full = [(found["bytes_in_use"], found.get("bytes_limit")) for found in told if found and "bytes_in_use" in found]
    if full:
        return max(full, key=lambda pair: pair[0])
    try:
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE"), None
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024), None


def of_machine() -> tuple[int, int] | None:
    """Returns the bytes of the system's memory in use by all processes, and how many there are; None where not told."""
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        told = {name: 1024 * int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
        return told["MemTotal"] - told["MemAvailable"], told["MemTotal"]
    except (OSError, KeyError, ValueError):
        return None


def release() -> None:
    """Frees what only cycles of objects hold, and hands free memory back to the system where it can (glibc).

    An evaluation in the loop allocates and frees arrays in many threads. The C library keeps what they free, in
    pieces, so that a run that evaluates often would seem to grow for hours.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
