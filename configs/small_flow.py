"""Shared settings of small flows of points, series, solids, sound and proteins: straight paths, AdamW, an average."""

from ml_collections import ConfigDict

from diffusion.configs.optimizers import annealed
from diffusion.recipe.defaults import defaults

TINY = {
    "train.steps": 20,
    "train.log_every": 10,
    "optimizer.warmup": 5,
    "checkpoint.every": 20,
    "ema.decay": 0.9,
    "sample.steps": 4,
}


def flow(source: dict, objective: dict, steps: int, batch_size: int) -> ConfigDict:
    """The config of a rectified flow, which has no model and no sampler yet.

    Args:
        source: the entry of the data's source.
        objective: the entry of the objective, with the density of its times.
        steps: training steps, with one checkpoint at the end.
        batch_size: examples of a training step.
    """
    config = defaults()
    config.data.source = source
    config.schedule = {"name": "rectified_flow"}
    config.parameterization = {"name": "velocity", "clock": {"name": "steps"}}
    config.objective = objective
    config.optimizer = annealed(2e-3)
    config.ema.update({"decay": 0.999, "warmup": True})
    config.train.update({"steps": steps, "batch_size": batch_size, "log_every": 100})
    config.checkpoint.every = steps
    config.sample.guidance.scale = 1.0
    config.evaluate.update({"every": 0, "split": "test", "features": ("pixels",)})
    return config


def sampled(config: ConfigDict, sampler: str, steps: int, number: int, batch_size: int) -> None:
    """Sets how samples are drawn, and how many.

    Args:
        config: the config, which is changed in place.
        sampler: the name of the sampler.
        steps: steps of the sampler.
        number: number of samples.
        batch_size: number of samples drawn at a time.
    """
    config.sample.sampler = {"name": sampler}
    config.sample.update({"steps": steps, "number": number, "batch_size": batch_size})


def tiny(batch_size: int, samples: int) -> dict:
    """The preset with which a run takes seconds, without the fields of its network.

    Args:
        batch_size: examples of a training step.
        samples: number of samples that are drawn and evaluated.
    """
    numbers = {"sample.number": samples, "sample.batch_size": samples, "evaluate.number": samples}
    return TINY | numbers | {"train.batch_size": batch_size, "objective.density.strata": batch_size}
