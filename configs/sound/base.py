"""What all runs on sound have in common: 2,048 samples at 8 kHz, and little else to choose."""

from ml_collections import ConfigDict

from diffusion.experiments.config import recipes

base = recipes.module("small_flow")
TINY = base.tiny(batch_size=8, samples=16) | {
    "data.source.number": 64,
    "data.source.length": 512,
    "train.steps": 4,
    "train.log_every": 2,
    "optimizer.warmup": 2,
    "checkpoint.every": 4,
    "sample.steps": 2,
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
    objective = {"name": "flow_matching", "density": {"name": "logit_normal", "strata": batch_size}}
    config = base.flow(source, objective, steps, batch_size)
    config.model = model
    config.optimizer.warmup = 50
    config.ema.decay = 0.995
    config.checkpoint.every = 500
    base.sampled(config, "heun", steps=20, number=240, batch_size=60)
    config.evaluate.number = 200
    return config


def finished(config: ConfigDict, arg: str, tiny: dict, other: dict) -> ConfigDict:
    """The config with a preset: "tiny" shrinks it, the network by `tiny`; those of `other` name another network."""
    return recipes.preset(config, arg, {"tiny": TINY | tiny, **other})
