"""The input and the output of every image encoder of this folder.

    features = encoder.apply({"params": params}, images)     # images [B, H, W, 3] in [-1, 1]
    features.patches                                         # [B, H W / patch^2, width]
    features.pooled                                          # [B, width]

The normalisation that a network was trained with is inside, so that every encoder takes the same images. The sides are
the caller's: any that the patch divides. A module has the fields `patch` and `width`. A network of one's own that does
so can stand wherever ours do. As an image prompt, a picture is read as the encoder's `prompt_reading` says, if it has
one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from diffusion.models.layers.vision_layers import IMAGENET

CROP = 224  # side that the preprocessing of encoders has which were trained on positions for several sizes


class ImageFeatures(NamedTuple):
    """Features of images.

    Attributes:
        patches: [B, N, D] float32, of the patches row by row, after the last norm.
        pooled: [B, D] float32, of the whole image: its class token, or what its encoder's docstring says.
    """

    patches: jax.Array
    pooled: jax.Array


class PromptReading(NamedTuple):
    """How an encoder reads a picture as an image prompt.

    Attributes:
        side: side S of the images that the encoder reads, in pixels.
        shorter: shorter side of the picture, in pixels, from whose middle S x S pixels are read; 0 if both sides of the
            picture are resized to S.
        mean: mean colour of the pictures of its training, in [0, 1], for no picture.
        tokens: number of features of a token.
        pooled: number of features of the pooled vector.
        features: (params, images `[B, S, S, 3]` in [-1, 1]) -> `ImageFeatures`.
        inner: the same, but the patches are the tokens before the last layer; None if the encoder does not offer them.
    """

    side: int
    shorter: int
    mean: tuple[float, float, float]
    tokens: int
    pooled: int
    features: Callable[[Any, jax.Array], ImageFeatures]
    inner: Callable[[Any, jax.Array], ImageFeatures] | None = None


def usual_reading(encoder: Any) -> PromptReading:
    """The reading of an encoder that states none: 224 pixels or its `size` if that is smaller, and ImageNet's mean.

    Raises:
        ValueError: for a network without the field `width`.
    """
    if not hasattr(encoder, "width"):
        raise ValueError(f"{type(encoder).__name__} is no image encoder: it has no width. Valid: e.g. DINOv2, SigLIP")
    side = min(CROP, getattr(encoder, "size", CROP))
    features = lambda params, images: encoder.apply({"params": params}, images)
    return PromptReading(side, side, IMAGENET[0], encoder.width, encoder.width, features)
