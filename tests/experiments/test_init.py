"""`diffusion init` writes a project that runs at once: config, names, exact test, and the commands of its README."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from diffusion.experiments import init
from diffusion.experiments.sweeps import definition
from diffusion.recipe import ConfigError, checks, extensions, names, recipes
from tests import commands

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A project whose names this process knows; afterwards the tables and modules are as before.

    xdist may run this file in two parts with others between them, so that this begins twice in a process.
    """
    folder = tmp_path_factory.mktemp("projects") / "my-paper"
    assert init.main([str(folder)]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr(extensions, "loaded", {})
        with pytest.raises(ConfigError, match="unknown objective 'huber'"):
            checks.validate(recipes.load("config.py:tiny"))
        extensions.extend_by_project()
        yield folder
    del names.OBJECTIVES["huber"], names.SOURCES["circles"]
    for module in [name for name in sys.modules if name.partition(".")[0] == "my_paper"]:
        del sys.modules[module]


@pytest.fixture
def project(extended, monkeypatch):
    monkeypatch.chdir(extended)
    return extended


def test_its_config_and_its_sweep_are_checked_with_the_names_that_its_project_file_lists(project):
    assert checks.validate(recipes.load("config.py")).objective.density is not None
    record = definition.record(definition.load("sweep.py:tiny"), "sweep.py:tiny", project / "runs/sweep")
    assert [plan.overrides["objective.c"] for plan in record.runs] == [0.01, 0.1]


def test_its_data_are_a_source_with_the_records_of_both_splits(project):
    data = recipes.module("my_paper/data.py")
    train, test = data.circles(), data.circles("test")
    assert (len(train), len(test), train.spec.shape, train.spec.num_classes) == (1200, 300, (8, 8, 1), 3)
    # The i-th picture shows a circle of radius 1 + i % 3: the mean distance of what is bright from its middle.
    for i in range(6):
        picture, label = train[i]["image"][..., 0].astype(float), train[i]["label"]
        x, y = np.mgrid[:8, :8]
        middle = [(axis * picture).sum() / picture.sum() for axis in (x, y)]
        radius = (np.hypot(x - middle[0], y - middle[1]) * picture).sum() / picture.sum()
        assert label == i % 3 and abs(radius - 1 - label) < 0.5
    with pytest.raises(ValueError, match=r"circles have no split 'valid'\. Valid: train, test"):
        data.circles("valid")


@pytest.mark.extended
def test_its_own_test_passes_and_finds_a_wrong_objective(project):
    tests = recipes.module("tests/test_objective.py")
    tests.test_the_loss_is_least_at_the_exact_solution()
    tests.test_it_is_the_square_for_large_c_and_the_distance_for_small()
    right = tests.huber
    tests.huber = lambda density, parameterization, c: right(density, tests.parameterizations.x0(), c)
    with pytest.raises(AssertionError):
        tests.test_the_loss_is_least_at_the_exact_solution()


def test_no_file_keeps_the_placeholder_and_every_file_is_named_in_the_readme_or_made_for_tools(project):
    files = [path for path in project.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    readme = (project / "README.md").read_text()
    for path in files:
        assert init.NAME not in path.read_text() and init.SUFFIX not in path.name
        assert str(path.relative_to(project)) in readme or path.name in ("README.md", ".gitignore", "__init__.py")
    assert len(files) == len(list(init.TEMPLATE.rglob(f"*{init.SUFFIX}"))) == 10


@pytest.mark.parametrize(
    "name, words",
    [
        ("jax", "there is already a module 'jax'"),
        ("json", "there is already a module 'json'"),
        ("2nd", "'2nd' is not a valid name of a Python package"),
        ("class", "'class' is not a valid name of a Python package"),
        ("full", "is not empty"),
        ("full/mine", "full/mine is a file"),
        *((name, f"{name!r} is the name of one of the project's own") for name in ("config", "sweep", "tests", "runs")),
        *(
            (name, f"{name!r} is the name of one of the project's own")
            for name in ("setup", "conftest", "Config", "build")
        ),
    ],
)
def test_a_folder_that_cannot_become_a_project_is_left_as_it_is(tmp_path, capsys, name, words):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("mine")
    assert init.main([str(tmp_path / name)]) == 2
    assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "mine"]


def test_an_empty_folder_that_is_there_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert init.main(["there"]) == 0 and (tmp_path / "there/there/register.py").is_file()


@pytest.mark.slow
def test_the_commands_of_its_readme_run_in_its_folder(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "DIFFUSION_CACHE": str(tmp_path / "cache")}
    folder = tmp_path / "my_paper"
    done = commands.run("diffusion", "init", str(folder), env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ran = []
    for line in re.search(r"```sh\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1].splitlines():
        words = shlex.split(line, comments=True)
        if words[0] == "pip":
            continue
        if words[0] == "python":
            done = subprocess.run([sys.executable, *words[1:]], cwd=folder, env=env, capture_output=True, text=True)
        else:
            done = commands.run(*words, env=env, cwd=folder, timeout=600)
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        ran.append(words[1])
    assert ran == ["-m", "train", "sample", "evaluate", "sweep", "sweep"]
    (noted,) = (folder / "runs/tiny/extensions.jsonl").read_text().splitlines()
    assert '"name": "my_paper.register"' in noted
    assert (folder / "runs/sweep/c=0.1/report.json").is_file()
