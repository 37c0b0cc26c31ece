"""LightningDiT-XL/1 on latents of ImageNet 256x256 with 32 channels, as published: Yao and Wang 2025, "Reconstruction
vs. Generation: Taming Optimization Dilemma in Latent Diffusion Models", and the authors' code,
configs/lightningdit_xl_vavae_f16d32.yaml.

    diffusion encode --autoencoder=VAE --data=imagenet2012@train --size=256 --flip --out=latents/imagenet256_f16d32
    diffusion train --config=imagenet256_lightning_dit --workdir=runs/lightning_dit \\
        --config.data.latents.autoencoder=VAE
    diffusion sample --workdir=runs/lightning_dit
    diffusion evaluate --samples=runs/lightning_dit/samples.npz --reference=imagenet2012@train --size=256 \\
        --protocol=adm --metrics=fid,sfid,is --inception=INCEPTION --out=runs/lightning_dit/fid.json

The commands need imagenet2012 as TFDS prepares it in array_record (in the folder TFDS_DATA_DIR). VAE is the folder of
an autoencoder whose latents are (16, 16, 32), normalised by a scale and a shift of each channel; the paper has VA-VAE
f16d32. INCEPTION is the file of FID's network (docs/evaluation.md).

Score: FID-50K under ADM's protocol, Euler's method along 250 times; not measured here yet. The published figures of
LightningDiT-XL/1 are:

| epochs of 1,281,167, batches of 1024 | guidance | FID | source |
| --- | --- | --- | --- |
| 64 | 10.0 for t up to 0.89 | 2.11 | the authors' code, comment of that file |
| 800 (`:800ep`) | 6.7 for t up to 0.875 | 1.35 | the same code, configs/reproductions |

Time: not measured. 80,000 steps of 1024 are 8.2e7 examples; `diffusion plan --config=imagenet256_lightning_dit
--devices=8` estimates a step. The authors' code guides the first three channels of a latent's 32, and so does this
recipe: their large scales belong to it. --config.sample.guidance.channels=32 guides all.

The published network, and a folder that `diffusion convert` makes of it, returns the velocity with the other sign;
`diffusion zoo` negates its last layer.

Presets: `imagenet256_lightning_dit:800ep` (the row above), `imagenet256_lightning_dit:tiny` (the same recipe with a
small network and few steps, for a laptop's cores).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("pictures")

TINY = {"model.width": 48, "model.depth": 2, "model.heads": 4, "model.patch": 4, **base.TINY}
PRESETS = {
    "800ep": {
        "train.steps": 1_000_800,  # 1251 batches are an epoch
        "sample.guidance.scale": 6.7,
        "sample.guidance.interval": (0.0, 0.875),
    },
    "tiny": TINY,
}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.imagenet((16, 16, 32), "latents/imagenet256_f16d32")
    config.schedule = {"name": "rectified_flow"}
    # Its networks receive 1 - t, like SiT's.
    config.parameterization = {"name": "velocity", "clock": {"name": "reversed_time"}}
    config.objective = {
        "name": "flow_matching",
        "density": {"name": "logit_normal"},
        "direction": 1.0,
        "wrappers": ({"name": "condition_dropout", "rate": 0.1},),
    }
    config.model = {
        "name": "dit",
        "patch": 1,
        "width": 1152,
        "depth": 28,
        "heads": 16,
        "num_classes": 1000,
        "norm": "scaled_rmsnorm",
        "mlp": "swiglu",
        "positions": "sincos_rope",
    }
    config.model["remat"] = "elementwise"
    config.optimizer = base.adamw(2e-4, warmup=0, b2=0.95)
    config.train.steps = 80_000
    config.train.batch_size = 1024
    config.checkpoint.every = 20_000
    config.sample.sampler = {"name": "euler"}
    config.sample.grid = {"name": "uniform"}
    config.sample.shift = 1 / 0.3  # the authors' timestep_shift; their time counts from noise to data
    config.sample.steps = 249  # between 250 times
    config.sample.guidance.update({"scale": 10.0, "interval": (0.0, 0.89), "channels": 3})
    return recipes.preset(config, arg, PRESETS)
