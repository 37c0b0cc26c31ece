"""Wan 2.1 and 2.2: network, names of weights, pipelines with conditions of prompts."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.models.layers.wide_attention import WideAttention as WideAttention
    from diffusion.published.wan import (
        autoencoder_table as autoencoder_table,
        network as network,
        pipeline as pipeline,
        table as table,
    )
    from diffusion.published.wan.network import (
        PictureEmbedding as PictureEmbedding,
        Wan as Wan,
        WanBlock as WanBlock,
        WanControlBlock as WanControlBlock,
    )

public.declare(__name__, renamed={"WanAttention": "WideAttention"})
