"""The memory that a run holds: how much it is, and how to give back memory that is no longer used."""

__all__ = ["machine_memory", "release", "used"]

import ctypes
import gc
import os
import pathlib
import resource
import sys

import jax

from diffusion.package import public


def used() -> tuple[int, int | None]:
    """Returns the bytes that the process takes, and the available bytes or None if unknown.

    The numbers are of this process's fullest accelerator, if it reports them: the most bytes in use so far, since
    between steps only the state is left. Otherwise they are the process's bytes of the system's memory, or their
    maximum so far on a system without a current value (macOS).
    """
    statistics = [device.memory_stats() for device in jax.local_devices()]
    full = [
        (device.get("peak_bytes_in_use", device["bytes_in_use"]), device.get("bytes_limit"))
        for device in statistics
        if device and "bytes_in_use" in device
    ]
    if full:
        return max(full, key=lambda pair: pair[0])
    try:
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE"), None
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024), None


def machine_memory() -> tuple[int, int] | None:
    """Returns the bytes of the system's memory in use by all processes, and all its bytes; None if unknown."""
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        sizes = {name: 1024 * int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
        return sizes["MemTotal"] - sizes["MemAvailable"], sizes["MemTotal"]
    except (OSError, KeyError, ValueError):
        return None


def release() -> None:
    """Frees cycles of objects, and returns free memory to the system if the C library can (glibc).

    An evaluation in the loop allocates and frees arrays in many threads. The C library keeps the fragments, so that a
    run with many evaluations would seem to grow for hours.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


public.declare(__name__, renamed={"of_machine": "machine_memory"})
