"""DINOv2: a vision transformer trained by self-distillation, with and without registers."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.image_encoders.image_features import CROP, ImageFeatures, PromptReading, usual_reading
from diffusion.models.layers.choices import sizes
from diffusion.models.layers.vision_layers import (
    Positions,
    VisionTransformer,
    distilled_patches,
    encoder_layers,
    normal,
)


class DINOv2(VisionTransformer):
    """DINOv2's encoder: images [B, H, W, 3] in [-1, 1] -> `ImageFeatures`; pooled is the class token.

        tokens = [class, registers, patches], where class and patches have positions and registers have none

    The images are normalised inside by ImageNet's mean and standard deviation of each channel.

    Attributes:
        size: side of the images whose grid of positions was learned, in pixels; the patch divides it. Other sides
            interpolate the grid, with antialiasing if the network has registers, as published.
        patch: side of a patch.
        gated: whether the MLP is gated (SwiGLU), as in ViT-g/14.
        registers: further tokens without a position, 0 or 4 as published; they are left out of the features.
        offset: offset of the interpolation, see `vision_layers.Positions`: 0.1 in the authors' code for networks
            without registers (so that figures measured with it need it), 0 in transformers, and in the authors' code
            for networks with them.
        epsilon: epsilon of the norms, > 0.
        affine: whether the last norm has a scale and a shift, as published; representation autoencoders leave them out.

    References:
        Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", 2023.
        Darcet et al., "Vision Transformers Need Registers", 2024.
    """

    size: int = 518
    patch: int = 14
    gated: bool = False
    registers: int = 0
    offset: float = 0.0
    epsilon: float = 1e-6
    affine: bool = True

    @property
    def prompt_reading(self) -> PromptReading:
        reading = usual_reading(self)
        return reading._replace(shorter=reading.side * 256 // CROP)

    @nn.compact
    def __call__(self, images: jax.Array, masked: jax.Array | None = None) -> ImageFeatures:
        """Returns patches [B, N, width] and the class token [B, width], normalised; see `distilled_patches`."""
        x, first, grid = distilled_patches(self, images, masked)
        positions = Positions(
            self.size // self.patch, 1, antialias=self.registers > 0, offset=self.offset, name="positions"
        )(self.width, *grid)
        before = first + positions[:1]
        if self.registers:
            before = jnp.concatenate([before, self.param("registers", normal, (self.registers, self.width))])
        before = jnp.broadcast_to(before.astype(x.dtype), (len(x), *before.shape))
        x = jnp.concatenate([before, x + positions[1:].astype(x.dtype)], axis=1)
        x = encoder_layers(self, "swiglu" if self.gated else "gelu", scale=True)(x)
        return ImageFeatures(x[:, 1 + self.registers :], x[:, 0])


PRESETS: dict[str, dict[str, Any]] = {
    "ViT-S/14": {"width": 384, "depth": 12, "heads": 6, "hidden": 1536},
    "ViT-B/14": {"width": 768, "depth": 12, "heads": 12, "hidden": 3072},
    "ViT-L/14": {"width": 1024, "depth": 24, "heads": 16, "hidden": 4096},
    "ViT-g/14": {"width": 1536, "depth": 40, "heads": 24, "hidden": 4096, "gated": True},
}
"""The published sizes (Oquab et al., 2023, table 17); each is published with 0 and with 4 registers."""
preset = sizes(DINOv2, PRESETS)
"""A DINOv2 of a published size. See `layers.choices.sizes`."""
