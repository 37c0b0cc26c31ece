"""The shared settings of runs on shapes: straight paths, guidance by the class, few and large samples."""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("small_flow")
TINY = base.tiny(batch_size=16, samples=16)


def flow(source: dict) -> ConfigDict:
    """The config of flow matching from Gaussian noise.

    Args:
        source: the entry of the data's source.
    """
    objective = {
        "name": "flow_matching",
        "density": {"name": "logit_normal", "mean": 0.0, "std": 1.0, "strata": 32},
        "wrappers": ({"name": "condition_dropout", "rate": 0.1},),
    }
    config = base.flow(source, objective, steps=2500, batch_size=32)
    config.ema.decay = 0.998
    config.checkpoint.update({"every": 500, "keep": 1})
    base.sampled(config, "dpmpp_2m", steps=30, number=400, batch_size=200)
    config.evaluate.number = 200
    return config


def finished(config: ConfigDict, arg: str, tiny: dict, other: dict) -> ConfigDict:
    """The config with a preset: "tiny" shrinks it; those of `other` are one recipe's own."""
    return recipes.preset(config, arg, {"tiny": TINY | tiny, **other})
