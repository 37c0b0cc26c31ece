"""Runs on data with vectors as conditions, from a config: train, go on, evaluate in the loop, sample; masks."""

import json
import shutil

import jax
import numpy as np
import pytest

from diffusion.data import pipeline, transforms
from diffusion.data.sources import python_objects
from diffusion.experiments import train as training
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import requested, run_denoiser, run_samples
from diffusion.recipe import ConfigError, checks
from diffusion.training.checkpointing import checkpoints
from tests import shared_programs
from tests.drawn_parameters import drawn
from tests.experiments.run.test_every_source import config_of

pytestmark = pytest.mark.usefixtures("compilation_cache")


@pytest.fixture(scope="module", autouse=True)
def one_program():
    """They differ in their data."""
    with shared_programs.traced_once("data"):
        yield


def stored(folder, condition="vector", **arrays):
    rng = np.random.default_rng(0)
    arrays = {"x": rng.normal(size=(12, 2)), "vector": rng.normal(size=(12, 3))} | arrays
    np.savez(folder / "data.npz", **arrays)
    return {"name": "arrays", "path": str(folder / "data.npz"), "x": next(iter(arrays)), "condition": condition}


def vector_config(source, **changes):
    return config_of(
        source,
        **{
            "model": {"name": "mlp", "width": 4, "depth": 1, "vector_width": 3},
            "objective.wrappers": ({"name": "condition_dropout", "rate": 0.5},),
            "train.steps": 2,
            "checkpoint.every": 1,
        }
        | changes,
    )


def recipe_of(config):
    return checks.on_its_data(checks.validate(config))


@pytest.mark.extended
@pytest.mark.parametrize("condition", ["vector", pytest.param(("vector",), marks=pytest.mark.slow)])
def test_a_run_trains_goes_on_and_samples(tmp_path, condition):
    config = vector_config(stored(tmp_path, condition))
    assert training.run(config, tmp_path / "run") == 0
    shutil.copytree(tmp_path / "run", tmp_path / "parts")
    shutil.rmtree(checkpoints.folder(tmp_path / "parts") / "2")
    assert training.run(config, tmp_path / "parts") == 0
    both = [checkpoints.load_params(tmp_path / folder, 2)[0] for folder in ("run", "parts")]
    jax.tree.map(np.testing.assert_array_equal, *both)
    recipe = recipe_of(workdir.read_config(tmp_path / "run"))
    assert (
        recipe.examples.null.dtype == float if condition == "vector" else recipe.examples.null["vector"].shape == (3,)
    )
    by_default = run_samples.sample(recipe, tmp_path / "run")
    kept = np.load(tmp_path / "run/samples.npz")
    rows = np.load(tmp_path / "data.npz")["vector"][:4]
    np.testing.assert_array_equal(kept["condition" if condition == "vector" else "condition/vector"], rows)
    np.save(tmp_path / "mine.npy", rows)
    again = requested.conditions(str(tmp_path / "mine.npy"), recipe)
    np.testing.assert_array_equal(run_samples.sample(recipe, tmp_path / "run", tmp_path / "again", again), by_default)
    other = requested.conditions("5,-5,5", recipe)
    assert jax.tree.leaves(other)[0].tolist() == [[5, -5, 5]] * 4
    assert (run_samples.sample(recipe, tmp_path / "run", tmp_path / "other", other) != by_default).any()


@pytest.mark.extended
def test_guidance_reads_the_network_with_and_without_the_vector(tmp_path):
    """The guided x0 is u + w (c - u), of the network with the vector and with zeros."""
    config = vector_config(stored(tmp_path), **{"sample.guidance.scale": 3.0})
    recipe = recipe_of(config)
    params = drawn(recipe.network.init, np.zeros((1, 2)), np.zeros(1), np.zeros((1, 3)))
    x, t = np.float32([[0.3, -0.2]]), np.float32([0.5])
    one = recipe_of(vector_config(config.data.source, **{"sample.guidance.scale": 1.0}))
    vector = np.float32([[1.0, 2.0, 3.0]])
    eps = lambda recipe, c: np.asarray(jax.jit(lambda c: run_denoiser.denoiser(recipe)(params, c)(x, t).eps)(c))
    conditional, unconditional = eps(one, vector), eps(one, 0 * vector)
    assert abs(conditional - unconditional).max() > 1e-3
    expected = unconditional + 3 * (conditional - unconditional)
    np.testing.assert_allclose(eps(recipe, vector), expected, atol=1e-5)


