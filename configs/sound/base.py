"""The shared settings of runs on sound."""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

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
        source: the entry of the data's source.
        model: the entry of the network.
        steps: training steps.
        batch_size: clips in a step.
    """
    density = {"name": "logit_normal", "mean": 0.3, "strata": batch_size}
    objective = {"name": "flow_matching", "density": density}
    config = base.flow(source, objective, steps, batch_size)
    config.model = model
    config.optimizer.warmup = 50
    config.ema.decay = 0.995
    config.checkpoint.every = 500
    base.sampled(config, "dpmpp_2m", steps=20, number=240, batch_size=60)
    config.sample.shift = 1.5
    config.evaluate.number = 200
    return config


def transformer(patch: int, steps: int) -> dict:
    """A preset: the settings of a 1-D DiT that Muon trains.

    Args:
        patch: steps of an example in a token.
        steps: training steps.
    """
    model = {"name": "sequence_transformer", "width": 128, "depth": 4, "heads": 4, "qk_norm": True, "num_classes": 8}
    return {
        "model": model | {"patch": patch},
        "optimizer.name": "muon",
        "optimizer.learning_rate": 4e-3,
        "train.steps": steps,
    }


def finished(config: ConfigDict, arg: str, tiny: dict, other: dict) -> ConfigDict:
    """The config with a preset: "tiny" shrinks it, the network by `tiny`; those of `other` name another network."""
    return recipes.preset(config, arg, {"tiny": TINY | tiny, **other})
