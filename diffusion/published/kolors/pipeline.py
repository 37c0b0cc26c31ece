"""The pipelines of Kolors."""

__all__ = ["KINDS"]

from diffusion.published.kolors import conditions
from diffusion.published.pipeline_kinds import Reader, Usual
from diffusion.published.stable_diffusion import pipeline as stable_diffusion

KOLORS = stable_diffusion.SD._replace(
    family="Kolors",
    readers=(Reader(how={"masked": True, **stable_diffusion.HIDDEN}, length=256),),
    condition=conditions.kolors,
    usual=Usual(50, 5.0),
    **stable_diffusion.ALONE,
)
KINDS = {"KolorsPipeline": KOLORS, "KolorsImg2ImgPipeline": KOLORS}
"""The pipelines by the names of their classes in diffusers."""
