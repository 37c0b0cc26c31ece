"""A class and a vector as one condition, {"label", "vector"}: trained, guided, sampled and evaluated in a run.

The data are Gaussian, x = mean(class) + vector A + 0.3 noise, and the network has the form of their exact velocity: the
means and A are all that it learns. The null condition, no class and a vector of zeros, then learns the mean of all.
"""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, schedules, timesteps
from diffusion.experiments import evaluate, train as training
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import generate, requested, run_samples
from diffusion.recipe import ConfigError, checks, names
from diffusion.recipe.recipe import Recipe, Training
from diffusion.training import optimizers
from diffusion.training.checkpointing import checkpoints
from tests.experiments.run.test_every_source import config_of

pytestmark = pytest.mark.usefixtures("compilation_cache")

MEANS, MATRIX, DEVIATION = np.array([[2.0, 0], [-1, 2], [-1, -2]]), np.array([[1.0, 0.5]]), 0.3
NUMBER = 600


class Exact(nn.Module):
    """The velocity of the rectified flow of N(mean, 0.3^2), with the mean of a class and a vector as parameters."""

    num_classes: int = 3
    vector_width: int = 1

    @nn.compact
    def __call__(self, x, t, condition):
        means = self.param("means", nn.initializers.zeros, (self.num_classes + 1, 2))
        mean = means[condition["label"]] + nn.Dense(2, use_bias=False, name="matrix")(condition["vector"])
        t = t[:, None]
        variance = DEVIATION**2 * (1 - t)
        return ((t - variance) * x - t * mean) / (variance * (1 - t) + t**2)


def drawn(seed, number=NUMBER):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, number)
    vector = rng.normal(size=(number, 1)).astype(np.float32)
    x = MEANS[label] + vector @ MATRIX + DEVIATION * rng.normal(size=(number, 2))
    return {"x": x.astype(np.float32), "label": label, "vector": vector}


def fitted(data):
    """Means and matrix by least squares, and the mean of all: what the network can learn at best."""
    design = np.concatenate([np.eye(3)[data["label"]], data["vector"]], axis=1)
    solution = np.linalg.lstsq(design, data["x"], rcond=None)[0]
    return solution[:3], solution[3:], data["x"].mean(0)


def stored(folder, **changes):
    np.savez(folder / "data.npz", **drawn(0) | changes)
    np.savez(folder / "held_out.npz", **drawn(1) | changes)
    return {"name": "arrays", "path": str(folder / "data.npz"), "condition": ("label", "vector")}


SETTINGS = {
    "train.steps": 200, "train.batch_size": 128, "train.log_every": 100, "checkpoint.every": 200, "data.threads": 0,
    "ema.decay": 0.9, "sample.steps": 20, "sample.number": 600, "sample.batch_size": 600, "sample.guidance.scale": 1.0,
}  # fmt: skip


def exact_config(folder, **changes):
    optimizer = {"name": "adamw", "learning_rate": 0.05, "decay": "cosine"}
    changes = {"model": {"name": "exact", "num_classes": 3, "vector_width": 1}, "optimizer": optimizer} | changes
    return config_of(
        stored(folder), **SETTINGS | {"objective.wrappers": ({"name": "condition_dropout", "rate": 0.2},)} | changes
    )


@pytest.fixture(autouse=True)
def exact_by_name(monkeypatch):
    monkeypatch.setitem(names.MODELS, "exact", Exact)


def recipe_of(config):
    return checks.on_its_data(checks.validate(config))


def learned(folder):
    params = checkpoints.load_ema(folder)[0]["params"]
    return np.asarray(params["means"]), np.asarray(params["matrix"]["kernel"])


def check_learned(folder):
    means, matrix, mean_of_all = fitted(drawn(0))
    found, found_matrix = learned(folder)
    np.testing.assert_allclose(found[:3], means, atol=0.1)
    np.testing.assert_allclose(found_matrix, matrix, atol=0.1)
    np.testing.assert_allclose(found[3], mean_of_all, atol=0.25)  # of a fifth of the examples


