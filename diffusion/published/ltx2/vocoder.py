"""LTX-2's vocoder: the waveform of a spectrogram, by transposed convolutions and residual blocks side by side.

x [B, T, M, C] -- conv -- [ lengthen - mean of blocks of several kernels ] x levels -- conv, tanh --> [B, L, C']
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.layers.network_bases import CheckedNetwork

ENDS = 7  # kernel of the first and the last convolution
LAST_SLOPE = 0.01  # slope of the last leaky ReLU


class DilatedBlock(nn.Module):
    """x + conv(f(conv(f(x)))) for each dilation, of the first convolution; f is a leaky ReLU.

    Attributes:
        kernel: samples of each convolution, odd.
        dilations: distances between the samples of the first convolutions.
        slope: slope of f.
        dtype: compute type.
    """

    kernel: int
    dilations: tuple[int, ...]
    slope: float
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i, dilation in enumerate(self.dilations):
            h = x
            for part, step in (("first", dilation), ("second", 1)):
                conv = nn.Conv(
                    x.shape[-1], (self.kernel,), kernel_dilation=(step,), dtype=self.dtype, name=f"{part}_{i}"
                )
                h = conv(nn.leaky_relu(h, self.slope))
            x = x + h
        return x


class LTX2Vocoder(CheckedNetwork):
    """Waveforms of spectrograms, [B, T, M, C] -> [B, L, waves] in [-1, 1], float32; L is T times the factors' product.

    Attributes:
        features: number of a spectrogram's bands times its channels, M C.
        width: channels behind the first convolution; each level halves them.
        waves: channels of the waveform, 2 for stereo.
        kernels: samples of each level's transposed convolution.
        factors: factor by which each level lengthens its input.
        block_kernels: samples of the convolutions of the blocks that stand side by side in each level, odd.
        dilations: dilations of each of these blocks.
        slope: slope of the leaky ReLUs before the last.
        sample_rate: samples of the waveform in a second.

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
            x = lengthen(nn.leaky_relu(x, self.slope))
            blocks = [
                DilatedBlock(size, dilations, self.slope, self.dtype, name=f"level_{i}_block_{j}")(x)
                for j, (size, dilations) in enumerate(zip(self.block_kernels, self.dilations))
            ]
            x = jnp.stack(blocks).mean(0)
        # In float32: bfloat16 would round the output to 8 bits.
        return jnp.tanh(nn.Conv(self.waves, (ENDS,), name="conv_out")(nn.leaky_relu(x, LAST_SLOPE)))
