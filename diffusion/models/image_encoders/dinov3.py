"""DINOv3: DINOv2's successor, with rotary positions and register tokens."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.image_encoders.image_features import ImageFeatures
from diffusion.models.layers import network_checks
from diffusion.models.layers.choices import sizes
from diffusion.models.layers.vision_layers import VisionTransformer, distilled_patches, encoder_layers, normal


class DINOv3(VisionTransformer):
    """DINOv3's encoder: images [B, H, W, 3] in [-1, 1] -> `ImageFeatures`; pooled is the class token.

        tokens = [class, registers, patches]; the queries and keys of patches rotate with their place, see `angles`

    The images are normalised inside by ImageNet's mean and standard deviation of each channel (the networks for
    satellite images have others).

    Attributes:
        patch: side of a patch.
        heads: number of attention heads, a divisor of the width; four divides the features of a head.
        gated: whether the MLP is gated (SwiGLU).
        registers: further tokens ("storage tokens"), left out of the features.
        biased: the projections of attention with a bias; keys have none.
        theta: base of the rotary frequencies.
        epsilon: epsilon of the norms, > 0.
        affine: whether the last norm has a scale and a shift, as published; representation autoencoders leave them out.
        fused: layers, 1 .. depth in order, whose normalised patches h_k make the features; () for only the last. The
            patches are mean_k h_k + m, where m is the mean of the last h_k over the picture (RAEv2).

    References:
        Simeoni et al., "DINOv3", 2025.
        Singh et al., "Improved Baselines with Representation Autoencoders", 2026 (RAEv2), and its authors' code, for
            fused features.
    """

    patch: int = 16
    gated: bool = False
    registers: int = 4
    biased: tuple[str, ...] = ("query", "value")
    theta: float = 100.0
    epsilon: float = 1e-5
    affine: bool = True
    fused: tuple[int, ...] = ()

    def check_fields(self) -> None:
        super().check_fields()
        if list(self.fused) != sorted({layer for layer in self.fused if 1 <= layer <= self.depth}):
            raise ValueError(
                f"fused={self.fused} must be layers out of 1 .. {self.depth}, in increasing order, each at most once"
            )
        network_checks.heads(self, 4)

    @nn.compact
    def __call__(self, images: jax.Array, masked: jax.Array | None = None) -> ImageFeatures:
        """Returns patches [B, N, width] and the class token [B, width], normalised; see `distilled_patches`."""
        x, before, grid = distilled_patches(self, images, masked)
        if self.registers:
            before = jnp.concatenate([before, self.param("registers", normal, (self.registers, self.width))])
        before = jnp.broadcast_to(before.astype(x.dtype), (len(x), *before.shape))
        turns = jnp.asarray(angles(*grid, self.width // self.heads, self.theta))
        mlp = "swiglu" if self.gated else "gelu"
        layers = encoder_layers(self, mlp, scale=True, biased=self.biased, recorded=self.fused)
        x = layers(jnp.concatenate([before, x], axis=1), turns)
        if self.fused:
            patches = x[:, :, 1 + self.registers :]
            return ImageFeatures(patches.mean(axis=0) + patches[-1].mean(axis=1, keepdims=True), x[-1][:, 0])
        return ImageFeatures(x[:, 1 + self.registers :], x[:, 0])


def angles(height: int, columns: int, head_size: int, theta: float = 100.0) -> np.ndarray:
    """Angles of patches: half of a head's pairs rotate with the row, half with the column, both from -1 to 1.

        out[row, column] = 2 pi [y w, x w],   y = (2 row + 1) / height - 1,   w_i = theta^(-4 i / head_size)

    Args:
        height: number of rows of patches.
        columns: number of columns of patches.
        head_size: number of features of a head, a multiple of 4.
        theta: base of the frequencies.

    Returns:
        [height * columns, head_size / 2] in radians, float32 (computed in float64).
    """
    places = lambda count: (2 * np.arange(count) + 1) / count - 1
    grid = np.stack(np.meshgrid(places(height), places(columns), indexing="ij"), axis=-1).reshape(-1, 2, 1)
    frequencies = theta ** (-4 * np.arange(head_size // 4) / head_size)
    return (2 * math.pi * grid * frequencies).reshape(len(grid), -1).astype(np.float32)


PRESETS: dict[str, dict[str, Any]] = {
    "ViT-S/16": {"width": 384, "depth": 12, "heads": 6, "hidden": 1536},
    "ViT-S+/16": {"width": 384, "depth": 12, "heads": 6, "hidden": 1536, "gated": True},
    "ViT-B/16": {"width": 768, "depth": 12, "heads": 12, "hidden": 3072},
    "ViT-L/16": {"width": 1024, "depth": 24, "heads": 16, "hidden": 4096},
    "ViT-H+/16": {"width": 1280, "depth": 32, "heads": 20, "hidden": 5120, "gated": True},
    "ViT-7B/16": {"width": 4096, "depth": 40, "heads": 32, "hidden": 8192, "gated": True, "biased": ()},
}
"""The published sizes (Simeoni et al., 2025, table 2 and section 5)."""
preset = sizes(DINOv3, PRESETS)
"""A DINOv3 of a published size. See `layers.choices.sizes`."""
