"""FLUX.1 Redux: the tokens of a picture, by SigLIP, as further tokens of the text."""

import flax.linen as nn
import jax

from diffusion.models.layers import network_checks
from diffusion.models.layers.blocks import xavier


class Redux(nn.Module):
    """Two dense layers on each token: `apply(variables, x)`.

        y = down(silu(up(x)))

    Attributes:
        features: number F of features of the image encoder's tokens.
        text_width: number E of features of the text's tokens; there are three times as many between the layers.

    Raises:
        ValueError: from the constructor, for a field below 1.

    Reference: the code of FLUX.1 Tools (Black Forest Labs, 2024).
    """

    features: int = 1152
    text_width: int = 4096

    def __post_init__(self):
        network_checks.positive(self, ("features", "text_width"))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Args:
            x: [B, N, F], tokens of pictures after the last norm of the image encoder, float32.

        Returns:
            [B, N, E], float32.

        Raises:
            ValueError: for tokens of another shape.
        """
        if x.ndim != 3 or x.shape[-1] != self.features:
            raise ValueError(f"tokens of pictures must be [B, N, features] = (B, N, {self.features}); got {x.shape}")
        hidden = nn.Dense(3 * self.text_width, kernel_init=xavier, name="up")(x)
        return nn.Dense(self.text_width, kernel_init=xavier, name="down")(nn.silu(hidden))
