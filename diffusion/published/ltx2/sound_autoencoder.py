"""LTX-2's autoencoder of sounds: latents of spectrograms, 4 times shorter and with a quarter of the bands.

    x [B, 1 + 4 n, M, C] - Encoder - mean [B, 1 + n, M/4, D], log variance
    z [B, 1 + n, M/4, D] - Decoder - x [B, 1 + 4 n, M, C]

    encoder: conv - [block x layers - halve] x levels - block x 2 - norm - conv
    decoder: conv - block x 2 - [block x (layers + 1) - double] x levels - norm - conv

A convolution sees no later frame; x has C channels of M logarithmic mel bands, 100 frames a second.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.autoencoders.latent_space import LOG_VARIANCE, Factor, Moments, from_diffusion, to_diffusion
from diffusion.models.layers.network_bases import CheckedNetwork
from diffusion.models.layers.norms import rms_norm

LEVELS = 3
FACTOR = 2 ** (LEVELS - 1)


class SoundConv(nn.Module):
    """A convolution of 3 x 3, or 1 x 1, over earlier frames and the bands on both sides, padded with zeros."""

    features: int
    size: int = 3
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        padding = ((self.size - 1, 0), (self.size // 2, self.size // 2))
        conv = nn.Conv(self.features, (self.size, self.size), padding=padding, dtype=self.dtype, name="conv")
        return conv(x)


class SoundBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))); x through a dense layer where it has other channels."""

    features: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = x
        for i in (1, 2):
            h = SoundConv(self.features, dtype=self.dtype, name=f"conv_{i}")(nn.silu(rms_norm(h)))
        if x.shape[-1] != self.features:
            x = SoundConv(self.features, 1, self.dtype, name="shortcut")(x)
        return x + h


class SoundEncoder(nn.Module):
    """[B, T, M, C] -> [B, ceil(T / 4), M / 4, outputs]; fields as `LTX2SoundAutoencoder`."""

    width: int
    multiples: tuple[int, ...]
    layers: int
    outputs: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = SoundConv(self.width, dtype=self.dtype, name="conv_in")(x)
        for i, multiple in enumerate(self.multiples):
            for j in range(self.layers):
                x = SoundBlock(self.width * multiple, self.dtype, name=f"level_{i}_block_{j}")(x)
            if i < LEVELS - 1:
                how: Any = {"strides": (2, 2), "padding": ((2, 0), (0, 1)), "dtype": self.dtype}
                x = nn.Conv(x.shape[-1], (3, 3), **how, name=f"halve_{i}")(x)
        for j in (1, 2):
            x = SoundBlock(x.shape[-1], self.dtype, name=f"middle_block_{j}")(x)
        # In float32: bfloat16 would round the output to 8 bits.
        return SoundConv(self.outputs, name="conv_out")(nn.silu(rms_norm(x)))


class SoundDecoder(nn.Module):
    """[B, T, M, D] -> [B, 4 T - 3, 4 M, outputs]; fields as `LTX2SoundAutoencoder`."""

    width: int
    multiples: tuple[int, ...]
    layers: int
    outputs: int
    dtype: str

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        x = SoundConv(self.width * self.multiples[-1], dtype=self.dtype, name="conv_in")(z)
        for j in (1, 2):
            x = SoundBlock(x.shape[-1], self.dtype, name=f"middle_block_{j}")(x)
        for i in reversed(range(LEVELS)):
            for j in range(self.layers + 1):
                x = SoundBlock(self.width * self.multiples[i], self.dtype, name=f"level_{i}_block_{j}")(x)
            if i:
                x = x.repeat(2, axis=1).repeat(2, axis=2)
                x = SoundConv(x.shape[-1], dtype=self.dtype, name=f"double_{i}")(x)[:, 1:]
        return SoundConv(self.outputs, name="conv_out")(nn.silu(rms_norm(x)))


