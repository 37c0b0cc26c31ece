"""The pipelines of Stable Diffusion 1, 2 and XL, and the conditions of their prompts."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from diffusion.models.layers import layer_masks
from diffusion.published import pipeline_kinds as kinds
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


UNET = kinds.DenoiserNetwork(folder="unet", multiple=_halvings)
PAG = kinds.Guidance(perturbs=_middle, perturbed_scale=3.0)  # of every class with perturbed-attention guidance
SD = kinds.Kind(
    "StableDiffusion",
    kinds.Prompts((kinds.Reader(),), stable_diffusion),
    kinds.Usual(50, 7.5),
    UNET,
    guidance=kinds.Guidance(perturbs=_middle),
    relatives=kinds.Relatives("StableDiffusionInpaintPipeline", "StableDiffusionInstructPix2PixPipeline"),
)
SD_ALONE = SD._replace(relatives=kinds.Relatives())
EDITS = SD_ALONE._replace(usual=kinds.Usual(100, 7.5), guidance=SD.guidance._replace(image_scale=1.5))
CONSISTENCY = SD_ALONE._replace(
    family="LatentConsistencyModel", usual=kinds.LCM, pictures=kinds.Pictures(all_steps=True)
)
XL = SD._replace(
    family="StableDiffusionXL",
    prompts=kinds.Prompts((kinds.Reader(how=HIDDEN), kinds.Reader("_2", HIDDEN)), stable_diffusion_xl, zeros=True),
    usual=kinds.Usual(50, 5.0),
    relatives=kinds.Relatives("StableDiffusionXLInpaintPipeline", "StableDiffusionXLInstructPix2PixPipeline"),
)
XL_ALONE = XL._replace(relatives=kinds.Relatives())
XL_EDITS = XL_ALONE._replace(usual=kinds.Usual(100, 5.0), guidance=EDITS.guidance)
XL_INPAINT = XL._replace(usual=kinds.Usual(50, 7.5))
CONTROLLED = SD_ALONE._replace(files=kinds.Files(attaches="controlnet"))
XL_CONTROLLED = XL_ALONE._replace(files=kinds.Files(attaches="controlnet"))
PERTURBED = SD_ALONE._replace(guidance=PAG)
PERTURBED_CONTROLLED = CONTROLLED._replace(guidance=PAG)
XL_PERTURBED = XL_ALONE._replace(guidance=PAG)
XL_PERTURBED_CONTROLLED = XL_CONTROLLED._replace(guidance=PAG)
ADAPTED = SD_ALONE._replace(files=kinds.Files(attaches="adapter"))
XL_ADAPTED = XL_ALONE._replace(files=kinds.Files(attaches="adapter"))
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
    "StableDiffusionXLPAGInpaintPipeline": XL_INPAINT._replace(guidance=PAG, relatives=kinds.Relatives()),
    "StableDiffusionXLControlNetPAGPipeline": XL_PERTURBED_CONTROLLED,
    "StableDiffusionXLControlNetPAGImg2ImgPipeline": XL_PERTURBED_CONTROLLED,
}
