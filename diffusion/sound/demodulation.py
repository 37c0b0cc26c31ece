"""The short-time spectrum of a note, demodulated by its pitch: a steady tone is then constant along time.

In frame i a partial of frequency f has the phase 2 pi f t_i + phi. A network that draws spectra has to know how far
each phase turns from frame to frame, and a small error smears the tone. Here each frequency of the transform is
multiplied by the carrier of the nearest harmonic of the pitch,

    D_ik = X_ik exp(-2 pi i n_k f_0 t_i),   n_k = max(1, round(f_k / f_0)),

so that a partial of a harmonic tone keeps its phase phi, and vibrato turns it slowly. The way back multiplies by the
conjugate carrier. It is exact for any clip and any pitch; the pitch decides only how simple the numbers are.

Reference: Moorer, "The Heterodyne Filter as a Tool for Analysis of Transient Waveforms", 1973; Flanagan and Golden,
"Phase Vocoder", 1966.
"""

__all__ = ["carriers", "harmonic_axis", "odd_istft", "odd_stft"]

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.sound.mdct import sine_window


def odd_stft(waveform: Any, bins: int) -> Any:
    """The short-time Fourier transform at the odd frequencies (k + 1/2) / (2 N), by the sine window.

        X_ik = 1/N sum_n w_n x_(i N - N / 2 + n) exp(-2 pi i (k + 1/2) (n - N + 1/2) / (2 N)),   n = 0 .. 2 N - 1

    Frame i is centred on block i; beyond the clip there are zeros. A phase is that of the frame's middle, where the
    transform of the window is real: the frequencies around a partial have one phase. At odd frequencies a real clip has
    N complex numbers a frame, none of which is always real.

    Args:
        waveform: the clip, `[..., L]`; N divides L. Whole numbers are transformed in float32.
        bins: N, half the samples of a frame, even.

    Returns:
        complex `[..., L / N, N]`.

    Raises:
        ValueError: for sizes that do not fit.
    """
    _check(bins)
    if waveform.shape[-1] % bins or not waveform.shape[-1]:
        raise ValueError(f"{waveform.shape[-1]} samples are no whole number of blocks. Valid: a multiple of {bins}")
    numerics = jnp if isinstance(waveform, jax.Array) else np
    real = waveform.dtype if waveform.dtype.kind == "f" else np.dtype(np.float32)
    borders = [(0, 0)] * (waveform.ndim - 1) + [(bins // 2, bins // 2)]
    blocks = numerics.pad(waveform, borders).reshape(*waveform.shape[:-1], -1, bins)
    frames = numerics.concatenate([blocks[..., :-1, :], blocks[..., 1:, :]], -1)
    before, after = _turns(bins, real)
    return numerics.fft.fft(frames * sine_window(bins).astype(real) * before)[..., :bins] * after / bins


def odd_istft(spectrum: Any, bins: int) -> Any:
    """The clip whose `odd_stft` is nearest to a spectrum in squares: the inverse, where the spectrum is a clip's own.

    Args:
        spectrum: complex `[..., F, N]`.
        bins: N, half the samples of a frame, even.

    Returns:
        `[..., F N]`, real.

    Raises:
        ValueError: for sizes that do not fit.

    Reference: Griffin and Lim, "Signal Estimation from Modified Short-Time Fourier Transform", 1984.
    """
    _check(bins)
    if spectrum.ndim < 2 or spectrum.shape[-1] != bins:
        raise ValueError(f"a spectrum of shape {spectrum.shape}. Valid: [..., frames, {bins}]")
    numerics = jnp if isinstance(spectrum, jax.Array) else np
    window = sine_window(bins).astype(spectrum.real.dtype)
    before, after = _turns(bins, window.dtype)
    halves = numerics.concatenate([spectrum * after.conj(), numerics.zeros_like(spectrum)], -1)
    frames = 2 * bins * (numerics.fft.ifft(halves) * before.conj()).real * window
    border = [(0, 0)] * (frames.ndim - 2)
    first = numerics.pad(frames[..., :bins], [*border, (0, 1), (0, 0)])
    second = numerics.pad(frames[..., bins:], [*border, (1, 0), (0, 0)])
    clip = (first + second).reshape(*frames.shape[:-2], -1)[..., bins // 2 : -(bins // 2)]
    weight = np.ones(clip.shape[-1], window.dtype)  # the squares of the window, whose neighbours overlap to 1
    weight[: bins // 2], weight[-(bins // 2) :] = window[bins // 2 : bins] ** 2, window[bins : -(bins // 2)] ** 2
    return clip / weight


def carriers(pitch: Any, sample_rate: int, frames: int, bins: int) -> np.ndarray:
    """The carrier of the harmonic nearest to each frequency, exp(2 pi i n_k f_0 t_i) with t_i the frames' middles.

    Args:
        pitch: f_0 in Hz, float64 `[...]`, positive.
        sample_rate: the samples a second, in Hz.
        frames, bins: the numbers of frames and frequencies of the spectrum.

    Returns:
        complex128 `[..., frames, bins]`.

    Raises:
        ValueError: for a pitch that is not positive.
    """
    pitch = _positive(pitch)
    harmonic = np.maximum(1, np.round(_frequencies(sample_rate, bins) / pitch))
    seconds = ((np.arange(frames) + 0.5) * bins - 0.5) / sample_rate
    turns = seconds[:, None] * (harmonic * pitch)[..., None, :]
    return np.exp(2j * np.pi * (turns % 1))


def harmonic_axis(pitch: Any, sample_rate: int, bins: int) -> np.ndarray:
    """Where the frequencies of `odd_stft` lie among the harmonics of a pitch.

    For a network these are the co-ordinates of a spectrum: it then need not find the harmonics itself.

    Args:
        pitch: f_0 in Hz, float64 `[...]`, positive.
        sample_rate: the samples a second, in Hz.
        bins: N, the number of frequencies.

    Returns:
        float32 `[..., N, 4]`: the transform of the window at the distance to the nearest harmonic, which is the shape
        of a partial, from -0.4 to 1; cos(pi f / f_0) and sin(pi f / f_0), whose period is two harmonics; and
        log2(1 + f / f_0) / 4.

    Raises:
        ValueError: for a pitch that is not positive.
    """
    frequencies = _frequencies(sample_rate, bins)
    ratio = frequencies / _positive(pitch)
    offset = (frequencies - np.maximum(1, np.round(ratio)) * frequencies / ratio) * (2 * bins / sample_rate)
    # cos(pi d) / (1 - 4 d^2) by sinc, which has no pole at d = 1/2
    line = np.pi / 4 * (np.sinc(offset + 0.5) + np.sinc(offset - 0.5))
    return np.stack([line, np.cos(np.pi * ratio), np.sin(np.pi * ratio), np.log2(1 + ratio) / 4], -1).astype(np.float32)


def _frequencies(sample_rate: int, bins: int) -> np.ndarray:
    """(k + 1/2) R / (2 N) in Hz, `[N]`."""
    return (np.arange(bins) + 0.5) * sample_rate / (2 * bins)


def _positive(pitch: Any) -> np.ndarray:
    """The pitch as float64 `[..., 1]`."""
    pitch = np.asarray(pitch, np.float64)[..., None]
    if not (np.isfinite(pitch) & (pitch > 0)).all():
        raise ValueError(f"pitch = {pitch.ravel()[:8]} must be positive, in Hz")
    return pitch


def _turns(bins: int, real: Any) -> tuple[np.ndarray, np.ndarray]:
    """The factors of the samples and of the frequencies that make an FFT of 2 N one at odd frequencies."""
    kind = np.result_type(real, np.complex64)
    before = np.exp(-1j * np.pi * np.arange(2 * bins) / (2 * bins))
    after = np.exp(1j * np.pi * (np.arange(bins) + 0.5) * (bins - 0.5) / bins)
    return before.astype(kind), after.astype(kind)


def _check(bins: int) -> None:
    if bins < 2 or bins % 2:
        raise ValueError(f"bins = {bins}. Valid: even, at least 2")
