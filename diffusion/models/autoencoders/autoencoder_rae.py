"""The representation autoencoder: the patch features of a frozen image encoder, and a decoder trained on them.

x [B, H, W, 3] - resized - encoder - features of the patches - normalised by stored statistics - z [B, h, w, C]
z [B, h, w, C] - the statistics undone - RAEDecoder - x [B, p h, p w, 3]
"""

from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.autoencoders.encoder_decoder import WithoutPosterior, check_pictures
from diffusion.models.autoencoders.latent_space import Factor, stream_moments
from diffusion.models.autoencoders.rae_decoder import RAEDecoder
from diffusion.models.layers import bicubic

EPSILON = 1e-5  # added to the standard deviations, as published


class AutoencoderRAE(WithoutPosterior):
    """Pictures to normalised features of their patches, and back.

        z = module.apply({"params": params}, x, method="encode")
        x = module.apply({"params": params}, z, method="decode")

        z = (features - mean) / (std + 1e-5)

    The encoder receives pictures of (q H / p) x (q W / p) pixels, where q is the side of its patches and p the side of
    the decoder's, so that the decoded picture has the size of x. For a picture of 256 x 256 pixels, DINOv2 with patches
    of 14 receives 224 x 224 pixels.

    Attributes:
        encoder: an image encoder of `diffusion.models.image_encoders`, or one that is called and sized as they are.
        decoder: decoder that reads its features.
        statistics: shape of the stored mean and standard deviation of the features: (h, w, C) for one at each position,
            as published; (C,) for one in each channel; () for mean 0 and deviation 1.
        scale: scale of the latents, see `latent_space.to_diffusion`.
        shift: shift of the latents, likewise.

    Raises:
        ValueError: at construction, if encoder and decoder differ in their features, or the statistics are of another
            dimension.

    Reference: Zheng et al., "Diffusion Transformers with Representation Autoencoders", 2025.
    """

    encoder: Any
    decoder: RAEDecoder
    statistics: tuple[int, ...] = ()
    scale: Factor = 1.0
    shift: Factor = 0.0

    def __post_init__(self):
        width = self.encoder.width
        if self.decoder.features != width:
            raise ValueError(
                f"the decoder reads {self.decoder.features} features for each patch, but the encoder has {width}"
            )
        if len(self.statistics) not in (0, 1, 3) or self.statistics[-1:] not in ((), (width,)):
            raise ValueError(
                f"statistics={self.statistics}: the encoder has {width} features. Valid: (), ({width},) or "
                f"(h, w, {width})"
            )
        super().__post_init__()

    def setup(self):
        if self.statistics:
            self.features_mean = self.param("features_mean", nn.initializers.zeros, self.statistics)
            self.features_std = self.param("features_std", nn.initializers.ones, self.statistics)

    @property
    def picture_channels(self) -> int:
        """The number of channels of the pictures."""
        return self.decoder.picture_channels

    @property
    def latent_channels(self) -> int:
        """C, of the latents."""
        return self.decoder.features

    @property
    def factor(self) -> int:
        """p, by which the sides of a latent are smaller than the picture's."""
        return self.decoder.patch

    def features(self, x: jax.Array) -> jax.Array:
        """The features of pictures as the encoder has them, [B, H/p, W/p, C] float32; arguments as `encode`."""
        check_pictures(x, self.picture_channels, self.factor)
        grid = (x.shape[1] // self.factor, x.shape[2] // self.factor)
        patches = self.encoder(resized(x, tuple(self.encoder.patch * side for side in grid))).patches
        return patches.reshape(x.shape[0], *grid, patches.shape[-1])

    def _latent(self, x: jax.Array) -> jax.Array:
        features = self.features(x)
        mean, std = self._moments(features.shape)
        return (features - mean) / std

    def _picture(self, z: jax.Array) -> jax.Array:
        mean, std = self._moments(z.shape)
        return self.decoder(z * std + mean)

    def _moments(self, shape: tuple[int, ...]) -> tuple[jax.typing.ArrayLike, jax.typing.ArrayLike]:
        """The mean and the standard deviation of latents of a shape, which must be that of stored statistics."""
        if not self.statistics:
            return 0.0, 1.0 + EPSILON
        if len(self.statistics) == 3 and shape[1:] != self.statistics:
            height, width = (self.factor * side for side in self.statistics[:2])
            raise ValueError(
                f"the statistics belong to features of the shape {self.statistics}, but these have {shape[1:]}. "
                f"Valid: pictures of {height} x {width}"
            )
        return self.features_mean, self.features_std + EPSILON


def resized(x: jax.Array, to: tuple[int, int]) -> jax.Array:
    """Pictures [B, H, W, C] of another size, by PyTorch's bicubic interpolation, which does not antialias."""
    if x.shape[1:3] == to:
        return x
    rows, columns = (jnp.asarray(bicubic.plain(*sides), x.dtype) for sides in zip(x.shape[1:3], to))
    return jax.vmap(lambda picture: bicubic.interpolated(picture, rows, columns))(x)


def measured(features: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the standard deviation of each position's features in a stream of them.

    Args:
        features: batches [B, h, w, C], of any sizes; none of them is kept.

    Returns:
        (mean, std), each [h, w, C] float32; the deviation is taken over the whole stream, without Bessel's correction.

    Raises:
        ValueError: for a stream of fewer than two, or numbers that are not finite.
    """
    count, mean, squares = stream_moments(features)
    if count < 2 or not np.isfinite(squares).all():
        raise ValueError(f"statistics need at least two pictures with finite features; got {count}")
    return mean.astype(np.float32), np.sqrt(squares / count).astype(np.float32)


def with_statistics(
    module: AutoencoderRAE, params: Any, mean: np.ndarray, std: np.ndarray
) -> tuple[AutoencoderRAE, Any]:
    """The same autoencoder with other statistics of its features.

    Args:
        module: the autoencoder.
        params: its parameters.
        mean: mean of the features, [h, w, C] or [C].
        std: standard deviation of the features, likewise.

    Returns:
        (module, params).

    Raises:
        ValueError: for statistics of another dimension than the encoder's features.
    """
    module = module.clone(statistics=tuple(np.shape(mean)))
    if np.shape(mean) != np.shape(std):
        raise ValueError(
            f"the mean of the features has the shape {np.shape(mean)}, and their standard deviation {np.shape(std)}; "
            "both must have one shape"
        )
    return module, {**params, "features_mean": jnp.asarray(mean), "features_std": jnp.asarray(std)}
