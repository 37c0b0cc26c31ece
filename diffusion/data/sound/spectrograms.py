"""Spectrograms that do not determine the phase: the short-time Fourier transform, log-mel levels, Griffin and Lim."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LEAST = 1e-5  # amplitude at level 0; the amplitude at level 1 is 1


def stft(waveform: Any, window: int, hop: int) -> Any:
    """The short-time Fourier transform, by a Hann window of sum 2: a sine of amplitude a has the magnitude a.

    Frame i is centred on the samples from i hop to (i + 1) hop; beyond the clip there are zeros.

    Args:
        waveform: the clip, `[..., L]`; `hop` divides L. Whole numbers are transformed in float32.
        window: W, the samples of a frame, even, more than `hop`: Hann's window is 0 at its first sample.
        hop: H, the samples from frame to frame, even.

    Returns:
        complex `[..., L / H, W / 2 + 1]`.

    Raises:
        ValueError: for sizes that do not fit.

    Reference: Allen and Rabiner, "A Unified Approach to Short-Time Fourier Analysis and Synthesis", 1977.
    """
    _check(window, hop)
    if waveform.shape[-1] % hop or not waveform.shape[-1]:
        raise ValueError(f"{waveform.shape[-1]} samples are not a multiple of the hop. Valid: a multiple of {hop}")
    numerics = jnp if isinstance(waveform, jax.Array) else np
    border = (window - hop) // 2
    padded = numerics.pad(waveform, [(0, 0)] * (waveform.ndim - 1) + [(border, border)])
    rows = hop * np.arange(waveform.shape[-1] // hop)[:, None] + np.arange(window)
    dtype = waveform.dtype if waveform.dtype.kind == "f" else np.float32
    return numerics.fft.rfft(padded[..., rows] * _hann(window).astype(dtype))


def istft(spectrum: np.ndarray, window: int, hop: int) -> np.ndarray:
    """The clip whose `stft` is nearest to a spectrogram in squares: the inverse, where the spectrogram is a clip's own.

        x = sum_i w_i IFFT(X_i) / sum_i w_i^2

    Args:
        spectrum: complex `[F, W / 2 + 1]`.
        window, hop: the window and the hop of `stft`.

    Returns:
        float64 `[F H]`.

    Reference: Griffin and Lim, "Signal Estimation from Modified Short-Time Fourier Transform", 1984.
    """
    _check(window, hop)
    shape = _hann(window)
    frames = np.fft.irfft(spectrum, window) * shape
    border = (window - hop) // 2
    total, weight = np.zeros((2, len(frames) * hop + 2 * border))
    for i, frame in enumerate(frames):
        total[i * hop : i * hop + window] += frame
        weight[i * hop : i * hop + window] += shape**2
    return (total / np.maximum(weight, 1e-12))[border : border + len(frames) * hop]


def mel_corners(mels: int, sample_rate: int) -> np.ndarray:
    """The corners of `mels` triangles in Hz, `[mels + 2]`: triangle m is between corners m and m + 2, see below."""
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    return 700 * (10 ** (np.linspace(0, top, mels + 2) / 2595) - 1)


@functools.lru_cache(maxsize=16)
def mel_filters(mels: int, window: int, sample_rate: int) -> np.ndarray:
    """Triangles over the frequencies of a Fourier transform, with corners at equal distances in mel.

        mel(f) = 2595 log10(1 + f / 700)

    Args:
        mels: M, the number of triangles, from 0 Hz to half the sample rate.
        window: W, the samples of a frame.
        sample_rate: the samples a second, in Hz.

    Returns:
        float64 `[W / 2 + 1, M]`, at most 1, read-only.

    Raises:
        ValueError: if a triangle is so narrow that no frequency lies in it.

    Reference: O'Shaughnessy, "Speech Communication: Human and Machine", 1987, for the scale.
    """
    corners = mel_corners(mels, sample_rate)
    frequencies = np.arange(window // 2 + 1)[:, None] * sample_rate / window
    up = (frequencies - corners[:-2]) / np.diff(corners[:-1])
    down = (corners[2:] - frequencies) / np.diff(corners[1:])
    filters = np.maximum(0, np.minimum(up, down))
    if not filters.any(0).all():
        raise ValueError(
            f"mels = {mels} is too many for a window of {window} samples at {sample_rate} Hz: some bands contain no "
            "frequency. Valid: fewer bands, or a longer window"
        )
    filters.setflags(write=False)  # all callers share it
    return filters


def log_mel(waveform: Any, sample_rate: int, mels: int, window: int, hop: int) -> Any:
    """Levels of bands of frequency: 0 is -100 dB, 1 is 0 dB.

        S_im = max(0, 1 + log10(sum_k |X_ik| F_km) / 5)

    Args:
        waveform: the clip, `[..., L]`.
        sample_rate: the samples a second, in Hz.
        mels: M, the number of bands.
        window, hop: the window and the hop of `stft`.

    Returns:
        `[..., L / H, M]`, at least 0.

    Raises:
        ValueError: as `stft` and `mel_filters`.

    Reference: Shen et al., "Natural TTS Synthesis by Conditioning WaveNet on Mel Spectrogram Predictions", 2018.
    """
    numerics = jnp if isinstance(waveform, jax.Array) else np
    magnitude = abs(stft(waveform, window, hop))
    with jax.default_matmul_precision("highest"):
        bands = magnitude @ mel_filters(mels, window, sample_rate).astype(magnitude.dtype)
    return numerics.maximum(1 + numerics.log10(numerics.maximum(bands, LEAST)) / 5, 0)


def between_bands(values: Any, sample_rate: int, bins: int) -> Any:
    """Values of mel bands at the frequencies (k + 1/2) R / (2 N), linear between the middles of the bands.

    Args:
        values: a value for each band, `[..., M]`, M at least 2.
        sample_rate: R, the samples a second, in Hz.
        bins: N, the bins of an MDCT.

    Returns:
        Values `[..., N]`; beyond the outermost middles the value of the outermost band.
    """
    low, share = _places(values.shape[-1], sample_rate, bins)
    return values[..., low] * (1 - share) + values[..., low + 1] * share


@functools.lru_cache(maxsize=16)
def _places(mels: int, sample_rate: int, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """The band below each frequency, and the share of the next one."""
    middles = mel_corners(mels, sample_rate)[1:-1]
    at = (np.arange(bins) + 0.5) * sample_rate / (2 * bins)
    low = np.clip(np.searchsorted(middles, at) - 1, 0, mels - 2)
    share = np.clip((at - middles[low]) / (middles[low + 1] - middles[low]), 0, 1)
    return low, share.astype(np.float32)


def griffin_lim(
    levels: np.ndarray, sample_rate: int, window: int, hop: int, steps: int = 60, seed: int = 0
) -> np.ndarray:
    """A clip with about these levels, without learning: the phases of Griffin and Lim, from random ones.

    The magnitudes are the least squares of the bands, cut off at 0.

    Args:
        levels: the levels, `[F, M]`, from `log_mel`.
        sample_rate, window, hop: the sample rate, the window and the hop of the levels.
        steps: number of iterations.
        seed: the seed of the first phases.

    Returns:
        float64 `[F H]`.

    Reference: Griffin and Lim, "Signal Estimation from Modified Short-Time Fourier Transform", 1984.
    """
    bands = np.where(levels > 0, 10 ** (5 * (np.asarray(levels, np.float64) - 1)), 0)
    magnitude = np.maximum(0, bands @ np.linalg.pinv(mel_filters(levels.shape[-1], window, sample_rate)))
    phase = np.exp(2j * np.pi * np.random.default_rng(seed).uniform(size=magnitude.shape))
    for _ in range(steps):
        phase = np.exp(1j * np.angle(stft(istft(magnitude * phase, window, hop), window, hop)))
    return istft(magnitude * phase, window, hop)


def _hann(window: int) -> np.ndarray:
    shape = np.hanning(window + 1)[:-1]
    return 2 * shape / shape.sum()


def _check(window: int, hop: int) -> None:
    if hop < 1 or window <= hop or (window - hop) % 2 or window % 2:
        raise ValueError(f"window = {window} and hop = {hop}. Valid: both even, and window longer than hop")
