"""What docs/comparison.md, the README and docs/sound.md say that this project has, by its tables."""

import importlib.util
import pathlib
import re

import pytest

from diffusion.experiments.prompt_benchmark import benchmarks
from diffusion.metrics import picture_scores
from diffusion.recipe import names, recipes

ROOT = pathlib.Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "comparison.md").read_text()
TITLES = {  # as the page writes the names of its tables
    "circle": "circle", "sphere": "sphere", "torus": "torus", "so3": "`so3`", "frames": "`frames`",
    "centred": "`centred`", "geneval": "GenEval", "dpg-bench": "DPG-Bench", "t2i-compbench": "T2I-CompBench",
    "t2i-compbench++": "T2I-CompBench++", "clip": "CLIPScore",
    "pickscore": "PickScore", "hpsv2": "HPSv2", "siglip": "SigLIP", "imagereward": "ImageReward",
    "vqascore": "VQAScore",
}  # fmt: skip


def cell(section: str, column: str) -> str:
    """What a table of the page says of this project."""
    table = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    rows = [
        [part.strip() for part in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")
    ]
    (own,) = (row for row in rows if row[0] == "this project")
    return own[rows[0].index(column)]


@pytest.mark.parametrize(
    "section, column, there",
    [
        ("Tests, discrete data and curved spaces", "curved spaces", set(names.MANIFOLDS) - {"euclidean"}),
        ("Runs", "evaluation", {*benchmarks.BENCHMARKS, *picture_scores.SCORES} - {"hpsv2-plain"}),
    ],
)
def test_a_cell_names_each_member_of_its_table(section, column, there):
    said = cell(section, column)
    assert there <= TITLES.keys(), f"name {there - TITLES.keys()} on docs/comparison.md"
    assert [TITLES[name] for name in there if TITLES[name] not in said] == []


def test_discrete_data_are_said_to_be_missing_while_they_are():
    there = importlib.util.find_spec("diffusion.discrete") is not None
    assert (cell("Tests, discrete data and curved spaces", "discrete data") == "no") is not there
    assert ("[symbols](discrete.md) with small models" in PAGE) is there
    readme = (ROOT / "README.md").read_text()
    (row,) = (line for line in readme.splitlines() if line.startswith("| video; discrete data; manifolds |"))
    ours = [part.strip() for part in row.split("|")[2].split(";")]
    assert (ours[1] == "none") is not there and ours[2] == "manifolds" and names.MANIFOLDS


def test_the_number_of_samplers_is_about_what_is_said():
    assert "about forty for ODEs and SDEs" in cell("The mathematics", "samplers")
    assert 35 <= len(names.SAMPLERS) < 45


def test_no_recipe_of_sound_is_said_to_have_no_figures():
    page = (ROOT / "docs" / "sound.md").read_text()
    assert "no figures" not in page and "not been trained" not in page
    named = set(re.findall(r"^\| `(sound/[a-z]+)`", page, re.MULTILINE))
    assert named == {name for name in recipes.names() if name.startswith("sound/")}
