"""Commands start themselves anew with huge pages; nothing else does, and importing the packages changes no process."""

import os
import pathlib
import subprocess
import sys
import types

import pytest

from diffusion.training.runtime import huge_pages
from diffusion.training.runtime.huge_pages import TUNABLES, start_anew

ROOT = pathlib.Path(__file__).parents[3]
COMMAND = """
from absl import flags
from diffusion.experiments import command_line
import benchmarks, experiments

if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "")
    print("parses")
    command_line.begin()

import os, sys
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), sys.argv[1:])
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a setting of Linux's C library")


def started(folder, *words, **environment):
    """The process id of a command, its own and the one that it started with, and its output."""
    (folder / "mine.py").write_text(COMMAND)
    known = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env={**known, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    return process.pid, process.communicate(timeout=60)[0]


@pytest.mark.extended
def test_a_command_starts_itself_anew_once_with_its_arguments(tmp_path):
    """The folder's name has a blank to make it hard. A scheduler knows the process by its id, which stays."""
    process, said = started(tmp_path, "-m", "mine", f"--workdir={tmp_path}/no run")
    assert said == f"parses\nparses\n{process} {TUNABLES} ['--workdir={tmp_path}/no run']\n"


@pytest.mark.extended
@pytest.mark.parametrize(
    "words, environment",
    [
        (("-m", "mine"), {"GLIBC_TUNABLES": "glibc.malloc.arena_max=3"}),
        (("-c", "import runpy; runpy.run_module('mine', run_name='__main__', alter_sys=True)"), {}),
    ],
)
def test_what_is_set_stays_and_other_programs_are_left_alone(tmp_path, words, environment):
    process, said = started(tmp_path, *words, **environment)
    assert said == f"parses\n{process} {environment.get('GLIBC_TUNABLES')} []\n"


def test_help_and_a_mistake_are_answered_by_the_first_process(tmp_path):
    for word in ("--help", "--wordkir=x"):
        assert started(tmp_path, "-m", "mine", word)[1].count("parses\n") == 1


@pytest.mark.parametrize(
    "words, again",
    [
        (["python", "-m", "diffusion.experiments.train", "--workdir=x"], True),
        (["python", "-X", "importtime", "-m", "diffusion", "train"], True),
        (["/env/bin/diffusion", "/env/bin/diffusion", "train"], True),
        (["python", "-m", "pytest", "tests"], False),
        (["python", "mine.py"], False),
    ],
)
def test_which_words_start_a_command(monkeypatch, words, again):
    """In this process, which is described by hand and does not end."""
    started = []
    described = types.SimpleNamespace(__spec__=types.SimpleNamespace(name="diffusion.experiments.train"))
    monkeypatch.setitem(sys.modules, "__main__", described)
    monkeypatch.setattr(sys, "orig_argv", words)
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    monkeypatch.delenv("GLIBC_TUNABLES")
    monkeypatch.setattr(os, "execv", lambda program, line: started.append(line))
    start_anew()
    assert started == ([[sys.executable, *words[1:]]] if again else [])
    assert os.environ.get("GLIBC_TUNABLES") == (TUNABLES if again else None)


def test_a_prompt_is_left_alone(monkeypatch):
    """Python's own prompt and `python file.py` have no module that could be started anew."""
    monkeypatch.setitem(sys.modules, "__main__", types.SimpleNamespace(__spec__=None))
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("started anew"))
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    monkeypatch.delenv("GLIBC_TUNABLES")
    start_anew()
    assert "GLIBC_TUNABLES" not in os.environ


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["python", "-m", "diffusion.experiments.train", "--config=digits"], True),
        (["python", "-m", "diffusion", "train"], True),
        (["python", "/usr/bin/diffusion", "train"], True),
        (["/usr/bin/diffusion", "script.py"], False),
        (["python", "script.py", "diffusion"], False),
        (["python", "-m", "pytest", "diffusion"], False),
    ],
)
def test_only_commands_start_anew(words, expected, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", words)
    assert huge_pages._is_command("diffusion.experiments.train") is expected
