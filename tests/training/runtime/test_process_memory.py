"""The memory in use, on systems and devices that are described by hand."""

import pathlib
import types

import jax
import pytest

from diffusion.training.runtime import process_memory


@pytest.fixture(autouse=True)
def cpu(monkeypatch):
    """A device without statistics; JAX's own look for a device would read files too."""
    monkeypatch.setattr(jax, "local_devices", lambda: [types.SimpleNamespace(memory_stats=lambda: None)])


def without_proc(path, *args):
    raise FileNotFoundError(path)


@pytest.mark.parametrize("platform, factor", [("darwin", 1), ("freebsd14", 1024)])
def test_the_maximum_so_far_is_in_bytes_on_macos_and_in_kibibytes_elsewhere(monkeypatch, platform, factor):
    monkeypatch.setattr(pathlib.Path, "read_text", without_proc)
    monkeypatch.setattr(process_memory.sys, "platform", platform)
    usage = lambda who: types.SimpleNamespace(ru_maxrss=1000)
    monkeypatch.setattr(process_memory.resource, "getrusage", usage)
    assert process_memory.used() == (1000 * factor, None)


def test_the_fullest_accelerator_counts(monkeypatch):
    device = lambda statistics: types.SimpleNamespace(memory_stats=lambda: statistics)
    devices = [device(None), device({"bytes_in_use": 5, "bytes_limit": 90}), device({"bytes_in_use": 7}), device({})]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert process_memory.used() == (7, None)
    devices.append(device({"bytes_in_use": 3, "peak_bytes_in_use": 8, "bytes_limit": 90}))  # between two steps
    assert process_memory.used() == (8, 90)
    devices.append(device({"bytes_in_use": 8}))  # as full, with an unknown limit
    assert process_memory.used() == (8, 90)


def test_the_resident_pages_of_this_process(monkeypatch):
    monkeypatch.setattr(pathlib.Path, "read_text", lambda path: "900 12 3 1 0 200 0\n")
    monkeypatch.setattr(process_memory.os, "sysconf", {"SC_PAGE_SIZE": 4096}.get)
    assert process_memory.used() == (12 * 4096, None)


def test_the_memory_of_the_machine(monkeypatch):
    text = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    300 kB\nHugePages_Total:   0\n"
    monkeypatch.setattr(pathlib.Path, "read_text", lambda path: text)
    assert process_memory.machine_memory() == (700 * 1024, 1000 * 1024)
    monkeypatch.setattr(pathlib.Path, "read_text", lambda path: "MemTotal: 1000 kB\n")
    assert process_memory.machine_memory() is None
    monkeypatch.setattr(pathlib.Path, "read_text", without_proc)
    assert process_memory.machine_memory() is None
