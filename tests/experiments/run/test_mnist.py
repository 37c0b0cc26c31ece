"""The recipe `mnist` on a stand-in that TFDS prepares: bright squares at ten positions, one for each class."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from configs import mnist
from diffusion.experiments.train import train
from diffusion.recipe import Recipe
from tests.commands import run
from tests.data import made


def square(label):
    image = np.zeros((28, 28, 1), np.uint8)
    row, column = divmod(label, 5)
    image[4 + 12 * row : 12 + 12 * row, 5 * column : 5 * column + 5] = 255
    return {"image": made.png(image[..., 0]), "label": label}


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    features = {
        "image": tfds.features.Image(shape=(28, 28, 1), encoding_format="png"),
        "label": tfds.features.ClassLabel(num_classes=10),
    }
    splits = {"train": [square(n % 10) for n in range(80)], "test": [square(n % 10) for n in range(40)]}
    return made.write(tmp_path_factory.mktemp("prepared"), features, splits, version="3.0.1", called="mnist")


@pytest.mark.slow
def test_the_recipe_trains_samples_and_evaluates(stand_in, tmp_path):
    config = mnist.get_config("tiny")
    settings = {"data.dir": stand_in, "model.depth": 1, "train.steps": 2, "evaluate.features": ("pixels",)}
    config.update_from_flattened_dict(settings)
    assert train(Recipe.from_config(config), tmp_path) == 0
    done = run("diffusion", "sample", f"--workdir={tmp_path}", timeout=600)
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "samples.npz")["images"].shape == (20, 28, 28, 1)
    done = run("diffusion", "evaluate", f"--workdir={tmp_path}", timeout=600)
    assert done.returncode == 0, done.stderr
    assert "mnist" in (tmp_path / "report.json").read_text()
