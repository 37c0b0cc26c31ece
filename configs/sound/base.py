"""What all runs on sound have in common: 2,048 samples at 8 kHz, and little else to choose."""

from ml_collections import ConfigDict

from diffusion.experiments.config.defaults import defaults
from diffusion.experiments.config.recipes import preset

TINY = {
    "data.source.number": 64,
    "data.source.length": 512,
    "train.steps": 4,
    "train.batch_size": 8,
    "train.log_every": 2,
    "objective.density.strata": 8,
    "optimizer.warmup": 2,
    "checkpoint.every": 4,
    "ema.decay": 0.9,
    "sample.steps": 2,
    "sample.number": 16,
    "sample.batch_size": 16,
    "evaluate.number": 8,
}


def run(source: dict, model: dict, steps: int, batch_size: int) -> ConfigDict:
    """The config of flow matching on clips.

    Args:
        source: of the data, an entry.
        model: the network, an entry.
        steps: of the training.
        batch_size: clips in a step.
    """
    config = defaults()
    config.data.source = source
    config.schedule = {"name": "rectified_flow"}
    config.parameterization = {"name": "velocity", "clock": {"name": "steps"}}
    config.objective = {"name": "flow_matching", "density": {"name": "logit_normal", "strata": batch_size}}
    config.model = model
    config.optimizer = {
        "name": "adamw",
        "learning_rate": 2e-3,
        "warmup": 50,
        "decay": "cosine",
        "weight_decay": 0.0,
        "clip": 1.0,
    }
    config.ema.update({"decay": 0.995, "warmup": True})
    config.train.steps = steps
    config.train.batch_size = batch_size
    config.train.log_every = 100
    config.checkpoint.every = 500
    config.sample.sampler = {"name": "heun"}
    config.sample.steps = 20
    config.sample.number = 240
    config.sample.batch_size = 60
    config.sample.guidance.scale = 1.0
    config.evaluate.update({"every": 0, "number": 200, "split": "test", "features": ("pixels",)})
    return config


def finished(config: ConfigDict, arg: str, tiny: dict) -> ConfigDict:
    """The config with a preset: "tiny" shrinks it, the network by `tiny`."""
    return preset(config, arg, {"tiny": TINY | tiny})
