"""Helpers for the tests of hostile files: a limit for memory, and an object whose pickle would run a command."""

import os

import pytest

HUGE = 10**12


def peak() -> int:
    """The peak of this process's resident memory so far, in bytes."""
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024


@pytest.fixture(autouse=True)
def little_memory():
    """Fails a test that raises the peak of memory by 384 MiB: a refusal needs up to 192 MiB, and other threads more."""
    before = peak()
    yield
    assert peak() - before < 3 * 2**27


class Called:
    """An object whose pickle runs `touch executed` when it is loaded."""

    def __reduce__(self):
        return (os.system, ("touch executed",))
