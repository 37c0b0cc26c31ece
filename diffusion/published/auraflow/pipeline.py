"""The pipeline of AuraFlow."""

__all__ = ["KINDS"]

from diffusion.published.auraflow import conditions
from diffusion.published.auraflow.network import AuraFlow
from diffusion.published.pipeline_kinds import Kind, Reader, Usual

AURAFLOW = Kind(
    "AuraFlow",
    "transformer",
    (Reader(how={"masked": True}, length=256),),
    conditions.auraflow,
    lambda denoiser: denoiser.patch,
    Usual(50, 3.5),
    unit_clock=True,
    network=AuraFlow,
)
KINDS = {"AuraFlowPipeline": AURAFLOW}
"""The pipelines by the names of their classes in diffusers."""
