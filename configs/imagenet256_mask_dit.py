"""MaskDiT-XL/2 on latents of ImageNet 256x256, as published: Zheng et al. 2023, "Fast Training of Diffusion Models with
Masked Transformers", and the authors' code (Anima-Lab/MaskDiT: configs/train/imagenet256-latent.yaml, train.py).

    diffusion encode --autoencoder=VAE --data=imagenet2012@train --size=256 --flip --out=latents/imagenet256
    diffusion train --config=imagenet256_mask_dit --workdir=runs/mask_dit --config.data.latents.autoencoder=VAE
    diffusion train --config=imagenet256_mask_dit:unmasked --workdir=runs/mask_dit_unmasked \\
        --config.data.latents.autoencoder=VAE --config.init_from.path=runs/mask_dit
    diffusion sample --workdir=runs/mask_dit_unmasked
    diffusion evaluate --samples=runs/mask_dit_unmasked/samples.npz --reference=imagenet2012@train --size=256 \\
        --protocol=adm --metrics=fid,sfid,is --inception=INCEPTION --out=runs/mask_dit_unmasked/fid.json

The commands need imagenet2012 as TFDS prepares it in array_record (in the folder TFDS_DATA_DIR). VAE is the folder of
Stable Diffusion's autoencoder. INCEPTION is the file of FID's network (docs/evaluation.md).

730,115,216 parameters. EDM's process, preconditioning and weights on latents; the network sees half of the patches and
reconstructs the others with weight 0.1. Two million steps of 1024 with the mask, then 100,000 of 512 without
(`:unmasked`, configs/finetune/imagenet256-latent-const.yaml), at half the rate.

Score: FID-50K under ADM's protocol, 40 steps of Heun; not measured here yet. Published are 2.28 with guidance of 1.5,
and 5.69 without (README).

Not verified: the decay of the average, 0.9999, is DiT's, which the code took over; the batch follows from 128 examples
on each of the README's 8 GPUs. Each step draws new latents of the pictures, and mirrors them. The authors train in
float16, and this recipe in bfloat16; the second stage is in float32. Here the second stage begins with the average of
the first; the authors' begins with the last weights and their average.

Time: not measured. `diffusion plan --config=imagenet256_mask_dit --devices=8` estimates a step.

Presets: `imagenet256_mask_dit:unmasked` (the second stage), `imagenet256_mask_dit:tiny` (the same recipe with a small
network and few steps, for a laptop's cores).
"""

from ml_collections import ConfigDict

from diffusion.models import mask_dit
from diffusion.recipe import recipes

base = recipes.module("pictures")

TINY = {
    "model.width": 64,
    "model.depth": 2,
    "model.heads": 4,
    "model.decoder_width": 32,
    "model.decoder_depth": 1,
    "model.decoder_heads": 4,
    "model.patch": 8,
    "objective.patch": 8,
    **base.TINY,
}
UNMASKED = {
    "objective": {
        "name": "denoising",
        "density": {"name": "log_normal"},
        "weighting": {"name": "edm"},
        "wrappers": ({"name": "condition_dropout", "rate": 0.1},),
    },
    "optimizer.learning_rate": 5e-5,
    "train.steps": 100_000,
    "train.batch_size": 512,
    "train.dtype": "float32",
    "checkpoint.every": 12_500,
}
PRESETS = {"unmasked": UNMASKED, "tiny": TINY}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.imagenet((32, 32, 4), "latents/imagenet256")
    config.schedule = {"name": "edm"}
    config.parameterization = {"name": "edm"}
    config.objective = {
        "name": "masked_denoising",
        "density": {"name": "log_normal"},
        "weighting": {"name": "edm"},
        "patch": 2,
        "ratio": 0.5,
        "reconstruction": 0.1,
        "wrappers": ({"name": "condition_dropout", "rate": 0.1},),
    }
    width, depth, heads = mask_dit.SIZES["XL"]
    config.model = {"name": "mask_dit", "patch": 2, "width": width, "depth": depth, "heads": heads, "num_classes": 1000}
    config.model["remat"] = "elementwise"
    config.optimizer = base.adamw(1e-4)
    config.train.steps = 2_000_000
    config.train.batch_size = 1024
    config.checkpoint.every = 50_000
    config.sample.sampler = {"name": "heun"}
    config.sample.grid = {"name": "karras"}
    config.sample.steps = 40
    config.sample.guidance.scale = 1.5
    return recipes.preset(config, arg, PRESETS)
