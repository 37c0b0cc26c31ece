"""A note of a known pitch as the amplitudes of its harmonics, and what is left.

    x(t) = Re sum_n a_n(t) exp(2 pi i n f_0 t) + residual(t)

The complex amplitude a_n of a steady tone is constant: a network that draws amplitudes need not know how far a phase
turns from frame to frame, and an error in them changes the timbre and not the pitch. The residual is the clip without
the sum, so that nothing is lost whatever the clip and the pitch are; noise, strokes and other partials stay in it.

Reference: Serra and Smith, "Spectral Modeling Synthesis: A Sound Analysis/Synthesis System Based on a Deterministic
plus Stochastic Decomposition", 1990; Moorer, "The Heterodyne Filter as a Tool for Analysis of Transient Waveforms",
1973, for the amplitudes.
"""

__all__ = ["harmonic_amplitudes", "harmonic_sum"]

from typing import Any

import numpy as np

from diffusion.sound.mdct import sine_window

HIGHEST = 0.48  # share of the sample rate above which harmonics have the amplitude 0


def harmonic_amplitudes(waveform: Any, pitch: Any, sample_rate: int, harmonics: int, hop: int) -> np.ndarray:
    """The amplitude of each harmonic in each frame: a clip multiplied by its carrier, in the mean of Hann's window.

        a_in = 2 / sum_m v_m  sum_m v_m x_(i H - H / 2 + m) exp(-2 pi i n f_0 t),   m = 0 .. 2 H - 1

    Frame i is centred on the samples from i H to (i + 1) H; beyond the clip there are zeros. It is exact for a tone
    whose harmonics stay the same for the 2 H samples of a frame, up to the side lobes of the window at the next one.

    Args:
        waveform: the clip, `[..., L]`; H divides L.
        pitch: f_0 in Hz, `[...]`, positive.
        sample_rate: the samples a second, in Hz.
        harmonics: the number of harmonics; of those above 0.48 of the sample rate the amplitude is 0.
        hop: H, the samples from frame to frame, even.

    Returns:
        complex128 `[..., L / H, harmonics]`.

    Raises:
        ValueError: for sizes that do not fit, or a pitch that is not positive.
    """
    waveform = np.asarray(waveform, np.float64)
    if hop < 2 or hop % 2 or waveform.shape[-1] % hop or not waveform.shape[-1]:
        raise ValueError(
            f"hop = {hop} with {waveform.shape[-1]} samples. Valid: an even hop, and a multiple of hop samples"
        )
    borders = [(0, 0)] * (waveform.ndim - 1) + [(hop // 2, hop // 2)]
    blocks = np.pad(waveform, borders).reshape(*waveform.shape[:-1], -1, hop)
    frames = np.concatenate([blocks[..., :-1, :], blocks[..., 1:, :]], -1)
    window = sine_window(hop) ** 2
    carriers, turns = _carriers(pitch, sample_rate, harmonics, hop, frames.shape[-2])
    return (2 / window.sum()) * ((frames * window) @ carriers.conj()) * turns.conj()


def harmonic_sum(amplitudes: Any, pitch: Any, sample_rate: int, hop: int) -> np.ndarray:
    """The sum of harmonics with these amplitudes, which Hann's window interpolates between the frames.

    Args:
        amplitudes: the amplitudes, complex `[..., F, harmonics]`.
        pitch, sample_rate, hop: the pitch, the sample rate and the hop, as in `harmonic_amplitudes`.

    Returns:
        float64 `[..., F hop]`.

    Raises:
        ValueError: for a pitch that is not positive.
    """
    amplitudes = np.asarray(amplitudes)
    carriers, turns = _carriers(pitch, sample_rate, amplitudes.shape[-1], hop, amplitudes.shape[-2])
    window = sine_window(hop) ** 2
    frames = ((amplitudes * turns) @ carriers.swapaxes(-1, -2)).real * window
    border = [(0, 0)] * (frames.ndim - 2)
    first = np.pad(frames[..., :hop], [*border, (0, 1), (0, 0)])
    second = np.pad(frames[..., hop:], [*border, (1, 0), (0, 0)])
    clip = (first + second).reshape(*frames.shape[:-2], -1)[..., hop // 2 : -(hop // 2)]
    weight = np.ones(clip.shape[-1])  # sum of overlapping windows; the outermost halves have no neighbour
    weight[: hop // 2], weight[-(hop // 2) :] = window[hop // 2 : hop], window[hop : -(hop // 2)]
    return clip / weight


def _carriers(pitch: Any, sample_rate: int, harmonics: int, hop: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """exp(2 pi i n f_0 t) about a frame's middle, `[..., 2 H, n]`, and at the middles of all frames, `[..., F, n]`."""
    pitch = np.asarray(pitch, np.float64)[..., None, None]
    if not (np.isfinite(pitch) & (pitch > 0)).all():
        raise ValueError(f"pitch = {pitch.ravel()[:8]} must be positive, in Hz")
    cycles = np.arange(1, harmonics + 1) * pitch / sample_rate  # a sample, [..., 1, n]
    turn = np.exp(2j * np.pi * (np.arange(2 * hop)[:, None] - hop + 0.5) * pitch / sample_rate)
    within = np.cumprod(np.broadcast_to(turn, (*turn.shape[:-1], harmonics)), axis=-1)  # powers of the first
    middles = np.exp(2j * np.pi * (((np.arange(frames)[:, None] + 0.5) * hop - 0.5) * cycles % 1))
    return within * (cycles < HIGHEST), middles
