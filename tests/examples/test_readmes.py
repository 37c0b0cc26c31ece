"""The README of each example: short, with commands that there are, recipes that load, and links that lead somewhere."""

import pathlib
import re
import shlex

import pytest

from diffusion.package import commands
from diffusion.recipe import recipes

ROOT = pathlib.Path(__file__).parents[2]
FOLDERS = sorted(path.parent for path in (ROOT / "examples").glob("*/__init__.py"))
LINES = 40


def lines(text: str) -> list[list[str]]:
    """The words of each command of the page's snippets."""
    snippets = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in snippets.splitlines()]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_has_a_short_page_with_commands_that_there_are(folder):
    text = (folder / "README.md").read_text()
    assert len(text.splitlines()) <= LINES
    assert len(lines(text)) >= 2 and "**Your own " in text
    for words in lines(text):
        if words[0] == "python":
            module = words[2]
            source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text()
            assert words[1] == "-m" and '__name__ == "__main__"' in source
        else:
            assert words[0] == "diffusion" and words[1] in commands.purposes()
        for recipe in (word.removeprefix("--config=") for word in words if word.startswith("--config=")):
            assert recipes.load(recipe)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_file_of_a_folder_is_named_on_its_page(folder):
    named = set(re.findall(r"`(\w+\.py)`", (folder / "README.md").read_text()))
    assert named == {path.name for path in folder.glob("*.py")} - {"__init__.py"}


@pytest.mark.parametrize("page", [ROOT / "examples/README.md", *(folder / "README.md" for folder in FOLDERS)])
def test_links_and_pictures_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    assert targets and [target for target in targets if not (page.parent / target).exists()] == []


def test_the_first_page_lists_every_folder_and_nothing_else():
    listed = re.findall(r"^\| \[(\w+)\]\(\1/README\.md\)", (ROOT / "examples/README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == [folder.name for folder in FOLDERS]
