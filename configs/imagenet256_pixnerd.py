"""PixNerd-XL/16 on the pixels of ImageNet 256x256, as published: Wang et al. 2025, "PixNerd: Pixel Neural Field
Diffusion", and the authors' code, configs_c2i/pix256std1_repa_pixnerd_xl.yaml.

    diffusion train --config=imagenet256_pixnerd --workdir=runs/pixnerd --config.encoder.path=DINOV2
    diffusion sample --workdir=runs/pixnerd
    diffusion evaluate --samples=runs/pixnerd/samples.npz --reference=imagenet2012@train --size=256 \\
        --protocol=adm --metrics=fid,sfid,is --inception=INCEPTION --out=runs/pixnerd/fid.json

PixNerd and PixelDiT both work on pixels without an autoencoder. The recipe is PixNerd's, since its authors' source and
configs could be read, and PixelDiT's could not.

The commands need imagenet2012 as TFDS prepares it in array_record (in the folder TFDS_DATA_DIR), but no autoencoder.
DINOV2 is the folder of dinov2-base. INCEPTION is the file of FID's network (docs/evaluation.md).

26 blocks on patches of 16x16 pixels and a neural field of 4 layers: 700,589,219 parameters (700 million in the
README). Flow matching at times of a logit-normal density (mean 0, deviation 1); the features after block 8 follow
those of DINOv2 ViT-B/14 by an MLP of 1152, weight 0.5.

Score: FID-50K under ADM's protocol, Euler's method along 100 times of which the last is 0.04, guided with 3.5 for t up
to 0.9; not measured here yet. Published are:

| steps | FID | source |
| --- | --- | --- |
| 800,000 | 2.15 | README of MCG-NJU/PixNerd |
| 1,600,000 (`:1600k`) | 1.93 | the same |

Not verified: the authors' config states 32 examples per device but no number of devices, so the batch of 256 is SiT's.
It names the sampler above, and a folder "1600k_ode250_cfg3.0_inteval0.1", but not which of the two made which figure.
Pictures are not mirrored (`PixImageNet` without random_crop).

Time: not measured. `diffusion plan --config=imagenet256_pixnerd --devices=64` estimates a step.

The published network, and a folder that `diffusion convert` makes of it, returns the velocity with the other sign;
`diffusion zoo` negates its last layer.

Presets: `imagenet256_pixnerd:l16` (PixNerd-L/16), `imagenet256_pixnerd:1600k` (the row above),
`imagenet256_pixnerd:tiny` (the same recipe with a small network and few steps, for a laptop's cores).
"""

from ml_collections import ConfigDict

from diffusion.models import pixnerd
from diffusion.recipe import recipes

base = recipes.module("pictures")

TINY = {
    "data.shape": (32, 32, 3),
    "model.patch": 8,
    "model.width": 64,
    "model.depth": 2,
    "model.heads": 4,
    "model.field_depth": 1,
    "model.field_width": 8,
    "objective.wrappers": (base.DROPPED,),
    "encoder.network": {"name": ""},
    **base.TINY,
}

PRESETS = {
    "l16": base.size(pixnerd.SIZES["L/16"]) | {"objective.wrappers": base.aligned(1024)},
    "1600k": {"train.steps": 1_600_000},
    "tiny": TINY,
}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.imagenet((256, 256, 3))
    config.schedule = {"name": "rectified_flow"}
    # Its time counts from noise to data, so that its networks receive 1 - t.
    config.parameterization = {"name": "velocity", "clock": {"name": "reversed_time"}}
    config.objective = {"name": "flow_matching", "density": {"name": "logit_normal"}, "wrappers": base.aligned(1152)}
    config.encoder.network = base.VIT_B
    config.encoder.size = 224
    config.model = {"name": "pixnerd", "num_classes": 1000, **pixnerd.SIZES["XL/16"], "field_ratio": 2}
    config.model["remat"] = "elementwise"
    config.optimizer = base.adamw(1e-4)
    config.train.steps = 800_000
    config.train.batch_size = 256
    config.checkpoint.every = 10_000
    config.sample.sampler = {"name": "euler"}
    config.sample.grid = {"name": "uniform", "last": 0.04}
    config.sample.steps = 100
    config.sample.guidance.update({"scale": 3.5, "interval": (0.0, 0.9)})
    config.sample.batch_size = 128
    return recipes.preset(config, arg, PRESETS)
