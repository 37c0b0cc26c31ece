"""Networks whose samples take one evaluation: consistency models, MeanFlow and its kin, and drifting models."""

from typing import Any

from diffusion.experiments.zoo.published_unets import IMAGENET_64
from diffusion.experiments.zoo.row import Checkpoint, Published, Row
from diffusion.models import drifting
from diffusion.models.mit import IMF_SIZES, PMF_SIZES

# The network receives 1000 ln(sigma) / 4 (openai/consistency_models, cm/karras_diffusion.py).
ONE_STEP = {
    "parameterization": {"name": "consistency_boundary", "clock": {"name": "log_sigma", "scale": 250.0}},
    "objective": {"name": "ct"},
    "sample.sampler": {"name": "consistency"},
    "sample.steps": 1,
}
U_NET = {"name": "unet", "heads": None, "head_size": 64, "resample": "block", "qkv_per_head": False}
CONSISTENCY_64 = {
    **IMAGENET_64,
    **ONE_STEP,
    "model": {
        **U_NET,
        "widths": (192, 384, 576, 768),
        "blocks": 3,
        "attention_levels": (1, 2, 3),
        "num_classes": 1000,
        "scale_shift": True,
    },
}
CONSISTENCY_256 = {
    **IMAGENET_64,
    **ONE_STEP,
    "data.name": "lsun",
    "data.shape": (256, 256, 3),
    "model": {
        **U_NET,
        "widths": (256, 256, 512, 512, 1024, 1024),
        "blocks": 2,
        "attention_levels": (3, 4, 5),
        "num_classes": 0,
        "scale_shift": False,
    },
    "sample.batch_size": 32,
}


def _consistency(name: str, method: str, file: str, fid: float, changes: dict[str, Any], reference: str) -> Row:
    return Row(
        name,
        method,
        Checkpoint("openai/consistency_models", file, "ADMUNet"),
        "cifar10_edm",
        changes,
        "adm",
        reference,
        Published("fid", fid, "Song et al. 2023, table 2"),
        notes=("One evaluation. The authors' network computes in float16, here in float32.",),
    )


def _lsun(kind: str, what: str, fid: float) -> Row:
    training, file = {"cd": ("distillation (LPIPS)", f"cd_{what}256_lpips.pt"), "ct": ("training", f"ct_{what}256.pt")}[
        kind
    ]
    return _consistency(
        f"{kind}_{what}256",
        f"Consistency {training}, LSUN {what}s 256",
        file,
        fid,
        CONSISTENCY_256,
        f"VIRTUAL_lsun_{what}256.npz",
    )


VAE = "stabilityai/sd-vae-ft-mse"
OF_VAE = "The autoencoder is the one in the code of drifting models, which took over this method's evaluation."
FLAX = "The archive holds a checkpoint of Flax: --weights is its file or folder."
FLOW_MAP = {
    "parameterization": {"name": "velocity"},
    "objective": {"name": "mean_flow", "density": {"name": "logit_normal", "mean": -0.4, "std": 1.0}},
    "train.dtype": "float32",
    "sample.sampler": {"name": "flow_map"},
    "sample.grid": {"name": "uniform"},
    "sample.steps": 1,
    "sample.guidance": {"name": "classifier_free", "scale": 1.0},
}


def _imf(size: str, strength: float, interval: tuple[float, float], fid: float, steps: int = 1) -> Row:
    width, depth, heads = IMF_SIZES[size]
    network = {"patch": 2, "width": width, "depth": depth, "heads": heads, "num_classes": 1000}
    guided = {"default_strength": strength, "default_interval": interval}
    return Row(
        f"imf_{size.lower()}_2_256" + (f"_{steps}_steps" if steps > 1 else ""),
        f"iMF-{size}/2, ImageNet 256" + (f", {steps} steps" if steps > 1 else ""),
        Checkpoint("Lyy0725/iMF", f"iMF-{size}-2.zip", "imfDiT", inside=f"iMF-{size}-2"),
        "imagenet256_sit",
        {**FLOW_MAP, "model": {"name": "mit", **network, **guided}, "sample.steps": steps},
        "pytorch-fid",
        "imagenet_256_fid_stats.npz",
        Published("fid", fid, "Lyy-iiis/imeanflow, README and configs/eval_config.yml (the strength and its interval)"),
        VAE,
        notes=(FLAX, OF_VAE),
    )


