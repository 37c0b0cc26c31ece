"""LTX-2's vocoder: the waveform of a spectrogram, by transposed convolutions and residual blocks side by side.

x [B, T, M, C] -- conv -- [ lengthen - mean of blocks of several kernels ] x levels -- conv, tanh --> [B, L, C']

2.0 has leaky ReLUs. 2.3 has snakes, without aliasing: they act at twice the rate, between two low-pass filters.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.layers.network_bases import CheckedNetwork

ENDS = 7  # kernel of the first and the last convolution
LAST_SLOPE = 0.01  # slope of the last leaky ReLU
TAPS = 12  # of the filters around a snake


def lengthened(x: jax.Array, taps: jax.Array, factor: int, edge: int) -> jax.Array:
    """Sequences [B, L, C] at `factor` times the rate, [B, L factor, C], by a low-pass filter of K taps [K].

    Args:
        x: sequences.
        taps: the filter's taps.
        factor: factor of the rate.
        edge: number of times that the first and the last number are repeated at the ends of a sequence.
    """
    length, size = x.shape[1], len(taps)
    spread = jnp.pad(x, ((0, 0), (edge, edge), (0, 0)), mode="edge").swapaxes(1, 2).reshape(-1, 1, length + 2 * edge)
    how = {"window_strides": (1,), "padding": ((size - 1, size - 1),), "lhs_dilation": (factor,)}
    out = jax.lax.conv_general_dilated(spread, taps[::-1].reshape(1, 1, -1), **how)[:, 0]
    begin = edge * factor + (size - 1) // 2
    out = factor * out[:, begin : begin + length * factor]
    return out.reshape(x.shape[0], x.shape[2], -1).swapaxes(1, 2)


def shortened(x: jax.Array, taps: jax.Array, factor: int) -> jax.Array:
    """Every `factor`-th number of sequences [B, L, C] after a low-pass filter of K taps [K], [B, L / factor, C]."""
    size = len(taps)
    around = (size // 2 + size % 2 - 1, size // 2)
    padded = jnp.pad(x, ((0, 0), around, (0, 0)), mode="edge").swapaxes(1, 2).reshape(-1, 1, x.shape[1] + sum(around))
    out = jax.lax.conv_general_dilated(padded, taps.reshape(1, 1, -1), (factor,), "VALID")
    return out.reshape(x.shape[0], x.shape[2], -1).swapaxes(1, 2)


def low_pass(factor: int, size: int) -> np.ndarray:
    """Taps [size] of the low-pass filter for a factor of the rate: a sinc in a Kaiser window, whose sum is 1."""
    half = size // 2
    attenuation = 2.285 * (half - 1) * math.pi * 4 * 0.6 / factor + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    else:
        beta = 0.5842 * max(attenuation - 21, 0) ** 0.4 + 0.07886 * max(attenuation - 21, 0)
    times = np.arange(size) - half + (0 if size % 2 else 0.5)
    taps = np.sinc(times / factor) * np.kaiser(size, beta)
    return np.asarray(taps / taps.sum(), np.float32)


class Snake(nn.Module):
    """x + sin^2(a x) / b with a learned a and b > 0 of each channel, at twice the rate between two low-pass filters.

    Attributes:
        dtype: compute type.

    Reference: Lee et al., "BigVGAN: A Universal Neural Vocoder with Large-Scale Training", 2023, section 3.1.
    """

    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        logarithm = lambda name: self.param(name, nn.initializers.zeros_init(), (x.shape[-1],)).astype(self.dtype)
        taps = lambda name: self.param(name, lambda _: jnp.asarray(low_pass(2, TAPS))).astype(self.dtype)
        x = lengthened(x.astype(self.dtype), taps("lengthen"), 2, TAPS // 2 - 1)
        x = x + jnp.sin(x * jnp.exp(logarithm("alpha"))) ** 2 / (jnp.exp(logarithm("beta")) + 1e-9)
        return shortened(x, taps("shorten"), 2)


class DilatedBlock(nn.Module):
    """x + conv(f(conv(f(x)))) for each dilation, of the first convolution; f is a leaky ReLU or a `Snake`.

    Attributes:
        kernel: samples of each convolution, odd.
        dilations: distances between the samples of the first convolutions.
        slope: slope of f.
        dtype: compute type.
        snake: whether f is a snake.
    """

    kernel: int
    dilations: tuple[int, ...]
    slope: float
    dtype: str
    snake: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i, dilation in enumerate(self.dilations):
            h = x
            for part, step in (("first", dilation), ("second", 1)):
                conv = nn.Conv(
                    x.shape[-1], (self.kernel,), kernel_dilation=(step,), dtype=self.dtype, name=f"{part}_{i}"
                )
                act = Snake(self.dtype, name=f"{part}_snake_{i}") if self.snake else leaky(self.slope)
                h = conv(act(h))
            x = x + h
        return x


def leaky(slope: float) -> Callable[[jax.Array], jax.Array]:
    """The leaky ReLU with a slope."""
    return lambda x: nn.leaky_relu(x, slope)


class LTX2Vocoder(CheckedNetwork):
    """Waveforms of spectrograms, [B, T, M, C] -> [B, L, waves], float32; L is T times the factors' product.

    Attributes:
        features: number of a spectrogram's bands times its channels, M C.
        width: number of channels after the first convolution; each level halves it.
        waves: channels of the waveform, 2 for stereo.
        kernels: samples of each level's transposed convolution.
        factors: factor by which each level lengthens its input.
        block_kernels: samples of the convolutions of the parallel blocks of each level, odd.
        dilations: dilations of each of these blocks.
        slope: slope of the leaky ReLUs before the last.
        sample_rate: samples of the waveform in a second.
        snake: whether the activations are snakes (2.3); otherwise leaky ReLUs.
        bounded: whether a tanh brings the waveform to [-1, 1].
        biased_end: whether the last convolution has a bias.

    Reference: Kong et al., "HiFi-GAN: Generative Adversarial Networks for Efficient and High Fidelity Speech
    Synthesis", 2020, section 2.2; the sizes as in LTX-2 (HaCohen et al., 2026).
    """

    features: int = 128
    width: int = 1024
    waves: int = 2
    kernels: tuple[int, ...] = (16, 15, 8, 4, 4)
    factors: tuple[int, ...] = (6, 5, 2, 2, 2)
    block_kernels: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 3
    slope: float = 0.1
    sample_rate: int = 24000
    snake: bool = False
    bounded: bool = True
    biased_end: bool = True
    positive = ("features", "width", "waves", "sample_rate")

    def check_fields(self) -> None:
        if len(self.kernels) != len(self.factors):
            raise ValueError(f"kernels={self.kernels} and factors={self.factors} must have one entry for each level")
        if len(self.block_kernels) != len(self.dilations):
            raise ValueError(
                f"block_kernels={self.block_kernels} and dilations={self.dilations} must have one entry for each block"
            )
        if any((kernel - factor) % 2 or kernel < factor for kernel, factor in zip(self.kernels, self.factors)):
            raise ValueError(
                f"each of kernels={self.kernels} must be its entry of factors={self.factors}, or an even number larger"
            )
        if self.width % 2 ** len(self.kernels) or any(kernel % 2 == 0 for kernel in self.block_kernels):
            raise ValueError(
                f"2^{len(self.kernels)} must divide width={self.width}, which each level halves, and block_kernels="
                f"{self.block_kernels} must be odd"
            )

    @property
    def factor(self) -> int:
        """Number of samples of a frame of the spectrogram."""
        return math.prod(self.factors)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if x.ndim != 4 or x.shape[2] * x.shape[3] != self.features:
            raise ValueError(f"spectrograms must be [B, T, M, C] with M C = {self.features}; got {x.shape}")
        x = x.swapaxes(2, 3).reshape(*x.shape[:2], -1)
        x = nn.Conv(self.width, (ENDS,), dtype=self.dtype, name="conv_in")(x)
        for i, (kernel, factor) in enumerate(zip(self.kernels, self.factors)):
            width = self.width // 2 ** (i + 1)
            around = kernel - 1 - (kernel - factor) // 2
            lengthen = nn.Conv(
                width, (kernel,), padding=((around, around),), input_dilation=(factor,), dtype=self.dtype,
                name=f"lengthen_{i}",
            )  # fmt: skip
            x = lengthen(x if self.snake else nn.leaky_relu(x, self.slope))
            blocks = [
                DilatedBlock(size, dilations, self.slope, self.dtype, self.snake, name=f"level_{i}_block_{j}")(x)
                for j, (size, dilations) in enumerate(zip(self.block_kernels, self.dilations))
            ]
            x = jnp.stack(blocks).mean(0)
        act = Snake(self.dtype, name="snake_out") if self.snake else leaky(LAST_SLOPE)
        # In float32: bfloat16 would round the output to 8 bits.
        x = nn.Conv(self.waves, (ENDS,), use_bias=self.biased_end, name="conv_out")(act(x))
        return jnp.tanh(x) if self.bounded else x


class LTX2WideVocoder(CheckedNetwork):
    """A vocoder whose waveform a second one extends to higher frequencies, [B, T, M, C] -> [B, L, waves] in [-1, 1].

        w = vocoder(x);   out = resampled(w) + extension(log mel spectrogram of w)

    Attributes:
        vocoder: the vocoder of the spectrograms.
        extension: the vocoder of its waveform's spectrograms, whose rate is a multiple of its own.
        window: samples of the waveform in a frame of these spectrograms.
        hop: samples between two frames.
        bands: bands of these spectrograms.

    Reference: LTX-2.3's vocoder as in the code of diffusers (LTX2VocoderWithBWE); HaCohen et al., "LTX-2", 2026.
    """

    vocoder: LTX2Vocoder = LTX2Vocoder(
        128, 1536, 2, (11, 4, 4, 4, 4, 4), (5, 2, 2, 2, 2, 2), sample_rate=16000, snake=True, bounded=False,
        biased_end=False,
    )  # fmt: skip
    extension: LTX2Vocoder = LTX2Vocoder(
        128, 512, 2, (12, 11, 4, 4, 4), (6, 5, 2, 2, 2), sample_rate=48000, snake=True, bounded=False, biased_end=False
    )
    window: int = 512
    hop: int = 80
    bands: int = 64
    positive = ("window", "hop", "bands")

    def check_fields(self) -> None:
        vocoder, extension = self.vocoder, self.extension
        if extension.sample_rate % vocoder.sample_rate or extension.factor != self.hop * self.factor:
            raise ValueError(
                f"extension must make sample_rate={extension.sample_rate} a multiple of the vocoder's "
                f"{vocoder.sample_rate}, and {self.hop * self.factor} samples of a frame for hop={self.hop}; it makes "
                f"{extension.factor}"
            )
        if extension.features != self.bands * vocoder.waves or extension.waves != vocoder.waves:
            raise ValueError(
                f"extension must take bands={self.bands} of {vocoder.waves} channels, and make as many channels; it "
                f"takes {extension.features} and makes {extension.waves}"
            )
        if self.hop > self.window:
            raise ValueError(f"hop={self.hop} must be at most window={self.window}")

    @property
    def sample_rate(self) -> int:
        """Samples of the waveform in a second."""
        return self.extension.sample_rate

    @property
    def factor(self) -> int:
        """Factor between the rates of the two waveforms."""
        return self.extension.sample_rate // self.vocoder.sample_rate

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        waveform = self.vocoder(x)
        batch, length, waves = waveform.shape
        waveform = jnp.pad(waveform, ((0, 0), (0, -length % self.hop), (0, 0)))
        basis = self.param("basis", fourier_basis, self.window)
        self.param("inverse", fourier_basis, self.window)  # nothing reads it; files have it
        mel = self.param("mel", nn.initializers.uniform(1.0), (self.window // 2 + 1, self.bands))
        # A frame sees no later sample.
        rows = jnp.pad(
            waveform.swapaxes(1, 2).reshape(batch * waves, 1, -1), ((0, 0), (0, 0), (self.window - self.hop, 0))
        )
        parts = jax.lax.conv_general_dilated(rows, basis.T[:, None], (self.hop,), "VALID")
        real, imaginary = jnp.split(parts.swapaxes(1, 2), 2, axis=-1)
        spectrogram = jnp.log(jnp.maximum(jnp.hypot(real, imaginary) @ mel, 1e-5))
        spectrogram = spectrogram.reshape(batch, waves, -1, self.bands).transpose(0, 2, 3, 1)
        taps, edge = resampling(self.factor)
        out = self.extension(spectrogram) + lengthened(waveform, jnp.asarray(taps), self.factor, edge)
        return jnp.clip(out, -1, 1)[:, : length * self.factor]


def fourier_basis(key: Any, window: int) -> jax.Array:
    """Cosines and sines of all frequencies times a Hann window, [window, 2 (window // 2 + 1)]."""
    turns = np.outer(np.arange(window), np.arange(window // 2 + 1)) * (2 * np.pi / window)
    hann = np.sin(np.pi * np.arange(window) / window)[:, None] ** 2
    return jnp.asarray(np.concatenate([hann * np.cos(turns), -hann * np.sin(turns)], axis=1), jnp.float32)


def resampling(factor: int) -> tuple[np.ndarray, int]:
    """Taps of the filter that resamples a waveform, a sinc in a Hann window of six periods, and its `edge`."""
    rolloff, periods = 0.99, 6
    edge = math.ceil(periods / rolloff)
    times = (np.arange(2 * edge * factor + 1) / factor - edge) * rolloff
    window = np.cos(np.clip(times, -periods, periods) * np.pi / periods / 2) ** 2
    return np.asarray(np.sinc(times) * window * rolloff / factor, np.float32), edge
