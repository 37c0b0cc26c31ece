"""I-JEPA's target encoder: a plain vision transformer without a class token."""

__all__ = ["IJEPA", "PRESETS", "preset"]

from typing import Any

import flax.linen as nn
import jax

from diffusion.models.image_encoders.image_features import ImageFeatures
from diffusion.models.layers.choices import look_up
from diffusion.models.layers.vision_layers import (
    IMAGENET,
    Layers,
    Patches,
    Positions,
    check,
    images_checked,
    normalised,
)


class IJEPA(nn.Module):
    """I-JEPA's encoder: images [B, H, W, 3] in [-1, 1] -> `ImageFeatures`; pooled is the mean of the patches.

    The images are normalised inside by ImageNet's mean and standard deviation of each channel.

    Attributes:
        size: side of the images whose grid of positions was learned, in pixels; other sides interpolate the grid.
        patch: side of a patch.
        width: number of features of a token.
        depth: number of layers.
        heads: number of attention heads, a divisor of the width.
        hidden: number of features inside the MLP.
        epsilon: epsilon of the norms, > 0.
        attention: implementation, see `diffusion.models.layers.attention`.
        dtype: compute type, "float32" or "bfloat16"; parameters and outputs are float32.
        affine: whether the last norm has a scale and a shift, as published; representation autoencoders leave them out.

    Raises:
        ValueError: at construction, for a field out of range or an unknown name.

    Reference: Assran et al., "Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture",
    2023; the mean of the patches is what they classify (appendix A).
    """

    width: int
    depth: int
    heads: int
    hidden: int
    size: int = 224
    patch: int = 14
    epsilon: float = 1e-6
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
            `ImageFeatures`: patches [B, N, width], normalised, and their mean [B, width].

        Raises:
            ValueError: for images of another shape or of integers.
        """
        grid = images_checked(images, self.patch)
        x = Patches(self.width, self.patch, self.dtype, name="patches")(normalised(images, *IMAGENET))
        positions = Positions(self.size // self.patch, name="positions")(self.width, *grid)
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
        x = encoder(x + positions.astype(x.dtype))
        return ImageFeatures(x, x.mean(axis=1))


PRESETS: dict[str, dict[str, Any]] = {
    "ViT-H/14": {"width": 1280, "depth": 32, "heads": 16, "hidden": 5120},
    "ViT-H/16@448": {"width": 1280, "depth": 32, "heads": 16, "hidden": 5120, "patch": 16, "size": 448},
    "ViT-g/16": {"width": 1408, "depth": 40, "heads": 16, "hidden": 6144, "patch": 16},
}
"""The published networks (Assran et al., 2023, table 1 and section 7)."""


def preset(name: str, **options: Any) -> IJEPA:
    """An I-JEPA encoder of a published size.

    Args:
        name: name in PRESETS.
        **options: other fields of `IJEPA`.

    Raises:
        ValueError: for an unknown name, and as `IJEPA`.
    """
    return IJEPA(**look_up(PRESETS, name, "size"), **options)
