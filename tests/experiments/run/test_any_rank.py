"""Runs on examples of any rank, and on pytrees, from a config and from Python: train, go on bit for bit, sample."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, schedules, timesteps
from diffusion.data import sources
from diffusion.experiments import train as training
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling.run_samples import sample
from diffusion.recipe import checks, names
from diffusion.recipe.defaults import defaults
from diffusion.recipe.recipe import Recipe
from diffusion.training.checkpointing import checkpoints
from tests import shared_programs
from tests.conformance import slow_but

LINE = schedules.rectified_flow()
FLOW = objectives.flow_matching(timesteps.uniform_density(LINE))
SETTINGS = {
    "train.steps": 2, "train.batch_size": 4, "train.log_every": 1, "checkpoint.every": 1, "data.threads": 0,
    "sample.steps": 2, "sample.number": 6, "sample.batch_size": 4,
}  # fmt: skip


class Rows(nn.Module):
    """A network of any pytree: its numbers, the time and the numbers of the condition through two layers."""

    width: int = 8

    @nn.compact
    def __call__(self, x, t, condition=None):
        rows = lambda tree: [jnp.reshape(leaf, (len(t), -1)).astype(jnp.float32) for leaf in jax.tree.leaves(tree)]
        hidden = nn.silu(nn.Dense(self.width)(jnp.concatenate([*rows(x), *rows(condition), t[:, None]], axis=1)))
        return jax.tree.map(lambda leaf: nn.Dense(leaf[0].size)(hidden).reshape(leaf.shape), x)


@pytest.fixture(scope="module", autouse=True)
def one_program():
    """Runs on data of one shape differ in the data, and in where they stop."""
    with shared_programs.traced_once("data", "train.steps"):
        yield


@pytest.fixture(autouse=True)
def rows_by_name(monkeypatch, tmp_path):
    monkeypatch.setitem(names.MODELS, "rows", Rows)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))


def config_of(path, **changes):
    config = defaults()
    config.model = {"name": "rows", "width": 8}
    config.data.source = {"name": "arrays", "path": str(path)}
    config.update_from_flattened_dict(SETTINGS | changes)
    return config


@pytest.mark.extended
@pytest.mark.parametrize(
    "shape, dtype",
    [
        pytest.param((3,), "float32", marks=pytest.mark.slow),
        pytest.param((7, 2), "float32", marks=pytest.mark.slow),
        pytest.param((4, 4, 4, 1), "float32", marks=pytest.mark.slow),
        ((2, 4, 4, 3), "uint8"),
    ],
)
def test_a_run_of_any_rank_from_a_config(tmp_path, shape, dtype, capsys):
    x = np.random.default_rng(0).uniform(0, 200, (20, *shape)).astype(dtype)
    np.savez(tmp_path / "data.npz", x=x)
    assert training.run(config_of(tmp_path / "data.npz", **{"train.steps": 1}), tmp_path / "parts") == 0
    assert training.run(config_of(tmp_path / "data.npz"), tmp_path / "parts") == 0  # goes on
    assert training.run(config_of(tmp_path / "data.npz"), tmp_path / "whole") == 0
    both = [checkpoints.load_ema(tmp_path / folder, 2)[0] for folder in ("parts", "whole")]
    jax.tree.map(np.testing.assert_array_equal, *both)
    said = capsys.readouterr().out
    sides = f"{shape[0]} numbers each" if len(shape) == 1 else " x ".join(map(str, shape))
    assert f"data.npz (train): 20 examples, {sides}, in {tmp_path / 'data.npz'}" in said
    recipe = checks.on_its_data(checks.validate(workdir.read_config(tmp_path / "whole")))
    made = sample(recipe, tmp_path / "whole")
    assert made.shape == (6, *shape) and made.dtype == dtype
    np.testing.assert_array_equal(np.load(tmp_path / "whole/samples.npz")["images"], made)
    clips = sources.is_clip(shape, dtype)
    assert (tmp_path / "whole/samples.png").exists() == (tmp_path / "whole/samples.gif").exists() == clips


def molecules(number=12):
    rng = np.random.default_rng(1)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    return [{"x": {"positions": draw(5, 3), "charges": draw(5)}} for _ in range(number)]


@pytest.mark.extended
def test_a_run_of_pytrees_from_python(tmp_path):
    recipe = Recipe(LINE, FLOW, Rows(), molecules(), config=SETTINGS)
    assert recipe.examples.shape == (20,) and recipe.config.model.name.endswith("Rows")
    assert training.train(recipe, tmp_path) == 0
    made = sample(recipe, tmp_path)
    assert {name: leaf.shape for name, leaf in made.items()} == {"charges": (6, 5), "positions": (6, 5, 3)}
    kept = np.load(tmp_path / "samples.npz")
    np.testing.assert_array_equal(kept["images/positions"], made["positions"])


@pytest.mark.extended
def test_a_run_of_pytrees_from_a_config(tmp_path):
    draw = np.random.default_rng(0).normal
    np.savez(tmp_path / "data.npz", positions=draw(size=(9, 5, 3)), charges=draw(size=(9, 5)))
    config = config_of(tmp_path / "data.npz", **{"train.steps": 1})
    config.data.source.x = ("positions", "charges")
    assert training.run(config, tmp_path / "run") == 0
    recipe = checks.on_its_data(checks.validate(workdir.read_config(tmp_path / "run")))
    assert sample(recipe, tmp_path / "run")["positions"].shape == (6, 5, 3)


@pytest.mark.extended
def test_a_source_is_data_in_python(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).normal(size=(8, 2)), label=np.arange(8) % 2)
    recipe = Recipe(LINE, FLOW, Rows(), sources.arrays(str(tmp_path / "a.npz")), config=SETTINGS | {"train.steps": 1})
    assert recipe.examples.shape == (2,) and recipe.examples.num_classes == 0
    assert training.train(recipe, tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert (
        "8 examples of 2 classes, 2 numbers each, in" in said
        and f"a network of {8 * 4 + 9 * 2:,} parameters and " in said
    )
    assert "FLOP an example, forward, on " in said
    with pytest.raises(ValueError, match="generator yields no records: there is nothing to train on"):
        Recipe(LINE, FLOW, Rows(), (record for record in []), config=SETTINGS)


@pytest.mark.extended
def test_the_loss_of_a_pytree_is_that_of_its_numbers():
    """One step of SGD on a pytree, and by hand on the vector of its numbers: the process does not see the structure."""

    class Linear(nn.Module):
        @nn.compact
        def __call__(self, x, t, condition=None):
            scale = self.param("scale", nn.initializers.constant(0.5), ())
            return jax.tree.map(lambda leaf: scale * leaf, x)

    data = molecules()
    packed = [{"x": np.concatenate([one["x"]["charges"], one["x"]["positions"].ravel()])} for one in data]
    losses = []
    for records in (data, packed):
        recipe = Recipe(LINE, FLOW, Linear(), records, config=SETTINGS)
        network = lambda x, t, c, recipe=recipe: recipe.network.apply({"params": {"scale": 0.5}}, x, t, c)
        x = np.stack([one["x"] for one in packed[:4]])
        keys = jax.random.split(jax.random.key(0), 4)
        losses.append(FLOW.loss({"model": network}, LINE, keys, {"x": x}, 0)[0])
    np.testing.assert_array_equal(*losses)


@pytest.mark.extended
@pytest.mark.parametrize("condition", slow_but([("picture",)], [("vector",), ("picture",), ("pytree",)]))
def test_a_run_with_conditions_that_are_no_classes(tmp_path, condition):
    values = {"vector": np.float32([1, 2, 3]), "picture": np.full((2, 2, 1), 200, np.uint8),
              "pytree": {"age": np.float32([0.5]), "mask": np.ones((2, 2), bool)}}  # fmt: skip
    records = [{"x": np.float32([i, -i]), "condition": values[condition]} for i in range(8)]
    dropped = objectives.with_condition_dropout(FLOW, Recipe(LINE, FLOW, Rows(), records).examples.null, 0.5)
    recipe = Recipe(LINE, dropped, Rows(), records, config=SETTINGS | {"sample.guidance.scale": 2.0})
    assert training.train(recipe, tmp_path) == 0
    assert sample(recipe, tmp_path).shape == (6, 2)
    kept = np.load(tmp_path / "samples.npz")
    if condition == "picture":  # as the network has it, in [-1, 1]
        np.testing.assert_allclose(kept["condition"], np.full((6, 2, 2, 1), 200 / 127.5 - 1), rtol=1e-6)
    one = jax.tree.map(lambda leaf: np.stack([leaf] * 6), values[condition])
    np.testing.assert_array_equal(sample(recipe, tmp_path, tmp_path / "again", labels=one), sample(recipe, tmp_path))


@pytest.mark.parametrize(
    "record, words",
    [
        ({"x": np.zeros(2, np.uint32)}, "examples are uint32"),
        ({"x": np.zeros(2, np.uint8)}, '"x" is uint8'),
        ([1.0, 2.0], "a record of the data is a list. Valid: a mapping"),
    ],
)
def test_records_that_are_none_are_refused(record, words):
    with pytest.raises(ValueError, match=words):
        Recipe(LINE, FLOW, Rows(), [record], config=SETTINGS)


def test_a_network_of_one_array_on_pytrees_is_refused_in_a_sentence(tmp_path):
    class OneArray(nn.Module):
        @nn.compact
        def __call__(self, x, t, condition=None):
            return nn.Dense(3)(x)

    with pytest.raises(ValueError, match=r"^the network OneArray fails on .*'positions': \(5, 3\).* docs/pytrees\.md"):
        training.train(Recipe(LINE, FLOW, OneArray(), molecules(), config=SETTINGS), tmp_path)


def test_a_network_that_puts_out_another_pytree_is_refused(tmp_path):
    class Flat(nn.Module):
        @nn.compact
        def __call__(self, x, t, condition=None):
            return x["charges"]

    with pytest.raises(ValueError, match=r"the network returns .* for an input of .*positions"):
        training.train(Recipe(LINE, FLOW, Flat(), molecules(), config=SETTINGS), tmp_path)
