"""The pipelines of SANA and SANA-Sprint."""

__all__ = ["KINDS"]

from diffusion.published.pipeline_kinds import Kind, Reader, Usual
from diffusion.published.sana import conditions
from diffusion.published.sana.network import Sana

SANA = Kind(
    "Sana",
    "transformer",
    (Reader(how={"masked": True}, length=300, left=False),),
    conditions.sana,
    lambda denoiser: denoiser.patch,
    Usual(20, 4.5),
    network=Sana,
    instructed=True,
)
SANA_SPRINT = SANA._replace(family="SanaSprint", usual=Usual(2, 4.5), unit_clock=True, strength=True)
KINDS = {"SanaPipeline": SANA, "SanaSprintPipeline": SANA_SPRINT}
"""The pipelines by the names of their classes in diffusers."""
