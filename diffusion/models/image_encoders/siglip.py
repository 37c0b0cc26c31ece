"""SigLIP 2's image tower: a vision transformer whose pooled vector lies in the space that it shares with texts."""

import functools
from typing import Any

import flax.linen as nn
import jax

from diffusion.models.image_encoders.image_features import ImageFeatures, PromptReading
from diffusion.models.layers.choices import sizes
from diffusion.models.layers.vision_layers import (
    AttentionPool,
    Patches,
    Positions,
    VisionTransformer,
    encoder_layers,
    images_checked,
)


class SigLIP(VisionTransformer):
    """SigLIP's image tower: images [B, H, W, 3] in [-1, 1] -> `ImageFeatures`; pooled is what texts are compared with.

    Its normalisation, mean and standard deviation 1/2 of each channel in [0, 1], gives images in [-1, 1]. SigLIP
    and the networks of SigLIP 2 for one resolution have this architecture (those for any aspect, "naflex", do not).

    Attributes:
        size: side of the images whose grid of positions was learned, in pixels. Other sides interpolate the grid.
        patch: side of a patch. The rest of a side after whole patches is cut off (of 384 pixels, 6 for patches of
            14), as published.
        width: number of features of a token, and of the pooled vector.
        hidden: number of features inside the MLPs.
        epsilon: epsilon of the norms, > 0.
        affine: whether the last norm has a scale and a shift, as published; representation autoencoders leave them out.

    References:
        Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023.
        Tschannen et al., "SigLIP 2: Multilingual Vision-Language Encoders", 2025.
    """

    size: int
    patch: int
    epsilon: float = 1e-6
    affine: bool = True

    @property
    def prompt_reading(self) -> PromptReading:
        read: Any = lambda params, images, skip: self.apply({"params": params}, images, skip=skip)
        features, inner = (functools.partial(read, skip=skip) for skip in (0, 1))
        return PromptReading(self.size, 0, (0.5, 0.5, 0.5), self.width, self.width, features, inner)

    @nn.compact
    def __call__(self, images: jax.Array, *, skip: int = 0) -> ImageFeatures:
        """Args:
            images: [B, H, W, 3] in [-1, 1].
            skip: number of last layers that the patches skip (Stable Diffusion 3's IP-Adapter: 1).

        Returns:
            `ImageFeatures`: patches [B, N, width], normalised unless layers are skipped, and the pooled vector [B,
            width], of any length.

        Raises:
            ValueError: for images of another shape or of integers.
        """
        multiple = lambda side: side // self.patch * self.patch
        images = images[:, : multiple(images.shape[1]), : multiple(images.shape[2])] if images.ndim == 4 else images
        grid = images_checked(images, self.patch)
        x = Patches(self.width, self.patch, self.dtype, name="patches")(images)
        positions = Positions(self.size // self.patch, name="positions")(self.width, *grid)
        x = encoder_layers(self, "gelu_tanh")(x + positions.astype(x.dtype), skip=skip)
        x, patches = x if skip else (x, x)
        pool = AttentionPool(
            self.heads, self.hidden, "gelu_tanh", self.epsilon, self.attention, self.dtype, name="pool"
        )
        return ImageFeatures(patches, pool(x))


SIZES: dict[str, dict[str, Any]] = {
    "ViT-B": {"width": 768, "depth": 12, "heads": 12, "hidden": 3072},
    "ViT-L": {"width": 1024, "depth": 24, "heads": 16, "hidden": 4096},
    "So400m": {"width": 1152, "depth": 27, "heads": 16, "hidden": 4304},
    "g-opt": {"width": 1536, "depth": 40, "heads": 16, "hidden": 6144},
}
SIDES = {
    "ViT-B/32": (256,),
    "ViT-B/16": (224, 256, 384, 512),
    "ViT-L/16": (256, 384, 512),
    "So400m/14": (224, 384),
    "So400m/16": (256, 384, 512),
    "g-opt/16": (256, 384),
}
PRESETS: dict[str, dict[str, Any]] = {
    f"{name}@{side}": {**SIZES[name.split("/")[0]], "patch": int(name.split("/")[1]), "size": side}
    for name, sides in SIDES.items()
    for side in sides
}
"""The published networks of SigLIP 2 for one resolution, "So400m/14@384" (Tschannen et al., 2025, table 1)."""
preset = sizes(SigLIP, PRESETS)
"""A SigLIP 2 of a published size. See `layers.choices.sizes`."""
