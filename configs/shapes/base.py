"""What all runs on shapes have in common: straight paths, guidance by the class, few and large samples."""

from ml_collections import ConfigDict

from diffusion.experiments.config.defaults import defaults
from diffusion.experiments.config.recipes import preset

TINY = {
    "train.steps": 20,
    "train.batch_size": 16,
    "train.log_every": 10,
    "objective.density.strata": 16,
    "optimizer.warmup": 5,
    "checkpoint.every": 20,
    "ema.decay": 0.9,
    "sample.steps": 4,
    "sample.number": 16,
    "sample.batch_size": 16,
    "evaluate.number": 16,
}


def flow(source: dict) -> ConfigDict:
    """The config of flow matching from Gaussian noise.

    Args:
        source: of the data, an entry.
    """
    config = defaults()
    config.data.source = source
    config.schedule = {"name": "rectified_flow"}
    config.parameterization = {"name": "velocity", "clock": {"name": "steps"}}
    config.objective = {
        "name": "flow_matching",
        "density": {"name": "logit_normal", "mean": 0.0, "std": 1.0, "strata": 32},
        "condition_dropout": 0.1,
    }
    config.optimizer = {
        "name": "adamw",
        "learning_rate": 2e-3,
        "warmup": 100,
        "decay": "cosine",
        "weight_decay": 0.0,
        "clip": 1.0,
    }
    config.ema.update({"decay": 0.998, "warmup": True})
    config.train.steps = 2500
    config.train.batch_size = 32
    config.train.log_every = 100
    config.checkpoint.every = 500
    config.checkpoint.keep = 1
    config.sample.sampler = {"name": "dpmpp_2m"}
    config.sample.steps = 30
    config.sample.guidance.scale = 1.0
    config.sample.number = 400
    config.sample.batch_size = 200
    config.evaluate.update({"every": 0, "number": 200, "split": "test", "features": ("pixels",)})
    return config


def finished(config: ConfigDict, arg: str, tiny: dict) -> ConfigDict:
    """The config with a preset: "tiny" shrinks it."""
    return preset(config, arg, {"tiny": TINY | tiny})
