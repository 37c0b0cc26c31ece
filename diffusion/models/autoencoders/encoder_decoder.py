"""The convolutional encoder and decoder that VQGAN and latent diffusion share.

    encoder: conv - [block x layers - (halve)] x levels - block - attention - block - norm - conv
    decoder: conv - block - attention - block - [block x (layers + 1) - (double)] x levels - norm - conv

Levels are counted from the picture: for a picture of side H, level i has side H / 2^i, in the encoder and in the
decoder.

Reference: Esser et al., "Taming Transformers for High-Resolution Image Synthesis", 2021, table 7; Rombach et al.,
"High-Resolution Image Synthesis with Latent Diffusion Models", 2022, appendix G.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.autoencoders import latent_space
from diffusion.models.autoencoders.latent_space import LOG_VARIANCE, Moments
from diffusion.models.layers import layout
from diffusion.models.layers.attention import attention
from diffusion.models.layers.convolutions import GroupNorm, ResnetBlock, conv, upsample


class PixelAttention(nn.Module):
    """x + project(attention(norm(x))) of x [B, H, W, C]: every pixel attends to all pixels, with one head.

    Attributes:
        groups: number of groups of the norm; it divides C.
        attention: implementation of the attention, see `diffusion.models.layers.attention`.
        dtype: compute type.
    """

    groups: int
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        h = GroupNorm(self.groups, name="norm")(x).reshape(batch, height * width, channels)
        dense = lambda name: nn.Dense(channels, dtype=self.dtype, name=name)
        q, k, v = (dense(name)(h)[:, :, None] for name in ("query", "key", "value"))
        h = dense("project")(attention(q, k, v, self.attention)[:, :, 0])
        return layout.split(x + h.reshape(x.shape), "batch", None, None, None)


class Options(NamedTuple):
    """Options that the encoder and the decoder of one autoencoder share.

    Attributes:
        widths: channels of each level, from the picture's side on.
        layers: number of residual blocks of a level in the encoder; a level of the decoder has one block more.
        groups: number of groups of the norms; it divides every width.
        attention_levels: levels that have attention after each of their blocks.
        middle_attention: whether there is attention between the two blocks of the smallest side.
        attention: implementation of the attention, see `diffusion.models.layers.attention`.
        dtype: compute type; outputs are float32.
    """

    widths: tuple[int, ...]
    layers: int
    groups: int
    attention_levels: tuple[int, ...]
    middle_attention: bool
    attention: str
    dtype: str


class Blocks(nn.Module):
    """Residual blocks of one side: block j is followed by attention if `attends[j]`."""

    width: int
    attends: tuple[bool, ...]
    options: Options

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        groups, dtype = self.options.groups, self.options.dtype
        for j, attends in enumerate(self.attends):
            x = ResnetBlock(self.width, groups, dtype=dtype, name=f"block_{j}")(x)
            if attends:
                x = PixelAttention(groups, self.options.attention, dtype, name=f"mixing_{j}")(x)
        return x


def level(options: Options, i: int, layers: int) -> Blocks:
    """The residual blocks of level i, `layers` of them."""
    return Blocks(options.widths[i], (i in options.attention_levels,) * layers, options, name=f"level_{i}")


def middle(options: Options) -> Blocks:
    """The two blocks of the smallest side."""
    return Blocks(options.widths[-1], (options.middle_attention, False), options, name="middle")


def last(x: jax.Array, outputs: int, options: Options) -> jax.Array:
    """The output [B, H, W, outputs] of features x [B, H, W, C], in float32: bfloat16 would round it to 8 bits."""
    x = nn.silu(GroupNorm(options.groups, name="norm_out")(x))
    return conv(outputs, dtype="float32", name="conv_out")(x)


class Encoder(nn.Module):
    """The encoder: pictures [B, H, W, C] -> [B, H / 2^(levels - 1), W / 2^(levels - 1), outputs]."""

    options: Options
    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        widths, dtype = self.options.widths, self.options.dtype
        x = conv(widths[0], dtype=dtype, name="conv_in")(x)
        for i, width in enumerate(widths):
            x = level(self.options, i, self.options.layers)(x)
            if i + 1 < len(widths):
                # The published networks pad with zeros only below and on the right.
                x = nn.Conv(width, (3, 3), (2, 2), ((0, 1), (0, 1)), dtype=dtype, name=f"down_{i}")(x)
        return last(middle(self.options)(x), self.outputs, self.options)


class Decoder(nn.Module):
    """The decoder: latents [B, h, w, D] -> [B, 2^(levels - 1) h, 2^(levels - 1) w, outputs].

    A call may be given `blend`, a function that is applied to the features [B, H', W', C'] before each level and after
    the last level.
    """

    options: Options
    outputs: int

    @nn.compact
    def __call__(self, z: jax.Array, blend: Callable[[jax.Array], jax.Array] = lambda x: x) -> jax.Array:
        widths, dtype = self.options.widths, self.options.dtype
        x = middle(self.options)(conv(widths[-1], dtype=dtype, name="conv_in")(z))
        for i in reversed(range(len(widths))):
            x = level(self.options, i, self.options.layers + 1)(blend(x))
            if i:
                x = conv(widths[i], dtype=dtype, name=f"up_{i}")(upsample(x))
        return last(blend(x), self.outputs, self.options)


def shared_options(autoencoder: Any) -> Options:
    """The options of an autoencoder's encoder and decoder, from its fields of the same names."""
    return Options(*(getattr(autoencoder, field) for field in Options._fields))


def check_options(autoencoder: Any) -> None:
    """Refuses an autoencoder whose fields, those of `Options` and `input_range`, do not fit each other.

    Raises:
        ValueError: if they do not; the message names the field.
    """
    check_levels(shared_options(autoencoder))
    input_range = autoencoder.input_range
    if not input_range[0] < input_range[1]:
        raise ValueError(f"input_range={input_range}: the first number must be below the second")


def check_levels(options: Options) -> None:
    """Refuses options of an encoder or a decoder that do not fit each other.

    Raises:
        ValueError: if they do not; the message names the field.
    """
    widths, layers, groups, levels, *_ = options
    if not widths or layers <= 0 or groups <= 0:
        raise ValueError(
            f"widths={widths}, layers={layers}, groups={groups}: an autoencoder needs at least one level, and layers "
            "and groups must be positive"
        )
    for width in widths:
        if width % groups:
            raise ValueError(f"groups={groups} does not divide the width {width} of widths={widths}")
    for i in levels:
        if not 0 <= i < len(widths):
            raise ValueError(f"attention_levels={levels}: there is no level {i}. Valid: 0 .. {len(widths) - 1}")


def check_pictures(x: jax.Array, channels: int, factor: int) -> None:
    """Refuses pictures that an autoencoder cannot encode.

    Args:
        x: [B, H, W, channels], height and width multiples of `factor`.
        channels: number of channels of the autoencoder's pictures.
        factor: factor by which the autoencoder shrinks the sides of a picture.

    Raises:
        ValueError: if the shape is another; for sides that `factor` does not divide, the message names the nearest
            valid size.
    """
    if x.ndim != 4 or x.shape[-1] != channels:
        raise ValueError(f"this autoencoder takes pictures [B, H, W, {channels}]; got an array of shape {x.shape}")
    height, width = x.shape[1:3]
    if height % factor or width % factor or not height * width:
        nearest = " x ".join(str(max(factor, round(side / factor) * factor)) for side in (height, width))
        raise ValueError(
            f"this autoencoder makes pictures {factor} times smaller, but {factor} does not divide {height} x "
            f"{width}; the nearest valid size is {nearest}"
        )


def check_latents(z: jax.Array, channels: int) -> None:
    """Refuses latents that an autoencoder cannot decode.

    Args:
        z: [B, h, w, channels].
        channels: number of channels of the autoencoder's latents.

    Raises:
        ValueError: if the shape is another; the message names it.
    """
    if z.ndim != 4 or z.shape[-1] != channels:
        raise ValueError(f"this autoencoder decodes latents [B, h, w, {channels}]; got an array of shape {z.shape}")


class PictureAutoencoder(nn.Module):
    """An autoencoder of pictures, whose factor is f = 2^(levels - 1) unless its class states another.

        x = module.apply({"params": params}, z, method="decode")

    A class has `widths`, `picture_channels`, `latent_channels` and a method `_picture(z)` -> x. In place of the method
    it may have `decoder` and `input_range`, the range of pictures inside the network.
    """

    @property
    def factor(self: Any) -> int:
        """The factor f by which the sides of a latent are smaller than the sides of its picture."""
        return 2 ** (len(self.widths) - 1)

    def decode(self: Any, z: jax.Array) -> jax.Array:
        """The picture of a latent.

        Args:
            z: latents [B, h, w, D] as the encoder returns them, neither scaled nor shifted.

        Returns:
            Pictures [B, f h, f w, C], float32, about in [-1, 1] and not clipped.

        Raises:
            ValueError: if z has another number of axes or channels.
        """
        check_latents(z, self.latent_channels)
        return self._picture(z)

    def _picture(self: Any, z: jax.Array) -> jax.Array:
        return latent_space.from_range(self.decoder(z), self.input_range)


class WithPosterior(PictureAutoencoder):
    """An autoencoder of pictures with a Gaussian posterior.

    A class has a method `_posterior(x)` -> (mean, log variance), or in its place an `encoder` that returns both side
    by side in its channels.
    """

    kind = "autoencoder"

    def encode(self: Any, x: jax.Array) -> Moments:
        """The posterior q(z | x).

        Args:
            x: pictures [B, H, W, C] in [-1, 1]; f divides H and W.

        Returns:
            Mean and log variance, [B, H/f, W/f, D] each, float32; the log variance is clipped to [-30, 20].

        Raises:
            ValueError: if f does not divide H and W, or C is another number.
        """
        check_pictures(x, self.picture_channels, self.factor)
        mean, log_variance = self._posterior(x)
        return Moments(mean, log_variance.clip(*LOG_VARIANCE))

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        """The reconstruction [B, H, W, C] of pictures [B, H, W, C] from the mean of their posterior."""
        return self.decode(self.encode(x).mean)

    def _posterior(self: Any, x: jax.Array) -> Sequence[jax.Array]:
        return jnp.split(self.encoder(x), 2, axis=-1)


class WithoutPosterior(PictureAutoencoder):
    """An autoencoder of pictures whose encoder returns the latent itself.

    A class has a method `_latent(x)` -> latent, or in its place `encoder`.
    """

    def encode(self: Any, x: jax.Array) -> jax.Array:
        """The latent of a picture.

        Args:
            x: pictures [B, H, W, C] in [-1, 1]; f divides H and W.

        Returns:
            Latents [B, H/f, W/f, D], float32.

        Raises:
            ValueError: if f does not divide H and W, or C is another number.
        """
        check_pictures(x, self.picture_channels, self.factor)
        return self._latent(x)

    def _latent(self: Any, x: jax.Array) -> jax.Array:
        return self.encoder(latent_space.to_range(x, self.input_range))

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        """The reconstruction [B, H, W, C] of pictures [B, H, W, C]."""
        return self.decode(self.encode(x))
