"""The pipelines of Lumina-Image 2."""

__all__ = ["KINDS"]

import functools

from diffusion import guidance
from diffusion.published.lumina2 import conditions
from diffusion.published.lumina2.network import PATCH, Lumina2
from diffusion.published.pipeline_kinds import Kind, Reader, Usual

LUMINA2 = Kind(
    "Lumina2",
    "transformer",
    (Reader(how={"masked": True, "layers": (-2,)}, length=256, left=False),),
    conditions.lumina2,
    lambda denoiser: PATCH,
    Usual(30, 4.0),
    unit_clock=True,
    even=True,
    network=Lumina2,
    guides=functools.partial(guidance.renormalised, axis=-2),  # along the columns
    instructed=True,
)
KINDS = {
    "Lumina2Pipeline": LUMINA2,
    "Lumina2Text2ImgPipeline": LUMINA2,  # the first name of the same class
}
"""The pipelines by the names of their classes in diffusers."""
