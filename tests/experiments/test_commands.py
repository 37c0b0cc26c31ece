"""Every command explains itself, with an example, and keeps the arguments that it was started with."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests import commands

ROOT = pathlib.Path(__file__).parent.parent.parent
COMMANDS = (
    "experiments.train", "experiments.sample", "experiments.evaluate", "launch.local", "launch.slurm", "launch.tpu",
    "launch.kubernetes", "benchmarks.train_step",
    "experiments.plan", "experiments.reproduce", "benchmarks.soak", "benchmarks.inception", "benchmarks.protocols",
    "benchmarks.fid_by_n", "experiments.catalogue", "experiments.family_figures",
    "benchmarks.few_steps", "benchmarks.samplers", "experiments.convert", "experiments.encode",
    "experiments.sweep_report", "experiments.gallery",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_help_holds_an_example(command):
    found = commands.run("-m", command, "--help")
    assert f"python -m {command} " in found.stdout, found.stderr


def test_a_command_that_starts_itself_anew_keeps_its_arguments(tmp_path):
    """experiments/__init__.py asks for huge pages that way; the folder's name has a blank to make it hard."""
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    found = subprocess.run(
        [sys.executable, "-m", "experiments.sample", f"--workdir={tmp_path}/no run"],
        capture_output=True, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip
    assert found.returncode == 2
    assert f"--workdir={tmp_path}/no run" in found.stderr
