"""Autoencoders, which map pictures or videos to the latents of diffusion models, and back."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.models.autoencoders import (
        autoencoder_dc as autoencoder_dc,
        autoencoder_kl as autoencoder_kl,
        autoencoder_kl_asymmetric as autoencoder_kl_asymmetric,
        autoencoder_kl_cogvideox as autoencoder_kl_cogvideox,
        autoencoder_kl_hunyuan_image as autoencoder_kl_hunyuan_image,
        autoencoder_kl_hunyuan_video as autoencoder_kl_hunyuan_video,
        autoencoder_kl_hunyuan_video_15 as autoencoder_kl_hunyuan_video_15,
        autoencoder_kl_ltx as autoencoder_kl_ltx,
        autoencoder_kl_video as autoencoder_kl_video,
        autoencoder_rae as autoencoder_rae,
        autoencoder_tiny as autoencoder_tiny,
        autoencoder_vq as autoencoder_vq,
        causal_layers as causal_layers,
        clip_parts as clip_parts,
        column_patches as column_patches,
        deep_compression as deep_compression,
        edge_convolution as edge_convolution,
        encoder_decoder as encoder_decoder,
        latent_space as latent_space,
        patch_discriminator as patch_discriminator,
        quantizers as quantizers,
        rae_decoder as rae_decoder,
        tiles as tiles,
        video_autoencoder as video_autoencoder,
    )

public.declare(__name__)
