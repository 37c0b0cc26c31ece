"""The deep-compression autoencoder: pictures to latents of 1/32 the side or less, without a posterior.

    encoder: conv - [block x layers - (halve)] x levels - conv + mean of channels
    decoder: conv + repeated channels - [(double) - block x layers] x levels - norm - relu - conv

    block: a residual block of convolutions at the first levels, EfficientViT's at the last:
           linear attention on pixels and neighbourhoods, then a gated depthwise convolution

Level i has side H / 2^i. If level 0 has no layers, the first convolution halves and the last one doubles.
"""

import itertools
from typing import NamedTuple

import flax.linen as nn
import jax

from diffusion.models.autoencoders.deep_compression import (
    ACTIVATIONS,
    NORMS,
    Double,
    GatedConv,
    Halve,
    LinearAttention,
    PlainBlock,
    RmsNorm,
    averaged,
    repeated,
)
from diffusion.models.autoencoders.encoder_decoder import WithoutPosterior
from diffusion.models.autoencoders.latent_space import Factor
from diffusion.models.layers.choices import look_up
from diffusion.models.layers.convolutions import conv

BLOCKS = ("ResBlock", "EfficientViTBlock")


class Levels(NamedTuple):
    """The levels of the encoder or of the decoder; each field has one entry per level, from the picture's side on.

    Attributes:
        widths: number of channels.
        layers: number of blocks; only level 0 may have 0.
        blocks: kind of the blocks, "ResBlock" or "EfficientViTBlock".
        scales: sides of the neighbourhoods that attention reads in addition to pixels; () for none.
        norms: kind of the norms, "rms_norm" or "batch_norm" (with fixed statistics).
        activations: activation of the residual blocks, "silu" or "relu".
    """

    widths: tuple[int, ...]
    layers: tuple[int, ...]
    blocks: tuple[str, ...]
    scales: tuple[tuple[int, ...], ...]
    norms: tuple[str, ...]
    activations: tuple[str, ...]

    @property
    def first(self) -> int:
        """The first level that has blocks."""
        return 0 if self.layers[0] else 1


class Level(nn.Module):
    """The blocks of level i: [B, H, W, C] -> the same."""

    levels: Levels
    i: int
    head_size: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        levels, i = self.levels, self.i
        for j in range(levels.layers[i]):
            if levels.blocks[i] == "ResBlock":
                x = PlainBlock(levels.norms[i], levels.activations[i], self.dtype, name=f"block_{j}")(x)
            else:
                scales = levels.scales[i]
                norm = levels.norms[i]
                x = LinearAttention(self.head_size, scales, norm, self.dtype, name=f"mixing_{j}")(x)
                x = GatedConv(self.dtype, name=f"gated_{j}")(x)
        return x


class Encoder(nn.Module):
    """[B, H, W, C] -> [B, H/f, W/f, D]; fields as `AutoencoderDC`."""

    levels: Levels
    outputs: int
    head_size: int
    shuffle: bool
    shortcut: bool
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        widths, first = self.levels.widths, self.levels.first
        if first:
            x = Halve(widths[first], self.shuffle, False, self.dtype, name="in")(x)
        else:
            x = conv(widths[0], dtype=self.dtype, name="conv_in")(x)
        for i in range(first, len(widths)):
            x = Level(self.levels, i, self.head_size, self.dtype, name=f"level_{i}")(x)
            if i + 1 < len(widths):
                x = Halve(widths[i + 1], self.shuffle, True, self.dtype, name=f"down_{i}")(x)
        h = conv(self.outputs, dtype="float32", name="conv_out")(x)
        return h + averaged(x, self.outputs) if self.shortcut else h


class Decoder(nn.Module):
    """[B, h, w, D] -> [B, f h, f w, C]; fields as `AutoencoderDC`."""

    levels: Levels
    outputs: int
    head_size: int
    shuffle: bool
    shortcut: bool
    activation: str
    dtype: str

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        widths, first = self.levels.widths, self.levels.first
        x = conv(widths[-1], dtype=self.dtype, name="conv_in")(z)
        if self.shortcut:
            x = x + repeated(z, widths[-1]).astype(x.dtype)
        for i in reversed(range(first, len(widths))):
            if i + 1 < len(widths):
                x = Double(widths[i], self.shuffle, True, self.dtype, name=f"up_{i}")(x)
            x = Level(self.levels, i, self.head_size, self.dtype, name=f"level_{i}")(x)
        x = ACTIVATIONS[self.activation](RmsNorm(name="norm_out")(x))
        if first:
            return Double(self.outputs, self.shuffle, False, "float32", name="out")(x)
        return conv(self.outputs, dtype="float32", name="conv_out")(x)


