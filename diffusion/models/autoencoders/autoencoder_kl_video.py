"""The causal KL autoencoder of videos: the first frame by itself, the others in groups after it.

    x [B, 1 + f_t n, H, W, C] - Encoder - (conv 1x1) - mean, log variance [B, 1 + n, H/f, W/f, D]
    z [B, 1 + n, H/f, W/f, D] - (conv 1x1) - Decoder - x [B, 1 + f_t n, H, W, C]

    encoder: conv - [block x layers - (halve sides, time)] x levels - block - attention - block - norm - conv
    decoder: conv - block - attention - block - [block x (layers + 1) - (double time, sides)] x levels - norm - conv

No frame sees a later one: the latents of a video's beginning are the beginning of its latents, and a picture is a video
of one frame. Norms are of single pixels, so that a video is coded chunk by chunk with the memory of one chunk
(`clip_parts.streamed`), to the same result. `tiles.tiled` cuts frames into tiles.

| published | f | f_t | D  | scale and shift           |
|-----------|---|-----|----|---------------------------|
| Wan 2.1   | 8 | 4   | 16 | of each channel           |
| Wan 2.2, 5B | 16 | 4 | 48 | of each channel          |
| Qwen-Image 2.1, only pictures | 16 | - | 64 | of each channel |

Wan 2.2's autoencoder is residual: around each level is a shortcut of means or copies of channels, and it sees pixels in
patches of 2 x 2.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.autoencoders.causal_layers import (
    STREAM,
    CausalBlock,
    CausalConv,
    ChannelNorm,
    DoubleTime,
    FrameAttention,
    FrameConv,
    HalveTime,
    averaged,
    doubled,
    repeated,
)
from diffusion.models.autoencoders.clip_parts import streamed
from diffusion.models.autoencoders.column_patches import column_patches, column_pixels
from diffusion.models.autoencoders.latent_space import Factor
from diffusion.models.autoencoders.video_autoencoder import VideoAutoencoder
from diffusion.models.layers.network_bases import CheckedNetwork


class Middle(nn.Module):
    """block - attention within each frame - block, at the smallest side."""

    width: int
    attention: str
    dtype: str
    still: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = CausalBlock(self.width, self.dtype, self.still, name="block_0")(x)
        x = FrameAttention(self.attention, self.dtype, name="mixing_0")(x)
        return CausalBlock(self.width, self.dtype, self.still, name="block_1")(x)


def _last(x: jax.Array, outputs: int, still: bool) -> jax.Array:
    """The output, in float32: bfloat16 would round it to 8 bits."""
    return CausalConv(outputs, still=still, name="conv_out")(nn.silu(ChannelNorm(name="norm_out")(x)))


class _Levels(nn.Module):
    """The fields of encoder and decoder, as `AutoencoderKLVideo`."""

    widths: tuple[int, ...]
    layers: int
    temporal: tuple[bool, ...]
    outputs: int
    attention: str
    dtype: str
    residual: bool = False
    still: bool = False


class Encoder(_Levels):
    """[B, 1 + f_t n, H, W, C] -> [B, 1 + n, H/f, W/f, outputs]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = CausalConv(self.widths[0], dtype=self.dtype, still=self.still, name="conv_in")(x)
        for i, width in enumerate(self.widths):
            entering, last = x, i + 1 == len(self.widths)
            for j in range(self.layers):
                x = CausalBlock(width, self.dtype, self.still, name=f"level_{i}_block_{j}")(x)
            if i + 1 < len(self.widths):
                x = FrameConv(width, True, self.dtype, name=f"down_{i}")(x)
                if self.temporal[i]:
                    x = HalveTime(self.dtype, self.still, name=f"halve_{i}")(x)
            if self.residual:
                x = x + averaged(entering, width, 1 if last else 1 + self.temporal[i], 1 if last else 2)
        x = Middle(self.widths[-1], self.attention, self.dtype, self.still, name="middle")(x)
        return _last(x, self.outputs, self.still)


