"""The shared settings of runs on series: flow matching by a small transformer, on the hidden part of a series."""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("small_flow")
TINY = base.tiny(batch_size=32, samples=30) | {
    "data.source.number": 200,
    "model.width": 16,
    "model.depth": 1,
    "model.heads": 2,
    "evaluate.number": 6,
}


def flow(hide: dict | None) -> ConfigDict:
    """The config of flow matching on the hidden part of a Gaussian process' series.

    Args:
        hide: the entry that chooses the hidden part; None for an unconditional run.
    """
    source = {"name": "gaussian_series", "length": 48, "channels": 1, "number": 50_000}
    if hide is not None:
        source["hide"] = hide
    objective = {"name": "flow_matching", "density": {"name": "uniform_density", "strata": 64}, "wrappers": ()}
    config = base.flow(source, objective, steps=3500, batch_size=64)
    config.model = {
        "name": "sequence_transformer",
        "width": 64,
        "depth": 4,
        "heads": 4,
        "patch": 2,
        "given": hide is not None,
    }
    config.train.log_every = 500
    base.sampled(config, "heun", steps=12, number=600, batch_size=600)
    config.evaluate.number = 100
    return config


def finished(config: ConfigDict, arg: str) -> ConfigDict:
    """The config with a preset: "tiny" shrinks it, "channels" has three related series at once."""
    return recipes.preset(config, arg, {"tiny": TINY, "channels": {"data.source.channels": 3}})
