"""Qwen-Image 2.1: network, autoencoder of pictures with alpha, names of weights, pipeline."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.published.qwen_image_21 import (
        autoencoder_table as autoencoder_table,
        network as network,
        pipeline as pipeline,
        table as table,
    )
    from diffusion.published.qwen_image_21.network import QwenImage21 as QwenImage21

public.declare(__name__)
