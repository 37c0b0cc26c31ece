"""HunyuanVideo: the network, the tables of its weights' names, and the pipelines with the conditions of prompts."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.published.hunyuan_video import (
        autoencoder_table as autoencoder_table,
        image_pipeline as image_pipeline,
        network as network,
        pipeline as pipeline,
        table as table,
    )
    from diffusion.published.hunyuan_video.network import (
        HunyuanVideo as HunyuanVideo,
        RefinerBlock as RefinerBlock,
        TextRefiner as TextRefiner,
    )

public.declare(__name__)
