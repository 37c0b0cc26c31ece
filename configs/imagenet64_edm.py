"""EDM on ImageNet 64x64 with ADM's U-Net: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based
Generative Models", the authors' train.py --cond=1 --arch=adm.

    diffusion train --config=imagenet64_edm --workdir=runs/imagenet64_edm
    diffusion sample --workdir=runs/imagenet64_edm
    diffusion evaluate --samples=runs/imagenet64_edm/samples.npz --reference=imagenet2012@train --size=64 \\
        --protocol=edm --inception=inception.safetensors --out=fid.json

The commands need imagenet2012 as TFDS prepares it in array_record (in the folder TFDS_DATA_DIR). Target: FID 1.36, the
least of three (the paper's abstract and the README of its code), after 2.5 billion images in batches of 4,096 on 32
A100 in about 13 days. Differences: bfloat16 in place of float16 with a scale of 100; gradients clipped at 1; the start
of the average; stratified noise levels in a batch. Time and score: never run; the least hours are in docs/scale.md.

Presets: `imagenet64_edm:one_24gb` and `imagenet64_edm:one_80gb` (the same batch in micro-batches that one card holds)
and `imagenet64_edm:tiny` (under a minute on two CPU cores; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("pictures")

PRESETS = {
    "one_24gb": {"train.accumulate": 128},
    "one_80gb": {"train.accumulate": 32},
    "tiny": base.tiny(steps=20, batch_size=8, samples=4)
    | {"model.widths": (16, 16), "model.blocks": 1, "model.attention_levels": (1,)}
    | {"model.groups": 16, "model.head_size": 16, "optimizer.warmup": 5, "ema.decay": 0.9},
}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.imagenet((64, 64, 3))
    config.schedule = {"name": "edm"}
    config.parameterization = {"name": "edm"}
    config.objective = {
        "name": "denoising",
        "density": {"name": "log_normal", "strata": 4096},
        "weighting": {"name": "edm"},
    }
    config.model = {
        "name": "unet",
        "widths": (192, 384, 576, 768),
        "blocks": 3,
        "attention_levels": (1, 2, 3),
        "heads": None,
        "head_size": 64,
        "scale_shift": True,
        "resample": "block",
        "dropout": 0.1,
        "num_classes": 1000,
    }
    config.model["remat"] = "elementwise"
    config.optimizer = base.adamw(1e-4, warmup=2_441, clip=1.0)  # 10 million images
    config.ema.update({"decay": 0.999943, "warmup": True})  # halved in 50 million images
    config.train.steps = 610_352  # 2.5 billion images
    config.train.batch_size = 4096
    config.checkpoint.every = 5_000
    config.sample.sampler = {"name": "edm", "s_churn": 40.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003}
    config.sample.grid = {"name": "karras"}
    config.sample.steps = 256
    config.sample.batch_size = 500
    return recipes.preset(config, arg, PRESETS)
