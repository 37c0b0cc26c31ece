"""The pitch of a clip, and how much of its energy lies on the multiples of a pitch."""

import numpy as np

from diffusion.data.sound.spectrograms import stft

THRESHOLD = 0.1  # the first minimum of the normalised difference that is lower marks the period
SILENT = 40.0  # frequency in Hz below which sound is hardly heard; the mean of a clip is at 0 Hz


def yin(waveform: np.ndarray, sample_rate: int, lowest: float = 70.0, highest: float = 1200.0) -> float:
    """The pitch of a clip by YIN: the smallest period after which the clip repeats itself.

        d(tau) = sum_j (x_j - x_(j + tau))^2,   d'(tau) = tau d(tau) / (d(1) + .. + d(tau)),   j < L / 2

    The period is the first minimum of d' that is below 0.1. If there is none, it is the least value of d'. A parabola
    through d at this lag and its two neighbours refines the period to a fraction of a sample.

    Args:
        waveform: the clip, `[L]`.
        sample_rate: the sample rate R in Hz.
        lowest, highest: the range of the pitch in Hz, 0 < lowest < highest <= R / 4; L is at least
            2 (R / lowest + 2).

    Returns:
        The pitch in Hz.

    Raises:
        ValueError: if the range does not fit the clip and its sample rate.

    Reference: de Cheveigne and Kawahara, "YIN, a Fundamental Frequency Estimator for Speech and Music", 2002.
    """
    x = np.asarray(waveform, np.float64)
    half = len(x) // 2
    longest = int(sample_rate / lowest) + 2 if lowest > 0 else half + 1
    shortest = int(sample_rate / max(highest, 1e-9))
    if not 0 < lowest < highest <= sample_rate / 4 or longest > half:
        raise ValueError(
            f"lowest = {lowest}, highest = {highest}. Valid: 0 < lowest < highest <= sample_rate / 4 with sample_rate "
            f"= {sample_rate}, and two periods of the lowest pitch within {len(x)} samples"
        )
    lags = np.arange(longest)
    products = np.array([x[:half] @ x[lag : lag + half] for lag in lags])
    energy = np.concatenate([[0.0], np.cumsum(x**2)])
    energies = energy[lags + half] - energy[lags]
    difference = energies[0] + energies - 2 * products
    normalised = np.ones(longest)
    normalised[1:] = difference[1:] * lags[1:] / np.maximum(np.cumsum(difference[1:]), 1e-12)
    inner = np.arange(max(shortest, 1), longest - 1)
    dips = (normalised[inner] <= normalised[inner - 1]) & (normalised[inner] <= normalised[inner + 1])
    lags_below = inner[dips & (normalised[inner] < THRESHOLD)]
    lag = int(lags_below[0]) if len(lags_below) else int(inner[np.argmin(normalised[inner])])
    before, at, after = difference[lag - 1 : lag + 2]
    bend = before - 2 * at + after
    offset = 0.5 * (before - after) / bend if bend > 0 else 0.0
    return sample_rate / (lag + float(np.clip(offset, -1, 1)))


def cents(pitch: float, reference: float) -> float:
    """The interval between two pitches in cents, 1200 log2(pitch / reference); a semitone is 100 cents."""
    return 1200 * float(np.log2(pitch / reference))


def harmonic_share(waveform: np.ndarray, sample_rate: int, pitch: float, within: float = 20.0) -> float:
    """The share of a clip's energy above 40 Hz that lies near multiples of a pitch.

    For white noise the share is about 2 `within` / pitch.

    Args:
        waveform: the clip, `[L]`. It is read in frames of 2,048 samples; the last L mod 512 samples are not read.
        sample_rate: the sample rate R in Hz.
        pitch: the pitch in Hz.
        within: the largest distance in Hz at which energy counts as near a multiple; a pure tone spreads over
            +- 2 R / 2048 under the Hann window.

    Returns:
        The share, 0 to 1; 0 for silence.
    """
    x = np.asarray(waveform, np.float64)
    power = (np.abs(stft(x[: len(x) // 512 * 512], 2048, 512)) ** 2).sum(0)
    frequencies = np.arange(len(power)) * sample_rate / 2048
    heard = frequencies >= SILENT
    near = np.abs(frequencies - np.maximum(1, np.round(frequencies / pitch)) * pitch) <= within
    return float(power[near & heard].sum() / max(power[heard].sum(), 1e-20))
