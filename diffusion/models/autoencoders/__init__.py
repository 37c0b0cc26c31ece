"""Autoencoders: between pictures or videos and the latents that diffusion models see."""

from typing import TYPE_CHECKING

from diffusion import public

if TYPE_CHECKING:
    from diffusion.models.autoencoders import (
        autoencoder_dc,
        autoencoder_kl,
        autoencoder_kl_video,
        autoencoder_rae,
        autoencoder_tiny,
        autoencoder_vq,
        causal_layers,
        deep_compression,
        encoder_decoder,
        latent_space,
        patch_discriminator,
        quantizers,
        rae_decoder,
        tiles,
    )

__all__ = [
    "autoencoder_dc",
    "autoencoder_kl",
    "autoencoder_kl_video",
    "autoencoder_rae",
    "autoencoder_tiny",
    "autoencoder_vq",
    "causal_layers",
    "deep_compression",
    "encoder_decoder",
    "latent_space",
    "patch_discriminator",
    "quantizers",
    "rae_decoder",
    "tiles",
]

public.declare(__name__)
