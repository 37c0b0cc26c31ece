"""What all runs on manifolds have in common: a small network, and samples along geodesics."""

from ml_collections import ConfigDict

from diffusion.experiments.config.defaults import defaults
from diffusion.experiments.config.recipes import preset

TINY = {
    "model.width": 16,
    "model.depth": 1,
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
    "evaluate.number": 30,
}


def flow(source: str, manifold: dict) -> ConfigDict:
    """The config of flow matching along geodesics from uniform points.

    Args:
        source: of the data, the name of a mixture.
        manifold: where they lie, an entry.
    """
    config = defaults()
    config.data.source = {"name": source}
    config.schedule = {"name": "rectified_flow"}
    config.parameterization = {"name": "velocity", "clock": {"name": "steps"}}
    config.objective = {
        "name": "riemannian_flow_matching",
        "manifold": manifold,
        "density": {"name": "uniform_density", "strata": 128},
    }
    config.model = {"name": "mlp", "width": 128, "depth": 3}
    config.optimizer = {
        "name": "adamw",
        "learning_rate": 2e-3,
        "warmup": 100,
        "decay": "cosine",
        "weight_decay": 0.0,
        "clip": 1.0,
    }
    config.ema.update({"decay": 0.999, "warmup": True})
    config.train.steps = 4000
    config.train.batch_size = 256
    config.train.log_every = 500
    config.checkpoint.every = 4000
    config.sample.sampler = {"name": "geodesic_heun"}
    config.sample.steps = 20
    config.sample.number = 3000
    config.sample.batch_size = 3000
    config.sample.guidance.scale = 1.0
    config.evaluate.update({"every": 0, "number": 2000, "split": "test", "features": ("pixels",)})
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
    return preset(config, arg, {"tiny": TINY})
