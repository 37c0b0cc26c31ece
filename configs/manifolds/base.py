"""The shared settings of runs on manifolds: a small network, and samples along geodesics."""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("small_flow")
TINY = base.tiny(batch_size=32, samples=30) | {"model.width": 16, "model.depth": 1}


def flow(source: str, manifold: dict) -> ConfigDict:
    """The config of flow matching along geodesics from uniform points.

    Args:
        source: the name of the data's source, a mixture.
        manifold: the entry of the manifold on which they lie.
    """
    objective = {
        "name": "riemannian_flow_matching",
        "manifold": manifold,
        "density": {"name": "uniform_density", "strata": 128},
    }
    config = base.flow({"name": source}, objective, steps=4000, batch_size=256)
    config.model = {"name": "mlp", "width": 128, "depth": 3}
    config.train.log_every = 500
    base.sampled(config, "geodesic_heun", steps=20, number=3000, batch_size=3000)
    config.evaluate.number = 2000
    return config


def diffused(config: ConfigDict, kernel: dict, sigma_max: float) -> None:
    """Turns a config of flow matching into one of score matching by a heat kernel."""
    config.schedule = {"name": "variance_exploding", "sigma_min": 0.02, "sigma_max": sigma_max}
    config.parameterization = {"name": "epsilon", "clock": {"name": "log_sigma"}}
    density = config.objective.density
    config.objective = {"name": "riemannian_score_matching", "kernel": kernel, "density": density}
    config.sample.sampler = {"name": "geodesic_random_walk"}
    config.sample.steps = 100


def finished(config: ConfigDict, arg: str) -> ConfigDict:
    """The config with a preset: "tiny" shrinks it."""
    return recipes.preset(config, arg, {"tiny": TINY})
