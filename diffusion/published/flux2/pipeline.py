"""The pipelines of FLUX.2."""

__all__ = ["KINDS"]

from diffusion.published.flux2 import conditions
from diffusion.published.flux2.network import Flux2
from diffusion.published.pipeline_kinds import Kind, Reader, Usual

FLUX2_KLEIN = Kind(
    "Flux2Klein",
    "transformer",
    (Reader(how={"masked": True, "layers": (9, 18, 27)}, length=512),),
    conditions.flux2_klein,
    lambda module: 1,
    Usual(50, 4.0),
    unit_clock=True,
    even=True,
    by_steps=True,
    network=Flux2,
    several=1024**2,
    student=Usual(4, 1.0),
)
FLUX2 = FLUX2_KLEIN._replace(
    family="Flux2",
    readers=(Reader(how={"masked": True, "layers": (10, 20, 30)}, length=512),),
    condition=conditions.flux2,
    strength=True,
    student=None,
)
KINDS = {"Flux2Pipeline": FLUX2, "Flux2KleinPipeline": FLUX2_KLEIN}
"""The pipelines by the names of their classes in diffusers."""
