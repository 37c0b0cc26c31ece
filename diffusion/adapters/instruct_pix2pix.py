"""InstructPix2Pix: a tuning that turns a text-to-image model into one that edits pictures by instructions."""

from typing import Any

import jax.numpy as jnp

from diffusion.adapters.tuning import CAPTIONED, Tuning
from diffusion.adapters.wider_unet import widened
from diffusion.models.autoencoders import latent_space

ORIGINAL = "original"  # the entry of a record's condition with the picture before the edit


def instruct_pix2pix(base: Any) -> Tuning:
    """Trains all weights of a U-Net with eight input channels: x_t, and the latents of the original picture.

    The initial kernel of the first convolution is zero for the new channels, so the first step has the base's output. A
    record's picture is the edited one, its caption is the instruction, and "original" [H, W, 3] in its condition is the
    picture before the edit. The autoencoder encodes the original once, before the training, by the mean of its
    distribution; the U-Net receives this mean without the scale of latents. For a share of the examples
    (`condition_dropout`, 0.05 in the paper), a run drops the instruction and the original. For an equal share it drops
    only the instruction, and for another equal share only the original. A dropped original is replaced by zeros.

    Args:
        base: the model, from `text_to_image.described`: Stable Diffusion 1, 2 or XL.

    Raises:
        ValueError: if the base is another model.

    Reference: Brooks et al., "InstructPix2Pix: Learning to Follow Image Editing Instructions", 2023, section 3.2.
    """
    if base.sees_picture:
        raise ValueError(
            f"the base is a {base.name}, which already edits pictures. Valid: Stable Diffusion 1, 2 and XL"
        )
    if not base.kind.relatives.edits:
        raise ValueError(
            f"the base is a {base.name}, and that kind of model has no pipeline that edits by instructions. Valid: "
            "Stable Diffusion 1, 2 and XL"
        )

    vae = base.modules["vae"]

    def new_channels(params, condition, x):
        original = condition.pop(ORIGINAL)  # latents, or zeros for an original that was dropped
        present = (original != 0).any((1, 2, 3), keepdims=True)
        return jnp.where(present, latent_space.from_diffusion(original, vae.scale, vae.shift), 0)

    how = {"networks": (), "reads": (ORIGINAL,), "latents": (ORIGINAL,), "apart": (CAPTIONED, ORIGINAL)}
    return widened(base, base.kind.relatives.edits, base.channels, new_channels, **how)