class Decoder(_Levels):
    """[B, 1 + n, h, w, D] -> [B, 1 + f_t n, f h, f w, outputs]."""

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        begins = not self.variables.get(STREAM)
        x = CausalConv(self.widths[-1], dtype=self.dtype, still=self.still, name="conv_in")(z)
        x = Middle(self.widths[-1], self.attention, self.dtype, self.still, name="middle")(x)
        for i in reversed(range(len(self.widths))):
            entering, width = x, self.widths[i]
            for j in range(self.layers + 1):
                x = CausalBlock(self.widths[i], self.dtype, self.still, name=f"level_{i}_block_{j}")(x)
            if i:
                if self.temporal[i - 1]:
                    x = DoubleTime(self.dtype, self.still, name=f"double_{i}")(x)
                x = FrameConv(width if self.residual else width // 2, False, self.dtype, name=f"up_{i}")(doubled(x))
                if self.residual:
                    x = x + repeated(entering, width, 1 + self.temporal[i - 1], 2, begins)
        return _last(x, self.outputs, self.still)


class AutoencoderKLVideo(VideoAutoencoder, CheckedNetwork):
    """Videos to the moments of a Gaussian, and latents to videos; f = patch 2^(levels - 1), f_t = 2^(halvings of time).

    Attributes:
        widths: channels of each level, from the picture's side on.
        layers: residual blocks of a level of the encoder; the decoder has one more.
        temporal: whether each level but the last halves time with the sides; one entry for each halving.
        latent_channels: number D of the latents' channels.
        picture_channels: number C of the pictures' channels.
        scale: scale of the latents, see `latent_space.to_diffusion`; one number or one for each channel.
        shift: shift of the latents, likewise.
        residual: whether each level has a shortcut around it (Wan 2.2).
        decoder_widths: channels of each level of the decoder; (): the encoder's.
        patch: side of the patches of pixels that the first level sees as channels.
        still: whether it codes only pictures, as clips of one frame, so that no kernel extends over frames (Qwen-Image
            2.1); `temporal` then decides only its shortcuts.

    Reference: Wan Team, "Wan: Open and Advanced Large-Scale Video Generative Models", 2025, section on the
    spatio-temporal VAE; Yu et al., "Language Model Beats Diffusion: Tokenizer is Key to Visual Generation", 2023,
    section 3 (causal convolutions).
    """

    widths: tuple[int, ...] = (96, 192, 384, 384)
    layers: int = 2
    temporal: tuple[bool, ...] = (False, True, True)
    latent_channels: int = 16
    picture_channels: int = 3
    scale: Factor = 1.0
    shift: Factor = 0.0
    residual: bool = False
    decoder_widths: tuple[int, ...] = ()
    patch: int = 1
    still: bool = False
    in_parts = staticmethod(streamed)

    def check_fields(self) -> None:
        if not self.widths or self.layers < 1 or min(self.latent_channels, self.picture_channels, *self.widths) < 1:
            raise ValueError(
                f"widths={self.widths}, layers={self.layers}, latent_channels={self.latent_channels}, "
                f"picture_channels={self.picture_channels}: an autoencoder needs at least one level, and all numbers "
                "must be positive"
            )
        if self.patch < 1 or (self.decoder_widths and len(self.decoder_widths) != len(self.widths)):
            raise ValueError(
                f"patch={self.patch}, decoder_widths={self.decoder_widths}: a patch must have at least 1 pixel on a "
                f"side, and the decoder must have as many levels as widths={self.widths}"
            )
        if not self.residual and any(width % 2 for width in (*self.widths[1:], *self.decoder_widths[1:])):
            raise ValueError(
                f"widths={self.widths}: the widths after the first must be even, because half of the channels leave "
                "where the sides double"
            )
        if len(self.temporal) != len(self.widths) - 1:
            raise ValueError(
                f"temporal={self.temporal} must have an entry for each of the {len(self.widths) - 1} halvings of the "
                f"sides of widths={self.widths}, which says whether time is halved too"
            )

    @property
    def factor(self) -> int:
        """f, see `VideoAutoencoder`."""
        return self.patch * 2 ** len(self.temporal)

    @property
    def time_factor(self) -> int:
        """f_t, see `VideoAutoencoder`."""
        return 2 ** sum(self.temporal)

    def setup(self):
        fields = (self.layers, self.temporal)
        how = (self.attention, self.dtype, self.residual, self.still)
        self.encoder = Encoder(self.widths, *fields, 2 * self.latent_channels, *how)
        outputs = self.picture_channels * self.patch**2
        self.decoder = Decoder(self.decoder_widths or self.widths, *fields, outputs, *how)
        self.moments_conv = nn.Dense(2 * self.latent_channels)
        self.latents_conv = nn.Dense(self.latent_channels)

    def _posterior(self, x: jax.Array) -> list[jax.Array]:
        self._check_still(x)
        return jnp.split(self.moments_conv(self.encoder(column_patches(x, self.patch))), 2, axis=-1)

    def _video(self, z: jax.Array) -> jax.Array:
        self._check_still(z)
        return column_pixels(self.decoder(self.latents_conv(z)), self.patch)

    def _check_still(self, x: jax.Array) -> None:
        if self.still and x.shape[1] != 1:
            raise ValueError(f"this autoencoder codes pictures, clips of 1 frame; got {x.shape[1]} frames")
