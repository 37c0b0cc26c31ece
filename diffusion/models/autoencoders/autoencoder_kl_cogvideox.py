"""CogVideoX's autoencoder: the first frame by itself, the others in groups of four, whose norms see two groups.

    x [B, 1 + 8 n, H, W, C] - Encoder - mean, log variance [B, 1 + 2 n, H/8, W/8, D]
    z [B, 1 + 2 n, h, w, D] - Decoder - x [B, 1 + 8 n, 8 h, 8 w, C]

    encoder: conv - [block x layers - (mean of two frames) - halve] x levels - block x 2 - norm - conv
    decoder: conv - block x 2 - [block x (layers + 1) - (each frame twice) - double] x levels - norm - conv

Its authors code a video in chunks of eight frames, the first of nine: convolutions go on from chunk to chunk, and a
group norm has the statistics of one chunk. Here the whole video is coded at once, with those statistics, or by
`clip_parts.streamed` chunk by chunk, with the same result. Norms of the decoder are scaled and shifted by the latent of
each place.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.autoencoders.causal_layers import STREAM, FrameConv, doubled
from diffusion.models.autoencoders.clip_parts import streamed
from diffusion.models.autoencoders.edge_convolution import EdgeConv
from diffusion.models.autoencoders.latent_space import Factor
from diffusion.models.autoencoders.video_autoencoder import VideoAutoencoder, check_levels
from diffusion.models.layers.choices import look_up

CHUNK = 2  # frames of the latent, without the first


class ChunkNorm(nn.Module):
    """Group norm over the pixels of a chunk of frames, optionally scaled and shifted by the latent of each place.

    Attributes:
        groups: number of groups of the channels.
        chunk: number of frames in a chunk; the first chunk has one more.
        dtype: compute type.

    `begins` of the call says whether its frames begin the video.

    Reference: Wu & He, "Group Normalization", 2018, equation 7; the scale and shift by the latent as in Zheng et al.,
    "MoVQ: Modulating Quantized Vectors for High-Fidelity Image Generation", 2022, section 3.1.
    """

    groups: int
    chunk: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, z: jax.Array | None = None, begins: bool = True) -> jax.Array:
        """Args:
            x: [B, 1 + chunk n, H, W, D]; of a later part of a stream chunk n frames.
            z: [B, f, h, w, C], whose frames after the first and whose sides divide those of x; None: no scale.
            begins: whether x begins the video.

        Returns:
            As x.
        """
        norm = nn.GroupNorm(self.groups, epsilon=1e-6, dtype=self.dtype, use_fast_variance=False, name="norm")
        length = 1 + self.chunk if begins else 0
        first, later = x[:, :length], x[:, length:]
        parts = [norm(first)] if begins else []
        if later.shape[1]:
            parts.append(norm(later.reshape(-1, self.chunk, *x.shape[2:])).reshape(later.shape))
        out = jnp.concatenate(parts, axis=1)
        if z is None:
            return out
        scale, shift = (nn.Dense(x.shape[-1], dtype=self.dtype, name=name)(z) for name in ("scale", "shift"))
        return out * _as_large(scale, x, begins) + _as_large(shift, x, begins)


def _as_large(z: jax.Array, x: jax.Array, begins: bool) -> jax.Array:
    """z at the nearest place of each pixel of x."""
    for axis in (2, 3):
        z = jnp.repeat(z, x.shape[axis] // z.shape[axis], axis)
    if z.shape[1] == 1:
        return z
    if not begins:
        return jnp.repeat(z, x.shape[1] // z.shape[1], axis=1)
    times = (x.shape[1] - 1) // (z.shape[1] - 1)
    return jnp.concatenate([z[:, :1], jnp.repeat(z[:, 1:], times, axis=1)], axis=1)


class GroupBlock(nn.Module):
    """x + conv(silu(norm(h))), h = conv(silu(norm(x))), with causal convolutions; norms as `ChunkNorm`.

    Attributes:
        features: number of channels of the output; the input goes through a convolution of one pixel where it has
            others.
        groups, chunk: numbers of groups and of frames in a chunk of the norms.
        dtype: compute type.
    """

    features: int
    groups: int
    chunk: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, z: jax.Array | None = None, begins: bool = True) -> jax.Array:
        h = x
        for i in (1, 2):
            h = nn.silu(ChunkNorm(self.groups, self.chunk, self.dtype, name=f"norm_{i}")(h, z, begins))
            h = EdgeConv(self.features, dtype=self.dtype, name=f"conv_{i}")(h)
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features, dtype=self.dtype, name="shortcut")(x)
        return x + h


class _Levels(nn.Module):
    """The fields of encoder and decoder, as `AutoencoderKLCogVideoX`."""

    widths: tuple[int, ...]
    layers: int
    halvings: int
    groups: int
    outputs: int
    dtype: str


class Encoder(_Levels):
    """[B, 1 + 8 n, H, W, C] -> [B, 1 + 2 n, H/f, W/f, outputs]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        begins = not self.variables.get(STREAM)
        chunk = CHUNK * 2**self.halvings
        block = lambda width, chunk, name: GroupBlock(width, self.groups, chunk, self.dtype, name=name)
        x = EdgeConv(self.widths[0], dtype=self.dtype, name="conv_in")(x)
        for i, width in enumerate(self.widths):
            for j in range(self.layers):
                x = block(width, chunk, f"level_{i}_block_{j}")(x, None, begins)
            if i + 1 < len(self.widths):
                if i < self.halvings:
                    chunk //= 2
                    first, later = x[:, : int(begins)], x[:, int(begins) :]
                    pairs = later.reshape(len(x), -1, 2, *x.shape[2:]).mean(2)
                    x = jnp.concatenate([first, pairs], axis=1)
                x = FrameConv(width, True, self.dtype, name=f"down_{i}")(x)
        for j in range(2):
            x = block(self.widths[-1], chunk, f"middle_block_{j}")(x, None, begins)
        x = nn.silu(ChunkNorm(self.groups, chunk, self.dtype, name="norm_out")(x, None, begins))
        return EdgeConv(self.outputs, name="conv_out")(x)  # in float32: bfloat16 would round the output to 8 bits


