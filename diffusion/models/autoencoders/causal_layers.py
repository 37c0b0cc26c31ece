"""Layers of videos [B, F, H, W, C] in which a frame depends only on itself and earlier frames.

A video can be passed at once or in chunks. With the collection "stream" mutable, a module reads the frames before its
input from the collection, and stores its last frames for the next call:

    first, stream = module.apply({"params": params}, x[:, :1], mutable=["stream"])
    later, stream = module.apply({"params": params, **stream}, x[:, 1:], mutable=["stream"])

Without the collection, the input begins a video.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays.boxes import pixel_shuffle, pixel_unshuffle
from diffusion.arrays.promotion import promoted
from diffusion.models.layers.attention import attention
from diffusion.models.layers.convolutions import upsample

STREAM = "stream"
"""The name of the collection in which a call stores frames for the next call."""


def with_past(module: nn.Module, x: jax.Array, frames: int, repeats: bool = False) -> tuple[jax.Array, bool]:
    """Puts earlier frames before an input: the stored ones, or zeros if the input begins a video.

    Args:
        module: the module, which stores the last frames for its next call.
        x: the input, [B, F, ...].
        frames: number n of earlier frames.
        repeats: whether copies of the first frame, instead of zeros, precede a video.

    Returns:
        ([B, n + F, ...], whether x begins a video).
    """
    begins = not module.has_variable(STREAM, "past")
    empty = jnp.zeros((x.shape[0], frames, *x.shape[2:]), x.dtype)
    if repeats:
        empty = jnp.broadcast_to(x[:, :1], empty.shape)
    joined = jnp.concatenate([empty if begins else module.get_variable(STREAM, "past"), x], axis=1)
    if module.is_mutable_collection(STREAM) and not module.is_initializing():
        module.put_variable(STREAM, "past", joined[:, -frames:])
    return joined, begins


def _windows(x: jax.Array, size: int, stride: int = 1) -> jax.Array:
    """The frames of each window as channels: [B, F, ..., C] -> [B, (F - size) / stride + 1, ..., size C]."""
    last = x.shape[1] - size
    return jnp.concatenate([x[:, k : last + k + 1 : stride] for k in range(size)], axis=-1)


class CausalConv(nn.Module):
    """A convolution over time, rows and columns that keeps the sizes; zeros precede the first frame.

        out[f] = sum_k K_k * x[f - 2 + k],   k = 0, 1, 2   (out[f] = K_0 * x[f] for kernels of one pixel)

    It is computed as a convolution of pictures whose channels hold three frames.

    Attributes:
        features: number D of output channels.
        size: size of the kernel along each axis, 3 or 1.
        zero: whether the kernel is initialised to zeros.
        dtype: compute type.
        still: whether the kernel has a single frame, as for pictures.

    Reference: Yu et al., "Language Model Beats Diffusion: Tokenizer is Key to Visual Generation", 2023, section 3.
    """

    features: int
    size: int = 3
    zero: bool = False
    dtype: str = "float32"
    still: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels, frames = x.shape[-1], 1 if self.still else self.size
        start = nn.initializers.zeros_init() if self.zero else nn.initializers.lecun_normal()
        kernel = self.param("kernel", start, (frames, self.size, self.size, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        if frames > 1:
            x = _windows(with_past(self, x, frames - 1)[0], frames)
        planes = kernel.transpose(1, 2, 0, 3, 4).reshape(self.size, self.size, -1, self.features)
        padding = [(self.size // 2, self.size // 2)] * 2
        return _frames(lambda x: _conv(x, planes, bias, (1, 1), padding, self.dtype), x)


class FrameConv(nn.Module):
    """A convolution within each frame, 3 x 3, that keeps the sides, or halves them with `halve`.

    Attributes:
        features: number D of output channels.
        halve: whether the sides are halved; zeros are then added only below and on the right.
        dtype: compute type.
    """

    features: int
    halve: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        stride, padding = ((2, 2), [(0, 1)] * 2) if self.halve else ((1, 1), [(1, 1)] * 2)
        return _frames(lambda x: _conv(x, kernel, bias, stride, padding, self.dtype), x)


def _frames(function: Any, x: jax.Array) -> jax.Array:
    """Applies a function of pictures to all frames: [B, F, H, W, C] -> [B, F, ...]."""
    outputs = function(x.reshape(-1, *x.shape[2:]))
    return outputs.reshape(*x.shape[:2], *outputs.shape[1:])


def _conv(x: jax.Array, kernel: jax.Array, bias: jax.Array, stride: tuple, padding: list, dtype: str) -> jax.Array:
    x, kernel, bias = (a.astype(dtype) for a in (x, kernel, bias))
    return jax.lax.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias


class ChannelNorm(nn.Module):
    """x / sqrt(mean x^2 over the channels), times a learned scale; it uses no statistics of other pixels or frames.

    Reference: Zhang & Sennrich, "Root Mean Square Layer Normalization", 2019, equation 4.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones_init(), x.shape[-1:])
        h = x.astype(promoted(x.dtype))
        h = h * jax.lax.rsqrt(jnp.mean(h * h, axis=-1, keepdims=True) + 1e-12)
        return (h * scale).astype(x.dtype)


class CausalBlock(nn.Module):
    """x + conv(silu(norm(h))), h = conv(silu(norm(x))), with causal convolutions.

    Attributes:
        features: number of channels of the output. If the input has another number, the shortcut is a convolution of
            one pixel.
        dtype: compute type.
        still: whether the kernels have one frame, see `CausalConv`.
    """

    features: int
    dtype: str = "float32"
    still: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = lambda name, **how: CausalConv(self.features, dtype=self.dtype, still=self.still, name=name, **how)
        h = conv("conv_1")(nn.silu(ChannelNorm(name="norm_1")(x)))
        h = conv("conv_2", zero=True)(nn.silu(ChannelNorm(name="norm_2")(h)))
        return (x if x.shape[-1] == self.features else conv("shortcut", size=1)(x)) + h


