"""Class-conditional flow matching on MNIST: the recipe `digits` on pictures of 28x28 pixels, with a larger network.

    diffusion train --config=mnist --workdir=runs/mnist --config.data.dir=DIR
    diffusion sample --workdir=runs/mnist
    diffusion evaluate --workdir=runs/mnist

DIR holds the dataset as TFDS prepares it (`tfds.load("mnist")`, array_record). The recipe follows no paper: the network
and its training are those of `digits`, with patches of 4x4 pixels.
Time and score: never run on MNIST; tests run it on generated pictures in its place.

Presets: `mnist:tiny` (under a minute on two CPU cores; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes
from diffusion.recipe.recipes import preset

digits = recipes.module("digits")

PRESETS = {"tiny": digits.PRESETS["tiny"]}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = digits.get_config()
    config.data.update({"name": "mnist", "shape": (28, 28, 1)})
    config.model.update({"patch": 4, "width": 192, "depth": 6, "heads": 6})
    config.optimizer.learning_rate = 1e-3
    config.train.steps = 20_000
    config.train.batch_size = 128
    config.checkpoint.every = 5000
    config.sample.number = 10_000
    config.evaluate.number = 10_000
    return preset(config, arg, PRESETS)
