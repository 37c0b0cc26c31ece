"""JiT-B/16 on the pixels of ImageNet 256x256, as published: Li and He 2025, "Back to Basics: Let Denoising Generative
Models Denoise", section 4 and the README of the authors' repository.

    diffusion train --config=imagenet256_jit --workdir=runs/jit
    diffusion sample --workdir=runs/jit
    diffusion evaluate --samples=runs/jit/samples.npz --reference=imagenet2012@train --size=256 \\
        --protocol=adm --metrics=fid,is --inception=INCEPTION --out=runs/jit/fid.json

The commands need imagenet2012 as TFDS prepares it in array_record (in the folder TFDS_DATA_DIR), but no autoencoder.
INCEPTION is the file of FID's network (docs/evaluation.md). The network predicts the picture, and its loss is the loss
of the velocity that follows from it (`clipped_x0`, `constant` of `velocity`). Most of the times are near the noise.

Score: FID-50K, 50 steps of Heun, guided for t up to 0.9; not measured here yet. Published are:

| network, 600 epochs of 1.28M pictures | guidance | FID | source |
| --- | --- | --- | --- |
| JiT-B/16 | 3.0 | 3.66 | Li and He 2025, the table of system-level comparisons |
| JiT-L/16 (`:l16`) | 2.4 | 2.36 | the same table |
| JiT-H/16 (`:h16`) | 2.2 | 1.86 | the same table; trained with a dropout of 0.2, which this network does not have |

For each network the paper chooses by FID the scale of guidance, and one of two averages (0.9996, or 0.9999 as here).

Time: not measured. `diffusion plan --config=imagenet256_jit --devices=8` estimates a step.

Presets: `imagenet256_jit:l16`, `imagenet256_jit:h16` (the rows above), `imagenet256_jit:512` (JiT-B/32 at 512 pixels,
with twice the noise), `imagenet256_jit:tiny` (the same recipe with a small network and few steps, for a laptop's
cores).
"""

from ml_collections import ConfigDict

from diffusion.models import jit
from diffusion.recipe import recipes

base = recipes.module("pictures")

TINY = {
    "data.shape": (32, 32, 3),
    "model.patch": 8,
    "model.width": 64,
    "model.depth": 3,
    "model.heads": 4,
    "model.bottleneck": 16,
    "model.class_tokens": 4,
    "model.class_start": 1,
    "optimizer.warmup": 5,
    **base.TINY,
}

PRESETS = {
    "l16": {**base.size(jit.PRESETS["L/16"]), "sample.guidance.scale": 2.4},
    "h16": {**base.size(jit.PRESETS["H/16"]), "sample.guidance.scale": 2.2},
    "512": {**base.size(jit.PRESETS["B/32"]), "data.shape": (512, 512, 3), "schedule.noise_scale": 2.0},
    "tiny": TINY,
}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.imagenet((256, 256, 3))
    config.data.augment = ({"name": "flip"},)
    config.schedule = {"name": "rectified_flow", "noise_scale": 1.0}
    # JiT counts time from noise to data: its networks receive 1 - t, and its mean of -0.8 is 0.8 here.
    config.parameterization = {"name": "clipped_x0", "floor": 0.05, "clock": {"name": "reversed_time"}}
    config.objective = {
        "name": "denoising",
        "weighting": {"name": "constant", "parameterization": {"name": "velocity"}},
        "density": {"name": "logit_normal", "mean": 0.8, "std": 0.8},
        "wrappers": (base.DROPPED,),
    }
    config.model = {"name": "jit", "num_classes": 1000, **jit.PRESETS["B/16"], "class_tokens": 32}
    config.model["remat"] = "elementwise"
    config.optimizer = base.adamw(2e-4, b2=0.95)
    config.optimizer["warmup"] = 5 * 1251  # epochs of steps
    config.train.steps = 600 * 1251
    config.train.batch_size = 1024
    config.checkpoint.every = 10_000
    config.sample.sampler = {"name": "heun"}
    config.sample.grid = {"name": "uniform"}
    config.sample.steps = 50
    config.sample.guidance.update({"scale": 3.0, "interval": (0.0, 0.9)})
    return recipes.preset(config, arg, PRESETS)
