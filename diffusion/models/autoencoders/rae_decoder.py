"""The decoder of a representation autoencoder: a vision transformer from an encoder's patch features to pixels."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays.boxes import unpatchify
from diffusion.models.layers import network_checks
from diffusion.models.layers.choices import look_up
from diffusion.models.layers.cross_attention import xavier
from diffusion.models.layers.embeddings import sincos_positions
from diffusion.models.layers.network_bases import CheckedNetwork
from diffusion.models.layers.vision_layers import IMAGENET, Layers

SPAN = 16.0  # range of the fixed positions along a side: for any grid that of the published 16 x 16 patches


class RAEDecoder(CheckedNetwork):
    """Features of patches [B, h, w, C] -> pictures [B, p h, p w, picture_channels], about in [-1, 1] and not clipped.

        tokens = [class token, dense(z) + fixed positions] - layers - norm - dense - patches of p x p pixels

    The last layer predicts pixels as the encoder's normalisation leaves them, (y - mean) / std for y in [0, 1].

    Attributes:
        features: number C of features of the encoder.
        width: number of features of a token; four divides it.
        depth: number of layers.
        heads: number of attention heads, a divisor of the width.
        hidden: number of features inside the MLP.
        patch: p, side of a decoded patch.
        picture_channels: number of channels of the pictures.
        mean: mean of each channel; ImageNet's for encoders of the DINO and MAE families, 1/2 for SigLIP; 0 in RAEv2.
        std: standard deviation of each channel; 1/2 for SigLIP; 1 in RAEv2.
        epsilon: epsilon of the norms, > 0.

    Reference: Zheng et al., "Diffusion Transformers with Representation Autoencoders", 2025, section 3.1; the layers
    follow MAE's decoder.
    """

    features: int
    width: int
    depth: int
    heads: int
    hidden: int
    patch: int = 16
    picture_channels: int = 3
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    epsilon: float = 1e-12
    positive = ("picture_channels",)
    kind = "decoder"
    ranks = (3,)

    def check_fields(self) -> None:
        network_checks.tower(self)
        if self.width % 4:
            raise ValueError(f"width={self.width} must be a multiple of 4, for the fixed positions")
        for field in ("mean", "std"):
            if len(getattr(self, field)) != self.picture_channels:
                raise ValueError(
                    f"{field}={getattr(self, field)} must have one number for each of the {self.picture_channels} "
                    "channels"
                )

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """Args:
            z: features of the patches [B, h, w, C], neither scaled nor shifted.

        Returns:
            Pictures [B, p h, p w, picture_channels], float32.

        Raises:
            ValueError: for another number of features.
        """
        if z.ndim != 4 or z.shape[-1] != self.features:
            raise ValueError(
                f"this decoder reads {self.features} features for each patch, [B, h, w, {self.features}]; got an "
                f"array of shape {z.shape}"
            )
        size, rows, columns, _ = z.shape
        dense = lambda to, dtype, name: nn.Dense(to, dtype=dtype, kernel_init=xavier, name=name)
        x = dense(self.width, self.dtype, "embed")(z.reshape(size, rows * columns, -1))
        x = x + jnp.asarray(sincos_positions(rows, columns, self.width, SPAN), x.dtype)
        first = self.param("class_token", nn.initializers.zeros, (1, self.width)).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(first, (size, 1, self.width)), x], axis=1)
        layers = Layers(
            self.depth, self.heads, self.hidden, self.epsilon, attention=self.attention, dtype=self.dtype, name="layers"
        )
        pixels = dense(self.patch**2 * self.picture_channels, "float32", "out")(layers(x)[:, 1:])
        pictures = unpatchify(pixels, self.patch, self.patch * rows, self.patch * columns)
        return 2 * (pictures * jnp.asarray(self.std) + jnp.asarray(self.mean)) - 1


PRESETS: dict[str, dict[str, Any]] = {
    "ViT-B": {"width": 768, "depth": 12, "heads": 12, "hidden": 3072},
    "ViT-L": {"width": 1024, "depth": 24, "heads": 16, "hidden": 4096},
    "ViT-XL": {"width": 1152, "depth": 28, "heads": 16, "hidden": 4096},
}
"""The published sizes (Zheng et al., 2025, table 1b), as diffusers' conversion of the authors' files states them."""


def preset(name: str, features: int, **options: Any) -> RAEDecoder:
    """A decoder of a published size.

    Args:
        name: name in PRESETS.
        features: number of features of the encoder.
        **options: other fields of `RAEDecoder`.

    Raises:
        ValueError: for an unknown name, and as `RAEDecoder`.
    """
    return RAEDecoder(features, **look_up(PRESETS, name, "size"), **options)
