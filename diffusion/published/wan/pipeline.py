"""The pipelines of Wan 2.1 and 2.2."""

__all__ = ["KINDS"]

from diffusion.published.pipeline_kinds import Kind, Reader, Usual, Video
from diffusion.published.wan import conditions
from diffusion.published.wan.network import PATCH, Wan

WAN_CLIPS = Video(81, (480, 832), 16.0, second="transformer_2")
WAN = Kind(
    "Wan",
    "transformer",
    (Reader(how={"masked": True}, length=512),),
    conditions.wan,
    lambda denoiser: PATCH,
    Usual(50, 5.0),
    network=Wan,
    video=WAN_CLIPS,
)
WAN_FROM_IMAGE = WAN._replace(video=WAN_CLIPS._replace(begins=True))
KINDS = {"WanPipeline": WAN, "WanImageToVideoPipeline": WAN_FROM_IMAGE}
"""The pipelines by the names of their classes in diffusers."""
