"""SiT-XL/2 on latents of ImageNet 256x256, as published: Ma et al. 2024, "SiT: Exploring Flow and Diffusion-based
Generative Models with Scalable Interpolant Transformers", section 3, linear interpolant and velocity prediction.

    diffusion encode --autoencoder=VAE --data=imagenet2012@train --size=256 --flip --out=latents/imagenet256
    diffusion train --config=imagenet256_sit --workdir=runs/sit \\
        --config.data.latents.autoencoder=VAE
    diffusion sample --workdir=runs/sit
    diffusion evaluate --samples=runs/sit/samples.npz --reference=imagenet2012@train --size=256 \\
        --protocol=adm --metrics=fid,sfid,is --inception=INCEPTION --out=runs/sit/fid.json

The commands need imagenet2012 as TFDS prepares it in array_record (in the folder TFDS_DATA_DIR). VAE is the folder of
Stable Diffusion's autoencoder (the paper has sd-vae-ft-ema). INCEPTION is the file of FID's network
(docs/evaluation.md). Each picture, cropped to 256x256 as ADM's code does, gives a latent of (32, 32, 4). The latents
take 84 GB with the mirrored ones. On several machines, `launch` starts training and sampling (docs/scale.md). The
statistics of the reference are computed once and kept. ADM's own file VIRTUAL_imagenet256_labeled.npz can also be the
--reference. tests/experiments/test_imagenet_chain.py runs all commands on a dataset of ImageNet's layout.

Score: FID-50K under ADM's protocol, 250 evaluations of the network; not measured here yet. Published are:

| network, steps of 256 | guidance | sampler | FID | source |
| --- | --- | --- | --- | --- |
| SiT-XL/2, 7M | 1.5 | SDE, w = sigma, last step 0.04 | 2.06 | Ma et al. 2024, abstract and table 1 |
| SiT-XL/2, 7M | 1.5 | ODE, Heun (`:ode`) | 2.15 | the same paper, its comparison on ImageNet 256x256 |
| SiT-XL/2, 400k (`:400k`) | none | SDE | 17.2 | the same paper, table 1; Yu et al. 2024, "REPA", table 2 |
| SiT-B/2, 400k (`:b2`) | none | SDE | 33.0 | the same tables |

Differences: bfloat16 in place of float32 with products in TF32 (for REPA, REPA-E and SRA in place of float16). Time:
not measured. 7M steps of 256 are 1.8e9 examples; `diffusion plan --config=imagenet256_sit --devices=64` estimates a
step. The paper's code guides the first three channels of a latent's four, as DiT's does, and so does this recipe;
--config.sample.guidance.channels=4 guides all.

| network, steps of 256 | guidance | sampler | FID | source |
| --- | --- | --- | --- | --- |
| with REPA (`:repa`), 4M | 1.8 for t up to 0.7 | SDE | 1.42 | Yu et al. 2024, "REPA"; README of sihyun-yu/REPA |
| with REPA-E (`:repae`), 400k | none; 2.2 for t up to 0.65 | SDE | 4.07; 1.67 | Leng et al. 2025, README of REPA-E |

`imagenet256_sit:repa` has the values of the authors' code (train.py and README.md of sihyun-yu/REPA): the features
after block 8 follow those of DINOv2 ViT-B/14 by an MLP of 2048, weight 0.5; gradients are clipped at a norm of 1, and
all four channels are guided. Its VAE is sd-vae-ft-mse. The features are written once, beside the latents, by the first
command above with `--encoder=DINOV2 --encoder_size=224`, where DINOV2 is the folder of dinov2-base; they take 393 KB a
view, 1.0 TB with the mirrored ones. What differs: the authors do not mirror pictures (leave out --flip to do
likewise), resize to 224 by PyTorch's bicubic filter without antialiasing, and compute the features in half precision at
every step.

`imagenet256_sit:repae` trains the autoencoder with the model, as the README and train_repae.py of REPA-E: pictures of
256 x 256 in place of a cache, the features after block 8 with weight 0.5 for the model and 1.5 for the autoencoder, L1,
LPIPS and a patch critic of weight 0.1 from the first step, KL of weight 1e-6, Adam of 1e-4 for all three. It begins
with Stable Diffusion's autoencoder, whose latents an affine-free batch norm normalises (momentum 0.1), and needs

    --config.autoencoder.path=VAE --config.encoder.path=DINOV2 --config.perceptual.path=LPIPS

with DINOV2 and LPIPS as `diffusion convert` writes them. The authors differ in these points: their critic is trained
before; they begin with measured statistics of the latents, not with the autoencoder's scale; they clip the gradients of
model and autoencoder separately, and average only the model; they update the critic after the autoencoder and not
before; and its features have half precision. Their L1 and LPIPS are of pictures in [-1, 1], as here; how their LPIPS
scales these was not checked.

`imagenet256_sit:irepa` is REPA with iREPA's two changes (Singh et al. 2025, "What matters for Representation Alignment:
Global Information or Spatial Structure?"): a convolution of 3 x 3 as the projector, and the encoder's features
normalised over the tokens of a picture, (y - 0.6 mean) / deviation. The 0.6 and the weight 0.5 are the defaults of the
authors' train.py (End2End-Diffusion/iREPA). Their configs/irepa.yaml, which may set other values, could not be read;
nor could it be confirmed that its kernel is 3 x 3 (the default of train.py is 1 x 1).

Presets: `imagenet256_sit:400k`, `imagenet256_sit:b2`, `imagenet256_sit:ode`, `imagenet256_sit:repa` and
`imagenet256_sit:repae` (the rows above), `imagenet256_sit:irepa` (REPA with iREPA's changes), `imagenet256_sit:sra`
(self-alignment as published for XL/2, Jiang et al. 2025: layer 8 follows layer 20 of the average, with a weight of 0.2
that falls tenfold in 1000 epochs from epoch 149 on; 800 epochs, gradients clipped at a norm of 1, guided as REPA),
`imagenet256_sit:tiny` (the same recipe with a small network and few steps, for a laptop's cores).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("pictures")

TINY = {"model.width": 64, "model.depth": 2, "model.heads": 4, "model.patch": 8, **base.TINY}
B2 = {"model.width": 768, "model.depth": 12, "model.heads": 12, "train.steps": 400_000, "sample.guidance.scale": 1.0}
ALIGNED = {"name": "alignment", "layer": 8, "weight": 0.5, "projector": {"name": "mlp", "hidden": 2048}}
CLIPPED = {  # REPA's code, and SRA's, which began with it
    "optimizer.clip": 1.0,
    "sample.guidance.scale": 1.8,
    "sample.guidance.interval": (0.0, 0.7),
    "sample.guidance.channels": 4,
}
REPA = CLIPPED | {
    "objective.wrappers": (ALIGNED, base.DROPPED),
    "encoder.network": base.VIT_B,
    "encoder.size": 224,
    "train.steps": 4_000_000,
}
IREPA = REPA | {
    "objective.wrappers": (
        ALIGNED | {"projector": {"name": "convolution", "side": 3}, "normalisation": 0.6},
        base.DROPPED,
    )
}
REPAE = REPA | {
    "data.shape": (256, 256, 3),
    "data.latents.dir": "",
    "objective.wrappers": (
        ALIGNED,
        {"name": "end_to_end", "alignment": 1.5, "kl": 1e-6, "adversarial": 0.1, "condition_dropout": 0.1},
    ),
    "autoencoder.network": {"name": "autoencoder_kl"},  # Stable Diffusion's
    "perceptual.network": {"name": "lpips"},
    "second_player.objective": {"name": "end_to_end_critic"},
    "second_player.network": {"name": "patch_discriminator"},
    "second_player.optimizer": {"name": "adamw", "learning_rate": 1e-4, "weight_decay": 0.0, "clip": 1.0},
    "train.steps": 400_000,
    "sample.guidance.scale": 2.2,
    "sample.guidance.interval": (0.0, 0.65),
}
EPOCH = 5_004  # steps of 256 of the 1,281,167 pictures, the last incomplete one left out
SRA = CLIPPED | {
    "objective.wrappers": (
        {"name": "self_alignment", "layer": 8, "teacher_layer": 20, "decay": (149 * EPOCH, 1000 * EPOCH)},
        base.DROPPED,
    ),
    "train.steps": 800 * EPOCH,
}
PRESETS = {
    "400k": {"train.steps": 400_000, "sample.guidance.scale": 1.0},
    "b2": B2,
    "ode": {"sample.sampler": {"name": "heun"}, "sample.grid": {"name": "uniform"}, "sample.steps": 125},  # 249 calls
    "irepa": IREPA,
    "repa": REPA,
    "repae": REPAE,
    "sra": SRA,
    "tiny": TINY,
}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.imagenet((32, 32, 4), "latents/imagenet256")
    config.schedule = {"name": "rectified_flow"}
    # SiT counts time from noise to data, so that its networks receive 1 - t.
    config.parameterization = {"name": "velocity", "clock": {"name": "reversed_time"}}
    config.objective = {"name": "flow_matching", "density": {"name": "uniform_density"}, "wrappers": (base.DROPPED,)}
    config.model = {"name": "dit", "patch": 2, "width": 1152, "depth": 28, "heads": 16, "num_classes": 1000}
    config.model["remat"] = "elementwise"  # 53 GB of temporaries on one H100, with "none" 172
    config.optimizer = base.adamw(1e-4, warmup=0)
    config.train.steps = 7_000_000
    config.train.batch_size = 256
    config.checkpoint.every = 50_000
    config.sample.sampler = {"name": "interpolant_sde", "w": "sigma", "last": "mean"}
    config.sample.grid = {"name": "uniform", "last": 0.04}
    config.sample.steps = 250
    config.sample.guidance.update({"scale": 1.5, "channels": 3})
    return recipes.preset(config, arg, PRESETS)
