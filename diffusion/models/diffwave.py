"""DiffWave: a residual network of waveforms with dilated convolutions; given a spectrogram, a vocoder.

    x [B, L, C]     t                    spectrogram [B, F, M]
        |           |                          |
      dense    sinusoid, 2 dense     2 transposed convolutions
        |           |                          |  [B, L, M]
        |         dense                        |
        +---------> + -- dilated conv -- + <- dense
        |                                |
        |                     sigmoid(gate) tanh(filter)
        |                                |
      (x + r) / sqrt(2) <---- r ---- dense ---- s       x layers, dilation 1, 2, 4 .. 2^(cycle - 1), 1, 2 ..
                                                |
                     sum of s / sqrt(layers) -- dense -- dense --> [B, L, C]

Convolutions look both ways, so that all samples are made at once.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays.promotion import promoted
from diffusion.models.layers import conditions, network_checks
from diffusion.models.layers.block_features import Features

EMBEDDING = 512  # width of the layers behind the sinusoids of the time
SINUSOIDS = {  # radians a unit of the clock, from DiffWave's 10^(4 i / 63) and WaveGrad's 5000 10^(-4 i / 63)
    "steps": 10 ** (4 * np.arange(64) / 63),
    "level": 5000 * 10 ** (-4 * np.arange(64) / 63),
}
SLOPE = 0.4  # slope of the leaky ReLU behind each transposed convolution
CHOICES = {"clock": tuple(SINUSOIDS), "dtype": ("float32", "bfloat16")}


class DilatedConvolution(nn.Module):
    """A convolution of three samples at a distance: y_i = W_0 x_(i - d) + W_1 x_i + W_2 x_(i + d) + b, zeros outside.

    It is one product of matrices: XLA on CPU compiles a dilated convolution to a scalar loop.
    """

    features: int
    dilation: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """The convolution of x [B, L, C]: [B, L, features]."""
        distance = min(self.dilation, x.shape[1])
        zeros = jnp.zeros((x.shape[0], distance, x.shape[2]), x.dtype)
        before = jnp.concatenate([zeros, x], axis=1)[:, : x.shape[1]]
        after = jnp.concatenate([x, zeros], axis=1)[:, distance:]
        taps = jnp.concatenate([before, x, after], axis=-1)
        return nn.Dense(self.features, dtype=self.dtype, kernel_init=nn.initializers.he_normal(), name="taps")(taps)


class ResidualLayer(nn.Module):
    """One layer: ((h + r) / sqrt(2), s), with r and s of sigmoid(gate) tanh(filter), see the diagram.

    Attributes:
        dilation: distance of the samples that its convolution reads.
        dtype: compute type.
    """

    dilation: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, h: jax.Array, time: jax.Array, levels: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """The layer's two outputs.

        Args:
            h: the residual stream [B, L, width].
            time: its embedding [B, 512].
            levels: the spectrogram at each sample [B, L, M], or None.

        Returns:
            (the residual stream after the layer, what it adds to the sum of skips), both [B, L, width].
        """
        width = h.shape[-1]
        dense = lambda features, name: nn.Dense(features, dtype=self.dtype, name=name)
        y = DilatedConvolution(2 * width, self.dilation, self.dtype, name="conv")(
            h + dense(width, "time")(time)[:, None]
        )
        if levels is not None:
            y = y + dense(2 * width, "spectrogram")(levels)
        gate, filtered = jnp.split(y, 2, axis=-1)
        residual, skip = jnp.split(dense(2 * width, "out")(nn.sigmoid(gate) * jnp.tanh(filtered)), 2, axis=-1)
        return (h + residual) / math.sqrt(2), skip


class DiffWave(nn.Module):
    """The network of DiffWave: `apply(variables, x, t, condition)` is a `Network`. Clips may differ in length by call.

    Parameters are float32 whatever the compute type, and so is the output.

    Attributes:
        width: channels of the residual stream; 64 in the paper.
        layers: number of layers; 30.
        cycle: number of layers after which the dilation begins at 1 again; 10.
        mels: bands of the condition's "spectrogram" [B, F, M]; 0 for a network without one.
        hop: steps of x from one frame of it to the next: a product of two even numbers, or 1 for a frame at each step.
        clock: kind of time that the network receives: "steps" of a discrete process, 0 .. T, as DiffWave; or the noise
            "level" alpha in [0, 1], as WaveGrad.
        dtype: compute type, "float32" or "bfloat16".
        shape: (L, C) of the clips that it is made for; it takes other L too. None: the shape of the first input.

    Raises:
        ValueError: at construction, for a field out of range or an unknown name.

    Reference: Kong et al., "DiffWave: A Versatile Diffusion Model for Audio Synthesis", 2021; Chen et al., "WaveGrad:
    Estimating Gradients for Waveform Generation", 2021, for the noise level.
    """

    width: int = 64
    layers: int = 30
    cycle: int = 10
    mels: int = 0
    hop: int = 256
    clock: str = "steps"
    dtype: str = "float32"
    shape: tuple[int, int] | None = None
    ranks = (2,)

    def __post_init__(self):
        network_checks.positive(self, ("width", "layers", "cycle"))
        network_checks.known(self, CHOICES)
        if self.mels < 0:
            raise ValueError(f"mels={self.mels} must be 0 (no spectrogram), or the number of bands")
        if self.mels and self.hop != 1 and not _strides(self.hop):
            raise ValueError(f"hop={self.hop} must be 1, or a product of two even numbers, such as 64 or 256")
        super().__post_init__()

    @property
    def feature_blocks(self) -> int:
        """Number of layers whose features a call can return."""
        return self.layers

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, condition: Any = None, features: Sequence[int] | None = None) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: waveforms [B, L, C], C = 1 in the paper.
            t: the network's clock, [B] or [], float32 or wider.
            condition: {"spectrogram": [B, L / hop, mels]}; None for a network without one.
            features: numbers of blocks, from 1, whose features the call returns too, see `network_bases.Backbone`.

        Returns:
            [B, L, C].

        Raises:
            ValueError: for shapes that do not fit, and a superfluous or a missing spectrogram.
        """
        network_checks.example(self, x, "waveforms [B, L, C]", rank=3)
        recorded = Features(features, self.feature_blocks)
        batch, length, channels = x.shape
        network_checks.times(self, x, t)
        spectrogram = conditions.entries(condition, (), ("spectrogram",))["spectrogram"]
        self._check(spectrogram, batch, length)
        dense = lambda features, name: nn.Dense(features, dtype=self.dtype, name=name)
        time = self._sinusoids(jnp.broadcast_to(t, (batch,)))
        for i in range(2):
            time = nn.silu(dense(EMBEDDING, f"time_{i}")(time))
        levels = None if spectrogram is None else self._upsampled(spectrogram)

        h = nn.relu(dense(self.width, "in")(x))
        skips = jnp.zeros_like(h)
        for i in range(self.layers):
            h, skip = ResidualLayer(2 ** (i % self.cycle), self.dtype, name=f"layer_{i}")(h, time, levels)
            skips = skips + skip
            recorded.block(h)
        h = nn.relu(dense(self.width, "skips")(skips / math.sqrt(self.layers)))
        last = nn.Dense(channels, kernel_init=nn.initializers.zeros_init(), name="out")
        return recorded.beside(last(h.astype(jnp.float32)))

    def _sinusoids(self, t: jax.Array) -> jax.Array:
        """sin(w t), then cos(w t), [B, 128], float32 or wider."""
        t = t.astype(promoted(t.dtype))
        angles = t[:, None] * SINUSOIDS[self.clock].astype(t.dtype)
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)

    def _upsampled(self, spectrogram: jax.Array) -> jax.Array:
        """The spectrogram at each sample, [B, F, M] -> [B, F hop, M], by two transposed convolutions of one channel.

        They begin as an interpolation, so that the network sees the levels from its first step; the paper begins at
        random. Levels from 0 to 1 become -2 to 2.
        """
        h = spectrogram[..., None]
        for i, stride in enumerate(_strides(self.hop) or ()):
            kernel, strides = (2 * stride, 3), (stride, 1)
            widen = nn.ConvTranspose(
                1, kernel, strides, "SAME", dtype=self.dtype, kernel_init=_interpolation, name=f"spectrogram_{i}"
            )
            h = nn.leaky_relu(widen(h), SLOPE)
        return 4 * h[..., 0] - 2

    def _check(self, spectrogram: jax.Array | None, batch: int, length: int) -> None:
        if (spectrogram is not None) != bool(self.mels):
            state = "no spectrogram" if spectrogram is None else "a spectrogram"
            raise ValueError(
                f"mels={self.mels}: the condition has {state}. Valid: a spectrogram of mels bands, or mels = 0 "
                "without one"
            )
        if spectrogram is None:
            return
        if length % self.hop or spectrogram.shape != (batch, length // self.hop, self.mels):
            raise ValueError(
                f"the condition's 'spectrogram' must be [B, L / hop, mels] = ({batch}, {length / self.hop:g}, "
                f"{self.mels}) for waveforms of {length} samples; got {np.shape(spectrogram)}"
            )


def _interpolation(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """The kernel [2 stride, 3, 1, 1] by which a transposed convolution interpolates along time, band by band."""
    stride = shape[0] // 2
    hat = 1 - np.abs(np.arange(2 * stride) - (stride - 0.5)) / stride
    return jnp.zeros(shape, dtype).at[:, shape[1] // 2, 0, 0].set(hat)


def _strides(hop: int) -> tuple[int, int] | None:
    """The two even factors of a hop that are most alike; None for a hop without two even factors."""
    evens = range(2, math.isqrt(max(hop, 0)) + 1, 2)
    pairs = [(hop // two, two) for two in evens if hop % two == 0 and hop // two % 2 == 0]
    return pairs[-1] if pairs else None
