"""What all runs on series have in common: flow matching by a small transformer, of what is hidden of a series."""

from ml_collections import ConfigDict

from diffusion.experiments.config.defaults import defaults
from diffusion.experiments.config.recipes import preset

TINY = {
    "data.source.number": 200,
    "model.width": 16,
    "model.depth": 1,
    "model.heads": 2,
    "train.steps": 20,
    "train.batch_size": 32,
    "train.log_every": 10,
    "objective.density.strata": 32,
    "optimizer.warmup": 5,
    "checkpoint.every": 20,
    "ema.decay": 0.9,
    "sample.steps": 4,
    "sample.number": 30,
    "sample.batch_size": 30,
    "evaluate.number": 6,
}


def flow(hide: dict | None) -> ConfigDict:
    """The config of flow matching on what is hidden of a Gaussian process' series.

    Args:
        hide: what is hidden, an entry; None: nothing, the run is unconditional.
    """
    config = defaults()
    config.data.source = {"name": "gaussian_series", "length": 48, "channels": 1, "number": 50_000}
    if hide is not None:
        config.data.source["hide"] = hide
    config.schedule = {"name": "rectified_flow"}
    config.parameterization = {"name": "velocity", "clock": {"name": "steps"}}
    config.objective = {
        "name": "flow_matching",
        "density": {"name": "uniform_density", "strata": 64},
        "condition_dropout": 0.0,
    }
    config.model = {
        "name": "sequence_transformer",
        "width": 64,
        "depth": 4,
        "heads": 4,
        "patch": 2,
        "given": hide is not None,
    }
    config.optimizer = {
        "name": "adamw",
        "learning_rate": 2e-3,
        "warmup": 100,
        "decay": "cosine",
        "weight_decay": 0.0,
        "clip": 1.0,
    }
    config.ema.update({"decay": 0.999, "warmup": True})
    config.train.steps = 3500
    config.train.batch_size = 64
    config.train.log_every = 500
    config.checkpoint.every = 3500
    config.sample.sampler = {"name": "heun"}
    config.sample.steps = 12
    config.sample.number = 600
    config.sample.batch_size = 600
    config.sample.guidance.scale = 1.0
    config.evaluate.update({"every": 0, "number": 100, "split": "test", "features": ("pixels",)})
    return config


def finished(config: ConfigDict, arg: str) -> ConfigDict:
    """The config with a preset: "tiny" shrinks it, "channels" has three related series at once."""
    return preset(config, arg, {"tiny": TINY, "channels": {"data.source.channels": 3}})
