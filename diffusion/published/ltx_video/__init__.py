"""LTX-Video: network, names of weights, pipelines with conditions of prompts."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.published.ltx_video import (
        autoencoder_table as autoencoder_table,
        network as network,
        pipeline as pipeline,
        table as table,
    )
    from diffusion.published.ltx_video.network import LTXBlock as LTXBlock, LTXVideo as LTXVideo

public.declare(__name__)
