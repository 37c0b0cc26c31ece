"""Flow matching on CIFAR-10 with the U-Net and the training of torchcfm, on one card: Tong et al. 2024, "Improving and
Generalizing Flow-Based Generative Models with Minibatch Optimal Transport", unconditional.

    diffusion train --config=cifar10_flow --workdir=runs/cifar10_flow --config.data.dir=DIR
    diffusion sample --workdir=runs/cifar10_flow
    diffusion evaluate --samples=runs/cifar10_flow/samples.npz --reference=cifar10@train --protocol=edm \\
        --inception=inception.safetensors --out=fid.json

DIR holds the dataset as TFDS prepares it (`tfds.load("cifar10")`, array_record). The settings are those of the authors'
train_cifar10.py, which runs on one card; a batch of 128 fits whole on 24 GB. Target: "an FID of 3.5" (the README beside
it, for its experiments with `otcfm`, `icfm` and `fm` together). Differences: bfloat16 products in place of float32; 50
steps of Heun's method in place of dopri5. Time and score: never run; the least hours are in docs/scale.md.

Presets: `cifar10_flow:ot` (pairs by minibatch optimal transport, OT-CFM; the recipe itself is I-CFM) and
`cifar10_flow:tiny` (under a minute on two CPU cores; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("pictures")

PRESETS = {
    "ot": {"objective.coupling": {"name": "optimal_transport", "block": 128}},
    "tiny": base.TINY
    | {"model.widths": (32, 32), "model.blocks": 1, "model.attention_levels": (1,), "model.head_size": 16}
    | {"train.log_every": 10, "optimizer.warmup": 5},
}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.cifar10()
    config.data.augment = ({"name": "flip"},)
    config.schedule = {"name": "rectified_flow"}
    config.parameterization = {"name": "velocity", "clock": {"name": "steps"}}
    config.objective = {
        "name": "flow_matching",
        "density": {"name": "uniform_density"},
        "coupling": {"name": "independent"},
    }
    config.model = {
        "name": "unet",
        "widths": (128, 256, 256, 256),
        "blocks": 2,
        "attention_levels": (1,),
        "heads": None,
        "head_size": 64,
        "dropout": 0.1,
        "num_classes": 0,
    }
    config.optimizer = base.adamw(2e-4, warmup=5_000, clip=1.0)
    config.ema.update({"decay": 0.9999, "warmup": False})
    config.train.steps = 400_000
    config.train.batch_size = 128
    config.checkpoint.every = 20_000
    config.sample.sampler = {"name": "heun"}
    config.sample.grid = {"name": "uniform"}
    config.sample.steps = 50
    return recipes.preset(config, arg, PRESETS)
