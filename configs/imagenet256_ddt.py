"""DDT-XL/2 on latents of ImageNet 256x256, as published: Wang et al. 2025, "DDT: Decoupled Diffusion Transformer", and
the authors' code, configs/repa_improved_ddt_xlen22de6_256.yaml.

    diffusion encode --autoencoder=VAE --data=imagenet2012@train --size=256 --out=latents/imagenet256 \\
        --encoder=DINOV2 --encoder_size=224
    diffusion train --config=imagenet256_ddt --workdir=runs/ddt --config.data.latents.autoencoder=VAE
    diffusion sample --workdir=runs/ddt
    diffusion evaluate --samples=runs/ddt/samples.npz --reference=imagenet2012@train --size=256 \\
        --protocol=adm --metrics=fid,sfid,is --inception=INCEPTION --out=runs/ddt/fid.json

The commands need imagenet2012 as TFDS prepares it in array_record (in the folder TFDS_DATA_DIR). VAE is the folder of
Stable Diffusion's autoencoder (the paper has sd-vae-ft-ema). DINOV2 is the folder of dinov2-base. INCEPTION is the file
of FID's network (docs/evaluation.md). The features are written once, together with the latents, and take 393 KB a
picture.

The network has an encoder of 22 blocks, a decoder of 6, and 674,646,352 parameters. Flow matching at times of a
logit-normal density (mean 0, deviation 1); the features after block 8 follow those of DINOv2 ViT-B/14 by an MLP of
1152, weight 0.5.

Score: FID-50K under ADM's protocol, Euler's method along 250 times of which the last is 0.04, guided for t up to 0.7;
not measured here yet. Published are:

| network | guidance | FID | source |
| --- | --- | --- | --- |
| DDT-XL/2, 256x256 | 2.0 | 1.26 | README of MCG-NJU/DDT |
| DDT-XL/2, 512x512 (`:512`) | 3.0 | 1.28 | the same, and configs/repa_improved_ddt_xlen22de6_512.yaml |

Not verified: the authors' config states 16 examples a device but not the number of devices, so the batch of 256 is
SiT's, which the paper follows. It names 4,000,000 steps, but the checkpoints are from earlier steps. Pictures are not
mirrored, as in REPA's code.

Time: not measured. `diffusion plan --config=imagenet256_ddt --devices=64` estimates a step.

The published network, and a folder that `diffusion convert` makes of it, returns the velocity with the other sign;
`diffusion zoo` negates its last layer.

Presets: `imagenet256_ddt:l2` and `imagenet256_ddt:b2` (20 + 4 and 8 + 4 blocks, the paper's smaller sizes),
`imagenet256_ddt:512` (the row above), `imagenet256_ddt:tiny` (the same recipe with a small network and few steps, for a
laptop's cores).
"""

from ml_collections import ConfigDict

from diffusion.models.ddt import DDT_SIZES
from diffusion.recipe import recipes

base = recipes.module("pictures")

TINY = {
    "model.width": 64,
    "model.depth": 2,
    "model.heads": 4,
    "model.decoder_width": 64,
    "model.decoder_depth": 1,
    "model.decoder_heads": 4,
    "model.patch": 8,
    "objective.wrappers": (base.DROPPED,),
    "encoder.network": {"name": ""},
    **base.TINY,
}

PRESETS = {
    "l2": base.size(DDT_SIZES["L"]),
    "b2": base.size(DDT_SIZES["B"]),
    "512": {"data.shape": (64, 64, 4), "data.latents.dir": "latents/imagenet512", "sample.guidance.scale": 3.0}
    | {"sample.batch_size": 64, "encoder.size": 448},
    "tiny": TINY,
}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.imagenet((32, 32, 4), "latents/imagenet256")
    config.schedule = {"name": "rectified_flow"}
    # Its time counts from noise to data, so that its networks receive 1 - t.
    config.parameterization = {"name": "velocity", "clock": {"name": "reversed_time"}}
    config.objective = {"name": "flow_matching", "density": {"name": "logit_normal"}, "wrappers": base.aligned(1152)}
    config.encoder.network = base.VIT_B
    config.encoder.size = 224
    config.model = {"name": "ddt", "patch": 2, "num_classes": 1000, **DDT_SIZES["XL"]}
    config.model["remat"] = "elementwise"
    config.optimizer = base.adamw(1e-4, b2=0.95)
    config.train.steps = 4_000_000
    config.train.batch_size = 256
    config.checkpoint.every = 10_000
    config.sample.sampler = {"name": "euler"}
    config.sample.grid = {"name": "uniform", "last": 0.04}
    config.sample.steps = 250
    config.sample.guidance.update({"scale": 2.0, "interval": (0.0, 0.7)})
    return recipes.preset(config, arg, PRESETS)
