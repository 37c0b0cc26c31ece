"""Configs as data: the round trip, the hash, the differences, and the flag as a command sees it."""

import hashlib
import os
import pathlib
import subprocess
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from diffusion.experiments import config_flag, flag_errors
from diffusion.recipe import ConfigError, recipes
from diffusion.recipe.values import MISSING, config_hash, differences, from_json, plain, to_json
from tests import commands

ROOT = pathlib.Path(__file__).parents[2]

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
NAMES = st.text("abcde_", min_size=1, max_size=3)
TREES = st.dictionaries(
    NAMES,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(NAMES, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@pytest.mark.extended
@settings(max_examples=100, deadline=None)
@given(TREES)
def test_round_trip(tree):
    text = to_json(ConfigDict(tree))
    again = from_json(text)
    assert again.to_dict() == tree
    assert to_json(again) == text
    assert differences(tree, again) == []


def test_lists_tuples_numpy_and_placeholders_have_one_form():
    ours = ConfigDict({"a": [1, (2, 3)], "b": ({"name": "flip"},), "c": np.float32(0.5), "d": placeholder(tuple)})
    expected = {"a": (1, (2, 3)), "b": ({"name": "flip"},), "c": 0.5, "d": None}
    assert plain(ours) == expected
    assert plain(from_json(to_json(ours))) == expected
    assert config_hash(ours) == config_hash(expected)


def test_digest_is_the_hash_of_canonical_json():
    text = '{"a": {"x": null, "y": "\\u00e9"}, "b": [1, 2.5]}'  # keys sorted, ASCII, 1.0 written as 1
    expected = hashlib.sha256(text.encode()).hexdigest()[:12]
    assert config_hash({"b": (1, 2.5), "a": {"x": None, "y": "é"}}) == expected
    assert config_hash({"a": {"y": "é", "x": None}, "b": [1.0, 2.5]}) == expected


@pytest.mark.extended
@settings(max_examples=100, deadline=None)
@given(TREES, TREES)
def test_digests_differ_exactly_where_fields_do(one, other):
    assert (config_hash(one) == config_hash(other)) == (differences(one, other) == [])


def test_differences_are_dotted_fields():
    old = {"train": {"steps": 10, "batch_size": 4}, "sampler": {"name": "ddim", "eta": 0.5}, "same": (1, 2)}
    new = ConfigDict({"train": {"steps": 20, "batch_size": 4.0}, "sampler": {"name": "heun"}, "same": [1, 2]})
    assert differences(old, new) == [
        ("sampler.eta", 0.5, MISSING),
        ("sampler.name", "ddim", "heun"),
        ("train.steps", 10, 20),
    ]
    assert str(differences(old, new)[-1]) == "train.steps: 10 -> 20"


@pytest.mark.parametrize(
    "old, new",
    [
        ({"a": True}, {"a": 1}),
        ({"a": None}, {}),
        ({"a": {}}, {}),
        ({"a": MISSING}, {}),
        ({"a": "1"}, {"a": 1}),
        ({"a": (True,)}, {"a": (1,)}),
        ({"a": {"b": 1}}, {"a": 1}),
    ],
)
def test_differences_see_what_python_calls_equal(old, new):
    assert differences(old, new)
    assert config_hash(old) != config_hash(new)


@pytest.mark.parametrize(
    "value, path",
    [
        ({"a": {"b": float("inf")}}, "config.a.b"),
        ({"a": [1, float("nan")]}, "config.a[1]"),
        ({"a": len}, "config.a"),
        ({"a": {1: 2}}, "config.a"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_path(value, path):
    with pytest.raises(ConfigError, match=path.replace("[", r"\[")):
        to_json(value)


@pytest.mark.parametrize("text", ["{", "[1]", "__import__('os')", '{"a": NaN}', ""])
def test_from_json_refuses_what_is_not_an_object(text):
    with pytest.raises(ConfigError):
        from_json(text)


def test_load(tmp_path):
    file = tmp_path / "c.py"
    file.write_text("def get_config(arg=''):\n    return {'arg': arg}\n")
    assert recipes.load(str(file)) == {"arg": ""}
    assert recipes.load(f"{file}:tiny") == {"arg": "tiny"}
    with pytest.raises(ConfigError, match="no recipe file"):
        recipes.load(str(tmp_path / "other.py"))
    file.write_text("x = 1\n")
    with pytest.raises(ConfigError, match="get_config"):
        recipes.load(str(file))


@pytest.mark.parametrize("preset", ["", ":tiny"])
def test_a_path_with_a_colon_is_refused_since_a_preset_begins_there(tmp_path, preset):
    file = tmp_path / "run:1" / "c.py"
    file.parent.mkdir()
    file.write_text("def get_config(arg=''):\n    return {'arg': arg}\n")
    with pytest.raises(ConfigError, match=r"--config=.*run:1/c\.py has a colon, which would begin the preset"):
        recipes.load(f"{file}{preset}")
    with pytest.raises(ConfigError, match=r"--sweep=.*run:1/c\.py has a colon, which would begin the preset"):
        recipes.name_and_preset(f"{file}{preset}", recipes.SWEEPS)
    with pytest.raises(ConfigError, match=r"--config=.*run:1/c\.py has a colon, which would begin the preset"):
        flag_errors.as_config_error(ValueError("of a parser"), [], f"{file}{preset}", "diffusion train")


PROGRAM = '''
"""A command.

Example: python -m command --config=x.py
"""
from absl import flags
from diffusion.experiments import command_line, config_flag
from diffusion.recipe.values import to_json
config_flag.flag()
def main(argv):
    from diffusion.recipe import checks
    checks.validate(flags.FLAGS.config)
    print(to_json(flags.FLAGS.config))
if __name__ == "__main__":
    command_line.run(main)
'''


def command(tmp_path, *arguments: str, program: str = PROGRAM) -> subprocess.CompletedProcess:
    (tmp_path / "command.py").write_text(textwrap.dedent(program))
    return commands.run(str(tmp_path / "command.py"), *arguments, env=os.environ | {"PYTHONPATH": str(ROOT)})


@pytest.mark.extended
def test_a_warning_of_a_command_is_one_line_without_the_place_in_the_code(tmp_path):
    program = PROGRAM.replace("checks.validate(", "import warnings; warnings.warn('three rows are empty'); print(")
    done = command(tmp_path, "--config=configs/digits.py:tiny", program=program)
    assert done.returncode == 0, done.stderr
    assert "warning: three rows are empty" in done.stderr.splitlines()
    assert "UserWarning" not in done.stderr and "command.py" not in done.stderr


@pytest.mark.extended
def test_any_value_can_be_overridden(tmp_path):
    done = command(
        tmp_path,
        "--config=configs/digits.py:tiny",
        "--config.train.steps=7",
        "--config.seed=3",
        "--config.schedule.name=cosine",
        "--config.schedule.s=0.01",  # an argument that was not there
        "--config.sample.guidance.interval=(0.1, 0.9)",
        "--config.data.augment=({'name': 'flip'},)",
        '--config.sample.sampler={"name": "ddim", "eta": 0.5}',
        "--config.objective.density.mean=1",
    )
    assert done.returncode == 0, done.stderr
    got = from_json(done.stdout)
    assert (got.train.steps, got.seed) == (7, 3)
    assert got.schedule.to_dict() == {"name": "cosine", "s": 0.01}
    assert got.sample.guidance.interval == (0.1, 0.9)
    assert plain(got.data.augment) == ({"name": "flip"},)
    assert got.sample.sampler.to_dict() == {"name": "ddim", "eta": 0.5}
    assert got.objective.density.mean == 1


@pytest.mark.extended
@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--config=configs/digits.py", "--config.train.stpes=3"], ["config.train", "'stpes'", "'steps'"]),
        (["--config=configs/digits.py", "--config.trian.steps=3"], ["trian"]),
        (["--config=configs/digits.py", "--config.train.steps=many"], ["config.train.steps", "many"]),
        (["--config=configs/digits.py", "--config.train.steps=0"], ["config.train.steps = 0", "at least 1"]),
        (["--config=configs/digits.py:tyni"], ["'tyni'", "'tiny'"]),
        (["--config=configs/digitz.py"], ["configs/digitz.py"]),
        (["--config=configs/digitz.py", "--config.seed=1"], ["configs/digitz.py"]),
        ([], ["--config"]),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(tmp_path, arguments, words):
    done = command(tmp_path, *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1
    for word in words:
        assert word in done.stderr


@pytest.mark.extended
def test_help_shows_the_flag_and_the_example(tmp_path):
    done = command(tmp_path, "--help")
    assert "Example: python -m command" in done.stdout
    assert "cifar10_dit:tiny" in done.stdout


@pytest.mark.parametrize("picture", ["a.png", "cat/b.JPG"])
def test_a_folder_of_pictures_is_no_run_and_is_not_trained_into(tmp_path, picture):
    (tmp_path / picture).parent.mkdir(exist_ok=True)
    (tmp_path / picture).touch()
    error = config_flag.no_run(str(tmp_path))
    assert f"holds pictures (such as {picture}) and no run" in error and f"--workdir={tmp_path}" not in error[10:]


def test_a_folder_of_runs_is_no_folder_of_pictures(tmp_path):
    (tmp_path / "digits").mkdir()
    for name in ("config.json", "samples.png"):
        (tmp_path / "digits" / name).touch()
    for folder in (tmp_path, tmp_path / "none"):
        assert f"diffusion train --config=digits --workdir={folder}" in config_flag.no_run(str(folder))


SAVED = PROGRAM.replace("config_flag.flag()", "config_flag.saved_flag()").replace(
    "def main", "flags.DEFINE_string('workdir', None, 'the run')\ndef main"
)


@pytest.mark.extended
def test_a_command_on_a_run_takes_its_config_with_changes(tmp_path):
    config = recipes.load(f"{ROOT}/configs/digits.py:tiny")
    (tmp_path / "config.json").write_text(to_json(config))
    done = command(
        tmp_path,
        f"--workdir={tmp_path}",
        "--config.sample.guidance.interval=(0,1)",
        "--config.sample.steps=3",
        "--config.sample.sampler.name=ddim",
        "--config.sample.sampler.eta=0.5",
        program=SAVED,
    )
    assert done.returncode == 0, done.stderr
    assert differences(config, from_json(done.stdout)) == [
        ("sample.guidance.interval", None, (0, 1)),
        ("sample.sampler.eta", MISSING, 0.5),
        ("sample.sampler.name", config.sample.sampler.name, "ddim"),
        ("sample.steps", config.sample.steps, 3),
    ]


@pytest.mark.extended
@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--config.sample.steps=3"], ["--workdir"]),
        (["--workdir", "no/run"], ["no/run", "config.json"]),
        (["--workdir=.", "--config.sample.steps=3"], ["config.json"]),
    ],
)
def test_a_command_on_no_run_says_so(tmp_path, arguments, words):
    done = command(tmp_path, *arguments, program=SAVED)
    assert done.returncode == 2 and done.stderr.startswith("error: "), done.stderr
    for word in words:
        assert word in done.stderr
    assert "Example" in command(tmp_path, "--help", program=SAVED).stdout
