"""Convolutional layers that the U-Nets and autoencoders of the field share, channels last."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays.promotion import promoted
from diffusion.models.layers import layout
from diffusion.models.layers.dropout import dropped
from diffusion.models.layers.resampling import double, halve
from diffusion.models.layers.volumes import by_planes


class GroupNorm(nn.Module):
    """Centres and scales groups of channels over all pixels of an example, then scales and shifts each channel.

        out = scale * (x - mean) / sqrt(var + epsilon) + bias

    The statistics are float32 or wider whatever the compute type. They come from the centred values, since the mean of
    squares minus the square of the mean would lose digits.

    Attributes:
        groups: number of groups, a divisor of the channels.
        epsilon: epsilon of the checkpoint's family, 1e-5 or 1e-6.
        least: least number of channels in a group; if there are too few channels, there are fewer groups.

    Reference: Wu & He, "Group Normalization", 2018, equation 7.
    """

    groups: int = 32
    epsilon: float = 1e-6
    least: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        groups = min(self.groups, channels // self.least)
        if not groups or channels % groups:
            raise ValueError(f"{groups} groups do not divide {channels} channels")
        scale = self.param("scale", nn.initializers.ones_init(), (channels,))
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,))
        h = x.astype(promoted(x.dtype))
        h = h.reshape(x.shape[0], -1, channels)
        h = h - _group_mean(h, groups)
        h = h * (jax.lax.rsqrt(_group_mean(h * h, groups) + self.epsilon) * scale) + bias
        return h.reshape(x.shape).astype(x.dtype)


def _group_mean(h: jax.Array, groups: int) -> jax.Array:
    """The mean over all pixels of each group of channels, at each of its channels: [B, N, C] -> [B, 1, C].

    The mean over the pixels comes first: on CPU XLA compiles a reduction over pixels and channels to a scalar loop, a
    sixth of a U-Net's time.
    """
    batch, _, channels = h.shape
    means = h.mean(1).reshape(batch, groups, -1).mean(-1)
    return jnp.repeat(means, channels // groups, axis=-1)[:, None]


def conv(
    features: int,
    size: int = 3,
    stride: int = 1,
    *,
    axes: int = 2,
    zero: bool = False,
    dtype: str = "float32",
    name: str,
) -> nn.Conv:
    """A convolution that keeps the size of the image, or divides it by its stride: [B, H, W, C] -> [B, H/s, W/s, D].

    Args:
        features: number D of output channels.
        size: side of the kernel, odd; the image is padded with zeros by its half on all sides.
        stride: stride s.
        axes: number of axes of the input between batch and channels: 1 for series, 2 for images, 3 for volumes.
        zero: whether to start with a kernel of zeros.
        dtype: compute type.
        name: name of its parameters.
    """
    start = nn.initializers.zeros_init() if zero else nn.initializers.lecun_normal()
    padding = [(size // 2, size // 2)] * axes
    planes = by_planes if axes == 3 and jax.default_backend() == "cpu" else None
    return nn.Conv(
        features,
        (size,) * axes,
        (stride,) * axes,
        padding,
        dtype=dtype,
        kernel_init=start,
        conv_general_dilated=planes,
        name=name,
    )


ACTIVATIONS = {
    "silu": nn.silu,
    "gelu": functools.partial(nn.gelu, approximate=False),
    "relu": nn.relu,
    "mish": jax.nn.mish,
}
"""The activations of `ResnetBlock`, by their names."""


class ResnetBlock(nn.Module):
    """x + conv(act(norm(h))), h = conv(act(norm(x))), with the time added between: the block of DDPM's U-Net.

    The embedding of the time is added to h, or, with `scale_shift`, scales and shifts its norm (ADM's adaptive group
    norm): norm(h) (1 + scale) + shift. Where it resamples, both branches do, before their first convolution.

    Attributes:
        features: number of channels of the output; the input goes through a convolution of one pixel where it has
            others.
        groups: number of groups of the norms.
        epsilon: epsilon of the norms, > 0.
        scale_shift: whether the embedding gives a scale and a shift, see above.
        dropout: rate before the second convolution.
        dtype: compute type.
        resample: "keep", or "down" or "up" to halve or double the side.
        taps: taps of the filter that resamples, see `diffusion.models.layers.resampling`.
        project: whether x passes a convolution of one pixel even if the number of channels does not change.
        gain: factor of the sum; sqrt(1/2) keeps its variance (Song et al., 2021).
        least: least number of channels in a group of the norms, see `GroupNorm`.
        activation: name of the activation, in `ACTIVATIONS`.

    Reference: Ho et al., "Denoising Diffusion Probabilistic Models", 2020, appendix B; Dhariwal & Nichol, "Diffusion
    Models Beat GANs", 2021, section 3; Song et al., "Score-Based Generative Modeling through SDEs", 2021, appendix H.
    """

    features: int
    groups: int = 32
    epsilon: float = 1e-6
    scale_shift: bool = False
    dropout: float = 0.0
    dtype: str = "float32"
    resample: str = "keep"
    taps: tuple[int, ...] = (1, 1)
    project: bool = False
    gain: float = 1.0
    least: int = 1
    activation: str = "silu"

    @nn.compact
    def __call__(
        self, x: jax.Array, embedding: jax.Array | None = None, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """Args:
        x: [B, H, W, C], or with another number of axes, such as [B, L, C].
        embedding: embedding of the time, [B, E], before its activation; None for a network without time.
        dropout_keys: one key for each example, [B], by which dropout is drawn; None: nothing is dropped.
        """
        act = ACTIVATIONS[self.activation]
        h = act(GroupNorm(self.groups, self.epsilon, self.least, name="norm_1")(x))
        if self.resample != "keep":
            side = {"down": halve, "up": double}[self.resample]
            x = side(x, self.taps)
            h = side(h, self.taps)
        axes = x.ndim - 2
        h = conv(self.features, axes=axes, dtype=self.dtype, name="conv_1")(h)
        norm = GroupNorm(self.groups, self.epsilon, self.least, name="norm_2")
        if embedding is None:
            h = norm(h)
        else:
            width = self.features * (2 if self.scale_shift else 1)
            time = nn.Dense(width, dtype=self.dtype, name="time")(act(embedding))
            time = jnp.expand_dims(time, tuple(range(1, axes + 1)))
            if self.scale_shift:
                scale, shift = jnp.split(time, 2, axis=-1)
                h = norm(h) * (1 + scale) + shift
            else:
                h = norm(h + time)
        h = dropped(act(h), dropout_keys, self.dropout)
        h = conv(self.features, axes=axes, dtype=self.dtype, zero=True, name="conv_2")(h)
        if self.project or x.shape[-1] != self.features:
            x = conv(self.features, 1, axes=axes, dtype=self.dtype, name="shortcut")(x)
        h = x + h
        return layout.split(h if self.gain == 1 else self.gain * h, "batch", *(None,) * (axes + 1))


def upsample(x: jax.Array) -> jax.Array:
    """Each pixel four times: [B, H, W, C] -> [B, 2H, 2W, C], the nearest neighbour; along every axis that there is."""
    for axis in range(1, x.ndim - 1):
        x = x.repeat(2, axis=axis)
    return x


def gated_convolution(x: jax.Array, hidden: int, dtype: str) -> jax.Array:
    """The gated depthwise convolution of EfficientViT and SANA (there Mix-FFN), without norm and residual.

        out = project(a silu(b)),   [a, b] = depthwise 3 x 3 convolution of silu(widen(x))

    Called inside a module's `__call__`, whose parameters "widen", "near" and "project" they are.

    Args:
        x: [B, H, W, C].
        hidden: channels of a, and of b.
        dtype: compute type.

    Returns:
        [B, H, W, C].

    Reference: Xie et al., "SANA: Efficient High-Resolution Image Synthesis with Linear Diffusion Transformers", 2024.
    """
    h = nn.silu(nn.Dense(2 * hidden, dtype=dtype, name="widen")(x))
    h = nn.Conv(2 * hidden, (3, 3), feature_group_count=2 * hidden, dtype=dtype, name="near")(h)
    a, b = jnp.split(h, 2, axis=-1)
    return nn.Dense(x.shape[-1], use_bias=False, dtype=dtype, name="project")(a * nn.silu(b))
