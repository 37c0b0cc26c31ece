"""DiT-XL/2 on latents of ImageNet 256x256, as published: Peebles and Xie 2023, "Scalable Diffusion Models with
Transformers", section 4.

    diffusion encode --autoencoder=VAE --data=imagenet2012@train --size=256 --flip --out=latents/imagenet256
    diffusion train --config=imagenet256_dit --workdir=runs/dit \\
        --config.data.latents.autoencoder=VAE
    diffusion sample --workdir=runs/dit
    diffusion evaluate --samples=runs/dit/samples.npz --reference=imagenet2012@train --size=256 \\
        --protocol=adm --metrics=fid,sfid,is --inception=INCEPTION --out=runs/dit/fid.json

The commands need imagenet2012 as TFDS prepares it in array_record (in the folder TFDS_DATA_DIR). VAE is the folder of
Stable Diffusion's autoencoder (the paper has sd-vae-ft-ema). INCEPTION is the file of FID's network
(docs/evaluation.md). Each picture, cropped to 256x256 as ADM's code does, gives a latent of (32, 32, 4). The latents
take 84 GB with the mirrored ones. On several machines, `launch` starts training and sampling (docs/scale.md). The
statistics of the reference are computed once and kept. ADM's own file VIRTUAL_imagenet256_labeled.npz can also be the
--reference. tests/experiments/test_imagenet_chain.py runs all commands on a dataset of ImageNet's layout.

Score: FID-50K under ADM's protocol, 250 steps of DDPM; not measured here yet. Published are, of DiT-XL/2:

| steps of 256 | guidance | FID | source |
| --- | --- | --- | --- |
| 7M | 1.5 | 2.27 | Peebles and Xie 2023, table 2 (DiT-XL/2-G) |
| 7M | none | 9.62 | the same table |
| 400k (`:400k`) | none | 19.5 | the same paper, table 4 (19.47); Ma et al. 2024, "SiT", table 1 |
| 400k, DiT-B/2 (`:b2`) | none | 43.5 | the same tables (43.47) |
| 400k, DiT-B/4 (`:b4`) | none | not read again | Peebles and Xie 2023, table 4 |

Differences: bfloat16 in place of float32 with products in TF32. Time: not measured. 7M steps of 256 are 1.8e9 examples;
`diffusion plan --config=imagenet256_dit --devices=64` estimates a step. The paper's code guides the first three
channels of a latent's four (its issue 41), and so does this recipe; --config.sample.guidance.channels=4 guides all.

Presets: `imagenet256_dit:400k` and `imagenet256_dit:b2` (the rows above, without guidance),
`imagenet256_dit:b4` (80 epochs, whole on one card of 24 GB: docs/scale.md),
`imagenet256_dit:7b` (the same recipe with 7.3e9 parameters over 64 devices; not of the paper, not trained),
`imagenet256_dit:tiny` (the same recipe with a small network and few steps, for a laptop's cores).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("pictures")

TINY = {"model.width": 64, "model.depth": 2, "model.heads": 4, "model.patch": 8, **base.TINY}
B2 = {"model.width": 768, "model.depth": 12, "model.heads": 12, "train.steps": 400_000, "sample.guidance.scale": 1.0}
PRESETS = {
    "400k": {"train.steps": 400_000, "sample.guidance.scale": 1.0},
    "b2": B2,
    "b4": {**B2, "model.patch": 4},
    "7b": {"model.width": 4096, "model.depth": 24, "model.heads": 32, "model.remat": "full", "mesh.fsdp": 64},
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
        "wrappers": ({"name": "condition_dropout", "rate": 0.1},),
    }
    config.model = {"name": "dit", "patch": 2, "width": 1152, "depth": 28, "heads": 16, "num_classes": 1000}
    config.model["remat"] = "elementwise"  # 53 GB of temporaries on one H100, with "none" 172
    config.optimizer = base.adamw(1e-4, warmup=0)
    config.train.steps = 7_000_000
    config.train.batch_size = 256
    config.checkpoint.every = 50_000
    config.sample.sampler = {"name": "ddpm", "variance": "learned"}
    config.sample.grid = {"name": "linspace", "T": 1000}
    config.sample.steps = 250
    config.sample.guidance.update({"scale": 1.5, "channels": 3})
    return recipes.preset(config, arg, PRESETS)
