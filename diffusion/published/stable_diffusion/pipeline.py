"""The pipelines of Stable Diffusion 1, 2 and XL, and the conditions of their prompts."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from diffusion.models.layers import layer_masks
from diffusion.published.pipeline_kinds import LCM, Kind, Reader, Usual
from diffusion.text.encoding import Encoder, encode, pooled, side_by_side


def stable_diffusion(prompts: Sequence[str], clip: Encoder, **how: Any) -> dict[str, jax.Array]:
    """{"text"} of SD 1 and 2.

    Args:
        prompts: B texts.
        clip: CLIP's text tower.
        **how: further arguments of `encode`.
    """
    return {"text": encode(prompts, clip, **how).tokens}


def stable_diffusion_xl(prompts: Sequence[str], clip: Encoder, clip_g: Encoder, **how: Any) -> dict[str, jax.Array]:
    """{"text", "pooled"} of SDXL.

    Args:
        prompts: B texts.
        clip: ViT-L's text tower, `skip=1, norm=False`.
        clip_g: ViT-bigG's text tower with its projection, `skip=1, norm=False`.
        **how: further arguments of `encode`.
    """
    both = side_by_side(encode(prompts, clip, **how), encode(prompts, clip_g, **how))
    return {"text": both.tokens, "pooled": pooled(both)}


HIDDEN = {"skip": 1, "norm": False}  # CLIP's states as SDXL and SD 3 read them


def _halvings(denoiser: Any) -> int:
    return 2 ** (len(denoiser.widths) - 1)


def _middle(denoiser: Any) -> np.ndarray:
    """The layer mask of perturbed-attention guidance: the middle, as diffusers' classes have it by default."""
    return layer_masks.mask(1, denoiser.transformer_blocks, denoiser.middle_blocks)


PAG = {"perturbed_guidance": 3.0}  # of every class with perturbed-attention guidance
SD = Kind(
    "StableDiffusion",
    (Reader(),),
    stable_diffusion,
    Usual(50, 7.5),
    denoiser="unet",
    multiple=_halvings,
    inpainting="StableDiffusionInpaintPipeline",
    edits="StableDiffusionInstructPix2PixPipeline",
    perturbs=_middle,
)
ALONE = {"inpainting": "", "edits": ""}
EDITS = SD._replace(usual=Usual(100, 7.5), image_guidance=1.5, **ALONE)
CONSISTENCY = SD._replace(family="LatentConsistencyModel", usual=LCM, all_steps=True, **ALONE)
XL = Kind(
    "StableDiffusionXL",
    (Reader(how=HIDDEN), Reader("_2", HIDDEN)),
    stable_diffusion_xl,
    Usual(50, 5.0),
    denoiser="unet",
    multiple=_halvings,
    zeros=True,
    inpainting="StableDiffusionXLInpaintPipeline",
    edits="StableDiffusionXLInstructPix2PixPipeline",
    perturbs=_middle,
)
XL_EDITS = XL._replace(usual=Usual(100, 5.0), image_guidance=1.5, **ALONE)
XL_INPAINT = XL._replace(usual=Usual(50, 7.5))
CONTROLLED = SD._replace(attaches="controlnet", **ALONE)
XL_CONTROLLED = XL._replace(attaches="controlnet", **ALONE)
PERTURBED = SD._replace(**PAG, **ALONE)
PERTURBED_CONTROLLED = CONTROLLED._replace(**PAG)
XL_PERTURBED = XL._replace(**PAG, **ALONE)
XL_PERTURBED_CONTROLLED = XL_CONTROLLED._replace(**PAG)
ADAPTED = SD._replace(attaches="adapter", **ALONE)
XL_ADAPTED = XL._replace(attaches="adapter", **ALONE)
KINDS = {
    "StableDiffusionPipeline": SD,
    "StableDiffusionImg2ImgPipeline": SD,
    "StableDiffusionInpaintPipeline": SD,
    "StableDiffusionAttendAndExcitePipeline": SD,
    "StableDiffusionInstructPix2PixPipeline": EDITS,
    "LatentConsistencyModelPipeline": CONSISTENCY,
    "LatentConsistencyModelImg2ImgPipeline": CONSISTENCY,
    "StableDiffusionXLPipeline": XL,
    "StableDiffusionXLImg2ImgPipeline": XL,
    "StableDiffusionXLInpaintPipeline": XL_INPAINT,
    "StableDiffusionXLInstructPix2PixPipeline": XL_EDITS,
    "StableDiffusionControlNetPipeline": CONTROLLED,
    "StableDiffusionControlNetImg2ImgPipeline": CONTROLLED,
    "StableDiffusionControlNetInpaintPipeline": CONTROLLED,
    "StableDiffusionXLControlNetPipeline": XL_CONTROLLED,
    "StableDiffusionXLControlNetImg2ImgPipeline": XL_CONTROLLED,
    "StableDiffusionXLControlNetInpaintPipeline": XL_CONTROLLED,
    "StableDiffusionXLControlNetUnionPipeline": XL_CONTROLLED,
    "StableDiffusionXLControlNetUnionImg2ImgPipeline": XL_CONTROLLED,
    "StableDiffusionXLControlNetUnionInpaintPipeline": XL_CONTROLLED,
    "StableDiffusionAdapterPipeline": ADAPTED,
    "StableDiffusionXLAdapterPipeline": XL_ADAPTED,
    "StableDiffusionPAGPipeline": PERTURBED,
    "StableDiffusionPAGImg2ImgPipeline": PERTURBED,
    "StableDiffusionPAGInpaintPipeline": PERTURBED,
    "StableDiffusionControlNetPAGPipeline": PERTURBED_CONTROLLED,
    "StableDiffusionControlNetPAGInpaintPipeline": PERTURBED_CONTROLLED,
    "StableDiffusionXLPAGPipeline": XL_PERTURBED,
    "StableDiffusionXLPAGImg2ImgPipeline": XL_PERTURBED,
    "StableDiffusionXLPAGInpaintPipeline": XL_INPAINT._replace(**PAG, **ALONE),
    "StableDiffusionXLControlNetPAGPipeline": XL_PERTURBED_CONTROLLED,
    "StableDiffusionXLControlNetPAGImg2ImgPipeline": XL_PERTURBED_CONTROLLED,
}
"""The pipelines by the names of their classes in diffusers."""
