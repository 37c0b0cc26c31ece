"""Image prompts: the features that a published image encoder computes from a picture.

    images = prompt_features.fitted(encoder, picture)[None]           # [1, S, S, 3] in [-1, 1], as transformers fits it
    features = prompt_features.image_features(encoder, params, images, whole=False)   # [1, P], the pooled vector
    none = prompt_features.absent(encoder, params, whole=False)       # [1, P], what stands for no picture

| encoder                  | pooled (`whole=False`) | tokens (`whole=True`)                           | S      |
|--------------------------|------------------------|-------------------------------------------------|--------|
| CLIP with its projection | the projected vector   | of the layer before last, the class token first | `size` |
| SigLIP                   | the attention pool's   | of the patches, after the last norm; of `inner` | `size` |
|                          |                        | those of the layer before last                  |        |
| DINOv2 and others        | the class token        | of the patches, after the last norm             | 224    |

DINOv2 reads the middle of a picture whose shorter side has 256 pixels, as its preprocessing states.

Any module that takes images and returns `ImageFeatures` can stand here. If it has a `prompt_reading`
(`image_features.PromptReading`), pictures are read as it says; otherwise as the last row of the table says. Without a
picture, a pooled vector is zero, and tokens are computed from a picture in the mean colour of the encoder's
normalisation, as in h94's code.
"""

__all__ = ["absent", "fitted", "image_features", "inner", "resized", "side", "width"]

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.image_encoders import picture_fitting
from diffusion.models.image_encoders.image_features import PromptReading, usual_reading
from diffusion.models.layers import bicubic
from diffusion.package import public


def _reading(encoder: Any) -> PromptReading:
    return getattr(encoder, "prompt_reading", None) or usual_reading(encoder)


def side(encoder: nn.Module) -> int:
    """S, of the images that an encoder reads, in pixels."""
    return _reading(encoder).side


def width(encoder: nn.Module, whole: bool) -> int:
    """The features of its tokens, or of its pooled vector."""
    reading = _reading(encoder)
    return reading.tokens if whole else reading.pooled


def fitted(encoder: nn.Module, picture: np.ndarray) -> np.ndarray:
    """A picture uint8 [H, W, 3] of any size as an encoder reads it: float32 [S, S, 3] in [-1, 1].

    As transformers' image processors of CLIP and DINOv2: the shorter side by Pillow's bicubic filter, then the middle.
    SigLIP's brings both sides to the size at once.
    """
    reading = _reading(encoder)
    if reading.shorter:
        fit = picture_fitting.cropped(picture, reading.side, reading.shorter)
    else:
        fit = picture_fitting.squeezed(picture, reading.side)
    return fit.astype(np.float32) / 127.5 - 1


def resized(encoder: nn.Module, images: jax.Array) -> jax.Array:
    """Square images [B, H, H, 3] in [-1, 1] at the size that an encoder reads, inside a program: Pillow's filter.

    Raises:
        ValueError: for pictures that are not square.
    """
    reading = _reading(encoder)
    to, shorter = reading.side, reading.shorter or reading.side
    if images.shape[1] != images.shape[2]:
        raise ValueError(f"image prompts for training must be square; got {images.shape[1]} x {images.shape[2]} pixels")
    if images.shape[1] == to == shorter:
        return images
    first = (shorter - to) // 2
    matrix = bicubic.antialiased(images.shape[1], shorter)[first : first + to]
    return jnp.clip(jax.vmap(lambda image: bicubic.interpolated(image, matrix, matrix))(images), -1, 1)


def image_features(encoder: nn.Module, params: Any, images: jax.Array, whole: bool) -> jax.Array:
    """The features of images [B, S, S, 3] in [-1, 1]: the tokens [B, N, F], or the pooled vector [B, P]; float32.

    Args:
        encoder: the image encoder.
        params: the parameters of the encoder.
        images: the images, of the encoder's size.
        whole: whether to return all tokens, and not the pooled vector.
    """
    features = _reading(encoder).features(params, images)
    return features.patches if whole else features.pooled


def inner(encoder: nn.Module, params: Any, images: jax.Array) -> jax.Array:
    """The tokens of images before the encoder's last layer, [B, N, F] float32, as Stable Diffusion 3's adapters read.

    Args:
        encoder: the image encoder, whose reading has `inner`: CLIP's, SigLIP, or one of your own.
        params, images: the parameters of the encoder, and the images, as in `image_features`.

    Raises:
        ValueError: for an encoder that does not offer these tokens.
    """
    read = _reading(encoder).inner
    if read is None:
        raise ValueError(
            f"{type(encoder).__name__} does not offer the tokens before its last layer. Valid: SigLIP, CLIP, or an "
            "encoder whose prompt_reading has inner"
        )
    return read(params, images).patches


def absent(encoder: nn.Module, params: Any, whole: bool) -> jax.Array:
    """The features that a network receives in place of a picture's if there is none, [1, P] or [1, N, F]."""
    reading = _reading(encoder)
    if not whole:
        return jnp.zeros((1, reading.pooled))
    colour = jnp.broadcast_to(2 * jnp.asarray(reading.mean, jnp.float32) - 1, (1, reading.side, reading.side, 3))
    return image_features(encoder, params, colour, whole)


public.declare(__name__, renamed={"of": "image_features"})
