"""Layers of the deep-compression autoencoder: shuffles between space and channels, and the blocks of EfficientViT.

Reference: Chen et al., "Deep Compression Autoencoder for Efficient High-Resolution Diffusion Models", 2024; Cai et al.,
"EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction", 2023.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays.boxes import pixel_shuffle, pixel_unshuffle
from diffusion.arrays.promotion import promoted
from diffusion.models.layers import layout
from diffusion.models.layers.constants import constant
from diffusion.models.layers.convolutions import conv, gated_convolution, upsample
from diffusion.models.layers.linear_attention import linear_attention

ACTIVATIONS = {"silu": nn.silu, "relu": nn.relu}


BOX = (2, 2)  # four pixels that are the channels of one


def averaged(x: jax.Array, channels: int) -> jax.Array:
    """The means of neighbouring channels: [..., C] -> [..., channels], a divisor of C."""
    return x.reshape(*x.shape[:-1], channels, x.shape[-1] // channels).mean(-1)


def repeated(x: jax.Array, channels: int) -> jax.Array:
    """Each channel several times: [..., C] -> [..., channels], a multiple of C."""
    return x.repeat(channels // x.shape[-1], axis=-1)


class RmsNorm(nn.Module):
    """x / sqrt(mean(x^2) + 1e-5) over the channels of each pixel, then scale and bias; statistics in float32."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones_init(), (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros_init(), (x.shape[-1],))
        wide = x.astype(promoted(x.dtype))
        wide = wide * jax.lax.rsqrt((wide * wide).mean(-1, keepdims=True) + 1e-5)
        return (wide * scale + bias).astype(x.dtype)


class FixedBatchNorm(nn.Module):
    """(x - mean) / sqrt(variance + 1e-5), then scale and bias, with the statistics of the end of training.

    They are constants. Some published decoders have such norms; do not use them in new ones.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        one = nn.initializers.ones_init()
        zero = nn.initializers.zeros_init()
        shape = (x.shape[-1],)
        scale = self.param("scale", one, shape)
        bias = self.param("bias", zero, shape)
        mean = constant(self, "mean", zero, shape)
        variance = constant(self, "var", one, shape)
        return ((x - mean) * (jax.lax.rsqrt(variance + 1e-5) * scale) + bias).astype(x.dtype)


NORMS = {"rms_norm": RmsNorm, "batch_norm": FixedBatchNorm}


class PlainBlock(nn.Module):
    """x + norm(conv(act(conv(x)))); the second convolution has no bias."""

    norm: str
    activation: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        h = ACTIVATIONS[self.activation](conv(channels, dtype=self.dtype, name="conv_1")(x))
        h = nn.Conv(channels, (3, 3), use_bias=False, dtype=self.dtype, name="conv_2")(h)
        return layout.split(x + NORMS[self.norm](name="norm")(h), "batch", None, None, None)


class LinearAttention(nn.Module):
    """x + norm(out(linear attention)), on pixels and on neighbourhoods.

    The neighbourhoods are q, k and v after a depthwise convolution; they are additional heads.

    Attributes:
        head_size: d; it divides the channels C.
        scales: sides of the neighbourhoods, odd.
        norm: a name in NORMS.
        dtype: compute type; the attention itself is float32.

    Reference: Cai et al., 2023, figure 3.
    """

    head_size: int
    scales: tuple[int, ...]
    norm: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        options = {"use_bias": False, "dtype": self.dtype}
        groups = 3 * channels // self.head_size
        qkv = [nn.Dense(3 * channels, name="qkv", **options)(x)]
        for i, side in enumerate(self.scales):
            near = nn.Conv(3 * channels, (side, side), feature_group_count=3 * channels, name=f"near_{i}", **options)
            mixed = nn.Conv(3 * channels, (1, 1), feature_group_count=groups, name=f"mixed_{i}", **options)
            qkv.append(mixed(near(qkv[0])))
        # The published networks cut the 3 C channels into heads first, and each head's 3 d into q, k and v.
        heads = jnp.concatenate(qkv, -1).reshape(batch, height * width, -1, 3, self.head_size)
        h = linear_attention(heads[..., 0, :], heads[..., 1, :], heads[..., 2, :])
        h = nn.Dense(channels, name="project", **options)(h.reshape(batch, height, width, -1))
        return layout.split(x + NORMS[self.norm](name="norm")(h), "batch", None, None, None)


class GatedConv(nn.Module):
    """x + norm(gated convolution of 4 C channels)."""

    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = gated_convolution(x, 4 * x.shape[-1], self.dtype)
        return layout.split(x + RmsNorm(name="norm")(h), "batch", None, None, None)


class Halve(nn.Module):
    """A convolution that halves the sides, plus the mean of channels after `pixel_unshuffle`.

    Attributes:
        features: number D of output channels.
        shuffle: whether to convolve to D / 4 channels, then `pixel_unshuffle`; otherwise convolve with stride 2.
        shortcut: whether to add the mean.
        dtype: compute type.
    """

    features: int
    shuffle: bool
    shortcut: bool
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.shuffle:
            h = pixel_unshuffle(conv(self.features // 4, dtype=self.dtype, name="conv")(x), BOX)
        else:
            h = conv(self.features, stride=2, dtype=self.dtype, name="conv")(x)
        return h + averaged(pixel_unshuffle(x, BOX), self.features) if self.shortcut else h


class Double(nn.Module):
    """A convolution that doubles the sides, plus `pixel_shuffle` of repeated channels.

    Attributes:
        features: number D of output channels.
        shuffle: whether to convolve to 4 D channels, then `pixel_shuffle`; otherwise convolve the nearest neighbours.
        shortcut: whether to add the repeated channels.
        dtype: compute type.
    """

    features: int
    shuffle: bool
    shortcut: bool
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.shuffle:
            h = pixel_shuffle(conv(4 * self.features, dtype=self.dtype, name="conv")(x), BOX)
        else:
            h = conv(self.features, dtype=self.dtype, name="conv")(upsample(x))
        return h + pixel_shuffle(repeated(x, 4 * self.features), BOX) if self.shortcut else h
