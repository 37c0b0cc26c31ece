"""LTX-Video: network, names of weights, conditions of prompts, pipelines."""

from typing import TYPE_CHECKING

from diffusion import public

if TYPE_CHECKING:
    from diffusion.published.ltx_video import (
        autoencoder_table as autoencoder_table,
        conditions as conditions,
        network as network,
        pipeline as pipeline,
        table as table,
    )
    from diffusion.published.ltx_video.network import LTXBlock as LTXBlock, LTXVideo as LTXVideo

public.declare(__name__)
