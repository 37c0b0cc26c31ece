"""Stable Cascade: the U-Net of its two stages, the autoencoder of Paella, names of weights, pipeline."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.published.stable_cascade import (
        network as network,
        paella as paella,
        paella_table as paella_table,
        pipeline as pipeline,
        table as table,
    )
    from diffusion.published.stable_cascade.network import StableCascade as StableCascade
    from diffusion.published.stable_cascade.paella import PaellaVQ as PaellaVQ

public.declare(__name__)