class FrameAttention(nn.Module):
    """x + project(attention(norm(x))): every pixel attends to all pixels of its frame, with one head.

    Attributes:
        attention: implementation, see `diffusion.models.layers.attention`.
        dtype: compute type.
    """

    attention: str = "auto"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        h = ChannelNorm(name="norm")(x).reshape(x.shape[0] * x.shape[1], -1, 1, channels)
        q, k, v = jnp.split(nn.Dense(3 * channels, dtype=self.dtype, name="qkv")(h), 3, axis=-1)
        h = nn.Dense(channels, dtype=self.dtype, name="project")(attention(q, k, v, self.attention))
        return x + h.reshape(x.shape)


class HalveTime(nn.Module):
    """Turns 1 + 2 n frames into 1 + n: the first frame stays, and each other frame is computed from three.

        out[0] = x[0],   out[i] = sum_k K_k x[2 i - 2 + k],   k = 0, 1, 2

    A later chunk of a stream has 2 n frames. The initial kernel is the mean of the last two of the three frames.

    Attributes:
        dtype: compute type.
        still: whether all inputs are pictures. They are returned unchanged; the kernel has one frame and is not used.
    """

    dtype: str = "float32"
    still: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        weight, bias = _time_kernel(self, x.shape[-1], x.shape[-1], (1.0,) if self.still else (0.0, 0.5, 0.5))
        if self.still:
            return x
        joined, begins = with_past(self, x, 1)
        if begins:
            joined = x
        if joined.shape[1] < 3:
            return x
        halved = _windows(joined, 3, 2).astype(self.dtype) @ weight + bias
        return jnp.concatenate([x[:, :1], halved], axis=1) if begins else halved


class DoubleTime(nn.Module):
    """Turns 1 + n frames into 1 + 2 n: the first frame stays, and each other frame, with the two before it, makes two.

        (out[2 i - 1], out[2 i]) = sum_k K_k x[i - 2 + k],   k = 0, 1, 2,   x[j] = 0 for j < 1

    A later chunk of a stream has n frames, which become 2 n. The initial kernel repeats each frame.

    Attributes:
        dtype: compute type.
        still: whether all inputs are pictures, see `HalveTime`.
    """

    dtype: str = "float32"
    still: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        weight, bias = _time_kernel(self, channels, 2 * channels, (1.0,) if self.still else (0.0, 0.0, 1.0))
        if self.still:
            return x
        begins = not self.has_variable(STREAM, "past")
        first, later = (x[:, :1], x[:, 1:]) if begins else (x[:, :0], x)
        joined, _ = with_past(self, later, 2)
        if not later.shape[1]:
            return first
        doubled = _windows(joined, 3).astype(self.dtype) @ weight + bias
        doubled = jnp.moveaxis(doubled.reshape(*later.shape[:-1], 2, channels), -2, 2)
        return jnp.concatenate([first, doubled.reshape(len(x), -1, *x.shape[2:])], axis=1)


def _time_kernel(module: Any, inputs: int, outputs: int, taps: tuple[float, ...]) -> tuple[jax.Array, jax.Array]:
    """The kernel [K C, D] and bias [D] of a convolution over K frames; initially it is the sum of taps[k] x[k]."""

    def start(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        same = jnp.tile(jnp.eye(inputs, dtype=dtype), outputs // inputs)
        return jnp.stack([tap * same for tap in taps])

    kernel = module.param("kernel", start, (len(taps), inputs, outputs))
    bias = module.param("bias", nn.initializers.zeros_init(), (outputs,))
    return kernel.reshape(-1, outputs).astype(module.dtype), bias.astype(module.dtype)


def averaged(x: jax.Array, features: int, time: int, space: int) -> jax.Array:
    """Means of the channels and pixels of small boxes, without parameters: the shortcut around a level of an encoder.

        [B, F, H, W, C] -> [B, F / time, H / space, W / space, features]

    The values of a box, ordered by channel, are divided into one group for each feature. If `time` is 2 and the number
    of frames is odd, a frame of zeros precedes the first.

    Args:
        x: videos.
        features: number of features of the output, a divisor of C time space^2, the number of values in a box.
        time: frames of a box, 1 or 2.
        space: pixels along each side of a box.

    Reference: Wan Team, Wan 2.2's code, 2025; Chen et al., "Deep Compression Autoencoder for Efficient High-Resolution
    Diffusion Models", 2024, section 3.2.
    """
    x = jnp.pad(x, ((0, 0), (-x.shape[1] % time, 0), (0, 0), (0, 0), (0, 0)))
    values = pixel_unshuffle(x, (time, space, space))
    return values.reshape(*values.shape[:-1], features, -1).mean(-1)


def repeated(x: jax.Array, features: int, time: int, space: int, begins: bool) -> jax.Array:
    """Channels as the pixels of small boxes, without parameters: the shortcut around a level of a decoder.

        [B, F, H, W, C] -> [B, F time, H space, W space, features], without the first time - 1 frames of a video

    Args:
        x: videos.
        features: number of features of the output; C divides features time space^2, the number of values in a box.
        time: frames of a box, 1 or 2.
        space: pixels along each side of a box.
        begins: whether x begins a video.

    Reference: as `averaged`.
    """
    values = jnp.repeat(x, features * time * space**2 // x.shape[-1], axis=-1)
    video = pixel_shuffle(values, (time, space, space))
    return video[:, time - 1 :] if begins else video


def doubled(x: jax.Array) -> jax.Array:
    """Doubles the sides of each frame by repeating each pixel four times."""
    return _frames(upsample, x)
