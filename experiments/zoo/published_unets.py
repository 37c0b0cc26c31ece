"""EDM and EDM2: U-Nets on pixels, whose authors publish pickles of their own classes."""

from diffusion.experiments.zoo.row import Checkpoint, Published, Row

# In the authors' environment: the pickle names their classes, and to read it runs code that is in it.
EXPORT = """\
# python export.py NETWORK.pkl NETWORK.safetensors, in a clone of the authors' repository and its environment, with
# safetensors installed. It runs what is in the pickle: use one that you trust.
import pickle
import sys

from safetensors.torch import save_file

with open(sys.argv[1], "rb") as file:
    network = pickle.load(file)["ema"].PART.float().cpu()
save_file({name: tensor.clone().contiguous() for name, tensor in network.state_dict().items()}, sys.argv[2])
"""
LEAST = "The authors report the least of three sets of samples; here it is one set with its standard error."


def _edm(file: str, family: str = "SongUNet") -> Checkpoint:
    return Checkpoint("NVlabs/edm", file, family, export=EXPORT.replace("PART", "model"))


def _edm2(file: str) -> Checkpoint:
    return Checkpoint("NVlabs/edm2", file, "EDM2UNet", export=EXPORT.replace("PART", "unet"))


DDPMPP = {"model.width": 128, "model.blocks": 4, "train.dtype": "float32", "objective.augment.probability": 0.12}
IMAGENET_64 = {
    "data.name": "imagenet2012",
    "data.shape": (64, 64, 3),
    "objective": {"name": "denoising", "density": {"name": "log_normal"}, "weighting": {"name": "edm"}},
    "train.dtype": "float32",
    "sample.batch_size": 250,
}


# NVlabs/edm2, training/encoders.py: latents of mean 0 and deviation 0.5, of pictures in [0, 1].
EDM2_LATENTS = {
    "scaling_factor": 0.5,
    "latents_mean": [5.81, 3.25, 0.12, -2.15],
    "latents_std": [4.17, 4.62, 3.71, 3.28],
    "input_range": [0, 1],
}


def _edm2_512(size: str, width: int, file: str, fid: float) -> Row:
    return Row(
        f"edm2_{size.lower()}_imagenet512",
        f"EDM2-{size}, ImageNet 512",
        _edm2(file),
        "cifar10_edm",
        {
            **IMAGENET_64,
            "data.shape": (64, 64, 4),
            "data.latents.dir": "latents/imagenet512",
            "model": {"name": "edm2_unet", "width": width, "num_classes": 1000},
            "sample.steps": 32,
            "sample.batch_size": 64,
        },
        "edm",
        "img512.pkl",
        Published("fid", fid, "NVlabs/edm2, generate_images.py (without guidance)"),
        "stabilityai/sd-vae-ft-mse",
        EDM2_LATENTS,
        notes=(LEAST,),
    )


def _edm2_64(size: str, width: int, file: str, fid: float) -> Row:
    return Row(
        f"edm2_{size.lower()}_imagenet64",
        f"EDM2-{size}, ImageNet 64",
        _edm2(file),
        "cifar10_edm",
        {**IMAGENET_64, "model": {"name": "edm2_unet", "width": width, "num_classes": 1000}, "sample.steps": 32},
        "edm",
        "img64.pkl",
        Published("fid", fid, "Karras et al. 2024, table 3; NVlabs/edm2, generate_images.py"),
        notes=(LEAST,),
    )


ROWS = (
    Row(
        "edm_cifar10_cond_vp",
        "EDM, DDPM++, CIFAR-10, with classes",
        _edm("edm-cifar10-32x32-cond-vp.pkl"),
        "cifar10_edm",
        DDPMPP,
        "edm",
        "cifar10-32x32.npz",
        Published("fid", 1.79, "Karras et al. 2022, table 2 and abstract"),
        notes=(LEAST,),
    ),
    Row(
        "edm_cifar10_uncond_vp",
        "EDM, DDPM++, CIFAR-10",
        _edm("edm-cifar10-32x32-uncond-vp.pkl"),
        "cifar10_edm",
        {**DDPMPP, "model.num_classes": 0, "objective.condition_dropout": 0.0},
        "edm",
        "cifar10-32x32.npz",
        Published("fid", 1.97, "Karras et al. 2022, table 2 and abstract"),
        notes=(LEAST,),
    ),
    Row(
        "edm_imagenet64_adm",
        "EDM, ADM's U-Net, ImageNet 64",
        _edm("edm-imagenet-64x64-cond-adm.pkl", "DhariwalUNet"),
        "cifar10_edm",
        {
            **IMAGENET_64,
            "model": {
                "name": "unet",
                "widths": (192, 384, 576, 768),
                "blocks": 3,
                "attention_levels": (1, 2, 3),
                "num_classes": 1000,
                "heads": None,
                "head_size": 64,
                "scale_shift": True,
                "resample": "block",
            },
            "sample.sampler": {"name": "edm", "s_churn": 40.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003},
            "sample.steps": 256,
        },
        "edm",
        "imagenet-64x64.npz",
        Published("fid", 1.36, "Karras et al. 2022, abstract; NVlabs/edm, README (the sampler)"),
        notes=(LEAST,),
    ),
    _edm2_64("S", 192, "edm2-img64-s-1073741-0.075.pkl", 1.58),
    _edm2_64("M", 256, "edm2-img64-m-2147483-0.060.pkl", 1.43),
    _edm2_64("L", 320, "edm2-img64-l-1073741-0.040.pkl", 1.33),
    _edm2_64("XL", 384, "edm2-img64-xl-0671088-0.040.pkl", 1.33),
    _edm2_512("XS", 128, "edm2-img512-xs-2147483-0.135.pkl", 3.53),
    _edm2_512("S", 192, "edm2-img512-s-2147483-0.130.pkl", 2.56),
    _edm2_512("M", 256, "edm2-img512-m-2147483-0.100.pkl", 2.25),
    _edm2_512("L", 320, "edm2-img512-l-1879048-0.085.pkl", 2.06),
    _edm2_512("XL", 384, "edm2-img512-xl-1342177-0.085.pkl", 1.96),
    _edm2_512("XXL", 448, "edm2-img512-xxl-0939524-0.070.pkl", 1.91),
)
