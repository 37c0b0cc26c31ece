"""The pipelines of PixArt-alpha and PixArt-Sigma."""

__all__ = ["KINDS"]

from diffusion.published.pipeline_kinds import Kind, Reader, Usual
from diffusion.published.pixart import conditions

PIXART_ALPHA = Kind(
    "PixArt",
    "transformer",
    (Reader(how={"masked": True}, length=120),),
    conditions.pixart,
    lambda denoiser: denoiser.patch,
    Usual(20, 4.5),
)
PIXART_SIGMA = PIXART_ALPHA._replace(readers=(Reader(how={"masked": True}, length=300),))
KINDS = {"PixArtAlphaPipeline": PIXART_ALPHA, "PixArtSigmaPipeline": PIXART_SIGMA}
"""The pipelines by the names of their classes in diffusers."""
