"""Patches of clips as channels, in the order of LTX-Video and Wan: a channel, then the columns, then the rows."""

from jax import Array

from diffusion.arrays.boxes import pixel_shuffle, pixel_unshuffle


def column_patches(x: Array, patch: int) -> Array:
    """Patches as channels: [B, F, H, W, C] -> [B, F, H / p, W / p, C p p], the rows of a patch innermost."""
    return pixel_unshuffle(x.swapaxes(2, 3), (1, patch, patch)).swapaxes(2, 3)


def column_pixels(x: Array, patch: int) -> Array:
    """The inverse of `column_patches`: [B, F, h, w, C p p] -> [B, F, p h, p w, C]."""
    return pixel_shuffle(x.swapaxes(2, 3), (1, patch, patch)).swapaxes(2, 3)
