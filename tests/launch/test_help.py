"""The help of every launcher: each option has its value's name, and the usage is that of the command."""

import importlib
import pathlib
import re
import sys

import pytest

from diffusion import launch

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


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_option_says_what_it_is_for(name, monkeypatch):
    parsers = []
    monkeypatch.setattr("argparse.ArgumentParser.parse_args", lambda self, argv: parsers.append(self) or sys.exit())
    with pytest.raises(SystemExit):
        importlib.import_module(f"diffusion.launch.{name}").parse(["--", "true"])
    (parser,) = parsers
    for action in parser._actions:
        assert action.help, action.option_strings
