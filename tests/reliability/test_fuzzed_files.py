"""Randomly altered files of every kind that may come from strangers are read, or refused by a documented error, with
little memory and in little time.

`FUZZED_INPUTS=5000 pytest -m slow tests/reliability/test_fuzzed_files.py -k many` reads ten times as many of each kind.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.reliability import fuzzing
from tests.reliability.hostile import little_memory  # noqa: F401

# The number of inputs of slow kinds, which trace a network, decode a film or restore a checkpoint; 60 of others.
FEW = {"networks": 8, "safetensors": 24, "mp4": 30, "pipelines": 12, "class_models": 8, "checkpoints": 12,
       "converted": 4, "control_nets": 20}  # fmt: skip
MANY = int(os.environ.get("FUZZED_INPUTS", "500"))  # inputs of each kind
PART = 1000  # the most inputs that one process reads


@pytest.mark.extended
@pytest.mark.parametrize(
    "name", [pytest.param(kind, marks=pytest.mark.slow if kind == "networks" else ()) for kind in fuzzing.kinds()]
)
def test_a_few_altered_files_are_read_or_refused(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))
    kind = fuzzing.kinds()[name]
    reader = kind.prepare(tmp_path)
    reader(None)
    faults = {seed: wrong for seed in range(FEW.get(name, 60)) if (wrong := fuzzing.fault(kind, reader, seed))}
    assert not faults


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, MANY, PART))
@pytest.mark.parametrize("name", fuzzing.kinds())
def test_many_altered_files_are_read_or_refused_in_little_memory_and_time(name, first):
    """If a limit of time or memory kills the process, its last line names the seed that it had begun."""
    last = min(first + PART, MANY)
    words = [sys.executable, "-m", "tests.reliability.fuzzing", name, str(first), str(last)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert not [json.loads(line.partition(" ")[2]) for line in lines if line.startswith("fault")]
    assert lines and lines[-1] == "end", f"{lines[-1:]} ended with {done.returncode}: {done.stderr[-2000:]}"
    assert sum(line.startswith("seed") for line in lines) == last - first


@pytest.mark.parametrize("seed", [1165, 1648])
def test_statistics_of_parquet_that_are_damaged_do_not_end_the_process(seed, tmp_path, monkeypatch):
    """pyarrow 26 ends the process at a request for the columns of such a file."""
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))
    kind = fuzzing.kinds()["parquet"]
    assert not fuzzing.fault(kind, kind.prepare(tmp_path), seed)
