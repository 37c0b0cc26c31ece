"""The pipelines of LTX-Video."""

__all__ = ["KINDS"]

from diffusion.published.ltx_video import conditions
from diffusion.published.ltx_video.network import LTXVideo
from diffusion.published.pipeline_kinds import Kind, Reader, Usual, Video

LTX_CLIPS = Video(161, (512, 704), 25.0, clean=True)
LTX = Kind(
    "LTX",
    "transformer",
    (Reader(length=128),),
    conditions.ltx_video,
    lambda module: 1,
    Usual(50, 3.0),
    even=True,
    network=LTXVideo,
    video=LTX_CLIPS,
)
LTX_CONDITION = LTX._replace(
    readers=(Reader(how={"masked": True}, length=256),),
    even=False,
    bent=True,
    video=LTX_CLIPS._replace(timed=True, blur=0.15),
)
KINDS = {"LTXPipeline": LTX, "LTXImageToVideoPipeline": LTX, "LTXConditionPipeline": LTX_CONDITION}
"""The pipelines by the names of their classes in diffusers."""
