"""DiT^DH-XL on latents of a representation autoencoder of ImageNet 256x256, as published: Zheng et al. 2025, "Diffusion
Transformers with Representation Autoencoders", and the authors' code, configs/training/ImageNet256/DiTDH-XL_DINOv2-B.

    diffusion encode --autoencoder=RAE --data=imagenet2012@train --size=256 --flip --dtype=float16 --out=latents/rae
    diffusion train --config=imagenet256_rae --workdir=runs/rae --config.data.latents.autoencoder=RAE
    diffusion sample --workdir=runs/rae
    diffusion evaluate --samples=runs/rae/samples.npz --reference=imagenet2012@train --size=256 \\
        --protocol=adm --metrics=fid,sfid,is --inception=INCEPTION --out=runs/rae/fid.json

The commands need imagenet2012 as TFDS prepares it in array_record (in the folder TFDS_DATA_DIR). RAE is the folder of
an AutoencoderRAE with DINOv2-B and statistics of each position (docs/latents.md). INCEPTION is the file of FID's
network (docs/evaluation.md). Latents are (16, 16, 768), and take 1 TB with the mirrored ones. Training and sampling
shift times by the dimension of a latent, 196,608 numbers compared with 4096.

Score: FID-50K under ADM's protocol, Euler's method along 50 times and no guidance; not measured here yet. Published is
1.51 (the paper's abstract), after more epochs than the 80 of this recipe. The authors' rate falls from 2e-4 to 2e-5
between epochs 40 and 800; this recipe's is constant. Their first code has float32, AdamW's usual betas and no clipping;
this recipe has bfloat16, betas of 0.9 and 0.95, and gradients clipped at a norm of 1.

Time: not measured. 100,080 steps of 1024 are 1.0e8 examples; `diffusion plan --config=imagenet256_rae --devices=8`
estimates a step.

Presets: `imagenet256_rae:s` (DiT^DH-S), `imagenet256_rae:tiny` (the same recipe with a small network and few steps, for
a laptop's cores).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("pictures")

TINY = {
    "model.width": 32,
    "model.depth": 2,
    "model.heads": 4,
    "model.decoder_width": 48,
    "model.decoder_depth": 1,
    "model.decoder_heads": 4,
    "model.patch": 4,
    **base.TINY,
}
PRESETS = {"s": {"model.width": 384, "model.depth": 12, "model.heads": 6}, "tiny": TINY}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.imagenet((16, 16, 768), "latents/rae")
    config.schedule = {"name": "rectified_flow"}
    config.parameterization = {"name": "velocity"}
    config.objective = {
        "name": "flow_matching",
        "density": {"name": "dimension_shifted_density", "density": {"name": "uniform_density"}},
        "wrappers": ({"name": "condition_dropout", "rate": 0.1},),
    }
    config.model = {
        "name": "ddt",
        "patch": 1,
        "width": 1152,
        "depth": 28,
        "heads": 16,
        "decoder_width": 2048,
        "decoder_depth": 2,
        "decoder_heads": 16,
        "num_classes": 1000,
        "final_norm": "scaled_rmsnorm",
        "bias": True,
        "qk_norm": False,
        "positions": "sincos_rope",
        "span": 0.0,
        "clock": "fourier",
        "silu_again": True,
    }
    config.model["remat"] = "elementwise"
    config.optimizer = base.adamw(2e-4, warmup=0, b2=0.95, clip=1.0)
    config.ema.update({"decay": 0.9995, "warmup": False})
    config.train.steps = 100_080
    config.train.batch_size = 1024
    config.checkpoint.every = 20_000
    config.sample.sampler = {"name": "euler"}
    config.sample.grid = {"name": "dimension_shifted", "grid": {"name": "uniform"}}
    config.sample.steps = 49  # between the authors' 50 times
    return recipes.preset(config, arg, PRESETS)
