"""The input and the output of every image encoder of this folder.

    features = encoder.apply({"params": params}, images)     # images [B, H, W, 3] in [-1, 1]
    features.patches                                         # [B, H W / patch^2, width]
    features.pooled                                          # [B, width]

The normalisation that a network was trained with is inside, so that every encoder takes the same images. The sides are
the caller's: any that the patch divides. A module has the fields `patch` and `width`. A network of one's own that does
so can stand wherever ours do.
"""

from typing import NamedTuple

import jax


class ImageFeatures(NamedTuple):
    """Features of images.

    Attributes:
        patches: [B, N, D] float32, of the patches row by row, after the last norm.
        pooled: [B, D] float32, of the whole image: its class token, or what its encoder's docstring says.
    """

    patches: jax.Array
    pooled: jax.Array
