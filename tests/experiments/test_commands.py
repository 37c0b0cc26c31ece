"""Every command explains itself, with an example, and keeps the arguments that it was started with."""

import pathlib
import subprocess
import sys

import pytest

from diffusion.experiments.evaluation import comparison, image_metrics, model_metrics
from diffusion.metrics import protocols
from tests import commands
from tests.conformance import slow_but

ROOT = pathlib.Path(__file__).parent.parent.parent
MAINS = (
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__").removeprefix("diffusion.")
    for folder in ("diffusion/experiments", "diffusion/launch", "benchmarks")
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


LIBRARIES = ("jax", "flax", "optax", "orbax", "grain", "tensorflow_datasets", "matplotlib", "scipy", "PIL")
# Runs each command line in a fork until it imports one of the libraries, and names it.
WITHOUT_LIBRARIES = """
import os, runpy, sys
import diffusion.experiments.config.command_line

class Named:
    def find_spec(self, name, path=None, target=None):
        if name in LIBRARIES:
            print("imports", name, file=sys.stderr, flush=True)
            os._exit(0)

for words in COMMANDS:
    print("==", *words, file=sys.stderr, flush=True)
    if os.fork() == 0:
        sys.meta_path.insert(0, Named())
        sys.argv = ["-m", *words[1:]]
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        sys.exit()
    os.wait()
"""


def started(*lines: tuple[str, ...]) -> dict[str, str]:
    """What each command line writes to stderr before it imports a library, and the library that it then imports."""
    program = WITHOUT_LIBRARIES.replace("COMMANDS", repr(lines)).replace("LIBRARIES", repr(LIBRARIES))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    parts = done.stderr.split("== ")[1:]
    return {first: rest for first, _, rest in (part.partition("\n") for part in parts)}


def test_help_is_answered_without_the_libraries():
    """They take seconds to import."""
    names = [name for name in COMMANDS if not name.startswith("benchmarks.gpu.")]  # stages, which a benchmark starts
    found = started(*((name, "--help") for name in names))
    assert found == {f"{name} --help": "" for name in names}
    assert {"experiments.sample --help", "experiments.playground --help"} <= found.keys()


def test_a_command_says_that_it_begins_and_what_is_wrong_before_it_imports_the_libraries(tmp_path):
    found = started(
        ("experiments.train", "--config=configs/digits.py", f"--workdir={tmp_path}"),
        ("experiments.train", "--config=configs/digitz.py", f"--workdir={tmp_path}"),
        ("experiments.evaluate", f"--workdir={tmp_path}/none"),
    )
    begun, unknown, none = found.values()
    assert begun == "experiments.train: loading the libraries\nimports jax\n"
    assert "there is no config file 'configs/digitz.py'" in unknown and "imports" not in unknown
    assert "none: there is no run" in none and "imports" not in none


def test_the_help_of_evaluate_names_what_there_is():
    """It is written out: the modules that hold these tables take seconds to import."""
    said = " ".join(commands.run("-m", "experiments.evaluate", "--help").stdout.split())
    assert f"prepared: {', '.join(protocols.PROTOCOLS)}" in said
    assert f"without --workdir: {', '.join(comparison.FEATURES)}" in said
    assert f"figures, of {','.join(image_metrics.METRICS)}; {','.join(comparison.DEFAULT)} by default" in said
    assert f"with --workdir also {','.join(model_metrics.METRICS)}, in the report" in said