class Decoder(_Levels):
    """[B, 1 + 2 n, h, w, D] -> [B, 1 + 8 n, f h, f w, outputs]."""

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        begins = not self.variables.get(STREAM)
        chunk = CHUNK
        block = lambda width, chunk, name: GroupBlock(width, self.groups, chunk, self.dtype, name=name)
        x = EdgeConv(self.widths[-1], dtype=self.dtype, name="conv_in")(z)
        for j in range(2):
            x = block(self.widths[-1], chunk, f"middle_block_{j}")(x, z, begins)
        for i in reversed(range(len(self.widths))):
            for j in range(self.layers + 1):
                x = block(self.widths[i], chunk, f"level_{i}_block_{j}")(x, z, begins)
            if i:
                if len(self.widths) - 1 - i < self.halvings:
                    chunk *= 2
                    first, later = x[:, : int(begins)], x[:, int(begins) :]
                    x = jnp.concatenate([first, jnp.repeat(later, 2, axis=1)], axis=1)
                x = FrameConv(self.widths[i], False, self.dtype, name=f"up_{i}")(doubled(x))
        x = nn.silu(ChunkNorm(self.groups, chunk, self.dtype, name="norm_out")(x, z, begins))
        return EdgeConv(self.outputs, name="conv_out")(x)


class AutoencoderKLCogVideoX(VideoAutoencoder):
    """Videos to the moments of a Gaussian, and latents to videos, as CogVideoX has it; f = 2^(levels - 1).

    Attributes:
        widths: channels of each level, from the picture's side on.
        layers: residual blocks of a level of the encoder; the decoder has one more.
        halvings: number of halvings of time, in the first levels of the encoder and of the decoder; f_t = 2^halvings.
        latent_channels: number D of the latents' channels.
        picture_channels: number C of the pictures' channels.
        groups: number of groups of the norms, a divisor of each width.
        scale: scale of the latents, see `latent_space.to_diffusion`.
        shift: shift of the latents, likewise.
        inverted: whether the latents of a first frame that a denoiser is given are divided by the scale, and not
            multiplied (CogVideoX 1.5 from a picture).
        dtype: compute type, "float32" or "bfloat16"; outputs are float32.

    Raises:
        ValueError: at construction, for a field out of range or an unknown name.

    Reference: Yang et al., "CogVideoX: Text-to-Video Diffusion Models with An Expert Transformer", 2024, section 2.1.
    """

    widths: tuple[int, ...] = (128, 256, 256, 512)
    layers: int = 3
    halvings: int = 2
    latent_channels: int = 16
    picture_channels: int = 3
    groups: int = 32
    scale: Factor = 1.15258426
    shift: Factor = 0.0
    inverted: bool = False
    dtype: str = "float32"
    together = CHUNK
    in_parts = staticmethod(streamed)

    def __post_init__(self):
        look_up(dict.fromkeys(("float32", "bfloat16")), self.dtype, "dtype")
        check_levels(self)
        super().__post_init__()

    @property
    def frame_step(self) -> int:
        """A video has one frame and a multiple of this number."""
        return CHUNK * self.time_factor

    def setup(self):
        fields = (self.widths, self.layers, self.halvings, self.groups)
        self.encoder = Encoder(*fields, 2 * self.latent_channels, self.dtype)
        self.decoder = Decoder(*fields, self.picture_channels, self.dtype)