def _pmf(side: int, strength: float, interval: tuple[float, float], fid: float, noise: float, average: int) -> Row:
    width, depth, heads = PMF_SIZES["H"]
    patch = side // 16
    network = {"patch": patch, "width": width, "depth": depth, "heads": heads, "num_classes": 1000}
    guided = {"default_strength": strength, "default_interval": interval}
    return Row(
        f"pmf_h_{patch}_{side}",
        f"pMF-H/{patch}, ImageNet {side}",
        Checkpoint(
            "Lyy0725/pMF", f"pMF-H-{patch}.zip", "pmfDiT", inside=f"pMF-H-{patch}", prefix=f"ema_params.{average}.net."
        ),
        "imagenet256_jit",
        {
            **FLOW_MAP,
            "data.shape": (side, side, 3),
            "schedule": {"name": "rectified_flow", "noise_scale": noise},
            "model": {"name": "mit", "clean": True, "bottleneck": 256, **network, **guided},
        },
        "pytorch-fid",
        f"imagenet_{side}_fid_stats.npz",
        Published("fid", fid, "Lyy-iiis/pMF, README and configs/eval_config.yml (strength, interval and average)"),
        notes=(FLAX, "The settings of its sizes B and L could not be read, so that they have no rows."),
    )


def _drifting(size: str, space: str, strength: float, fid: float) -> Row:
    latent = space == "latent"
    width, depth, heads = drifting.SIZES[size]
    network = {"patch": 2 if latent else 16, "width": width, "depth": depth, "heads": heads, "num_classes": 1000}
    return Row(
        f"drifting_{size.lower()}_{space}_256",
        f"Drifting-{size} on {space}s, ImageNet 256",
        Checkpoint("Goodeat/drifting", f"models/gen/jax/{space}_{size}_sota/ema_params.msgpack", "DitGen"),
        "imagenet256_sit" if latent else "imagenet256_jit",
        {
            **FLOW_MAP,
            "schedule": {"name": "rectified_flow"},
            "parameterization": {"name": "x0"},
            "objective": {
                "name": "denoising",
                "density": {"name": "uniform_density"},
                "weighting": {"name": "constant"},
            },
            "model": {"name": "drifting", **network, "default_strength": strength},
            "sample.sampler": {"name": "euler"},
        },
        "pytorch-fid",
        "imagenet_256_fid_stats.npz",
        Published("fid", fid, "lambertae/drifting, README (of the repository's own samples)"),
        VAE if latent else "",
        notes=(
            "The style codes are read from the noise's last bits; they have no draws of their own.",
            "The authors take the classes of the validation set's pictures; here every class has equally many samples.",
            "The objective is a placeholder: the network is sampled alone, by one step from the noise.",
        ),
    )


ROWS = (
    _consistency(
        "cd_imagenet64",
        "Consistency distillation (LPIPS), ImageNet 64",
        "cd_imagenet64_lpips.pt",
        6.20,
        CONSISTENCY_64,
        "VIRTUAL_imagenet64_labeled.npz",
    ),
    _consistency(
        "ct_imagenet64",
        "Consistency training, ImageNet 64",
        "ct_imagenet64.pt",
        13.0,
        CONSISTENCY_64,
        "VIRTUAL_imagenet64_labeled.npz",
    ),
    _lsun("cd", "bedroom", 7.80),
    _lsun("ct", "bedroom", 16.0),
    _lsun("cd", "cat", 11.0),
    _lsun("ct", "cat", 20.7),
    Row(
        "mean_flow_b_4_256",
        "MeanFlow-B/4, ImageNet 256",
        Checkpoint("Gsunshine/meanflow", "FILE.zip", "MeanFlowDiT", inside="FILE"),
        "imagenet256_sit:b2",
        {**FLOW_MAP, "model.patch": 4},
        "pytorch-fid",
        "imagenet_256_fid_stats.npz",
        Published("fid", 11.35, "Gsunshine/meanflow, README (240 epochs, omega 1, kappa 0.5)"),
        VAE,
        notes=(FLAX, OF_VAE, "The archive's own name could not be read: FILE stands for it."),
    ),
    _imf("B", 8.0, (0.4, 0.65), 3.37),
    _imf("M", 10.5, (0.4, 0.6), 2.27),
    _imf("L", 10.5, (0.4, 0.6), 1.85),
    _imf("XL", 8.0, (0.42, 0.62), 1.70),
    _imf("XL", 4.0, (0.36, 0.64), 1.53, steps=2),
    _pmf(256, 7.0, (0.2, 0.6), 2.11, 2.0, 1000),
    _pmf(512, 5.5, (0.1, 0.6), 2.37, 4.0, 500),
    _drifting("L", "latent", 1.0, 1.53),
    _drifting("B", "latent", 1.1, 1.74),
    _drifting("L", "pixel", 1.0, 1.62),
    _drifting("B", "pixel", 1.0, 1.73),
)
