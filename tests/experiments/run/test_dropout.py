"""Dropout in a run: the same draws in one piece or in parts, none in a held-out loss, and a step that is repeated."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, parameterizations, schedules, timesteps
from diffusion.experiments import reproduce, train
from diffusion.experiments.run import players
from diffusion.models.layers.dropout import dropped
from diffusion.recipe import ConfigError, names
from diffusion.recipe.parts import Resolver
from diffusion.recipe.recipe import Recipe
from diffusion.training.checkpointing import checkpoints
from tests.recipe.test_backbones_by_name import config

LINE = schedules.rectified_flow()
DENSITY = timesteps.uniform_density(LINE)
SETTINGS = {
    "train.steps": 4, "train.batch_size": 4, "train.log_every": 1, "checkpoint.every": 2, "data.threads": 0,
    "train.accumulate": 1, "evaluate.loss.every": 2, "evaluate.loss.number": 16,
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("compilation_cache")


class Constant:
    """A network that returns one trained number everywhere, of which it drops a half of the places."""

    dropout = 0.5
    takes_dropout = True

    def init(self, key, x, t, condition=None):
        return {"b": jnp.float32(0.5)}

    def apply(self, params, x, t, condition=None, dropout_keys=None):
        return dropped(jnp.full_like(x, params["b"]), dropout_keys, self.dropout)


class Whole(Constant):
    """The same without dropout."""

    dropout = 0.0


def recipe(network=None, **settings):
    """The loss of an example is (b m - x)^2, with the mask m of its dropout."""

    def squares(networks, schedule, keys, batch, step):
        return jnp.square(networks["model"](batch["x"], jnp.ones(len(keys)), None) - batch["x"]).mean(-1), {
            "t": jnp.ones(len(keys))
        }

    made = lambda first: [{"x": np.full(64, np.sin(i), np.float32)} for i in range(first, first + 16)]
    return Recipe(
        LINE, objectives.Objective(squares, density=DENSITY), network or Constant(), made(0),
        parameterization=parameterizations.velocity(), held_out=made(16), config=SETTINGS | settings,
    )  # fmt: skip


def rows(folder):
    return list(map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dropout")
    assert train.train(recipe(), folder) == 0
    return folder


@pytest.mark.extended
def test_it_goes_on_bit_for_bit_and_micro_batches_draw_alike(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "parts")
    shutil.rmtree(checkpoints.folder(tmp_path / "parts") / "4")
    assert train.train(recipe(), tmp_path / "parts") == 0
    assert train.train(recipe(**{"train.accumulate": 4}), tmp_path / "micro") == 0
    assert train.train(recipe(Whole()), tmp_path / "whole") == 0
    losses = {name: [row["loss"] for row in rows(folder) if "loss" in row] for name, folder in (
        ("whole run", trained), ("parts", tmp_path / "parts"), ("micro", tmp_path / "micro"),
        ("no dropout", tmp_path / "whole"))}  # fmt: skip
    assert losses["parts"] == losses["whole run"] and len(losses["parts"]) == 4
    np.testing.assert_allclose(losses["micro"], losses["whole run"], rtol=1e-6)
    assert np.abs(np.subtract(losses["no dropout"], losses["whole run"])).min() > 1e-3


@pytest.mark.extended
def test_a_held_out_loss_has_none(trained):
    row = next(row["held_out_loss"] for row in rows(trained) if "held_out_loss" in row)
    b = float(checkpoints.load_params(trained, 2)[0]["b"])
    x = np.sin(np.arange(16, 32))
    assert abs(b) > 1e-3
    assert row["trained"]["loss"] == pytest.approx(np.square(b - x).mean(), rel=1e-5)


def test_a_step_is_repeated_with_its_draws(trained):
    repeated = reproduce.repeat(recipe(), trained, 2)
    logged = next(row["loss"] for row in rows(trained) if row["step"] == 3)
    assert repeated.metrics["loss"] == pytest.approx(logged, rel=1e-6)
    assert np.mean(repeated.losses) == pytest.approx(logged, rel=1e-6)


@pytest.mark.parametrize("name", ["unet", "song_unet", "edm2_unet"])
def test_the_rate_of_a_config_reaches_the_network(name):
    assert Resolver(config(name, dropout=0.1)).model((8, 8, 3)).dropout == 0.1


def test_a_network_that_takes_no_keys_is_refused(monkeypatch):
    class Plain(names.MODELS["unet"]):
        takes_dropout = False

    monkeypatch.setitem(names.MODELS, "unet", Plain)
    with pytest.raises(ConfigError, match=r"config\.model\.dropout = 0\.1: .* `takes_dropout`.*Valid: 0"):
        Resolver(config("unet", dropout=0.1)).model((8, 8, 3))


def test_a_player_draws_what_its_network_has_also_as_a_judge():
    plain = objectives.Objective(lambda *_: None)
    assert players.trained_objective(plain, Whole()) is plain
    assert players.trained_objective(plain, Constant()) is not plain
    judge = players.mean_logit(lambda params, x, dropout_keys=None: x * (2 if dropout_keys is not None else 1))
    np.testing.assert_array_equal(
        judge(None, jnp.ones((2, 3)), dropout_keys=jax.random.split(jax.random.key(0))), [2, 2]
    )
