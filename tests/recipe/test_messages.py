"""What a run says of itself: what it trains on, commands that can be pasted, and the cause of a failure by its name."""

import os
import pathlib
import shlex
import subprocess
import sys

import jax
import pytest

from configs import digits
from diffusion import objectives
from diffusion.experiments.run import examples, failure, program
from diffusion.io import file_systems
from diffusion.recipe import ConfigError, Recipe, extensions, names
from diffusion.recipe.extensions import printed
from diffusion.training import sharding
from tests import commands

BROKEN = """
import jax.numpy as jnp

from diffusion import objectives, weightings
from diffusion.recipe import names


def broken(density, parameterization):
    inner = objectives.denoising(parameterization, weightings.constant(parameterization), density)

    def objective(networks, schedule, keys, batch, step):
        losses, metrics = inner(networks, schedule, keys, batch, step)
        return losses * jnp.log(-jnp.ones_like(losses)), metrics

    return objectives.Objective(objective)


names.add(names.OBJECTIVES, broken)
"""


@pytest.fixture
def extended(monkeypatch):
    """The files that this process has run, of this test alone."""
    monkeypatch.setattr(extensions, "extended", [])
    return extensions.extended


def test_a_printed_command_is_quoted_and_has_the_files_that_extend_this_process(extended):
    assert printed("sample", "--workdir=runs/digits") == "diffusion sample --workdir=runs/digits"
    extended += ["my ideas.py", "b.py"]
    words = ["--workdir=runs/my digits; rm -r x", "--extend=my ideas.py,b.py"]
    line = printed("sample", words[0])
    assert shlex.split(line) == ["diffusion", "sample", *words]


@pytest.mark.parametrize("name", ["mine.py", "sub/mine.py", "../here/mine.py"])
def test_a_file_named_by_a_relative_path_fails_at_its_own_line(tmp_path, monkeypatch, extended, name):
    here = tmp_path / "here"
    (here / "sub").mkdir(parents=True)
    monkeypatch.chdir(here)
    pathlib.Path(name).write_text("x = 1\n\n\ndef inner():\n    raise KeyError('no')\n\n\ninner()\n")
    with pytest.raises(ConfigError, match=rf"^--extend={name}, line 5: KeyError: 'no'"):
        extensions.extend(name)
    assert extended == []


@pytest.mark.parametrize(
    "step, clip, there, missing",
    [
        (0, None, "look at the data, the network and the objective", "learning_rate"),
        (
            7,
            None,
            "smaller --config.optimizer.learning_rate, or --config.optimizer.clip=1.0, in a new --workdir.",
            "look",
        ),
        (7, 1.0, "Try a smaller --config.optimizer.learning_rate in a new --workdir.", "clip"),
    ],
)
def test_the_advice_after_a_failure_is_of_use(tmp_path, step, clip, there, missing):
    message = failure.message(step, tmp_path, {"optimizer": {"clip": clip}})
    assert there in message and missing not in message


def test_the_advice_quotes_the_checkpoint_to_start_from(tmp_path):
    (tmp_path / "my run" / "checkpoints" / "5").mkdir(parents=True)
    message = failure.message(7, tmp_path / "my run", {"optimizer": {"clip": 1.0}})
    assert f"'--config.init_from.path={tmp_path}/my run/checkpoints/5'." in message


@pytest.mark.parametrize(
    "error, start",
    [
        (ValueError("c = -1 is below 0"), "a step of this config cannot be built: c = -1"),
        (ConfigError("config.objective.c = -1."), "config.objective.c = -1."),
        (sharding.MeshError("2 heads do not divide"), "config.mesh: 2 heads do not divide"),
    ],
)
def test_a_step_that_cannot_be_built_is_blamed_on_its_own_cause(monkeypatch, error, start):
    def refusing(density, parameterization):
        def objective(networks, schedule, keys, batch, step):
            raise error

        return objectives.Objective(objective)

    monkeypatch.setitem(names.OBJECTIVES, "refusing", refusing)
    config = digits.get_config("tiny")
    config.objective = {"name": "refusing", "density": {"name": "uniform_density"}}
    mesh = sharding.make_mesh({"data": 1}, jax.devices()[:1])
    with pytest.raises(ConfigError) as caught:
        program.build(Recipe.from_config(config, (8, 8, 1)), mesh)
    assert str(caught.value).startswith(start) and (caught.value is error or caught.value.__cause__ is error)


