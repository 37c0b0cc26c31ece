"""Stable Diffusion 1 and XL in diffusers' pipelines, and what was made of them; networks are in conditional_unet.py."""

import functools
import pathlib
from typing import Any

import diffusers
import torch

from tests.peers.cases import last
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import (
    GUIDANCE,
    NEGATIVE,
    PROMPTS,
    STEPS,
    UNET,
    VAE,
    Pipeline,
    changed,
    clip,
    clip_tokenizer,
    made_noise,
    mask,
    parts_of,
    pictured,
)

SD_1 = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "trained_betas": None,
}
SD_XL = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}
LCM = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "original_inference_steps": 50,
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "timestep_scaling": 10.0,
}
EDM = {
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
    "rho": 7.0,
    "prediction_type": "epsilon",
    "num_train_timesteps": 1000,
}


def stable_diffusion(
    folder: pathlib.Path, kind: type = diffusers.StableDiffusionPipeline, scheduler: Any = None, **unet
) -> diffusers.DiffusionPipeline:
    """With the scheduler that SD 1.5 is published with, or another; and with further fields of the U-Net."""
    return kind(
        vae=diffusers.AutoencoderKL(**VAE),
        tokenizer=clip_tokenizer(folder / "clip"),
        text_encoder=clip(),
        unet=diffusers.UNet2DConditionModel(cross_attention_dim=24, **UNET, **unet),
        scheduler=scheduler or diffusers.PNDMScheduler.from_config(SD_1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(folder: pathlib.Path, **how) -> diffusers.DiffusionPipeline:
    unet = diffusers.UNet2DConditionModel(
        cross_attention_dim=48,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 6 * 8,
        use_linear_projection=True,
        **UNET,
    )
    parts = {"vae": diffusers.AutoencoderKL(**VAE), "scheduler": diffusers.EulerDiscreteScheduler.from_config(SD_XL)}
    return diffusers.StableDiffusionXLPipeline(
        tokenizer=clip_tokenizer(folder / "clip"),
        tokenizer_2=clip_tokenizer(folder / "clip_2"),
        text_encoder=clip(),
        text_encoder_2=clip(True),
        unet=unet,
        add_watermarker=False,
        **{**parts, **how},
    )


def instruct_pix2pix_xl(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """An SDXL trained to edit."""
    parts = parts_of(stable_diffusion_xl(folder))
    parts["unet"] = changed(parts["unet"], in_channels=8)
    return diffusers.StableDiffusionXLInstructPix2PixPipeline(**parts, add_watermarker=False)


def playground(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """As Playground 2.5 is published: EDM's process, and latents with a mean and a deviation for each channel."""
    vae = diffusers.AutoencoderKL(
        latents_mean=[-1.6574, 1.886, -1.383, 2.5155],
        latents_std=[8.4927, 5.9022, 6.5498, 5.2299],
        scaling_factor=0.5,
        **VAE,
    )
    return stable_diffusion_xl(folder, vae=vae, scheduler=diffusers.EDMDPMSolverMultistepScheduler.from_config(EDM))


# Trained to paint: of nine channels, the latents, the mask and the latents of what is not masked.
inpaint = functools.partial(stable_diffusion, kind=diffusers.StableDiffusionInpaintPipeline, in_channels=9)


def asymmetric(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """Trained to paint, with an autoencoder whose decoder sees what is kept, at its four levels."""
    pipe = inpaint(folder)
    levels = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = diffusers.AsymmetricAutoencoderKL(
        down_block_out_channels=(8, 8, 16, 16), up_block_out_channels=(8, 16, 32, 32), norm_num_groups=4, **levels
    )
    return diffusers.StableDiffusionInpaintPipeline(**pipe.components | {"vae": vae}, requires_safety_checker=False)


# Trained to edit: of eight channels, the latents and those of the picture.
instruct_pix2pix = functools.partial(
    stable_diffusion,
    kind=diffusers.StableDiffusionInstructPix2PixPipeline,
    scheduler=diffusers.EulerAncestralDiscreteScheduler.from_config(SD_1),
    in_channels=8,
)
# A student of SD that reads the guidance as a strength.
latent_consistency = functools.partial(
    stable_diffusion,
    kind=diffusers.LatentConsistencyModelPipeline,
    scheduler=diffusers.LCMScheduler.from_config(LCM),
    time_cond_proj_dim=16,
)
KARRAS = {"use_karras_sigmas": True}
LEADING, TRAILING = {"timestep_spacing": "leading"}, {"timestep_spacing": "trailing"}
SDE = {"algorithm_type": "sde-dpmsolver++"}
V, ZERO = {"prediction_type": "v_prediction"}, {"rescale_betas_zero_snr": True}
TRAJECTORIES = {
    "plms": ("PNDMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": False}),
    "ddpm": ("DDPMScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "ddim to zero, v": ("DDIMScheduler", {"set_alpha_to_one": True, **V}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler, leading": ("EulerDiscreteScheduler", LEADING),
    "euler, trailing, zero-terminal v": ("EulerDiscreteScheduler", TRAILING | V | ZERO),
    "euler, karras": ("EulerDiscreteScheduler", KARRAS),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm_2": ("KDPM2DiscreteScheduler", {}),
    "dpm_2_ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m, karras": ("DPMSolverMultistepScheduler", KARRAS),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", SDE),
    "dpmpp_2m, trailing, sigma_min": ("DPMSolverMultistepScheduler", TRAILING | {"final_sigmas_type": "sigma_min"}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "unipc, leading": ("UniPCMultistepScheduler", LEADING),
    "lcm": ("LCMScheduler", {}),
}


def inpaint_arguments(pipe, usual: dict) -> dict:
    return usual | {
        "image": torch.zeros(1, 3, 16, 16),
        "mask_image": mask(),
        "strength": 1.0,
        "masked_image_latents": torch.from_numpy(drawn("masked", 1, 8, 8, 4)).movedim(-1, 1),
    }


def asymmetric_arguments(pipe, usual: dict) -> dict:
    """A picture in [0, 1] for each prompt, whose right half is painted: the decoder takes as many as latents."""
    picture = torch.from_numpy(drawn("kept", 2, 32, 32, 3)).movedim(-1, 1)
    return usual | {
        "image": (picture * 0.25 + 0.5).clip(0, 1),
        "mask_image": (torch.arange(32) >= 16).float().expand(2, 1, 32, 32),
        "strength": 1.0,
        "masked_image_latents": torch.from_numpy(drawn("masked", 2, 4, 4, 4)).movedim(-1, 1),
    }


def edit_arguments(pipe, usual: dict) -> dict:
    """From a picture that has its latents' form, so that it is not encoded."""
    return usual | {"image": pictured(), "image_guidance_scale": 1.5}


def default_arguments(pipe, usual: dict) -> dict:
    """With the steps and the guidance of its call."""
    return {name: usual[name] for name in ("prompt", "latents", "height", "width")}


def edited_and_painted(pipe) -> dict[str, torch.Tensor]:
    """The latents of its other pipelines from a picture: of all of it, and of a part that its network does not see."""
    arrays = {}
    usual = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "negative_prompt": [NEGATIVE] * 2}
    usual["image"] = torch.from_numpy(drawn("image", 2, 8, 8, 4)).movedim(-1, 1)  # its latents
    edit = diffusers.StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    edit.set_progress_bar_config(disable=True)
    for trajectory in ("ddim", "euler", "dpmpp_2m", "plms"):
        scheduler, settings = TRAJECTORIES[trajectory]
        edit.scheduler = getattr(diffusers, scheduler).from_config(SD_1 | settings)
        with made_noise(edit), torch.no_grad():
            found = edit(PROMPTS, strength=0.6, output_type="latent", **usual).images
        arrays[f"edited/{trajectory}"] = last(found).contiguous()
    paint = diffusers.StableDiffusionInpaintPipeline(**pipe.components, requires_safety_checker=False)
    paint.set_progress_bar_config(disable=True)
    paint.scheduler = diffusers.DDIMScheduler.from_config(SD_1)
    usual |= {"mask_image": mask(), "masked_image_latents": torch.zeros_like(usual["image"])}
    for strength in (1.0, 0.6):
        with made_noise(paint), torch.no_grad():
            found = paint(PROMPTS, strength=strength, height=16, width=16, output_type="latent", **usual).images
        arrays[f"painted/{strength}"] = last(found).contiguous()
    return arrays


ANCESTRAL = {"euler_ancestral": ("EulerAncestralDiscreteScheduler", {})}
SOLVERS = {"dpmpp_2m": ("DPMSolverMultistepScheduler", {}), "unipc": ("UniPCMultistepScheduler", {})}
XL_TRAJECTORIES = {"euler": ("EulerDiscreteScheduler", {}), **ANCESTRAL, **SOLVERS}
EDM_TRAJECTORIES = {
    "dpmpp_2m": ("EDMDPMSolverMultistepScheduler", {"solver_order": 2, "algorithm_type": "dpmsolver++"}),
    "euler": ("EDMEulerScheduler", {}),
}
PIPELINES = {
    "sd": Pipeline(stable_diffusion, SD_1, TRAJECTORIES, further=edited_and_painted),
    "inpaint": Pipeline(
        inpaint,
        SD_1,
        {"plms": ("PNDMScheduler", {}), "dpmpp_2m": ("DPMSolverMultistepScheduler", {})},
        arguments=inpaint_arguments,
    ),
    "inpaint_asymmetric": Pipeline(
        asymmetric,
        SD_1,
        {"ddim": ("DDIMScheduler", {})},
        latents=(4, 4, 4),
        size={"height": 32, "width": 32},
        steps=2,
        arguments=asymmetric_arguments,
        unclipped=True,
    ),
    "edit": Pipeline(
        instruct_pix2pix, SD_1, ANCESTRAL | {"ddim": ("DDIMScheduler", {})}, size={}, arguments=edit_arguments
    ),
    "edit_xl": Pipeline(instruct_pix2pix_xl, SD_XL, ANCESTRAL, size={}, arguments=edit_arguments),
    "xl": Pipeline(stable_diffusion_xl, SD_XL, XL_TRAJECTORIES),
    "playground": Pipeline(playground, EDM, EDM_TRAJECTORIES, unclipped=True),
    "lcm": Pipeline(
        latent_consistency, LCM, {"lcm": ("LCMScheduler", {})}, arguments=default_arguments, unclipped=True
    ),
}
