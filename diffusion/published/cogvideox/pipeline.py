"""The pipelines of CogVideoX."""

__all__ = ["KINDS"]

from diffusion.published.cogvideox import conditions
from diffusion.published.cogvideox.network import CogVideoX
from diffusion.published.pipeline_kinds import Kind, Reader, Usual, Video

COGVIDEOX_CLIPS = Video(49, (480, 720), 8.0, masked=False)
PAIRED_CLIPS = Video(81, (768, 1360), 16.0, masked=False)  # from the card of CogVideoX 1.5
COGVIDEOX = Kind(
    "CogVideoX",
    "transformer",
    (Reader(length=226),),
    conditions.cogvideox,
    lambda denoiser: denoiser.patch,
    Usual(50, 6.0),
    network=CogVideoX,
    video=COGVIDEOX_CLIPS,
    paired=PAIRED_CLIPS,
)
COGVIDEOX_FROM_IMAGE = COGVIDEOX._replace(
    video=COGVIDEOX_CLIPS._replace(begins=True), paired=PAIRED_CLIPS._replace(begins=True)
)
KINDS = {"CogVideoXPipeline": COGVIDEOX, "CogVideoXImageToVideoPipeline": COGVIDEOX_FROM_IMAGE}
"""The pipelines by the names of their classes in diffusers."""