def check_guided(recipe, folder):
    """Samples of one condition are N(m_0 + w (m_c - m_0), 0.3^2), m_0 that of the null condition."""
    found, matrix = learned(folder)
    condition = {"label": np.repeat([1, 2], 300), "vector": np.repeat([[0.5], [-1.0]], 300, axis=0)}
    made = run_samples.sample(recipe, folder, folder / "guided", condition)
    scale = recipe.config.sample.guidance.scale
    for rows, label, vector in ((slice(300), 1, 0.5), (slice(300, 600), 2, -1.0)):
        expected = found[3] + scale * (found[label] + vector * matrix[0] - found[3])
        np.testing.assert_allclose(made[rows].mean(0), expected, atol=0.08)
        np.testing.assert_allclose(np.cov(made[rows].T), DEVIATION**2 * np.eye(2), atol=0.03)
    kept = np.load(folder / "guided/samples.npz")
    np.testing.assert_array_equal(kept["labels"], condition["label"])
    np.testing.assert_array_equal(kept["condition/label"], condition["label"])
    np.testing.assert_allclose(kept["condition/vector"], condition["vector"])


@pytest.mark.slow
def test_a_run_from_a_config_learns_both_and_guides_by_both(tmp_path):
    config = exact_config(tmp_path, **{"evaluate.every": 200, "evaluate.number": 300, "evaluate.failed": "stop",
                                       "data.split": "train[:80%]", "evaluate.split": "train[80%:]"})  # fmt: skip
    assert training.run(config, tmp_path / "run") == 0
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["evaluate"]["energy_distance_over_floor"] < 2
    check_learned(tmp_path / "run")
    recipe = recipe_of(workdir.read_config(tmp_path / "run"))
    assert (
        recipe.examples.null["label"] == 3
        and recipe.examples.null["vector"].tolist() == [0]
        and not recipe.examples.by_class
    )
    run_samples.sample(recipe, tmp_path / "run")  # the conditions of the first records
    of_record = dict(zip(drawn(0)["vector"][:, 0].tolist(), drawn(0)["label"].tolist()))
    kept = np.load(tmp_path / "run/samples.npz")
    assert [of_record[vector] for vector in kept["condition/vector"][:, 0].tolist()] == kept["labels"].tolist()
    content = evaluate.run(recipe.config, tmp_path / "run", "evaluate", evaluate.Effort(10, 3))
    assert content["figures"]["distances"]["energy_distance"]["ratio"] < 2
    check_guided(recipe_of(exact_config(tmp_path, **{"sample.guidance.scale": 2.0})), tmp_path / "run")


@pytest.mark.slow
def test_a_run_from_python_does_the_same(tmp_path):
    """Of records whose class stands in their condition alone; the null condition is completed with zeros."""

    def records(seed):
        data = drawn(seed)
        return [
            {"x": x, "condition": {"label": int(label), "vector": vector}}
            for x, label, vector in zip(data["x"], data["label"], data["vector"])
        ]

    line = schedules.rectified_flow()
    flow = objectives.flow_matching(timesteps.uniform_density(line))
    dropped = objectives.with_condition_dropout(flow, null=3, rate=0.2)
    settings = SETTINGS | {"sample.guidance.scale": 2.0}
    optimizer = optimizers.adamw(0.05, decay="cosine", steps=200)
    recipe = Recipe(
        line, dropped, Exact(), records(0), held_out=records(1), training=Training(optimizer=optimizer), config=settings
    )
    assert recipe.examples.null["label"] == 3 and recipe.examples.null["vector"].tolist() == [0]
    assert training.train(recipe, tmp_path) == 0
    check_learned(tmp_path)
    check_guided(recipe, tmp_path)
    run_samples.sample(recipe, tmp_path)
    found = evaluate.evaluate(recipe, tmp_path, evaluate.Effort(0, 3))["figures"]["distances"]
    assert found["energy_distance"]["ratio"] > 5  # guided samples are not those of the data


