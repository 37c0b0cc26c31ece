"""Devices are dealt out so that no two jobs have the same, unless they are to share."""

import pytest
from hypothesis import given, strategies as st

from diffusion.experiments.sweeps import devices
from diffusion.experiments.sweeps.combinators import SweepError


@given(st.integers(1, 9), st.integers(0, 20))
def test_cores_are_divided(jobs, cores):
    parts = [slot.cores for slot in devices.slots(jobs, [], range(cores))]
    if jobs <= cores:
        assert sorted(core for part in parts for core in part) == list(range(cores))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    else:
        assert all(len(part) == min(cores, 1) for part in parts)


def test_gpus_are_divided():
    slots = devices.slots(2, ["0", "1", "4", "7"], [])
    assert [slot.variables for slot in slots] == [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "4,7"}]
    shared = devices.slots(3, ["0", "0", "1"], [])
    assert [slot.variables.get("XLA_PYTHON_CLIENT_MEM_FRACTION") for slot in shared] == ["0.45", "0.45", None]


@pytest.mark.parametrize("jobs, gpus", [(0, []), (3, ["0", "1"]), (2, ["0", "1", "2"])])
def test_what_does_not_divide_is_an_error(jobs, gpus):
    with pytest.raises(SweepError, match=f"--jobs={jobs}"):
        devices.slots(jobs, gpus, [])


def test_gpus_are_those_that_the_environment_shows(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert devices.visible_gpus() == ["3", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.visible_gpus() == []
