"""The pipelines of Chroma."""

__all__ = ["KINDS"]

from typing import Any

from diffusion.published.chroma import conditions
from diffusion.published.flux.network import PATCH
from diffusion.published.pipeline_kinds import Kind, Reader, Usual


def _objection(denoiser: Any) -> str:
    return "" if getattr(denoiser, "approximator", ()) else "an approximator, but this one has none"


CHROMA = Kind(
    "Chroma",
    "transformer",
    (Reader(how={"masked": True}, length=512),),
    conditions.chroma,
    lambda denoiser: PATCH,
    Usual(35, 5.0),
    unit_clock=True,
    even=True,
    objection=_objection,
)
KINDS = {"ChromaPipeline": CHROMA}
"""The pipelines by the names of their classes in diffusers."""
