"""diffusion membership and diffusion attribute: on a run that memorised its data, and on one that has seen nothing."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from diffusion import schedules
from diffusion.experiments import attribute, membership, train
from diffusion.experiments.sampling import trained_run
from diffusion.recipe import ConfigError, Recipe
from diffusion.recipe.parts import Resolver
from diffusion.recipe.sections import Examples
from tests import commands


def test_times_out_of_range_are_refused():
    config = digits.get_config("tiny")
    run = types.SimpleNamespace(config=config, schedule=Recipe.from_config(config, (8, 8, 1)).schedule)
    for t in (0.0, 0.95, -1.0):
        with pytest.raises(ConfigError, match=rf"--times={t:g} must be above 0 and below 0\.9"):
            membership.measure(run, [0.3, t], 10)


@pytest.mark.parametrize("split, number", [("train", "1,258"), ("train[90%:]", "126"), ("train[:9]+test", "9")])
def test_splits_with_pictures_in_common_are_refused(split, number):
    config = digits.get_config("tiny")
    config.evaluate.split = split
    recipe = types.SimpleNamespace(examples=Examples(num_classes=0))
    run = types.SimpleNamespace(config=config, schedule=schedules.rectified_flow(), recipe=recipe)
    with pytest.raises(ConfigError, match=f"have {number} pictures in common"):
        membership.measure(run, [0.3], 10)


def test_the_picture_shows_the_highest_scores_first(tmp_path):
    train_pictures = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 1), np.uint8)
    scores = np.array([[0.0, 3.0, 1.0, -2.0, 2.0, 0.5]])
    best = attribute.picture(train_pictures[:1], train_pictures, scores, 3, tmp_path / "a.png")
    assert best.tolist() == [[1, 4, 2]] and (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_training_picture_is_attributed_to_itself():
    """The gradient at a training picture is that of the picture itself: of all its own score is the highest."""
    config = digits.get_config("tiny")
    network = Resolver(config).model((8, 8, 1))
    zeros = (jnp.zeros((1, 8, 8, 1)), jnp.zeros(1), jnp.zeros(1, jnp.int32))
    params = jax.jit(network.init)(jax.random.key(0), *zeros)
    rng = np.random.default_rng(0)
    run = trained_run.from_config(
        config, jax.tree.map(lambda a: a + 0.1 * rng.standard_normal(a.shape, np.float32), params)
    )
    x, labels = run.real("train", 40)
    images = np.asarray((x + 1) * 127.5).round().astype(np.uint8)
    seen = []
    of_all = attribute.features_of(run, jax.random.key(1), images, labels, 512, 2, seen.append)
    assert seen == [16, 32, 40] and of_all.loss.shape == (40, 512) and of_all.output.shape == (40, 2, 512)
    rows = np.random.default_rng(1).permutation(16)  # a sample and the same training picture are of different rows
    scores = attribute.attribute(run, (images[rows], labels[rows]), (images[:16], labels[:16]), 512, 128)
    assert np.mean(scores.argmax(1) == rows) > 0.9


def test_the_table_has_each_share_with_its_interval():
    row = {
        "auroc": {"value": 0.6, "interval": [0.5, 0.7], "positives": 100, "negatives": 90},
        "hits": 0.05, "hits_interval": (0.01, 0.125),
    }  # fmt: skip
    lines = membership.table({"members": "train", "others": "test", "attacks": {"loss": {"0.3": row}}}).splitlines()
    assert lines[0] == "Members: split train; others: split test"
    cells = ["loss", "0.3", "0.600 (0.500 .. 0.700)", "0.050 (0.010 .. 0.125)", "100 and 90"]
    assert [cell.strip() for cell in lines[4].strip("|").split("|")] == cells


@pytest.mark.parametrize("command", [membership, attribute])
def test_runs_whose_data_have_changed_are_refused(command, monkeypatch, tmp_path):
    """Their splits are cut from the present records, so that members and others were no longer those of the run."""
    recipe = types.SimpleNamespace(makes_bytes=True, on_latents=False)
    run = types.SimpleNamespace(config="config", recipe=recipe)
    given = types.SimpleNamespace(workdir="run", out=str(tmp_path), times=["0.1"])
    monkeypatch.setattr(command, "flags", types.SimpleNamespace(FLAGS=given))
    monkeypatch.setattr(command.trained_run, "load", lambda folder: run)

    def refuses(config, folder):
        raise ConfigError(f"{folder} has other data than {config}")

    monkeypatch.setattr(command.held_out, "require_trained_data", refuses)
    with pytest.raises(ConfigError, match="run has other data than config"):
        command.main([])


@pytest.mark.slow
def test_the_commands_measure_a_run(tmp_path):
    config = digits.get_config("tiny")
    config.train.steps = config.checkpoint.every = 2
    assert train.run(config, tmp_path / "run") == 0
    run = f"--workdir={tmp_path}/run"
    done = commands.run("diffusion", "membership", run, "--times=0.3", "--number=60", timeout=300)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "run" / "membership" / "membership.json").read_text())
    low, high = figures["attacks"]["loss"]["0.3"]["auroc"]["interval"]
    attack = figures["attacks"]["loss"]["0.3"]
    assert attack["hits_interval"][0] <= attack["hits"] <= attack["hits_interval"][1]
    assert low < 0.6 and high > 0.4 and figures["members"] == "train" and figures["others"] == "test"
    missing = commands.run("diffusion", "attribute", run)
    assert missing.returncode == 1 and "samples.npz does not exist" in missing.stderr
    assert commands.run("diffusion", "sample", run, timeout=300).returncode == 0
    words = ["--number=2", "--train=30", "--features=64", "--draws=2"]
    done = commands.run("diffusion", "attribute", run, *words, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run" / "attribution" / "attribution.json").read_text())
    assert np.shape(found["top"]) == (2, 8) and (tmp_path / "run" / "attribution" / "attribution.png").is_file()
