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

Any module that takes images and returns `ImageFeatures` can stand here. Without a picture, a pooled vector is zero, and
tokens are computed from a picture in the mean colour of the encoder's normalisation, as in h94's code.
"""

__all__ = ["absent", "fitted", "image_features", "inner", "resized", "side", "width"]

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.image_encoders import picture_fitting
from diffusion.models.image_encoders.dinov2 import DINOv2
from diffusion.models.image_encoders.siglip import SigLIP
from diffusion.models.layers import bicubic
from diffusion.models.layers.vision_layers import IMAGENET
from diffusion.models.text_encoders import clip
from diffusion.models.text_encoders.clip import CLIPVision, CLIPVisionProjection
from diffusion.package import public

CROP = 224  # of the preprocessing of encoders that were trained on positions for several sizes


def side(encoder: nn.Module) -> int:
    """S, of the images that an encoder reads, in pixels."""
    tower = encoder.vision if isinstance(encoder, CLIPVisionProjection) else encoder
    return tower.size if isinstance(tower, (CLIPVision, SigLIP)) else min(CROP, getattr(tower, "size", CROP))


def _shorter(encoder: nn.Module) -> int:
    """The shorter side of a picture, of whose middle an encoder reads S x S pixels."""
    return side(encoder) * 256 // CROP if isinstance(encoder, DINOv2) else side(encoder)


def width(encoder: nn.Module, whole: bool) -> int:
    """The features of its tokens, or of its pooled vector."""
    if isinstance(encoder, CLIPVisionProjection):
        return encoder.vision.width if whole else encoder.features
    return encoder.width


def fitted(encoder: nn.Module, picture: np.ndarray) -> np.ndarray:
    """A picture uint8 [H, W, 3] of any size as an encoder reads it: float32 [S, S, 3] in [-1, 1].

    As transformers' image processors of CLIP and DINOv2: the shorter side by Pillow's bicubic filter, then the middle.
    SigLIP's brings both sides to the size at once.
    """
    if isinstance(encoder, SigLIP):
        fit = picture_fitting.squeezed(picture, side(encoder))
    else:
        fit = picture_fitting.cropped(picture, side(encoder), _shorter(encoder))
    return fit.astype(np.float32) / 127.5 - 1


def resized(encoder: nn.Module, images: jax.Array) -> jax.Array:
    """Square images [B, H, H, 3] in [-1, 1] at the size that an encoder reads, inside a program: Pillow's filter."""
    to, shorter = side(encoder), _shorter(encoder)
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
    if isinstance(encoder, (CLIPVision, CLIPVisionProjection)):
        tower: Any = encoder.apply({"params": params}, clip.normalised(images), skip=1)
        return tower.tokens if whole else tower.pooled
    features: Any = encoder.apply({"params": params}, images)
    return features.patches if whole else features.pooled


def inner(encoder: nn.Module, params: Any, images: jax.Array) -> jax.Array:
    """The tokens of images before the encoder's last layer, [B, N, F] float32, as Stable Diffusion 3's adapters read.

    Args:
        encoder: CLIP's, or SigLIP, as published.
        params, images: the parameters of the encoder, and the images, as in `image_features`.

    Raises:
        ValueError: for another encoder.
    """
    if isinstance(encoder, (CLIPVision, CLIPVisionProjection)):
        return image_features(encoder, params, images, whole=True)
    if not isinstance(encoder, SigLIP):
        raise ValueError(f"only SigLIP and CLIP offer the tokens before their last layer; got {type(encoder).__name__}")
    features: Any = encoder.apply({"params": params}, images, skip=1)
    return features.patches


def absent(encoder: nn.Module, params: Any, whole: bool) -> jax.Array:
    """The features that stand for no picture, [1, P] or [1, N, F]."""
    if not whole:
        return jnp.zeros((1, width(encoder, whole)))
    if isinstance(encoder, (CLIPVision, CLIPVisionProjection)):
        mean = clip.MEAN
    else:
        mean = (0.5,) * 3 if isinstance(encoder, SigLIP) else IMAGENET[0]
    colour = jnp.broadcast_to(2 * jnp.asarray(mean, jnp.float32) - 1, (1, side(encoder), side(encoder), 3))
    return image_features(encoder, params, colour, whole)


public.declare(__name__, renamed={"of": "image_features"})
