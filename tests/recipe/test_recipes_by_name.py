"""A recipe is named, or a Python file: what each finds, and what a mistake is answered with."""

import pathlib

import pytest

from diffusion.experiments.sweeps import definition, sweep_folder
from diffusion.recipe import ConfigError, recipes
from diffusion.recipe.values import plain

ROOT = pathlib.Path(__file__).parents[2]
MINE = """
from diffusion.recipe import recipes

def get_config(arg=""):
    config = recipes.load("digits:tiny")
    config.seed = 7
    return config
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_name_and_the_path_of_the_clone_are_one_recipe():
    for name in recipes.names():
        argument = "no/such" if name.startswith("students/") else ""
        if not argument:
            assert plain(recipes.load(name)) == plain(recipes.load(f"{ROOT}/configs/{name}.py"))
        assert recipes.short(f"{ROOT}/configs/{name}.py:{argument}") == f"{name}:{argument}"
    assert {"digits", "cifar10_dit", "students/lcm", "text/shapes"} <= set(recipes.names())
    assert not {"students/base", "sweeps/digits_steps", "__init__"} & set(recipes.names())
    assert recipes.load("digits:tiny").train.steps == 40


def test_sweeps_have_names_too():
    assert "digits_weightings" in recipes.names(recipes.SWEEPS)
    assert definition.load("digits_steps:tiny") == definition.load(f"{ROOT}/configs/sweeps/digits_steps.py:tiny")


def test_a_file_of_ones_own_is_built_on_a_recipe_and_named_by_its_path():
    pathlib.Path("mine.py").write_text(MINE)
    assert recipes.load("mine.py").seed == 7 and recipes.load("mine.py").train.steps == 40
    assert recipes.short("mine.py:x") == "mine.py:x"


@pytest.mark.parametrize(
    "name, words",
    [
        ("digitz", ["'digitz'", "Did you mean 'digits'?", "students/lcm"]),
        ("configs/digits.py", ["'configs/digits.py'", "is --config=digits."]),
        ("configs/students/lcm.py", ["is --config=students/lcm."]),
        ("mine", ["For your file, write --config=mine.py."]),
        ("other.py", ["'other.py'", "digits_mean_flow"]),
    ],
)
def test_a_mistake_is_answered_with_what_there_is(name, words):
    pathlib.Path("mine.py").write_text(MINE)
    with pytest.raises(ConfigError) as error:
        recipes.load(name)
    for word in words:
        assert word in str(error.value)


def test_a_student_without_a_teacher_says_how_to_train_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as raised:
        recipes.load("students/lcm:,tiny")
    assert "'runs/digits' holds no run" in str(raised.value)
    assert "the default: diffusion train --config=digits --workdir=runs/digits" in str(raised.value)
    with pytest.raises(ConfigError) as raised:
        recipes.load("students/lcm:mine")
    assert "'mine' holds no run" in str(raised.value) and "default" not in str(raised.value)


def test_a_student_of_a_text_to_image_model_names_the_recipe_for_these(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ConfigError) as raised:
        recipes.load(f"students/turbo:{tmp_path}")
    assert f"--config=tuning/lcm_lora --config.base.path={tmp_path} " in str(raised.value)


def test_a_sweep_begun_with_the_first_spellings_goes_on(tmp_path, monkeypatch):
    """Its commands and bases, as sweep.json held them, are those of the sweep today."""
    monkeypatch.chdir(ROOT)
    today = definition.record(definition.load("digits_models:tiny"), "digits_models:tiny", tmp_path)
    first = lambda words: ["python", "-m", f"experiments.{words[1]}", *(
        word.replace("--config=digits:", "--config=configs/digits.py:") for word in words[2:])]  # fmt: skip
    runs = [run._replace(commands=[first(words) for words in run.commands]) for run in today.runs]
    bases = {name.replace("digits:", "configs/digits.py:"): base for name, base in today.bases.items()}
    assert runs != today.runs and bases.keys() != today.bases.keys()
    sweep_folder.write(tmp_path, today._replace(runs=runs, bases=bases, file="configs/sweeps/digits_models.py:tiny"))
    definition.settle(tmp_path, today)
    assert sweep_folder.read(tmp_path).bases.keys() == today.bases.keys()
