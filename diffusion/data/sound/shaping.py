"""Clips flattened by the envelope that their levels show, and back: a vocoder's noise then has the clip's own spectrum.

Noise that is white in the flattened clip is N(0, L L^T) in the clip, with L x = IMDCT(E MDCT(x)). SpecGrad has the
same with a Fourier transform, whose L has no exact inverse; the MDCT is orthogonal, and both ways here are exact.

Reference: Koizumi et al., "SpecGrad: Diffusion Probabilistic Model based Neural Vocoder with Adaptive Noise Spectral
Shaping", 2022.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.data.sound.mdct import imdct, kaiser_bessel_derived, mdct
from diffusion.data.sound.spectrograms import between_bands, mel_filters

LEAST = 1e-4  # size of a coefficient, that of silence
NARROW = 2.0  # shape of the Kaiser-Bessel window: near frequencies matter more than far ones


def envelope(levels: Any, sample_rate: int, window: int) -> Any:
    """The size of a clip's MDCT coefficients, in blocks of W / 2, by its levels.

    White noise of standard deviation 1 has the magnitude (6 / W)^(1/2) in a spectrogram, and coefficients of size 1.
    The bands are interpolated in their logarithm, and of the frames of a block the loudest counts.

    Args:
        levels: the levels of the clip, `[..., F, M]`, from `log_mel`.
        sample_rate: the samples a second, in Hz.
        window: W, the window of the levels, in samples; their hop divides W / 2.

    Returns:
        `[..., F, W / 2]`, a row for each frame, at least 1e-4.
    """
    numerics = jnp if isinstance(levels, jax.Array) else np
    width = mel_filters(levels.shape[-1], window, sample_rate).sum(0)  # number of frequencies of each band
    log_size = (5 * math.log(10)) * (levels - 1) - np.log(width).astype(levels.dtype)
    log_size = between_bands(log_size, sample_rate, window // 2)
    return numerics.exp(log_size) * math.sqrt(window / 6) + LEAST


def flattened(waveform: Any, levels: Any, sample_rate: int, window: int) -> Any:
    """IMDCT(MDCT(waveform) / E): of about the size of noise in every band and at every time.

    Args:
        waveform: the clip, `[..., L]`; W / 2 divides L.
        levels: the clip's own levels, `[..., F, M]`.
        sample_rate, window: the sample rate and the window of the levels.

    Returns:
        `[..., L]`.
    """
    shape = kaiser_bessel_derived(window // 2, NARROW)
    spectrum = mdct(waveform, shape)
    return imdct(spectrum / _block_envelope(levels, spectrum, sample_rate, window), shape)


def shaped(x: Any, levels: Any, sample_rate: int, window: int) -> Any:
    """The inverse of `flattened` up to rounding; for white noise, noise with the clip's envelope."""
    shape = kaiser_bessel_derived(window // 2, NARROW)
    spectrum = mdct(x, shape)
    return imdct(spectrum * _block_envelope(levels, spectrum, sample_rate, window), shape)


def _block_envelope(levels: Any, spectrum: Any, sample_rate: int, window: int) -> Any:
    """The envelope of each block, `[..., L / bins, bins]`: the envelope of its loudest frame."""
    frames = envelope(levels, sample_rate, window)
    blocks, bins = spectrum.shape[-2:]
    return frames.reshape(*frames.shape[:-2], blocks, -1, bins).max(-2).astype(spectrum.dtype)
