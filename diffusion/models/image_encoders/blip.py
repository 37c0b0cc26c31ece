"""BLIP's image tower: a plain vision transformer, whose tokens a text encoder attends to."""

__all__ = ["BLIP"]

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.image_encoders.image_features import ImageFeatures
from diffusion.models.layers.vision_layers import Layers, Patches, Positions, check, images_checked, normal, normalised
from diffusion.models.text_encoders.clip import MEAN, STD


class BLIP(nn.Module):
    """BLIP's image tower: images [B, H, W, 3] in [-1, 1] -> `ImageFeatures`; pooled is the class token.

    The images are normalised inside by the mean and standard deviation of CLIP's training pictures.

    Attributes:
        size: side of the images whose grid of positions was learned, in pixels; other sides interpolate the grid.
        patch: side of a patch.
        width: number of features of a token.
        depth: number of layers.
        heads: number of attention heads, a divisor of the width.
        hidden: number of features inside the MLP.
        epsilon: epsilon of the norms: 1e-6 in the authors' code, 1e-5 in transformers' configs.
        attention: implementation, see `diffusion.models.layers.attention`.
        dtype: compute type, "float32" or "bfloat16"; parameters and outputs are float32.

    Raises:
        ValueError: at construction, for a field out of range or an unknown name.

    Reference: Li et al., "BLIP: Bootstrapping Language-Image Pre-training", 2022; salesforce/BLIP, models/vit.py.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    size: int = 224
    patch: int = 16
    epsilon: float = 1e-6
    attention: str = "auto"
    dtype: str = "float32"

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
        x = Patches(self.width, self.patch, self.dtype, name="patches")(normalised(images, MEAN, STD))
        first = self.param("class_token", normal, (1, self.width)).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, self.width)), x], axis=1)
        positions = Positions(self.size // self.patch, 1, name="positions")(self.width, *grid)
        encoder = Layers(
            self.depth,
            self.heads,
            self.hidden,
            self.epsilon,
            attention=self.attention,
            dtype=self.dtype,
            name="encoder",
        )
        x = encoder(x + positions.astype(x.dtype))
        return ImageFeatures(x[:, 1:], x[:, 0])
