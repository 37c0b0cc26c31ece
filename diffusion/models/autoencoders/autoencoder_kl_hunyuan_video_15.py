"""HunyuanVideo 1.5's autoencoder: causal layers, and a shortcut without parameters around each change of the sides.

    x [B, 1 + f_t n, H, W, C] - Encoder - mean, log variance [B, 1 + n, H/f, W/f, D]
    z [B, 1 + n, h, w, D]     - Decoder - x [B, 1 + f_t n, f h, f w, C]

    encoder: conv - [block x layers - fold] x levels - block - attention - block - norm - conv, + means of channels
    decoder: conv, + repeated channels - block - attention - block - [block x (layers + 1) - unfold] x levels - norm -
             conv

A fold brings the pixels of a box of 2 x 2, or 2 x 2 x 2 with time, into the channels. The first frame has a box of its
own in time. Convolutions repeat the pixels at the edge; norms are of single pixels; a pixel attends to its frame and
earlier ones.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays.boxes import depth_to_space, space_to_depth
from diffusion.models.autoencoders.autoencoder_kl_hunyuan_video import Levels, VideoBlock
from diffusion.models.autoencoders.causal_layers import ChannelNorm
from diffusion.models.autoencoders.clip_parts import at_once
from diffusion.models.autoencoders.deep_compression import averaged, repeated
from diffusion.models.autoencoders.edge_convolution import EdgeConv
from diffusion.models.autoencoders.latent_space import Factor
from diffusion.models.autoencoders.video_autoencoder import VideoAutoencoder
from diffusion.models.layers.network_bases import CheckedNetwork

FRAME, PAIR = (1, 2, 2), (2, 2, 2)  # boxes of one frame and of two, of four pixels each


def _conv(dtype: str, features: int, name: str) -> EdgeConv:
    return EdgeConv(features, repeats=True, dtype=dtype, name=name)


class Encoder15(Levels):
    """[B, 1 + f_t n, H, W, C] -> [B, 1 + n, H/f, W/f, 2 D]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        last = len(self.widths) - 1
        x = _conv(self.dtype, self.widths[0], "conv_in")(x)
        for i, width in enumerate(self.widths):
            for j in range(self.layers):
                x = VideoBlock(width, self.norm, self.dtype, name=f"level_{i}_block_{j}")(x)
            if i < last:
                x = self._halved(x, i, 2 if i >= last - self.halvings else 1)
        x = self.mixed(x)
        return self.last(x) + averaged(x, self.outputs)

    def _halved(self, x: jax.Array, level: int, time: int) -> jax.Array:
        features = self.widths[level + 1]
        h = _conv(self.dtype, features // (4 * time), f"down_{level}")(x)
        if time == 1:
            return space_to_depth(h, FRAME) + averaged(space_to_depth(x, FRAME), features)
        first = jnp.tile(space_to_depth(h[:, :1], FRAME), 2) + averaged(space_to_depth(x[:, :1], FRAME), features)
        later = space_to_depth(h[:, 1:], PAIR) + averaged(space_to_depth(x[:, 1:], PAIR), features)
        return jnp.concatenate([first, later], axis=1)


class Decoder15(Levels):
    """[B, 1 + n, h, w, D] -> [B, 1 + f_t n, f h, f w, C]."""

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        x = _conv(self.dtype, self.widths[-1], "conv_in")(z) + repeated(z, self.widths[-1])
        x = self.mixed(x)
        last = len(self.widths) - 1
        for i in reversed(range(len(self.widths))):
            for j in range(self.layers + 1):
                x = VideoBlock(self.widths[i], self.norm, self.dtype, name=f"level_{i}_block_{j}")(x)
            if i:
                x = self._doubled(x, i, 2 if i > last - self.halvings else 1)
        return self.last(x)

    def _doubled(self, x: jax.Array, level: int, time: int) -> jax.Array:
        features = self.widths[level - 1]
        h = _conv(self.dtype, features * 4 * time, f"up_{level}")(x)
        if time == 1:
            return depth_to_space(h, FRAME) + depth_to_space(repeated(x, 4 * features), FRAME)
        first = depth_to_space(h[:, :1], FRAME)[..., :features] + repeated(depth_to_space(x[:, :1], FRAME), features)
        later = depth_to_space(h[:, 1:], PAIR) + repeated(depth_to_space(x[:, 1:], PAIR), features)
        return jnp.concatenate([first, later], axis=1)


class AutoencoderKLHunyuanVideo15(VideoAutoencoder, CheckedNetwork):
    """Videos to the moments of a Gaussian, and latents to videos, as HunyuanVideo 1.5 has it; f = 2^(levels - 1).

    Attributes:
        widths: channels of each level, from the picture's side on.
        layers: residual blocks of a level of the encoder; the decoder has one more.
        halvings: number of halvings of time, at the smallest sides of both; f_t = 2^halvings.
        latent_channels: number D of the latents' channels.
        picture_channels: number C of the pictures' channels.
        scale: scale of the latents, see `latent_space.to_diffusion`.
        shift: shift of the latents, likewise.

    Reference: Tencent Hunyuan, "HunyuanVideo 1.5 Technical Report", 2025, and its code; Chen et al., "Deep Compression
    Autoencoder for Efficient High-Resolution Diffusion Models", 2024, section 3.2, on the shortcuts.
    """

    widths: tuple[int, ...] = (128, 256, 512, 1024, 1024)
    layers: int = 2
    halvings: int = 2
    latent_channels: int = 32
    picture_channels: int = 3
    scale: Factor = 1.03682
    shift: Factor = 0.0
    in_parts = staticmethod(at_once)
    positive = ("layers", "latent_channels", "picture_channels")

    def check_fields(self) -> None:
        last = len(self.widths) - 1
        if not self.widths or min(self.widths) < 1 or not 0 <= self.halvings <= last:
            raise ValueError(
                f"widths={self.widths}, halvings={self.halvings}: an autoencoder has one or more positive widths, and "
                "no more halvings of time than of the sides"
            )
        for i, (before, after) in enumerate(zip(self.widths, self.widths[1:])):
            box = 8 if i >= last - self.halvings else 4
            if after % box or 4 * before % after:
                raise ValueError(
                    f"widths={self.widths}: {after} must be a multiple of the {box} pixels of a box, and divide 4 x "
                    f"{before}"
                )
        if self.widths[-1] % (2 * self.latent_channels):
            raise ValueError(
                f"latent_channels={self.latent_channels}: twice that must divide the last width, {self.widths[-1]}"
            )

    def setup(self):
        fields, how = (self.widths, self.layers, self.halvings, ChannelNorm, True), (self.attention, self.dtype)
        self.encoder = Encoder15(*fields, 2 * self.latent_channels, *how)
        self.decoder = Decoder15(*fields, self.picture_channels, *how)