def test_a_run_says_what_it_trains_on():
    said = str(examples.open_examples(Recipe.from_config(digits.get_config("tiny"))))
    start, _, where = said.partition(", in ")
    assert start == "digits 1.0.0 (train): 1,258 pictures of 10 classes, 8 x 8 x 1"
    assert (pathlib.Path(where) / "features.json").is_file()


def test_a_dataset_that_is_not_there_may_be_one_of_a_file(tmp_path):
    config = digits.get_config("tiny")
    config.data.update({"name": "ring", "dir": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"If a file of yours makes it, name that file: --extend=FILE\.py"):
        examples.open_examples(Recipe.from_config(config))


@pytest.mark.extended
def test_an_empty_folder_name_is_not_the_present_folder(tmp_path):
    root = pathlib.Path(__file__).parents[2]
    for words in (["--workdir="], ["--workdir", ""]):
        done = commands.run(
            "-m",
            "experiments.train",
            f"--config={root}/configs/digits.py:tiny",
            *words,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        assert done.returncode == 2 and "--workdir is empty" in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "path, encoding, refused",
    [
        ("runs/ü", "utf-8", False),
        ("runs/ü", "iso8859-1", True),
        ("runs/\udcc3\udcbc", "ascii", True),
        ("runs/u", "ascii", False),
        ("", "ascii", False),
    ],
)
def test_a_path_that_libraries_would_spell_otherwise_is_refused(tmp_path, monkeypatch, path, encoding, refused):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: encoding)
    assert ("PYTHONUTF8=1" in (file_systems.objection(path) or "")) == refused


@pytest.mark.slow
def test_a_run_under_a_locale_without_utf_8_says_so_before_anything_is_made(tmp_path):
    root = pathlib.Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": str(root), "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for module, more in (("train", [f"--config={root}/configs/digits.py:tiny"]), ("sample", [])):
        done = subprocess.run(
            [sys.executable, "-m", f"experiments.{module}", f"--workdir={tmp_path}/ü", *more],
            env=env,
            cwd=root,
            capture_output=True,
            timeout=120,
        )
        assert done.returncode in (1, 2) and b"PYTHONUTF8=1" in done.stderr and b"Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_printed_command_repeats_a_failure_of_ones_own_function_and_names_it(tmp_path):
    """The run is in a folder with a space; its objective stands in a file that --extend names by a relative path."""
    (tmp_path / "my ideas.py").write_text(BROKEN)
    root = pathlib.Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": str(root)}
    wrappers = '({"name": "condition_dropout", "rate": 0.1},)'
    objective = f'{{"name": "broken", "density": {{"name": "uniform_density"}}, "wrappers": {wrappers}}}'
    done = commands.run(
        "-m",
        "experiments.train",
        f"--config={root}/configs/digits.py:tiny",
        "--workdir=a run",
        "--extend=my ideas.py",
        f"--config.objective={objective}",
        cwd=tmp_path,
        env=env,
    )
    assert done.returncode == 1, done.stderr
    assert "not finite in step 0" in done.stdout and "No step has changed the weights yet" in done.stdout
    words = shlex.split(done.stdout.split("what is not finite:\n")[1].splitlines()[0])
    assert words == ["diffusion", "reproduce", "--workdir=a run", "--extend=my ideas.py"]
    done = commands.run(*words, cwd=tmp_path, env=env)
    assert done.returncode == 1, done.stderr
    assert f"in objective ({tmp_path}/my ideas.py:13)" in done.stdout, done.stdout
