"""DiT-XL/2 on latents of ImageNet 256x256, as published: Peebles and Xie 2023, "Scalable Diffusion Models with
Transformers", section 4.

    python -m experiments.encode --autoencoder=VAE --data=imagenet2012@train --size=256 --flip --out=latents/imagenet256
    python -m experiments.train --config=configs/imagenet256_dit.py --workdir=runs/dit

VAE is the folder of Stable Diffusion's autoencoder (the paper has sd-vae-ft-ema): each picture of ImageNet, cropped to
256x256 as ADM's code does, gives a latent of (32, 32, 4). --config.data.latents.autoencoder=VAE makes sure that the
latents are of that one, and decodes the samples.
Time and score: not measured yet. The paper reports FID-50K 2.27 after 7M steps at guidance 1.5 (9.62 without guidance).

Presets: `imagenet256_dit.py:400k` (the length of the paper's comparisons; it reports FID-50K 19.47 without guidance),
`imagenet256_dit.py:7b` (the same recipe with 7.3e9 parameters over 64 devices; not of the paper, not trained),
`imagenet256_dit.py:tiny` (the same recipe with a small network and few steps, for a laptop).
"""

from ml_collections import ConfigDict

from configs import base

TINY = {
    "model.width": 64, "model.depth": 2, "model.heads": 4, "model.patch": 8,
    "train.steps": 20, "train.batch_size": 8, "train.log_every": 5, "train.dtype": "float32",
    "checkpoint.every": 10, "ema.decay": 0.9,
    "sample.steps": 4, "sample.number": 4, "sample.batch_size": 4, "evaluate.every": 0, "evaluate.number": 4,
}
PRESETS = {
    "400k": {"train.steps": 400_000},
    "7b": {"model.width": 4096, "model.depth": 24, "model.heads": 32, "model.remat": "full", "mesh.fsdp": 64},
    "tiny": TINY,
}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.defaults()
    config.data.name = "imagenet2012"
    config.data.shape = (32, 32, 4)
    config.data.latents.dir = "latents/imagenet256"
    config.data.threads = 16
    config.schedule = {"name": "linear_beta", "beta_start": 1e-4, "beta_end": 0.02, "T": 1000}
    config.parameterization = {
        "name": "learned_variance",
        "parameterization": {"name": "epsilon", "clock": {"name": "steps", "T": 1000}},
    }
    config.objective = {
        "name": "hybrid",
        "density": {"name": "discrete_density", "T": 1000},
        "T": 1000,
        "condition_dropout": 0.1,
    }
    config.model = {"name": "dit", "patch": 2, "width": 1152, "depth": 28, "heads": 16, "num_classes": 1000}
    config.optimizer = {
        "name": "adamw", "learning_rate": 1e-4, "warmup": 0, "decay": "constant", "weight_decay": 0.0,
    }
    config.ema.update({"decay": 0.9999, "warmup": False})
    config.train.steps = 7_000_000
    config.train.batch_size = 256
    config.train.log_every = 100
    config.train.dtype = "bfloat16"
    config.checkpoint.every = 50_000
    config.checkpoint.keep = 3
    config.sample.sampler = {"name": "ddpm", "variance": "learned"}
    config.sample.grid = {"name": "linspace", "T": 1000}
    config.sample.steps = 250
    config.sample.guidance.scale = 1.5
    config.sample.number = 50_000
    config.sample.batch_size = 256
    config.evaluate.update({"every": 0, "number": 50_000, "split": "validation", "features": ("pixels",)})
    return base.preset(config, arg, PRESETS)
