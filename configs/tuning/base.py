"""The shared settings of runs that tune a model: pictures in a folder, the model's own loss, and a short training."""

from ml_collections import ConfigDict

from diffusion.recipe import recipes
from diffusion.recipe.defaults import defaults

TINY = {"train.steps": 4, "train.batch_size": 2, "train.log_every": 2, "checkpoint.every": 2, "optimizer.warmup": 1}


def tuned(tuning: dict, learning_rate: float, steps: int) -> ConfigDict:
    """The config of a run on a folder of pictures; the command names the base and the folder.

    Args:
        tuning: the entry config.tuning.
        learning_rate: learning rate of AdamW, constant after a warmup.
        steps: training steps.
    """
    config = defaults()
    config.tuning = tuning
    config.data.source = {"name": "picture_folder", "path": "pictures", "side": 512}
    config.objective = {
        "name": "denoising",
        "weighting": {"name": "constant"},  # the error of what the model predicts, as it was trained
        "density": {"name": "uniform_density"},
        "wrappers": (),
    }
    config.optimizer = {
        "name": "adamw",
        "learning_rate": learning_rate,
        "warmup": 20,
        "weight_decay": 1e-2,
        "clip": 1.0,
    }
    config.ema.update({"decay": 0.0, "warmup": False})  # published tunings have no average
    config.train.update({"steps": steps, "batch_size": 1, "log_every": 50})
    config.checkpoint.every = 250
    return config


def preset(config: ConfigDict, arg: str) -> ConfigDict:
    """The config, or its preset `tiny`."""
    return recipes.preset(config, arg, {"tiny": TINY})
