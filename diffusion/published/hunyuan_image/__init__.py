"""HunyuanImage 2.1: network, autoencoder, names of weights, pipeline with its guidance."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.published.hunyuan_image import (
        autoencoder_table as autoencoder_table,
        guidance as guidance,
        network as network,
        pipeline as pipeline,
        table as table,
    )
    from diffusion.published.hunyuan_image.network import HunyuanImage as HunyuanImage

public.declare(__name__)
