"""The help of every launcher: each option has its value's name, and the usage is that of the command."""

import argparse
import importlib
import pathlib
import re
import sys

import pytest

from diffusion import __main__, launch

FOLDER = pathlib.Path(launch.__file__).parent
LAUNCHERS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "command", "guard"))


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_value_is_called_by_what_it_is_and_not_by_its_option(name, capsys):
    """Without a name argparse writes `--gpus-per-task GPUS_PER_TASK`; an option without a value is --dry-run alone."""
    with pytest.raises(SystemExit):
        importlib.import_module(f"diffusion.launch.{name}").parse(["--help"])
    shown = capsys.readouterr().out
    assert f"usage: diffusion launch {name} [options] -- COMMAND ..." in shown
    options = re.findall(r"^  --([a-z-]+)(?: (\S+))?", shown, re.MULTILINE)
    assert len(options) >= 4 and ("dry-run", "") in options
    for option, value in options:
        assert (option == "dry-run") == (value == ""), option
        assert value != option.replace("-", "_").upper() or "-" not in option, option


def actions(name: str, monkeypatch) -> dict[str, argparse.Action]:
    """A launcher's options by their names."""
    parsers = []
    with monkeypatch.context() as as_it_parses:
        end = lambda self, argv: parsers.append(self) or sys.exit()
        as_it_parses.setattr("argparse.ArgumentParser.parse_args", end)
        with pytest.raises(SystemExit):
            importlib.import_module(f"diffusion.launch.{name}").parse(["--", "true"])
    return {action.option_strings[-1]: action for action in parsers[0]._actions}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_option_says_what_it_is_for(name, monkeypatch):
    for option, action in actions(name, monkeypatch).items():
        assert action.help, option


@pytest.mark.parametrize("first, second", [("kubernetes", "kubernetes_array"), ("slurm", "slurm_array")])
def test_an_array_takes_of_an_option_what_a_job_takes(first, second, monkeypatch):
    one, other = actions(first, monkeypatch), actions(second, monkeypatch)
    shared = one.keys() & other.keys() - {"--help"}
    assert len(shared) >= 10
    for option in shared:
        assert one[option].type == other[option].type, option
        assert one[option].required == other[option].required, option


def test_launch_without_a_launcher_lists_them(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["diffusion", "launch"])
    assert __main__.main() == 2
    assert "Valid: launch kubernetes, launch kubernetes_array, launch local, launch" in capsys.readouterr().err
