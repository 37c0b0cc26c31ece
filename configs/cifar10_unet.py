"""Class-conditional EDM on CIFAR-10 with the U-Net DDPM++, 32x32x3 (Karras et al., 2022, table 7, configuration F).

    diffusion train --config=cifar10_unet --workdir=runs/cifar10_unet --config.data.dir=DIR

DIR holds the dataset as TFDS prepares it (`tfds.load("cifar10")`, array_record). Differences from the paper: pictures
are mirrored in place of the augmentation that is an input of the network; bfloat16 in place of float32; gradients are
clipped at 1; the start of the average; a batch's noise levels are stratified. Time and score: not measured yet.

Presets: `cifar10_unet:tiny` (under a minute on two CPU cores; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("pictures")

PRESETS = {
    "tiny": base.tiny(steps=40, batch_size=16, samples=20)
    | {"model.width": 8, "model.multipliers": (1, 2), "model.blocks": 1, "checkpoint.every": 20, "ema.decay": 0.99}
}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.cifar10()
    config.data.augment = ({"name": "flip"},)
    config.schedule = {"name": "edm"}
    config.parameterization = {"name": "edm"}
    config.objective = {
        "name": "denoising",
        "density": {"name": "log_normal", "strata": 512},
        "weighting": {"name": "edm"},
    }
    config.model = {
        "name": "song_unet",
        "width": 128,
        "multipliers": (2, 2, 2),
        "blocks": 4,
        "attention_resolutions": (16,),
        "dropout": 0.13,
        "num_classes": 10,
    }
    config.optimizer = {"name": "adamw", "learning_rate": 1e-3, "warmup": 19_500, "weight_decay": 0.0, "clip": 1.0}
    config.ema.update({"decay": 0.9993, "warmup": True})  # halved in 500 thousand images
    config.train.steps = 390_000  # 200 million images
    config.train.batch_size = 512
    config.checkpoint.every = 10_000
    config.sample.sampler = {"name": "heun"}
    config.sample.grid = {"name": "karras"}
    config.sample.steps = 18
    config.evaluate.every = 50_000
    return recipes.preset(config, arg, PRESETS)
