"""FLUX.2: network, names of weights, pipelines with conditions of prompts."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.published.flux2 import (
        autoencoder_table as autoencoder_table,
        network as network,
        pipeline as pipeline,
        table as table,
    )
    from diffusion.published.flux2.network import Flux2 as Flux2

public.declare(__name__)
