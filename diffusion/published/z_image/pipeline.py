"""The pipelines of Z-Image."""

__all__ = ["KINDS"]

from diffusion.published.pipeline_kinds import Kind, Reader, Usual
from diffusion.published.z_image import conditions
from diffusion.published.z_image.network import PATCH, ZImage

# diffusers writes pos + w (pos - neg), without guidance at w = 0: our scales are one more.
Z_IMAGE = Kind(
    "ZImage",
    "transformer",
    (Reader(how={"masked": True, "layers": (-2,)}, length=512),),
    conditions.z_image,
    lambda denoiser: PATCH,
    Usual(50, 6.0),
    unit_clock=True,
    even=True,
    network=ZImage,
    students={3.0: Usual(8, 1.0)},  # Z-Image-Turbo
)
KINDS = {"ZImagePipeline": Z_IMAGE}
"""The pipelines by the names of their classes in diffusers."""
