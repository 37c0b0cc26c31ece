"""SiT-XL/2 on latents of ImageNet 256x256, as published: Ma et al. 2024, "SiT: Exploring Flow and Diffusion-based
Generative Models with Scalable Interpolant Transformers", section 3, linear interpolant and velocity prediction.

    python -m experiments.encode --autoencoder=VAE --data=imagenet2012@train --size=256 --flip --out=latents/imagenet256
    python -m experiments.train --config=configs/imagenet256_sit.py --workdir=runs/sit

VAE is the folder of Stable Diffusion's autoencoder (the paper has sd-vae-ft-ema): each picture of ImageNet, cropped to
256x256 as ADM's code does, gives a latent of (32, 32, 4). --config.data.latents.autoencoder=VAE makes sure that the
latents are of that one, and decodes the samples.
Time and score: not measured yet. The paper reports FID-50K 2.15 after 7M steps at guidance 1.5 by the ODE.

Presets: `imagenet256_sit.py:400k` (the length of the paper's comparisons),
`imagenet256_sit.py:tiny` (the same recipe with a small network and few steps, for a laptop).
"""

from ml_collections import ConfigDict

from configs import base

TINY = {
    "model.width": 64, "model.depth": 2, "model.heads": 4, "model.patch": 8,
    "train.steps": 20, "train.batch_size": 8, "train.log_every": 5, "train.dtype": "float32",
    "checkpoint.every": 10, "ema.decay": 0.9,
    "sample.steps": 4, "sample.number": 4, "sample.batch_size": 4, "evaluate.every": 0, "evaluate.number": 4,
}
PRESETS = {"400k": {"train.steps": 400_000}, "tiny": TINY}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.defaults()
    config.data.name = "imagenet2012"
    config.data.shape = (32, 32, 4)
    config.data.latents.dir = "latents/imagenet256"
    config.data.threads = 16
    config.schedule = {"name": "rectified_flow"}
    # SiT counts time from noise to data, so that its networks are told 1 - t.
    config.parameterization = {"name": "velocity", "clock": {"name": "reversed_time"}}
    config.objective = {
        "name": "flow_matching",
        "density": {"name": "uniform_density"},
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
    config.sample.sampler = {"name": "heun"}
    config.sample.steps = 125  # 249 evaluations of the network; the paper counts 250
    config.sample.guidance.scale = 1.5
    config.sample.number = 50_000
    config.sample.batch_size = 256
    config.evaluate.update({"every": 0, "number": 50_000, "split": "validation", "features": ("pixels",)})
    return base.preset(config, arg, PRESETS)
