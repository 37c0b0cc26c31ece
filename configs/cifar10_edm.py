"""Class-conditional EDM on CIFAR-10, sized for half an hour of one H200: a smaller DDPM++, augmentation, post-hoc EMA.

    diffusion train --config=cifar10_edm --workdir=runs/cifar10_edm --config.data.dir=DIR
    diffusion sample --workdir=runs/cifar10_edm --average=0.1
    diffusion evaluate --samples=runs/cifar10_edm/samples.npz --reference=cifar10@train --protocol=edm \\
        --inception=inception.safetensors --out=fid.json

DIR holds the dataset as TFDS prepares it (`tfds.load("cifar10")`, array_record).
Time and score: not measured; the aim is an FID-50k below 4 (Karras et al., 2022, reach 1.79 with 200 million images).
Preset `cpu`: 110 minutes of one core, FID 91.8 of 5,000 samples to 10,000 training images (docs/results.md).

What half an hour allows, an estimate. The network is DDPM++ of width 96 with 3 blocks a level: 25.6 million parameters.
By XLA's count it takes 18.2 GFLOP an image forward and 54.6 GFLOP to train, so a step of 256 images takes 14.0 TFLOP.
This is 31 ms at 45 % of an H200's 989 TFLOP/s (8,200 images/s), and 47 ms at 30 % (5,400 images/s). Of 30 minutes about
16 are left to train, the rest is start, transfers, compilation, 50,000 samples and Inception: 7.9 to 5.2 million
images, 31 to 20 thousand steps. The published width of 128 with 4 blocks (55.7 million, 121 GFLOP) would see less than
half of them. The run's length is set from its measured rate (`python -m benchmarks.gpu.recipe`; 24 thousand steps
here), and what depends on it is a share of it:

    learning rate      1e-3 after 500 steps, then half a cosine to zero at the end
    moving average     a power function of width 0.05, kept 30 times; any wider one is made from these afterwards
    condition dropout  a tenth, so that guidance can be tried when sampling

As in the paper: preconditioning, noise (ln sigma of -1.2 and 1.2), weights, augmentation (0.12), Heun's 18 steps.
Differences: the size, a batch of 256 in place of 512, no dropout in the network (100 to 160 epochs in place of 4,000),
the cosine, stratified noise levels.

Presets: `cifar10_edm:tiny` (to see that everything works), `cifar10_edm:cpu` (about two hours of one CPU
core, as docs/results.md measured it), `cifar10_edm:one_24gb` and `cifar10_edm:one_80gb`.

The last two are the authors' run (train.py --cond=1 --arch=ddpmpp) on one card of 24 or 80 GB: width 128 with 4 blocks,
200 million images in batches of 512, a constant learning rate after 10 million, an average halved in half a million.
The two differ only in their micro-batches. Target: FID 1.79, the least of three (abstract and README of the authors'
code). Differences: bfloat16 products in place of float32; gradients clipped at 1; the start of the average; stratified
noise levels in a batch. Never run; the least hours are in docs/scale.md.
"""

from ml_collections import ConfigDict

from diffusion.configs.optimizers import annealed
from diffusion.recipe import recipes

base = recipes.module("pictures")

AUGMENT = {"name": "edm_augmentation", "probability": 0.12}
PUBLISHED = {
    "model.width": 128,
    "model.blocks": 4,
    "model.dropout": 0.13,
    "objective.density.strata": 512,
    "objective.wrappers": ({"name": "augmentation", "augment": AUGMENT},),
    "optimizer.warmup": 19_531,  # 10 million images
    "optimizer.decay": "constant",
    "ema.sigma_rel": 0.0,
    "ema.decay": 0.99929,  # halved in 500 thousand images
    "train.steps": 390_625,  # 200 million images
    "train.batch_size": 512,
    "checkpoint.every": 10_000,
    "checkpoint.keep_every": 50_000,
}
PRESETS = {
    "one_24gb": {**PUBLISHED, "train.accumulate": 4},
    "one_80gb": {**PUBLISHED, "train.accumulate": 2},
    "tiny": base.tiny(steps=40, batch_size=16, samples=20)
    | {"model.width": 8, "model.multipliers": (1, 2), "model.blocks": 1, "checkpoint.keep_every": 10},
    "cpu": {  # 1.3 million parameters, 1.9 GFLOP an image to train; four epochs, so flips are all the augmentation
        "model.width": 32,
        "model.multipliers": (1, 2, 2),
        "model.blocks": 1,
        "train.dtype": "float32",
        "train.steps": 3_000,
        "train.batch_size": 64,
        "train.log_every": 50,
        "data.augment": ({"name": "flip"},),
        "objective.wrappers": (base.DROPPED,),
        "objective.density.strata": 64,
        "optimizer.warmup": 200,
        "checkpoint.every": 100,
        "checkpoint.keep_every": 100,
        "sample.sampler": {"name": "dpmpp_2m"},
        "sample.steps": 20,
        "sample.number": 5_000,
        "sample.batch_size": 250,
    },
}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.cifar10()
    config.schedule = {"name": "edm"}
    config.parameterization = {"name": "edm"}
    config.objective = {
        "name": "denoising",
        "density": {"name": "log_normal", "strata": 256},
        "weighting": {"name": "edm"},
        "wrappers": ({"name": "augmentation", "augment": AUGMENT}, base.DROPPED),
    }
    config.model = {
        "name": "song_unet",
        "width": 96,
        "multipliers": (2, 2, 2),
        "blocks": 3,
        "attention_resolutions": (16,),
        "num_classes": 10,
    }
    config.optimizer = annealed(1e-3, warmup=500)
    config.ema.sigma_rel = 0.05
    config.train.steps = 24_000
    config.train.batch_size = 256
    config.checkpoint.every = 800
    config.checkpoint.keep = 2
    config.checkpoint.keep_every = 800
    config.sample.sampler = {"name": "heun"}
    config.sample.grid = {"name": "karras"}
    config.sample.steps = 18
    config.sample.batch_size = 1_000
    return recipes.preset(config, arg, PRESETS)
