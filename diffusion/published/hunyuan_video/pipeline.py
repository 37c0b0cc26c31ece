"""The pipelines of HunyuanVideo."""

__all__ = ["KINDS"]

from diffusion.published.hunyuan_video import conditions
from diffusion.published.hunyuan_video.network import PATCH, HunyuanVideo
from diffusion.published.pipeline_kinds import Kind, Reader, Usual, Video

HUNYUAN_VIDEO = Kind(
    "HunyuanVideo",
    "transformer",
    (Reader(how={"masked": True, "layers": (-3,)}, length=95 + 256), Reader("_2")),
    conditions.hunyuan_video,
    lambda denoiser: PATCH,
    Usual(50, 6.0),
    unit_clock=True,
    even=True,
    network=HunyuanVideo,
    video=Video(129, (720, 1280), 24.0),
)
KINDS = {"HunyuanVideoPipeline": HUNYUAN_VIDEO}
"""The pipelines by the names of their classes in diffusers."""
