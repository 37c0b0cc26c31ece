"""docs/architecture.md and CONTRIBUTING.md: the files that they name exist, and their contracts are the code's."""

import importlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
NAMED = re.compile(r"`((?:diffusion|experiments|launch|configs|tests|docs)/[\w/.]*)`")


@pytest.mark.parametrize("page", [ARCHITECTURE, CONTRIBUTING], ids=["architecture", "contributing"])
def test_every_file_that_a_page_names_exists(page):
    """NAME in a path stands for the name of any family or part."""
    named = NAMED.findall(page)
    assert len(named) > 10
    assert [path for path in named if not any(ROOT.glob(path.replace("NAME", "*")))] == []


def test_every_name_of_a_contract_is_in_its_file():
    rows = re.findall(r"^\| (`[^|]+`) \|.*\| `(diffusion/[\w/]+)\.py` \|$", ARCHITECTURE, re.MULTILINE)
    assert len(rows) >= 12
    for names, path in rows:
        module = importlib.import_module(path.replace("/", "."))
        assert [name for name in re.findall(r"`(\w+)`", names) if not hasattr(module, name)] == [], path


@pytest.mark.parametrize(
    "heading, least",
    [("A batch to its gradient", 8), ("A config value to where it acts", 6), ("A prompt to a picture", 8)],
)
def test_a_way_through_the_house_is_a_list_of_files(heading, least):
    way = ARCHITECTURE.split(f"### {heading}\n")[1].split("\n#")[0]
    steps = re.findall(r"^\d+\. `([\w/]+\.py)`", way, re.MULTILINE)
    assert len(steps) >= least and len(set(steps)) == len(steps)
    assert all((ROOT / step).is_file() for step in steps)


def test_every_folder_of_the_picture_exists():
    """The names that end in a slash: packages of `diffusion` at the left, and folders below them in the rest."""
    picture = ARCHITECTURE.split("```")[1]
    rooms = [
        name for left in re.findall(r"^ {4}((?:\w+/ *)+)", picture, re.MULTILINE) for name in re.findall(r"\w+", left)
    ]
    assert len(rooms) > 20 and [name for name in rooms if not (ROOT / "diffusion" / name).is_dir()] == []
    named = set(re.findall(r"\b(\w+)/", picture))
    folders = {path.name for room in rooms for path in (ROOT / "diffusion" / room).rglob("*") if path.is_dir()}
    assert len(named) > 40 and named - folders - set(rooms) == set()


def test_every_make_target_of_the_tests_exists():
    targets = re.findall(r"`make ([\w-]+)", CONTRIBUTING)
    made = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert len(targets) > 5 and set(targets) <= set(made), set(targets) - set(made)
