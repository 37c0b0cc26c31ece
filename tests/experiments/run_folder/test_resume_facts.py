"""What a run may change when it goes on: each field of a config is free or refused, and a free one changes no step."""

import fnmatch
import json
import pathlib

import jax
import numpy as np
import pytest

from configs import digits
from diffusion.data import catalog
from diffusion.experiments import train
from diffusion.experiments.run_folder import workdir
from diffusion.recipe import ConfigError
from diffusion.recipe.defaults import defaults
from diffusion.recipe.values import flattened, plain
from diffusion.training.checkpointing import checkpoints
from tests import shared_programs

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "tasks" / "resume_elsewhere.md"
FIELDS = {field: value for field, value in flattened(plain(defaults())).items() if field != "data.source.name"}
FREE = {  # written by hand, beside the table: a field that comes is refused until somebody says otherwise
    *("train.steps", "train.log_every", "data.dir", "data.threads", "data.processes"),
    *("data.viewed", "data.damaged", "data.changed", "base.path"),
    *("data.latents.dir", "data.latents.autoencoder", "data.text.tokenizer", "data.text.dir", "data.text.prompt"),
    *(field for field in FIELDS if field.split(".")[0] in ("checkpoint", "evaluate", "sample", "mesh")),
}
OTHER = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v / 2 + 0.25, str: lambda v: f"{v}other"}
OTHER |= {tuple: lambda v: (*v, "other"), type(None): lambda v: (1, 2)}

SHORT = {"train.steps": 4, "train.log_every": 1, "checkpoint.every": 2, "model.width": 16, "model.depth": 1,
         "train.batch_size": 8, "evaluate.features": ("pixels",), "evaluate.number": 20, "sample.batch_size": 20,
         "sample.steps": 1, "objective.density.strata": 8}  # fmt: skip
CHANGES = {  # of each row of the table that the digits can show, in the second half of a run
    "train.log_every": {"train.log_every": 2},
    "checkpoint.*": {"checkpoint.every": 1, "checkpoint.keep": 1, "checkpoint.keep_every": 2},
    "evaluate.*": {"evaluate.every": 1, "evaluate.number": 10, "evaluate.split": "validation"},
    "sample.*": {"sample.steps": 2, "sample.seed": 1, "sample.sampler": {"name": "euler"}},
    "data.threads": {"data.threads": 3},
    "data.processes": {"data.processes": 2},
    "data.damaged": {"data.damaged": "skip"},
    "data.changed": {"data.changed": "accept"},
}


@pytest.fixture
def run(tmp_path):
    """A folder with the config of a run of digits, whose entries have all the fields of the defaults."""
    workdir.settle_config(tmp_path, defaults())
    return tmp_path


@pytest.mark.extended
@pytest.mark.parametrize("field", FIELDS)
def test_each_field_is_free_or_refused(run, field):
    config = defaults()
    config.update_from_flattened_dict({field: OTHER[type(FIELDS[field])](FIELDS[field])})
    if field in FREE:
        assert workdir.settle_config(run, config) is True
        return
    with pytest.raises(
        ConfigError, match=rf"(?s)may not change:\n  {field}: .*A run may change train\.steps, .*base\.path"
    ):
        workdir.settle_config(run, config)


def test_each_row_of_the_table_is_of_a_field_and_has_its_reason_on_the_page():
    rows = dict(line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| `"))
    assert rows == {f"`{field}`": why for field, why in workdir.MAY_CHANGE.items()}
    of_sources = {"data.source.path"}  # an argument of a source, which the default has not
    for pattern, why in workdir.MAY_CHANGE.items():
        assert len(why) > 20 and (pattern in of_sources or fnmatch.filter(FIELDS, pattern)), pattern


def test_the_place_of_a_source_is_free_and_its_other_arguments_are_not(tmp_path):
    config = lambda **entry: {"data": {"source": {"name": "picture_folder", **entry}}}
    workdir.settle_config(tmp_path, config(path="/a", side=8))
    assert workdir.settle_config(tmp_path, config(path="/b", side=8)) is True
    with pytest.raises(ConfigError, match=r"data\.source\.side: 8 -> 16"):
        workdir.settle_config(tmp_path, config(path="/b", side=16))


GRADIENT = {"name": "policy_gradient", "reward": {"name": "own"}, "group": 4}
DMD2 = {"name": "dmd2", "samples": {"name": "backward_simulation"}}
OF_ITS_OWN = {"name": "dmd2", "samples": {"name": "backward_simulation", "grid": {"name": "uniform", "steps": 4}}}


@pytest.mark.parametrize("objective, second, free", [
    (GRADIENT, {}, False), ({"name": "weighted", "of": (GRADIENT,)}, {}, False), (DMD2, {}, False), ({}, DMD2, False),
    (OF_ITS_OWN, {}, True), ({"name": "denoising"}, {}, True),
])  # fmt: skip
@pytest.mark.parametrize("changes", [{"steps": 9}, {"shift": 3.0}, {"grid": {"name": "uniform", "end": 0.1}}])
def test_times_of_samples_that_an_objective_trains_on_are_not_free(objective, second, free, changes, tmp_path):
    """A policy gradient whose run went on with other `sample.steps` trained along other times from there on."""
    sample = {"steps": 4, "shift": 1.0, "grid": {"name": "uniform", "end": 0.0}, "seed": 0}
    config = {"objective": objective, "second_player": {"objective": second}, "sample": sample}
    workdir.settle_config(tmp_path, config)
    assert workdir.settle_config(tmp_path, {**config, "sample": {**sample, "seed": 1}}) is True
    changed = {**config, "sample": {**sample, "seed": 1, **changes}}
    if free:
        assert workdir.settle_config(tmp_path, changed) is True
        return
    with pytest.raises(ConfigError, match=r"(?s)may not change:\n  sample\.\w+.*objective trains on the times of its"):
        workdir.settle_config(tmp_path, changed)


def trained(folder, **changes):
    config = digits.get_config("tiny")
    config.update_from_flattened_dict({**SHORT, **changes})
    assert train.run(config, folder) == 0


@pytest.fixture(scope="module")
def straight(tmp_path_factory, compilation_cache):
    folder = tmp_path_factory.mktemp("straight")
    with shared_programs.traced_once("checkpoint", "evaluate", "sample", "train.steps", "train.log_every", "data"):
        trained(folder)
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [*CHANGES, "data.dir"])
def test_a_run_that_goes_on_with_another_value_takes_the_steps_that_it_would_have_taken(tmp_path, straight, pattern):
    changes = CHANGES.get(pattern, {})
    if pattern == "data.dir":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "digits").symlink_to(catalog.find("digits").parent)
        changes = {"data.dir": str(tmp_path / "elsewhere")}
    trained(tmp_path / "run", **{"train.steps": 2})
    trained(tmp_path / "run", **changes)
    ours, theirs = (checkpoints.load_ema(folder, 4)[0] for folder in (tmp_path / "run", straight))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    losses = [
        {line["step"]: line["loss"] for line in map(json.loads, (folder / "metrics.jsonl").open()) if "loss" in line}
        for folder in (tmp_path / "run", straight)
    ]
    assert losses[0].keys() <= losses[1].keys() and max(losses[0]) == 4
    if pattern != "train.log_every":  # which then logs the mean of several
        assert all(losses[1][step] == loss for step, loss in losses[0].items())