class LTX2SoundAutoencoder(CheckedNetwork):
    """Spectrograms to the moments of a Gaussian, and latents to spectrograms.

    `tokens` turns latents into a diffusion model's sound [B, L, D M/4], with one token for each frame of the latents,
    and `latents` is its inverse. Their scale and shift are those of a token's features, the bands of a channel one
    after the other.

    Attributes:
        width: channels of the first level.
        multiples: channels of the levels, as multiples of `width`; three.
        layers: residual blocks of each level of the encoder; the decoder has one more.
        latent_channels: number D of the latents' channels.
        channels: number C of a spectrogram's channels, 2 for stereo.
        bands: number M of bands, a multiple of 4.
        scale, shift: scale and shift of a token's features, see `latent_space.to_diffusion`; one number or D M/4.
        dtype: compute type, "float32" or "bfloat16"; outputs are float32.

    Reference: HaCohen et al., "LTX-2: Efficient Joint Audio-Visual Foundation Model", 2026; its code in diffusers.
    """

    width: int = 128
    multiples: tuple[int, ...] = (1, 2, 4)
    layers: int = 2
    latent_channels: int = 8
    channels: int = 2
    bands: int = 64
    scale: Factor = 1.0
    shift: Factor = 0.0
    kind = "autoencoder"
    positive = ("width", "layers", "latent_channels", "channels", "bands")

    def check_fields(self) -> None:
        if len(self.multiples) != LEVELS or min(self.multiples) < 1:
            raise ValueError(f"multiples={self.multiples} must be {LEVELS} positive numbers")
        if self.bands % FACTOR:
            raise ValueError(f"bands={self.bands} must be a multiple of {FACTOR}")
        for field in ("scale", "shift"):
            value = getattr(self, field)
            if isinstance(value, tuple) and len(value) != self.features:
                raise ValueError(f"{field} has {len(value)} numbers, but a token {self.features} features")

    def setup(self):
        fields = (self.width, self.multiples, self.layers)
        self.encoder = SoundEncoder(*fields, 2 * self.latent_channels, self.dtype)
        self.decoder = SoundDecoder(*fields, self.channels, self.dtype)

    @property
    def features(self) -> int:
        """Number of features of a token, D M/4."""
        return self.latent_channels * self.bands // FACTOR

    def encode(self, x: jax.Array) -> Moments:
        """The posterior of spectrograms [B, T, M, C]: mean and log variance [B, ceil(T / 4), M/4, D], float32.

        Raises:
            ValueError: for another number of bands or channels.
        """
        if x.ndim != 4 or x.shape[2:] != (self.bands, self.channels):
            raise ValueError(f"spectrograms must be [B, T, {self.bands}, {self.channels}]; got {x.shape}")
        mean, log_variance = jnp.split(self.encoder(x), 2, axis=-1)
        return Moments(mean, log_variance.clip(*LOG_VARIANCE))

    def decode(self, z: jax.Array) -> jax.Array:
        """The spectrograms [B, 4 L - 3, M, C] of latents [B, L, M/4, D], float32.

        Raises:
            ValueError: for another number of bands or channels.
        """
        if z.ndim != 4 or z.shape[2:] != (self.bands // FACTOR, self.latent_channels):
            raise ValueError(
                f"latents of sounds must be [B, L, {self.bands // FACTOR}, {self.latent_channels}]; got {z.shape}"
            )
        return self.decoder(z)

    def tokens(self, z: jax.Array) -> jax.Array:
        """Latents [B, L, M/4, D] as a diffusion model reads them, [B, L, D M/4]."""
        return to_diffusion(z.swapaxes(2, 3).reshape(*z.shape[:2], -1), self.scale, self.shift)

    def latents(self, tokens: jax.Array) -> jax.Array:
        """The latents [B, L, M/4, D] of tokens, as the decoder reads them; the inverse of `tokens`."""
        z = from_diffusion(tokens, self.scale, self.shift)
        return z.reshape(*z.shape[:2], self.latent_channels, -1).swapaxes(2, 3)

    def __call__(self, x: jax.Array) -> jax.Array:
        """The reconstruction of spectrograms from the mean of their posterior."""
        return self.decode(self.encode(x).mean)
