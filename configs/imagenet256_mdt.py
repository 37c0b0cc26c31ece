"""MDTv2-XL/2 on latents of ImageNet 256x256, as published: Gao et al. 2023, "Masked Diffusion Transformer is a Strong
Image Synthesizer", its second version, and the authors' code (sail-sg/MDT: README, scripts, masked_diffusion).

    diffusion encode --autoencoder=VAE --data=imagenet2012@train --size=256 --flip --out=latents/imagenet256
    diffusion train --config=imagenet256_mdt --workdir=runs/mdt --config.data.latents.autoencoder=VAE
    diffusion sample --workdir=runs/mdt
    diffusion evaluate --samples=runs/mdt/samples.npz --reference=imagenet2012@train --size=256 \\
        --protocol=adm --metrics=fid,sfid,is --inception=INCEPTION --out=runs/mdt/fid.json

The commands need imagenet2012 as TFDS prepares it in array_record (in the folder TFDS_DATA_DIR). VAE is the folder of
Stable Diffusion's autoencoder (the authors' code trains on sd-vae-ft-mse and decodes by sd-vae-ft-ema). INCEPTION is
the file of FID's network (docs/evaluation.md).

742,263,904 parameters. DiT's objective with a learned variance, its first term weighted by min(SNR, 5), once with all
patches and once without 30 to 50 % of them; Adan with gradients clipped at a norm of 1.

Score: FID-50K under ADM's protocol, 250 steps of DDPM, guided by a power-cosine scale up to 3.8; not measured here yet.
Published is 1.58 (README of sail-sg/MDT, for MDTv2-XL/2).

Not verified: the number of steps of the published network; 2,000,000 is this recipe's choice. The README trains XL/2
with `--decode_layer 2`, and its published checkpoint has 4 (infer_mdt.py), as here. The share of patches left out is
the same for the whole batch in the authors' code, and each picture's own here. Their code trains in float32, and this
recipe in bfloat16.

Time: not measured. `diffusion plan --config=imagenet256_mdt --devices=64` estimates a step.

Presets: `imagenet256_mdt:s2` (MDTv2-S/2 of run.sh: 6 blocks behind the mask, rate 5e-4), `imagenet256_mdt:tiny` (the
same recipe with a small network and few steps, for a laptop's cores).
"""

from ml_collections import ConfigDict

from diffusion.models import mdt
from diffusion.recipe import recipes

base = recipes.module("pictures")


def wrappers(patch: int) -> tuple[dict[str, object], ...]:
    """The wrappers: a copy of the batch without part of the patches of that side, and condition dropout."""
    masked = {"name": "masked_copy", "patch": patch, "least": 0.3, "most": 0.5}
    return (masked, base.DROPPED)


TINY = {
    "model.width": 64,
    "model.depth": 3,
    "model.heads": 4,
    "model.decoder_depth": 1,
    "model.patch": 8,
    "objective.wrappers": wrappers(patch=8),
    **base.TINY,
}
PRESETS = {
    "s2": {f"model.{field}": value for field, value in mdt.SIZES["S/2"].items()}
    | {"model.decoder_depth": 6, "optimizer.learning_rate": 5e-4},
    "tiny": TINY,
}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.imagenet((32, 32, 4), "latents/imagenet256")
    config.schedule = {"name": "linear_beta", "beta_start": 1e-4, "beta_end": 0.02, "T": 1000}
    config.parameterization = {
        "name": "learned_variance",
        "parameterization": {"name": "epsilon", "clock": {"name": "steps", "T": 1000}},
    }
    config.objective = {
        "name": "hybrid",
        "density": {"name": "discrete_density", "T": 1000},
        "T": 1000,
        "weighting": {"name": "min_snr", "gamma": 5.0},
        "wrappers": wrappers(patch=2),
    }
    config.model = {"name": "mdt", "patch": 2, "num_classes": 1000, **mdt.SIZES["XL/2"], "decoder_depth": 4}
    config.model["remat"] = "elementwise"
    config.optimizer = {"name": "adan", "learning_rate": 3e-4, "decay": "constant", "weight_decay": 0.0, "clip": 1.0}
    config.train.steps = 2_000_000
    config.train.batch_size = 256
    config.checkpoint.every = 10_000
    config.sample.sampler = {"name": "ddpm", "variance": "learned"}
    config.sample.grid = {"name": "linspace", "T": 1000}
    config.sample.steps = 250
    config.sample.guidance.update({"scale": 3.8, "channels": 3, "ramp": {"name": "power_cosine", "power": 4.0}})
    return recipes.preset(config, arg, PRESETS)