@pytest.mark.extended
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_both_are_dropped_or_neither(rate):
    keys = jax.random.split(jax.random.key(0), 5)
    condition = {"label": jnp.arange(5) % 3, "vector": jnp.ones((5, 2))}
    found = objectives.drop_condition(keys, condition, 3, rate)
    expected = {"label": jnp.full(5, 3), "vector": jnp.zeros((5, 2))} if rate else condition
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    half = objectives.drop_condition(jax.random.split(jax.random.key(0), 200), jax.tree.map(
        lambda leaf: jnp.repeat(leaf, 40, axis=0), condition), {"label": 3}, 0.5)  # fmt: skip
    np.testing.assert_array_equal(half["label"] == 3, half["vector"][:, 0] == 0)
    assert 60 < np.sum(half["label"] == 3) < 140


def test_a_null_condition_has_no_other_entries():
    keys = jax.random.split(jax.random.key(0), 2)
    with pytest.raises(ValueError, match=r"the null condition has the entries label,.*\. Valid: \['vector'"):
        objectives.drop_condition(keys, {"vector": jnp.ones((2, 1))}, 3, 0.5)


@pytest.mark.slow
def test_the_networks_of_the_library_take_both(tmp_path):
    model = {"name": "mlp", "width": 4, "depth": 1, "num_classes": 3, "vector_width": 1}
    config = exact_config(tmp_path, **{"model": model, "train.steps": 1, "sample.guidance.scale": 3.0})
    assert training.run(config, tmp_path / "run") == 0
    assert run_samples.sample(recipe_of(config), tmp_path / "run").shape == (600, 2)


@pytest.mark.parametrize(
    "source, changes, words",
    [
        ({"condition": "vector"}, {}, r"config\.model\.num_classes = 3, but .* that does not contain the class.*"),
        ({"condition": ("vector",)}, {}, r"config\.model\.num_classes = 3, but .* that does not contain the class"),
        ({}, {"model": {"name": "mlp", "width": 4, "depth": 1, "num_classes": 3, "vector_width": 2}},
         r"config\.model\.vector_width = 2, .*a condition of 1 numbers\. Valid: 1"),
        ({}, {"model": {"name": "mlp", "width": 4, "depth": 1, "num_classes": 4, "vector_width": 1}},
         r"config\.model\.num_classes = 4, .* has 3 classes"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path, source, changes, words):
    config = exact_config(tmp_path, **changes)
    config.data.source = {**config.data.source, **source}
    with pytest.raises(ConfigError, match=words):
        training.run(config, tmp_path / "run")


def test_records_without_the_class_are_refused_in_python():
    line = schedules.rectified_flow()
    flow = objectives.flow_matching(timesteps.uniform_density(line))
    records = [{"x": np.zeros(2, np.float32), "label": 1, "condition": {"vector": np.zeros(1, np.float32)}}]
    with pytest.raises(ValueError, match=r'has a "condition" without its class.*\{"label": integer'):
        Recipe(line, flow, Exact(), records)


def test_requested_conditions_hold_classes_of_the_network(tmp_path):
    recipe = recipe_of(exact_config(tmp_path, **{"sample.number": 4}))
    np.savez(tmp_path / "c.npz", label=[0, 2], vector=[[0.5], [1.5]])
    found = requested.conditions(str(tmp_path / "c.npz"), recipe)
    assert found["label"].tolist() == [0, 2, 0, 2] and found["vector"].tolist() == [[0.5], [1.5]] * 2
    assert generate.classes_of(recipe, found).tolist() == [0, 2, 0, 2]
    np.savez(tmp_path / "c.npz", label=[0, 3], vector=[[0.5], [1.5]])
    with pytest.raises(ConfigError, match=r"has the classes \[0, 3\]\. Valid: integers in 0 \.\. 2\."):
        requested.conditions(str(tmp_path / "c.npz"), recipe)
    np.savez(tmp_path / "c.npz", label=1, vector=[[0.5], [1.5]])
    with pytest.raises(ConfigError, match=r"is int64 \[\], float64 \[2, 1\]\. Valid: .*\['label'\] \[K\]"):
        requested.conditions(str(tmp_path / "c.npz"), recipe)
    with pytest.raises(ConfigError, match=r"--labels=2,0: in this run the class is one entry.*each of label, vector"):
        requested.labels(["2", "0"], recipe, 3)
