"""Autoencoders: between pictures or videos and the latents that diffusion models see."""

from typing import TYPE_CHECKING

from diffusion import public

if TYPE_CHECKING:
    from diffusion.models.autoencoders import (
        autoencoder_dc,
        autoencoder_kl,
        autoencoder_kl_cogvideox,
        autoencoder_kl_hunyuan_video,
        autoencoder_kl_ltx,
        autoencoder_kl_video,
        autoencoder_rae,
        autoencoder_tiny,
        autoencoder_vq,
        causal_layers,
        clip_parts,
        deep_compression,
        edge_convolution,
        encoder_decoder,
        latent_space,
        patch_discriminator,
        quantizers,
        rae_decoder,
        tiles,
        video_checks,
    )

__all__ = [
    "autoencoder_dc",
    "autoencoder_kl",
    "autoencoder_kl_cogvideox",
    "autoencoder_kl_hunyuan_video",
    "autoencoder_kl_ltx",
    "autoencoder_kl_video",
    "autoencoder_rae",
    "autoencoder_tiny",
    "autoencoder_vq",
    "causal_layers",
    "clip_parts",
    "deep_compression",
    "edge_convolution",
    "encoder_decoder",
    "latent_space",
    "patch_discriminator",
    "quantizers",
    "rae_decoder",
    "tiles",
    "video_checks",
]

public.declare(__name__)
