"""Every command explains itself, with an example, and keeps the arguments that it was started with."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests import commands
from tests.conformance import slow_but

ROOT = pathlib.Path(__file__).parent.parent.parent
MAINS = (
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for folder in ("experiments", "launch", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
    if '__name__ == "__main__"' in path.read_text()
)
# What a benchmark starts, in another environment, is no command of a user.
COMMANDS = sorted(name for name in MAINS if not (name.startswith("benchmarks.peers.") or name.endswith("worker")))
FAST = ("experiments.train", "experiments.sample", "experiments.evaluate", "launch.local", "benchmarks.train_step")


@pytest.mark.parametrize("command", slow_but([(name,) for name in FAST], [(name,) for name in COMMANDS]))
def test_help_holds_an_example(command):
    found = commands.run("-m", command, "--help")
    assert f"python -m {command} " in found.stdout, found.stderr


def test_a_command_that_starts_itself_anew_keeps_its_arguments(tmp_path):
    """experiments/__init__.py asks for huge pages that way; the folder's name has a blank to make it hard."""
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    found = subprocess.run(
        [sys.executable, "-m", "experiments.sample", f"--workdir={tmp_path}/no run"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert found.returncode == 2
    assert f"--workdir={tmp_path}/no run" in found.stderr
