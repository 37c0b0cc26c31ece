"""The pipelines of Stable Diffusion 3 and 3.5."""

__all__ = ["KINDS"]

from diffusion.published.pipeline_kinds import Kind, Reader, Usual
from diffusion.published.stable_diffusion_3 import conditions

HIDDEN = {"skip": 1, "norm": False}  # CLIP's states as SDXL and SD 3 read them
SD_3 = Kind(
    "StableDiffusion3",
    "transformer",
    (Reader(how=HIDDEN), Reader("_2", HIDDEN), Reader("_3", length=256, optional=True)),
    conditions.stable_diffusion_3,
    lambda denoiser: denoiser.patch,
    Usual(28, 7.0),
)
KINDS = {"StableDiffusion3Pipeline": SD_3}
"""The pipelines by the names of their classes in diffusers."""