@pytest.mark.parametrize(
    "text, words",
    [
        ("1,2", r"is float64 \[1, 2\]\. Valid: an array \[K, 3\]"),
        ("one,2,3", "--condition=one,2,3: it is neither numbers nor a file"),
        ("none.npy", "No such file"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(tmp_path, text, words):
    with pytest.raises(ConfigError, match=words):
        requested.conditions(text, recipe_of(vector_config(stored(tmp_path))))


def test_a_file_has_an_entry_for_each(tmp_path):
    recipe = recipe_of(vector_config(stored(tmp_path, ("vector",))))
    np.savez(tmp_path / "c.npz", vector=np.arange(6.0).reshape(2, 3))
    rows = requested.conditions(str(tmp_path / "c.npz"), recipe)
    assert rows["vector"].tolist() == [[0, 1, 2], [3, 4, 5], [0, 1, 2], [3, 4, 5]]
    np.savez(tmp_path / "d.npz", other=np.zeros((2, 3)))
    with pytest.raises(ConfigError, match=r"no vector, only other\. Valid: .* \['vector'\] \[K, 3\]"):
        requested.conditions(str(tmp_path / "d.npz"), recipe)


@pytest.mark.parametrize(
    "source, changes, words",
    [
        ({}, {"model.vector_width": 2}, r"config\.model\.vector_width = 2, .* has a condition of 3 numbers\. Valid: 3"),
        ({"condition": ()}, {"objective.wrappers": (), "sample.guidance.scale": 1.0},
         r"config\.model\.vector_width = 3, .* has no condition that is a vector\. Valid: 0"),
        ({"condition": ()}, {"model.vector_width": 0}, "guidance needs a null class"),
        ({"condition": ()}, {"model.vector_width": 0, "sample.guidance.scale": 1.0}, "dropout needs a condition"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_data_is_refused(tmp_path, source, changes, words):
    config = vector_config(stored(tmp_path) | source, **changes)
    with pytest.raises(ConfigError, match=words):
        training.run(config, tmp_path / "run")


@pytest.mark.slow
def test_a_run_on_pictures_with_vectors_is_evaluated_in_the_loop(tmp_path):
    pictures = np.random.default_rng(1).integers(0, 256, (12, 4, 4, 1), np.uint8)
    source = stored(tmp_path, image=pictures) | {"x": "image"}
    config = vector_config(
        source,
        **{
            "data.split": "train[:50%]", "evaluate.split": "train[50%:]", "evaluate.every": 2, "evaluate.number": 4,
            "evaluate.failed": "stop",
        },
    )  # fmt: skip
    assert training.run(config, tmp_path / "run") == 0
    line = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert line["evaluate"]["fd_pixels"] > 0
    assert (tmp_path / "run/previews/2.png").exists()


def masked(number=8):
    pictures = np.random.default_rng(2).integers(0, 256, (number, 5, 4, 3), np.uint8)
    return [
        {"image": picture, "condition": {"mask": picture[..., :1], "flat": picture[..., 1], "vector": np.float32([1])}}
        for picture in pictures
    ]


def batch_of(*augment):
    source = python_objects.source_of(masked())
    batches = pipeline.batches(source, source.spec, seed=0, batch_size=8, threads=0, augment=augment, shuffle=False)
    return next(batches)


def test_a_mask_moves_with_its_picture():
    batch = batch_of(transforms.flip(), transforms.crop(2))
    assert (batch["image"] != batch_of()["image"]).any()
    np.testing.assert_array_equal(batch["condition"]["mask"][..., 0], batch["image"][..., 0])
    np.testing.assert_array_equal(batch["condition"]["flat"], batch["image"][..., 1])
    assert batch["condition"]["vector"].tolist() == [[1]] * 8


def test_an_augmentation_of_ones_own_says_whether_it_moves_the_mask():
    def darker(rng, image):
        return image // 2

    with pytest.raises(ValueError, match=r"the augmentation .*darker does not say whether it moves the condition too"):
        batch_of(darker)
    darker.moves = False
    batch = batch_of(darker)
    np.testing.assert_array_equal(batch["condition"]["mask"][..., 0] // 2, batch["image"][..., 0])
