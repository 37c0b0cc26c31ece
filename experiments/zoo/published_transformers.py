"""Transformers on latents of ImageNet (DiT, SiT, REPA, LightningDiT, U-ViT, RAE's DiT^DH, DDT, MaskDiT, MDT) and on its
pixels (JiT, PixNerd)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.experiments.zoo.row import Checkpoint, Published, Row

ADM_256 = "VIRTUAL_imagenet256_labeled.npz"
ADM_512 = "VIRTUAL_imagenet512.npz"
VAE = "stabilityai/sd-vae-ft-ema"
BALANCED = "Every class has as many samples as any other; the authors draw the classes at random."


def toward_noise(network: nn.Module, params: Any) -> Any:
    """The parameters of SiT or LightningDiT as a network whose output is our velocity.

    The first C channels of the authors' output are the velocity from the noise to the data, and ours is the velocity
    from the data to the noise. So of the last layer the first C outputs of each pixel remain, negated. SiT's has C
    others.

    Args:
        network: ours, with C channels.
        params: the parameters in the file.

    Reference: willisma/SiT, transport/path.py (x_t = t x_1 + (1 - t) x_0, x_0 the noise) and models.py;
    hustvl/LightningDiT, which has the same transport.
    """

    def ours(leaf):
        pixels = leaf.reshape(*leaf.shape[:-1], network.patch**2, -1)
        return -pixels[..., : network.shape[-1]].reshape(*leaf.shape[:-1], -1)

    final = {name: jnp.asarray(ours(leaf)) for name, leaf in params["final"].items()}
    return {**params, "final": final}


def negated(network: nn.Module, params: Any) -> Any:
    """The parameters of DDT or PixNerd as a network whose output is our velocity, which is theirs with the other sign.

    Reference: MCG-NJU/DDT, stateful_flow_matching/training_repa.py (x_t = t x + (1 - t) noise, v = x - noise).
    """
    return {**params, "final": jax.tree.map(jnp.negative, params["final"])}


def _sit(file: str) -> Checkpoint:
    return Checkpoint("willisma/SiT", file, "DiT", lambda network: network.clone(learn_sigma=True), toward_noise)


# The state of a training holds its options too, as an object of argparse.
EXPORT_STATE = """\
# python export.py STATE.pth STATE.safetensors, with torch and safetensors installed. It runs what is in the pickle: use
# one that you trust.
import sys

import torch
from safetensors.torch import save_file

