"""LPIPS: the features of VGG16 by which pictures are compared as people do, and their weights."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.objectives.autoencoder_terms import Perceived

CONVOLUTIONS = (2, 2, 3, 3, 3)
"""Convolutions of each stage of VGG16."""
WIDTHS = (64, 128, 256, 512, 512)
"""Channels of each stage of VGG16."""
SHIFT = (-0.030, -0.088, -0.188)  # shift of pictures in [-1, 1], before the published scale
SCALE = (0.458, 0.448, 0.450)


class LPIPS(nn.Module):
    """VGG16's features of pictures, for `perceptual_distance`: [B, H, W, C] in [-1, 1] -> `Perceived`.

        stage i: (max-pooling by 2, from the second stage on) - [conv 3x3 - relu] x CONVOLUTIONS[i]

    The features are taken after each stage. Pictures of one channel are repeated to three.

    Attributes:
        widths: channels of each stage; fewer stages than five for pictures of fewer than 16 pixels.

    Raises:
        ValueError: at construction, for more stages than five; when called, for pictures too small for them.

    Reference: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", 2018: its version
    0.1 with VGG16; Simonyan and Zisserman, "Very Deep Convolutional Networks", 2015.
    """

    widths: tuple[int, ...] = WIDTHS

    def __post_init__(self):
        if not 1 <= len(self.widths) <= len(CONVOLUTIONS) or min(self.widths) < 1:
            raise ValueError(
                f"widths={self.widths} must be 1 to {len(CONVOLUTIONS)} positive numbers, one for each stage"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array) -> Perceived:
        """Args:
        x: pictures [B, H, W, 3] or [B, H, W, 1] in [-1, 1].
        """
        least = 2 ** (len(self.widths) - 1)
        if x.ndim != 4 or x.shape[-1] not in (1, 3) or min(x.shape[1:3]) < least:
            raise ValueError(
                f"a network with {len(self.widths)} stages takes pictures [B, H, W, 3] of at least {least} x {least} "
                f"pixels; got an array of shape {x.shape}"
            )
        x = (jnp.broadcast_to(x, (*x.shape[:-1], 3)) - jnp.asarray(SHIFT)) / jnp.asarray(SCALE)
        layers = []
        for stage, width in enumerate(self.widths):
            x = nn.max_pool(x, (2, 2), (2, 2)) if stage else x
            for i in range(CONVOLUTIONS[stage]):
                x = nn.relu(nn.Conv(width, (3, 3), padding=1, name=f"conv_{stage}_{i}")(x))
            layers.append(x)
        weights = [self.param(f"weights_{i}", nn.initializers.ones, (width,)) for i, width in enumerate(self.widths)]
        return Perceived(layers, weights)
