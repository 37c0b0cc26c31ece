"""The pipelines of Stable Diffusion 1, 2 and XL."""

__all__ = ["KINDS"]

from typing import Any

from diffusion.published.pipeline_kinds import LCM, Kind, Reader, Usual
from diffusion.published.stable_diffusion import conditions

HIDDEN = {"skip": 1, "norm": False}  # CLIP's states as SDXL and SD 3 read them


def _halvings(denoiser: Any) -> int:
    return 2 ** (len(denoiser.widths) - 1)


SD = Kind(
    "StableDiffusion",
    "unet",
    (Reader(),),
    conditions.stable_diffusion,
    _halvings,
    Usual(50, 7.5),
    inpainting="StableDiffusionInpaintPipeline",
    edits="StableDiffusionInstructPix2PixPipeline",
)
ALONE = {"inpainting": "", "edits": ""}
EDITS = SD._replace(usual=Usual(100, 7.5), image_guidance=1.5, **ALONE)
CONSISTENCY = SD._replace(family="LatentConsistencyModel", usual=LCM, **ALONE)
XL = Kind(
    "StableDiffusionXL",
    "unet",
    (Reader(how=HIDDEN), Reader("_2", HIDDEN)),
    conditions.stable_diffusion_xl,
    _halvings,
    Usual(50, 5.0),
    zeros=True,
    inpainting="StableDiffusionXLInpaintPipeline",
    edits="StableDiffusionXLInstructPix2PixPipeline",
)
XL_EDITS = XL._replace(usual=Usual(100, 5.0), image_guidance=1.5, **ALONE)
XL_INPAINT = XL._replace(usual=Usual(50, 7.5))
KINDS = {
    "StableDiffusionPipeline": SD,
    "StableDiffusionImg2ImgPipeline": SD,
    "StableDiffusionInpaintPipeline": SD,
    "StableDiffusionInstructPix2PixPipeline": EDITS,
    "LatentConsistencyModelPipeline": CONSISTENCY,
    "LatentConsistencyModelImg2ImgPipeline": CONSISTENCY,
    "StableDiffusionXLPipeline": XL,
    "StableDiffusionXLImg2ImgPipeline": XL,
    "StableDiffusionXLInpaintPipeline": XL_INPAINT,
    "StableDiffusionXLInstructPix2PixPipeline": XL_EDITS,
}
"""The pipelines by the names of their classes in diffusers."""
