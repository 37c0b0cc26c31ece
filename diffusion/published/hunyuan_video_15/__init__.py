"""HunyuanVideo 1.5: network, names of weights, pipelines with conditions of prompts and images."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.published.hunyuan_video_15 import (
        autoencoder_table as autoencoder_table,
        network as network,
        pipeline as pipeline,
        table as table,
    )
    from diffusion.published.hunyuan_video_15.network import HunyuanVideo15 as HunyuanVideo15

public.declare(__name__)
