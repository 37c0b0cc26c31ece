"""HunyuanVideo's autoencoder: causal convolutions that repeat the pixels at the edge, and norms over a whole video.

    x [B, 1 + f_t n, H, W, C] - Encoder - (conv 1x1) - mean, log variance [B, 1 + n, H/f, W/f, D]
    z [B, 1 + n, h, w, D]     - (conv 1x1) - Decoder - x [B, 1 + f_t n, f h, f w, C]

    encoder: conv - [block x layers - halve sides (and time)] x levels - block - attention - block - norm - conv
    decoder: conv - block - attention - block - [block x (layers + 1) - double] x levels - norm - conv

The convolutions and the attention see no later frame, but the norms see all frames. The authors encode and decode
longer clips in parts, which are blended (`clip_parts.blended`).
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.autoencoders.causal_layers import doubled
from diffusion.models.autoencoders.clip_parts import blended
from diffusion.models.autoencoders.edge_convolution import EdgeConv
from diffusion.models.autoencoders.latent_space import Factor
from diffusion.models.autoencoders.video_autoencoder import VideoAutoencoder, check_levels
from diffusion.models.layers.attention import attention, mask_bias
from diffusion.models.layers.network_bases import CheckedNetwork


class VideoBlock(nn.Module):
    """x + conv(silu(norm(h))), h = conv(silu(norm(x))).

    Attributes:
        features: number of channels of the output; if x has another number, it goes through a convolution of one pixel
            before the sum.
        norm: function from a name to a norm.
        dtype: compute type.
    """

    features: int
    norm: Callable[..., nn.Module]
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = x
        for i in (1, 2):
            h = nn.silu(self.norm(name=f"norm_{i}")(h))
            h = EdgeConv(self.features, repeats=True, dtype=self.dtype, name=f"conv_{i}")(h)
        if x.shape[-1] != self.features:
            x = EdgeConv(self.features, (1, 1, 1), dtype=self.dtype, name="shortcut")(x)
        return x + h


class CausalAttention(nn.Module):
    """x + project(attention(norm(x))): a pixel attends to pixels of its frame and of earlier frames, with one head."""

    norm: Callable[..., nn.Module]
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, frames, height, width, channels = x.shape
        dense = lambda name: nn.Dense(channels, dtype=self.dtype, name=name)
        h = self.norm(name="norm")(x).reshape(batch, -1, 1, channels)
        times = np.repeat(np.arange(frames), height * width)
        bias = mask_bias(jnp.asarray(times[:, None] >= times)[None])
        q, k, v = (dense(name)(h) for name in ("query", "key", "value"))
        return x + dense("project")(attention(q, k, v, self.attention, bias)).reshape(x.shape)


class Levels(nn.Module):
    """The common base of the encoder and the decoder.

    Attributes:
        widths, layers, halvings, mixes: fields of `AutoencoderKLHunyuanVideo`.
        norm: function from a name to a norm.
        outputs: number of channels of the output.
        attention: implementation of the attention, see `diffusion.models.layers.attention`.
        dtype: compute type.
    """

    widths: tuple[int, ...]
    layers: int
    halvings: int
    norm: Callable[..., nn.Module]
    mixes: bool
    outputs: int
    attention: str
    dtype: str

    def mixed(self, x: jax.Array) -> jax.Array:
        """The features x behind block - attention - block at the smallest side, in the shape of x."""
        x = VideoBlock(self.widths[-1], self.norm, self.dtype, name="middle_block_0")(x)
        if self.mixes:
            x = CausalAttention(self.norm, self.attention, self.dtype, name="mixing")(x)
        return VideoBlock(self.widths[-1], self.norm, self.dtype, name="middle_block_1")(x)

    def last(self, x: jax.Array) -> jax.Array:
        """The output, in float32: bfloat16 would round it to 8 bits."""
        h = nn.silu(self.norm(name="norm_out")(x))
        return EdgeConv(self.outputs, repeats=True, name="conv_out")(h)


class Encoder(Levels):
    """The encoder: videos [B, 1 + f_t n, H, W, C] -> [B, 1 + n, H/f, W/f, outputs]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = lambda width, name, **how: EdgeConv(width, repeats=True, dtype=self.dtype, name=name, **how)
        last = len(self.widths) - 1
        x = conv(self.widths[0], "conv_in")(x)
        for i, width in enumerate(self.widths):
            for j in range(self.layers):
                x = VideoBlock(width, self.norm, self.dtype, name=f"level_{i}_block_{j}")(x)
            if i < last:
                stride = (2 if i >= last - self.halvings else 1, 2, 2)
                x = conv(width, f"down_{i}", stride=stride)(x)
        return self.last(self.mixed(x))


class Decoder(Levels):
    """The decoder: latents [B, 1 + n, h, w, D] -> [B, 1 + f_t n, f h, f w, outputs]."""

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        conv = lambda width, name: EdgeConv(width, repeats=True, dtype=self.dtype, name=name)
        x = self.mixed(conv(self.widths[-1], "conv_in")(z))
        for i in reversed(range(len(self.widths))):
            for j in range(self.layers + 1):
                x = VideoBlock(self.widths[i], self.norm, self.dtype, name=f"level_{i}_block_{j}")(x)
            if i:
                x = doubled(x)
                if i <= self.halvings:
                    x = jnp.concatenate([x[:, :1], jnp.repeat(x[:, 1:], 2, axis=1)], axis=1)
                x = conv(self.widths[i], f"up_{i}")(x)
        return self.last(x)


class AutoencoderKLHunyuanVideo(VideoAutoencoder, CheckedNetwork):
    """The autoencoder of HunyuanVideo: videos to the moments of a Gaussian, latents to videos; f = 2^(levels - 1).

    Attributes:
        widths: channels of each level, from the picture's side on.
        layers: number of residual blocks of a level in the encoder; a level of the decoder has one block more.
        halvings: number of halvings of time, f_t = 2^halvings. Time changes together with the last changes of the sides
            in the encoder, and also with the last ones in the decoder.
        latent_channels: number D of channels of the latents.
        picture_channels: number C of channels of the pictures.
        groups: number of groups of the norms, a divisor of each width.
        mixes: whether there is attention at the smallest side.
        scale, shift: scale and shift of the latents, see `latent_space.to_diffusion`.

    Reference: Kong et al., "HunyuanVideo: A Systematic Framework For Large Video Generative Models", 2024, section on
    the 3D variational autoencoder.
    """

    widths: tuple[int, ...] = (128, 256, 512, 512)
    layers: int = 2
    halvings: int = 2
    latent_channels: int = 16
    picture_channels: int = 3
    groups: int = 32
    mixes: bool = True
    scale: Factor = 0.476986
    shift: Factor = 0.0
    in_parts = staticmethod(blended)

    def check_fields(self) -> None:
        check_levels(self)

    def setup(self):
        norm = functools.partial(nn.GroupNorm, self.groups, epsilon=1e-6, dtype=self.dtype, use_fast_variance=False)
        fields = (self.widths, self.layers, self.halvings, norm, self.mixes)
        how = (self.attention, self.dtype)
        self.encoder = Encoder(*fields, 2 * self.latent_channels, *how)
        self.decoder = Decoder(*fields, self.picture_channels, *how)
        self.moments_conv = nn.Dense(2 * self.latent_channels)
        self.latents_conv = nn.Dense(self.latent_channels)

    def _posterior(self, x: jax.Array) -> list[jax.Array]:
        return jnp.split(self.moments_conv(self.encoder(x)), 2, axis=-1)

    def _video(self, z: jax.Array) -> jax.Array:
        return self.decoder(self.latents_conv(z))
