"""A tuning that makes a text-to-image model an inpainting model, whose U-Net sees a mask and the masked picture."""

from typing import Any

import jax.numpy as jnp

from diffusion.adapters.tuning import Tuning
from diffusion.adapters.wider_unet import widened
from diffusion.models.autoencoders import latent_space

PICTURE, MASK = "picture", "mask"  # entries of a record's condition


def inpainting(base: Any) -> Tuning:
    """Trains the whole U-Net with nine input channels: x_t, the mask, and the latents of the masked picture.

    The kernel of the U-Net's first convolution is zero for the new channels at the start, so the output is at first the
    base's. The tuning reads "picture" [H, W, 3], in [-1, 1], and "mask" [H, W, 1] of each record; the mask is above 0
    where the picture is repainted (`sources.painted` draws masks). In each step, the autoencoder encodes the masked
    picture, and the mean of the latents' distribution is taken.

    Args:
        base: the model, `text_to_image.described`; its denoiser is a U-Net that receives only x_t.

    Raises:
        ValueError: if there is no inpainting pipeline for models like the base, or its denoiser is of another kind.

    Reference: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022, section 4.5.
    """
    if not base.kind.relatives.inpainting:
        raise ValueError(
            f"the base is a {base.name}, and that kind of model has no inpainting pipeline. Valid: Stable Diffusion "
            "or SDXL"
        )
    vae = base.modules["vae"]

    def new_channels(params, condition, x):
        picture = condition.pop(PICTURE)
        mask = condition.pop(MASK) > 0
        batch, height, width, _ = x.shape
        painted = mask.reshape(batch, height, vae.factor, width, vae.factor).any((2, 4))[..., None]
        z = latent_space.mean(vae.apply({"params": params["vae"]}, jnp.where(mask, 0, picture), method="encode"))
        z = latent_space.to_diffusion(z, vae.scale, vae.shift)
        return jnp.concatenate([painted.astype(z.dtype), z], axis=-1)

    return widened(
        base, base.kind.relatives.inpainting, base.channels + 1, new_channels, networks=("vae",), reads=(PICTURE, MASK)
    )
