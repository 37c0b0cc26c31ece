"""MAE's encoder: a plain vision transformer, trained to reconstruct the patches that it does not see."""

__all__ = ["MAE", "PRESETS", "preset"]

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.image_encoders.image_features import ImageFeatures
from diffusion.models.layers.choices import look_up
from diffusion.models.layers.vision_layers import (
    IMAGENET,
    Layers,
    Patches,
    Positions,
    check,
    images_checked,
    normal,
    normalised,
)


class MAE(nn.Module):
    """MAE's encoder on whole images [B, H, W, 3] in [-1, 1] -> `ImageFeatures`; pooled is the class token.

    The images are normalised inside by ImageNet's mean and standard deviation of each channel. The encoder sees every
    patch, as after its training; the decoder is not part of it. (The class token is not trained by the loss directly;
    the mean of the patches is the usual pooled vector of fine-tuned networks.)

    Attributes:
        size: side of the images whose grid of positions was learned, in pixels; other sides interpolate the grid.
        patch: side of a patch.
        width: number of features of a token.
        depth: number of layers.
        heads: number of attention heads, a divisor of the width.
        hidden: number of features inside the MLP.
        epsilon: epsilon of the norms: 1e-12 in transformers' configs, 1e-6 in the authors' code.
        attention: implementation, see `diffusion.models.layers.attention`.
        dtype: compute type, "float32" or "bfloat16"; parameters and outputs are float32.
        affine: whether the last norm has a scale and a shift, as published; representation autoencoders leave them out.

    Raises:
        ValueError: at construction, for a field out of range or an unknown name.

    Reference: He et al., "Masked Autoencoders Are Scalable Vision Learners", 2022.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    size: int = 224
    patch: int = 16
    epsilon: float = 1e-12
    attention: str = "auto"
    dtype: str = "float32"
    affine: bool = True

    def __post_init__(self):
        check(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array) -> ImageFeatures:
        """Args:
            images: [B, H, W, 3] in [-1, 1]; the patch divides H and W.

        Returns:
            `ImageFeatures`: patches [B, N, width] and the class token [B, width], normalised.

        Raises:
            ValueError: for images of another shape or of integers.
        """
        grid = images_checked(images, self.patch)
        x = Patches(self.width, self.patch, self.dtype, name="patches")(normalised(images, *IMAGENET))
        positions = Positions(self.size // self.patch, 1, name="positions")(self.width, *grid).astype(x.dtype)
        first = self.param("class_token", normal, (1, self.width)).astype(x.dtype) + positions[:1]
        first = jnp.broadcast_to(first, (len(x), 1, self.width))
        x = jnp.concatenate([first, x + positions[1:]], axis=1)
        encoder = Layers(
            self.depth,
            self.heads,
            self.hidden,
            self.epsilon,
            attention=self.attention,
            dtype=self.dtype,
            affine=self.affine,
            name="encoder",
        )
        x = encoder(x)
        return ImageFeatures(x[:, 1:], x[:, 0])


PRESETS: dict[str, dict[str, Any]] = {
    "ViT-B/16": {"width": 768, "depth": 12, "heads": 12, "hidden": 3072},
    "ViT-L/16": {"width": 1024, "depth": 24, "heads": 16, "hidden": 4096},
    "ViT-H/14": {"width": 1280, "depth": 32, "heads": 16, "hidden": 5120, "patch": 14},
}
"""The published sizes (He et al., 2022, table 3)."""


def preset(name: str, **options: Any) -> MAE:
    """An MAE encoder of a published size.

    Args:
        name: name in PRESETS.
        **options: other fields of `MAE`.

    Raises:
        ValueError: for an unknown name, and as `MAE`.
    """
    return MAE(**look_up(PRESETS, name, "size"), **options)
