"""CogVideoX: network, names of weights, pipelines with conditions of prompts."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.published.cogvideox import (
        autoencoder_table as autoencoder_table,
        network as network,
        pipeline as pipeline,
        table as table,
    )
    from diffusion.published.cogvideox.network import CogVideoX as CogVideoX, CogVideoXBlock as CogVideoXBlock

public.declare(__name__)