class AutoencoderDC(WithoutPosterior):
    """Pictures to latents and back; the factor is f = 2^(levels - 1).

        z = module.apply({"params": params}, x, method="encode")
        x = module.apply({"params": params}, z, method="decode")

    Attributes:
        encoder_levels: `Levels` of the encoder.
        decoder_levels: `Levels` of the decoder, as many as the encoder has.
        latent_channels: number D of the latents' channels.
        picture_channels: number C of the pictures' channels.
        head_size: number of features of a head of the linear attention.
        shuffle_down: whether to halve by shuffling, see `Halve`.
        shuffle_up: whether to double by shuffling, see `Double`.
        out_shortcut: whether the means of groups of channels are added to the output of the encoder's last convolution.
        in_shortcut: whether the repeated channels of the latent are added after the decoder's first convolution.
        last_activation: activation before the decoder's last convolution, "relu" or "silu".
        scale: scale of the latents, see `diffusion.models.autoencoders.latent_space.to_diffusion`.
        shift: shift of the latents, likewise.
        input_range: range of the pixels inside the network; ours are in [-1, 1], and `encode` and `decode` convert
            them.
        dtype: compute type, "float32" or "bfloat16"; outputs are float32.

    Raises:
        ValueError: at construction, for a field out of range or an unknown name.

    Reference: Chen et al., "Deep Compression Autoencoder for Efficient High-Resolution Diffusion Models", 2024.
    """

    encoder_levels: Levels
    decoder_levels: Levels
    latent_channels: int = 32
    picture_channels: int = 3
    head_size: int = 32
    shuffle_down: bool = True
    shuffle_up: bool = True
    out_shortcut: bool = True
    in_shortcut: bool = True
    last_activation: str = "relu"
    scale: Factor = 1.0
    shift: Factor = 0.0
    input_range: tuple[float, float] = (-1.0, 1.0)
    dtype: str = "float32"

    def __post_init__(self):
        look_up(dict.fromkeys(("float32", "bfloat16")), self.dtype, "dtype")
        look_up(ACTIVATIONS, self.last_activation, "last_activation")
        for side, levels in (("encoder", self.encoder_levels), ("decoder", self.decoder_levels)):
            self._check(side, levels)
        if len(self.encoder_levels.widths) != len(self.decoder_levels.widths):
            raise ValueError(
                "the encoder and the decoder must have the same number of levels; got "
                f"{len(self.encoder_levels.widths)} and {len(self.decoder_levels.widths)}"
            )
        if not self.input_range[0] < self.input_range[1]:
            raise ValueError(f"input_range={self.input_range}: the first number must be below the second")
        super().__post_init__()

    def _check(self, side: str, levels: Levels) -> None:
        count = len(levels.widths)
        for field, entries in levels._asdict().items():
            if len(entries) != count or not count:
                raise ValueError(f"{side}_levels.{field}={entries} must have one entry for each of the {count} levels")
        for names, kind, field in (
            (levels.blocks, BLOCKS, "blocks"),
            (levels.norms, NORMS, "norms"),
            (levels.activations, ACTIVATIONS, "activations"),
        ):
            for name in names:
                look_up(dict.fromkeys(kind), name, f"{side}_levels.{field}")
        if min(levels.layers[1:], default=1) <= 0 or levels.layers[0] < (0 if count > 1 else 1):
            raise ValueError(
                f"{side}_levels.layers={levels.layers}: numbers must be positive; only the first level may have 0"
            )
        widths = levels.widths[levels.first :]
        for one, next_one in itertools.pairwise(widths):
            if 4 * one % next_one:
                raise ValueError(
                    f"{side}_levels.widths={levels.widths}: {next_one} does not divide 4 x {one}, but the shortcut "
                    "averages or copies whole channels"
                )
        for width, block in zip(levels.widths, levels.blocks):
            if block == "EfficientViTBlock" and width % self.head_size:
                raise ValueError(f"head_size={self.head_size} does not divide the width {width} of {side}_levels")
        shortcut = self.out_shortcut if side == "encoder" else self.in_shortcut
        if shortcut and levels.widths[-1] % self.latent_channels:
            raise ValueError(
                f"latent_channels={self.latent_channels} does not divide {levels.widths[-1]}, the last width of "
                f"{side}_levels, which its shortcut needs"
            )

    @property
    def factor(self) -> int:
        """The number f by which the picture's sides are divided."""
        return 2 ** (len(self.encoder_levels.widths) - 1)

    def setup(self):
        self.encoder = Encoder(self.encoder_levels, self.latent_channels, self.head_size, self.shuffle_down,
                               self.out_shortcut, self.dtype)  # fmt: skip
        self.decoder = Decoder(self.decoder_levels, self.picture_channels, self.head_size, self.shuffle_up,
                               self.in_shortcut, self.last_activation, self.dtype)  # fmt: skip
