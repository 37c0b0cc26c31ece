"""The plain vision transformer, on which the encoders of MAE, I-JEPA and BLIP are built."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.image_encoders.image_features import ImageFeatures
from diffusion.models.layers.vision_layers import (
    IMAGENET,
    Patches,
    Positions,
    VisionTransformer,
    encoder_layers,
    images_checked,
    normal,
    normalised,
)


class PlainViT(VisionTransformer):
    """A plain vision transformer: images [B, H, W, 3] in [-1, 1] -> `ImageFeatures`; pooled is the class token.

        tokens = [class, patches] + positions, through pre-norm layers and a norm

    The network normalises the images by the mean and standard deviation of each channel, which are the class's
    `statistics`. If `leading` is False, the network has no class token, and pooled is the mean of the patches.

    Attributes:
        size: side in pixels of the images for which the grid of positions was learned; for other sides the grid is
            interpolated.
        patch: side of a patch in pixels.
        epsilon: epsilon of the norms, > 0.
        affine: whether the last norm has a scale and a shift, as in the paper; representation autoencoders omit them.

    Reference: Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021.
    """

    size: int = 224
    patch: int = 16
    epsilon: float = 1e-6
    affine: bool = True
    statistics = IMAGENET
    leading = True

    @nn.compact
    def __call__(self, images: jax.Array) -> ImageFeatures:
        """Args:
            images: [B, H, W, 3] in [-1, 1]; the patch divides H and W.

        Returns:
            `ImageFeatures`: the normalised features of the patches, [B, N, width], and those of the class token, or the
            mean of the patches, [B, width].

        Raises:
            ValueError: if the images have another shape, or are integers.
        """
        grid = images_checked(images, self.patch)
        x = Patches(self.width, self.patch, self.dtype, name="patches")(normalised(images, *self.statistics))
        if self.leading:
            first = self.param("class_token", normal, (1, self.width)).astype(x.dtype)
            x = jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, self.width)), x], axis=1)
        positions = Positions(self.size // self.patch, int(self.leading), name="positions")(self.width, *grid)
        x = encoder_layers(self)(x + positions.astype(x.dtype))
        return ImageFeatures(x[:, 1:], x[:, 0]) if self.leading else ImageFeatures(x, x.mean(axis=1))
