"""Class-conditional flow matching on scikit-learn's 8x8 handwritten digits.

    diffusion train --config=digits --workdir=runs/digits

Time: 4 to 5 minutes on two CPU cores. Score (docs/results.md): 99.1 % of samples recognised as the requested class;
Frechet distance to the test digits 1.18 times the floor in pixels and 1.37 times in classifier features.

Presets: `digits:demo` (a narrower network and Muon, in less than half the time: the run of `make demo`), `digits:tiny`
(seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.configs.optimizers import annealed
from diffusion.recipe.defaults import defaults
from diffusion.recipe.recipes import preset

PRESETS = {
    "demo": {
        "model.width": 64,
        "optimizer.name": "muon",
        "optimizer.learning_rate": 1e-2,
        "ema.decay": 0.998,
        "train.steps": 3000,
        "train.accumulate": 1,  # a whole batch of this width fits the caches: a sixth faster than four micro-batches
        "sample.steps": 16,
        "evaluate.loss.every": 600,
    },
    "tiny": {
        "model.width": 32,
        "model.depth": 2,
        "model.heads": 2,
        "train.steps": 40,
        "train.batch_size": 32,
        "train.log_every": 10,
        "objective.density.strata": 32,
        "optimizer.warmup": 10,
        "checkpoint.every": 20,
        "ema.decay": 0.9,
        "sample.steps": 4,
        "sample.number": 20,
        "sample.batch_size": 10,
        "evaluate.number": 20,
    },
}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = defaults()
    config.data.name = "digits"
    config.schedule = {"name": "rectified_flow"}
    config.parameterization = {"name": "velocity", "clock": {"name": "steps"}}
    config.objective = {
        "name": "flow_matching",
        "density": {"name": "logit_normal", "mean": 0.0, "std": 1.0, "strata": 64},
        "wrappers": ({"name": "condition_dropout", "rate": 0.1},),
    }
    config.model = {
        "name": "dit",
        "patch": 2,
        "width": 128,
        "depth": 4,
        "heads": 4,
        "num_classes": 10,
        "unroll": 4,  # a quarter faster on CPU than a scan of single blocks
    }
    config.optimizer = annealed(1.5e-3, weight_decay=0.01)
    config.ema.update({"decay": 0.999, "warmup": True})
    config.train.steps = 3600
    config.train.batch_size = 64
    config.checkpoint.every = 1200
    config.checkpoint.keep = 2
    config.sample.sampler = {"name": "dpmpp_2m"}  # figures as Heun's method gives them, for half the evaluations
    config.sample.steps = 20
    config.sample.guidance.scale = 1.05  # least distance to train and validation images out of 1, 1.05, 1.1, 1.25
    config.sample.number = 2000
    config.sample.batch_size = 500
    config.evaluate.update({"every": 0, "number": 1000, "split": "test", "features": ("pixels", "classifier")})
    return preset(config, arg, PRESETS)
