"""ConvNeXt and ConvNeXt V2: convolutional networks in the manner of transformers, trained on ImageNet's classes.

    images [B, H, W, 3] - conv 4x4 / 4, norm - [stage] - norm, conv 2x2 / 2 - [stage] - ... - patches [B, H/32 W/32, D]
    a block of a stage: x + scale * dense(GRN(gelu(dense(norm(depthwise conv 7x7 (x))))))

V2 has the response normalisation GRN and no scale, V1 the scale and no GRN.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.image_encoders.image_features import ImageFeatures
from diffusion.models.layers.choices import look_up
from diffusion.models.layers.vision_layers import IMAGENET, images_checked, normal, normalised

EPSILON = 1e-6  # epsilon of the norms inside, and of GRN


class ResponseNorm(nn.Module):
    """Global response normalisation: x + scale * x |x| / mean |x| + bias, |x| a channel's length over the image."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        length = jnp.sqrt(jnp.square(x.astype(jnp.float32)).sum(axis=(1, 2), keepdims=True))
        share = length / (length.mean(axis=-1, keepdims=True) + EPSILON)
        return (x + scale * (x * share) + bias).astype(x.dtype)


class _Block(nn.Module):
    version: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        dense = lambda features, name: nn.Dense(features, dtype=self.dtype, kernel_init=normal, name=name)
        depthwise = nn.Conv(
            width, (7, 7), feature_group_count=width, dtype=self.dtype, kernel_init=normal, name="depthwise"
        )
        h = nn.LayerNorm(EPSILON, dtype=self.dtype, name="norm")(depthwise(x))
        h = nn.gelu(dense(4 * width, "hidden")(h), approximate=False)
        if self.version == 2:
            h = ResponseNorm(name="response")(h)
        h = dense(width, "out")(h)
        if self.version == 1:
            h = h * self.param("scale", nn.initializers.constant(1e-6), (width,), jnp.float32).astype(h.dtype)
        return x + h


class ConvNeXt(nn.Module):
    """A ConvNeXt on images [B, H, W, 3] in [-1, 1] -> `ImageFeatures`; pooled is the norm of the mean of the patches.

    The images are normalised inside by ImageNet's mean and standard deviation of each channel. The patches are the last
    stage's features before any norm, and their mean is what timm calls the features of the network.

    Attributes:
        widths: channels of each stage; the last entry is `width`.
        depths: blocks of each stage.
        version: 1, or 2.
        epsilon: epsilon of the last norm: 1e-12 in transformers' configs, 1e-6 in the authors' code and timm.
        dtype: compute type, "float32" or "bfloat16"; parameters and outputs are float32.

    Raises:
        ValueError: at construction, for a field out of range.

    Reference: Liu et al., "A ConvNet for the 2020s", 2022; Woo et al., "ConvNeXt V2: Co-designing and Scaling ConvNets
    with Masked Autoencoders", 2023.
    """

    widths: tuple[int, ...] = (128, 256, 512, 1024)
    depths: tuple[int, ...] = (3, 3, 27, 3)
    version: int = 2
    epsilon: float = 1e-12
    dtype: str = "float32"

    def __post_init__(self):
        if len(self.widths) != len(self.depths) or not all(n > 0 for n in (*self.widths, *self.depths)):
            raise ValueError(
                f"widths={self.widths}, depths={self.depths} must both have one positive number for each stage"
            )
        if self.version not in (1, 2):
            raise ValueError(f"version={self.version} must be 1 or 2")
        super().__post_init__()

    @property
    def patch(self) -> int:
        """Pixels along a side of a patch: 32 for four stages."""
        return 2 ** (len(self.widths) + 1)

    @property
    def width(self) -> int:
        """Features of a patch."""
        return self.widths[-1]

    @nn.compact
    def __call__(self, images: jax.Array) -> ImageFeatures:
        """Args:
            images: [B, H, W, 3] in [-1, 1]; `patch` divides H and W.

        Returns:
            `ImageFeatures`: patches [B, N, width], and the normalised mean of them [B, width].

        Raises:
            ValueError: for images of another shape or of integers.
        """
        images_checked(images, self.patch)
        norm = lambda name: nn.LayerNorm(EPSILON, dtype=self.dtype, name=name)
        conv = lambda width, side, name: nn.Conv(
            width, (side, side), (side, side), "VALID", dtype=self.dtype, kernel_init=normal, name=name
        )
        x = norm("stem_norm")(conv(self.widths[0], 4, "stem")(normalised(images, *IMAGENET).astype(self.dtype)))
        for stage, (width, depth) in enumerate(zip(self.widths, self.depths)):
            if stage:
                x = conv(width, 2, f"down_{stage}")(norm(f"down_{stage}_norm")(x))
            for block in range(depth):
                x = _Block(self.version, self.dtype, name=f"stage_{stage}_block_{block}")(x)
        patches = x.reshape(len(x), -1, self.width).astype(jnp.float32)
        return ImageFeatures(patches, nn.LayerNorm(self.epsilon, name="norm")(patches.mean(axis=1)))


PRESETS: dict[str, dict[str, Any]] = {
    "V1-T": {"widths": (96, 192, 384, 768), "depths": (3, 3, 9, 3), "version": 1},
    "V1-S": {"widths": (96, 192, 384, 768), "version": 1},
    "V1-B": {"version": 1},
    "V1-L": {"widths": (192, 384, 768, 1536), "version": 1},
    "V2-T": {"widths": (96, 192, 384, 768), "depths": (3, 3, 9, 3)},
    "V2-B": {},
    "V2-L": {"widths": (192, 384, 768, 1536)},
    "V2-H": {"widths": (352, 704, 1408, 2816)},
}
"""The published sizes (Liu et al., 2022, section 3; Woo et al., 2023, appendix)."""


def preset(name: str, **options: Any) -> ConvNeXt:
    """A ConvNeXt of a published size.

    Args:
        name: name in PRESETS.
        **options: other fields of `ConvNeXt`.

    Raises:
        ValueError: for an unknown name, and as `ConvNeXt`.
    """
    return ConvNeXt(**(look_up(PRESETS, name, "size") | options))
