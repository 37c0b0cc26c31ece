"""The pipelines of Qwen-Image."""

__all__ = ["KINDS"]

import functools

from diffusion import guidance
from diffusion.published.pipeline_kinds import Kind, Reader, Usual
from diffusion.published.qwen_image import conditions
from diffusion.published.qwen_image.network import PATCH, QwenImage

QWEN_IMAGE = Kind(
    "QwenImage",
    "transformer",
    (Reader(how={"masked": True}, length=34 + 512),),
    conditions.qwen_image,
    lambda denoiser: PATCH,
    Usual(50, 4.0),
    unit_clock=True,
    even=True,
    network=QwenImage,
    guides=functools.partial(guidance.renormalised, patch=2),
)
KINDS = {"QwenImagePipeline": QWEN_IMAGE}
"""The pipelines by the names of their classes in diffusers."""
