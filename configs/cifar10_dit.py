"""Class-conditional flow matching on CIFAR-10 with a DiT on pixels, 32x32x3 in patches of 2.

    diffusion train --config=cifar10_dit --workdir=runs/cifar10 --config.data.dir=DIR

DIR holds the dataset as TFDS prepares it (`tfds.load("cifar10")`, array_record).
Time and score: not measured yet.

Presets: `cifar10_dit:tiny` (under a minute on two CPU cores; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("pictures")

PRESETS = {
    "tiny": base.tiny(steps=100, batch_size=32, samples=20)
    | {"model.width": 64, "model.depth": 2, "model.heads": 4, "model.patch": 4}
    | {"checkpoint.every": 50, "ema.decay": 0.99, "sample.steps": 5}
}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.cifar10()
    config.data.augment = ({"name": "flip"},)
    config.schedule = {"name": "rectified_flow"}
    config.parameterization = {"name": "velocity", "clock": {"name": "steps"}}
    config.objective = {
        "name": "flow_matching",
        "density": {"name": "logit_normal", "mean": 0.0, "std": 1.0, "strata": 256},
        "wrappers": ({"name": "condition_dropout", "rate": 0.1},),
    }
    config.model = {"name": "dit", "patch": 2, "width": 384, "depth": 12, "heads": 6, "num_classes": 10}
    config.optimizer = base.adamw(2e-4, warmup=5000, clip=1.0)
    config.ema.update({"decay": 0.9999, "warmup": True})
    config.train.steps = 400_000
    config.train.batch_size = 256
    config.checkpoint.every = 10_000
    config.sample.sampler = {"name": "heun"}
    config.sample.steps = 50
    config.sample.guidance.scale = 1.5
    config.evaluate.every = 50_000
    return recipes.preset(config, arg, PRESETS)