average = torch.load(sys.argv[1], map_location="cpu", weights_only=False)["AVERAGE"]
save_file({name: tensor.clone().contiguous() for name, tensor in average.items()}, sys.argv[2])
"""


def _jit(size: str, preset: str, fid: float) -> Row:
    """The figure is torch-fidelity's, which the authors' engine_jit.py calls."""
    return Row(
        f"jit_{size.lower()}_16_256",
        f"JiT-{size}/16, ImageNet 256",
        Checkpoint("LTH14/JiT", "checkpoint-last.pth", "JiT", export=EXPORT_STATE.replace("AVERAGE", "model_ema1")),
        f"imagenet256_jit{preset}",
        {},
        "torch-fidelity",
        "jit_in256_stats.npz",
        Published("fid", fid, "Li and He 2025, the table of system-level comparisons"),
        notes=("The authors choose one of two averages for each network; the first is exported here.",),
    )


def _ddt(side: int, preset: str, fid: float, reference: str) -> Row:
    return Row(
        f"ddt_xl_2_{side}",
        f"DDT-XL/2, ImageNet {side}",
        Checkpoint(f"MCG-NJU/DDT-XL-22en6de-R{side}", "model.ckpt", "DDT", taken=negated),
        f"imagenet256_ddt{preset}",
        {},
        "adm",
        reference,
        Published("fid", fid, "MCG-NJU/DDT, README"),
        VAE,
        notes=(BALANCED, "The file's name is taken from programs that use it."),
    )


U_VIT_LATENTS = {
    "schedule": {"name": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "T": 1000},
    "parameterization": {"name": "epsilon", "clock": {"name": "time", "scale": 1000.0}},
    "objective": {
        "name": "denoising",
        "density": {"name": "discrete_density", "T": 1000},
        "weighting": {"name": "snr"},  # on x0: a constant one on eps
        "condition_dropout": 0.1,
    },
    "train.dtype": "float32",
    "sample.sampler": {"name": "dpmpp_2m"},
    "sample.grid": {"name": "uniform"},
    "sample.steps": 50,
    "sample.guidance": {"name": "classifier_free", "scale": 1.4},  # 1 + 0.4, the scale of the authors' code
}
U_VIT_NOTE = (
    "The authors' solver is singlestep DPM-Solver of order 3 at 50 evaluations; here it is DPM-Solver++(2M) at 50."
)

ROWS = (
    Row(
        "dit_xl_2_256",
        "DiT-XL/2, ImageNet 256",
        Checkpoint("facebookresearch/DiT", "DiT-XL-2-256x256.pt", "DiT"),
        "imagenet256_dit",
        {},
        "adm",
        ADM_256,
        Published("fid", 2.27, "Peebles and Xie 2023, table 2; facebookresearch/DiT, README"),
        VAE,
        notes=(BALANCED, "The authors' README has 2.21 for these weights in PyTorch's float32."),
    ),
    Row(
        "dit_xl_2_512",
        "DiT-XL/2, ImageNet 512",
        Checkpoint("facebookresearch/DiT", "DiT-XL-2-512x512.pt", "DiT"),
        "imagenet256_dit",
        {"data.shape": (64, 64, 4), "sample.batch_size": 64},
        "adm",
        ADM_512,
        Published("fid", 3.04, "facebookresearch/DiT, README"),
        VAE,
        notes=(BALANCED,),
    ),
    Row(
        "sit_xl_2_256_sde",
        "SiT-XL/2, ImageNet 256, SDE",
        _sit("SiT-XL-2-256x256.pt"),
        "imagenet256_sit",
        {},
        "adm",
        ADM_256,
        Published("fid", 2.06, "Ma et al. 2024, abstract"),
        VAE,
        notes=(BALANCED,),
    ),
    Row(
        "sit_xl_2_256_ode",
        "SiT-XL/2, ImageNet 256, ODE",
        _sit("SiT-XL-2-256x256.pt"),
        "imagenet256_sit:ode",
        {},
        "adm",
        ADM_256,
        Published("fid", 2.15, "Ma et al. 2024, its comparison on ImageNet 256x256"),
        VAE,
        notes=(BALANCED,),
    ),
    Row(
        "repa_sit_xl_2_256",
        "SiT-XL/2 with REPA, ImageNet 256",
        Checkpoint("sihyun-yu/REPA", "SiT-XL-2-256x256.pt", "DiT"),
        "imagenet256_sit:repa",
        {"parameterization": {"name": "velocity"}},  # its networks receive t
        "adm",
        ADM_256,
        Published("fid", 1.42, "Yu et al. 2024, abstract; sihyun-yu/REPA, README (scale 1.8 up to time 0.7)"),
        VAE,
        notes=(BALANCED, "The projectors in the file, which only training uses, are left out."),
    ),
    Row(
        "u_vit_h_2_256",
        "U-ViT-H/2, ImageNet 256",
        Checkpoint("baofff/U-ViT", "imagenet256_uvit_huge.pth", "UViT"),
        "imagenet256_dit",
        {
            **U_VIT_LATENTS,
            "model": {
                "name": "u_vit",
                "patch": 2,
                "width": 1152,
                "depth": 28,
                "heads": 16,
                "num_classes": 1000,
                "last_conv": False,
            },
        },
        "pytorch-fid",
        "fid_stats_imagenet256_guided_diffusion.npz",
        Published("fid", 2.29, "baofff/U-ViT, README"),
        "autoencoder_kl_ema.pth (of Stable Diffusion)",
        notes=(U_VIT_NOTE,),
    ),
    Row(
        "u_vit_l_2_256",
        "U-ViT-L/2, ImageNet 256",
        Checkpoint("baofff/U-ViT", "imagenet256_uvit_large.pth", "UViT"),
        "imagenet256_dit",
        {
            **U_VIT_LATENTS,
            "model": {"name": "u_vit", "patch": 2, "width": 1024, "depth": 20, "heads": 16, "num_classes": 1000},
        },
        "pytorch-fid",
        "fid_stats_imagenet256_guided_diffusion.npz",
        Published("fid", 3.40, "baofff/U-ViT, README"),
        "autoencoder_kl_ema.pth (of Stable Diffusion)",
        notes=(U_VIT_NOTE,),
    ),
    Row(
        "lightning_dit_xl_1_256",
        "LightningDiT-XL/1, ImageNet 256, 800 epochs",
        Checkpoint("hustvl/LightningDiT", "lightningdit-xl-imagenet256-800ep.pt", "LightningDiT", taken=toward_noise),
        "imagenet256_lightning_dit:800ep",
        {},
        "adm",
        ADM_256,
        Published("fid", 1.35, "Yao and Wang 2025, abstract"),
        "VA-VAE f16d32, with a scale and a shift of each channel",
        notes=(BALANCED,),
    ),
    Row(
        "rae_dit_dh_xl_256",
        "DiT^DH-XL on RAE's latents (DINOv2-B), ImageNet 256",
        Checkpoint("bytetriper/RAE", "stage2_model.pt", "DiTwDDTHead"),
        "imagenet256_rae",
        {},
        "adm",
        ADM_256,
        Published("fid", 1.51, "Zheng et al. 2025, abstract (without guidance)"),
        "RAE: DINOv2-B with registers, decoder ViT-XL",
        notes=(BALANCED,),
    ),
    _ddt(256, "", 1.26, ADM_256),
    _ddt(512, ":512", 1.28, ADM_512),
    Row(
        "mask_dit_xl_2_256",
        "MaskDiT-XL/2, ImageNet 256",
        Checkpoint(
            "Anima-Lab/MaskDiT",
            "imagenet256-ckpt-best_with_guidance.pt",
            "MaskDiT",
            export=EXPORT_STATE.replace("AVERAGE", "ema"),
        ),
        "imagenet256_mask_dit:unmasked",
        {},
        "adm",
        ADM_256,
        Published("fid", 2.28, "Anima-Lab/MaskDiT, README (guidance of 1.5)"),
        VAE,
        notes=(
            "The README names two programs for the figure, ADM's and one after EDM's, but not which of them made it.",
        ),
    ),
    Row(
        "mdt_v2_xl_2_256",
        "MDTv2-XL/2, ImageNet 256",
        Checkpoint("shgao/MDT-XL2", "mdt_xl2_v2_ckpt.pt", "MDTv2"),
        "imagenet256_mdt",
        {},
        "adm",
        ADM_256,
        Published("fid", 1.58, "sail-sg/MDT, README"),
        VAE,
        notes=(BALANCED, "The ramp of the guidance is one step of 1000 behind the authors'."),
    ),
    Row(
        "pixnerd_xl_16_256",
        "PixNerd-XL/16, ImageNet 256, 800k steps",
        Checkpoint("MCG-NJU/PixNerd-XL-P16-C2I", "FILE.ckpt", "PixNerDiT", taken=negated),
        "imagenet256_pixnerd",
        {},
        "adm",
        ADM_256,
        Published("fid", 2.15, "MCG-NJU/PixNerd, README"),
        notes=(
            BALANCED,
            "The file's name (FILE here) and the guidance with which the figure was made could not be read.",
        ),
    ),
    _jit("B", "", 3.66),
    _jit("L", ":l16", 2.36),
    _jit("H", ":h16", 1.86),
)
