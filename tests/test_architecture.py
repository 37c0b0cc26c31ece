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
    """The names that end in a slash, below the package that stands at the left."""
    picture = ARCHITECTURE.split("```")[1]
    parts = re.findall(r"^(diffusion|experiments)/\s(.*?)(?=^\S|\Z)", picture, re.MULTILINE | re.DOTALL)
    assert [package for package, _ in parts] == ["experiments", "diffusion"]
    for package, part in parts:
        folders = re.findall(r"\b(\w+)/", part)
        found = {path.name for path in (ROOT / package).rglob("*") if path.is_dir()}
        assert len(folders) > 6 and set(folders) <= found, set(folders) - found


def test_every_make_target_of_the_tests_exists():
    targets = re.findall(r"`make ([\w-]+)", CONTRIBUTING)
    made = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert len(targets) > 5 and set(targets) <= set(made), set(targets) - set(made)
