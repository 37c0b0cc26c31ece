"""One spelling of a command in all pages and programs: `diffusion train`, and `python -m` for examples and tools."""

import pathlib
import re

import pytest

from diffusion.package.commands import purposes

ROOT = pathlib.Path(__file__).parents[2]
FOLDERS = ("benchmarks", "configs", "diffusion", "docs", "examples", "experiments", "launch", "tools")  # without links
FILES = sorted(
    path
    for top in (ROOT, *(ROOT / folder for folder in FOLDERS))
    for path in (top.glob("*") if top == ROOT else top.rglob("*"))
    if path.suffix in (".md", ".py", ".template", ".def") or path.name in ("Dockerfile", "Makefile")
)
# {file: why it has another spelling}
OTHERS = {
    "CHANGELOG.md": "names that changed",
    "diffusion/package/commands.py": "the spelling that sweeps of before hold",
    "docs/install.md": "where the program is not on PATH",
    "experiments/sweeps/sweep_folder.py": "the spelling that sweeps of before hold",
}
# An environment without our program is named by its path: tpu/bin/python -m diffusion.
OTHER = re.compile(r"python3? -m (?:diffusion\b|(?:diffusion\.)?(?:experiments|launch)\.\w+)")
NAMES = {*purposes(), "launch"}
COMMAND = re.compile(r"(?:^[ $]*|`)diffusion ((?:launch )?[a-z]\w*)(?=[ `\n])", re.MULTILINE)


def other_spellings(text: str) -> list[str]:
    return [match[0] for match in OTHER.finditer(text) if text[max(match.start() - 1, 0)] not in "/)"]


def unknown_commands(text: str) -> list[str]:
    return [name for name in COMMAND.findall(text) if name not in NAMES]


@pytest.mark.parametrize("text", ["python -m experiments.train --config=digits", "`python -m diffusion sample`"])
def test_another_spelling_is_seen(text):
    assert other_spellings(text) and not other_spellings(
        "tpu/bin/python -m diffusion plan; python -m examples.text.demo"
    )


def test_a_command_that_does_not_exist_is_seen():
    assert unknown_commands("Call `diffusion trian --config=digits`.\n\n    diffusion launch locl\n") == [
        "trian",
        "launch locl",
    ]
    assert unknown_commands("`diffusion launch local`, `diffusion train --config=digits`\n") == []


def test_every_file_spells_commands_in_one_way():
    assert len(FILES) > 700 and OTHERS.keys() <= {path.relative_to(ROOT).as_posix() for path in FILES}
    spelled = {path.relative_to(ROOT).as_posix(): other_spellings(path.read_text()) for path in FILES}
    assert {name: spellings for name, spellings in spelled.items() if spellings and name not in OTHERS} == {}
    assert [name for name in OTHERS if not spelled[name]] == []


def test_every_command_of_a_page_is_there():
    pages = [path for path in FILES if path.suffix == ".md" and path.name != "CHANGELOG.md"]
    named = {path.relative_to(ROOT).as_posix(): unknown_commands(path.read_text()) for path in pages}
    assert len(pages) > 60
    assert {name: commands for name, commands in named.items() if commands} == {}
