"""A note of a known pitch as the amplitudes of its harmonics, and what is left.

    x(t) = Re sum_n a_n(t) exp(2 pi i n phi(t)) + residual(t),   phi(t) = int_0^t f_0

The complex amplitude a_n of a steady tone is constant. A vibrato does not change it either if f_0 follows the vibrato.
A network that draws amplitudes need not know how far a phase turns from frame to frame, and an error in them changes
the timbre and not the pitch. The residual is the clip without the sum, so that nothing is lost whatever the clip and
the pitch are; noise, strokes and other partials stay in it.

Reference: Serra and Smith, "Spectral Modeling Synthesis: A Sound Analysis/Synthesis System Based on a Deterministic
plus Stochastic Decomposition", 1990; Moorer, "The Heterodyne Filter as a Tool for Analysis of Transient Waveforms",
1973, for the amplitudes.
"""

from typing import Any

import numpy as np

from diffusion.data.sound.mdct import sine_window

HIGHEST = 0.48  # share of the sample rate above which harmonics have the amplitude 0


def harmonic_amplitudes(waveform: Any, pitch: Any, sample_rate: int, harmonics: int, hop: int) -> np.ndarray:
    """The amplitude of each harmonic in each frame: a clip multiplied by its carrier, in the mean of Hann's window.

        a_in = 2 / sum_m v_m  sum_m v_m x_j exp(-2 pi i n phi_j),   j = i H - H / 2 + m,   m = 0 .. 2 H - 1

    Frame i is centred on the samples from i H to (i + 1) H; beyond the clip there are zeros. It is exact for a tone
    whose harmonics stay the same for the 2 H samples of a frame, up to the side lobes of the window at the next one.

    Args:
        waveform: the clip, `[..., L]`; H divides L.
        pitch: f_0 in Hz, positive: `[...]` where it is constant, or at each sample `[..., L]`.
        sample_rate: the samples a second, in Hz.
        harmonics: the number of harmonics; of those that reach 0.48 of the sample rate the amplitude is 0.
        hop: H, the samples from frame to frame, even.

    Returns:
        complex128 `[..., L / H, harmonics]`.

    Raises:
        ValueError: for sizes that do not fit, or a pitch that is not positive.
    """
    return harmonics_apart(waveform, pitch, sample_rate, harmonics, hop)[0]


def harmonics_apart(
    waveform: Any, pitch: Any, sample_rate: int, harmonics: int, hop: int
) -> tuple[np.ndarray, np.ndarray]:
    """The amplitudes of the harmonics of a clip, and the clip without their sum.

    Args:
        waveform, pitch, sample_rate, harmonics, hop: the arguments of `harmonic_amplitudes`.

    Returns:
        `harmonic_amplitudes`, complex128 `[..., L / H, harmonics]`, and x - `harmonic_sum`, float64 `[..., L]`.

    Raises:
        ValueError: for sizes that do not fit, or a pitch that is not positive.
    """
    waveform = np.asarray(waveform, np.float64)
    if hop < 2 or hop % 2 or waveform.shape[-1] % hop or not waveform.shape[-1]:
        raise ValueError(
            f"hop = {hop} with {waveform.shape[-1]} samples. Valid: an even hop, and a multiple of hop samples"
        )
    frames = waveform.shape[-1] // hop
    amplitudes = np.zeros((waveform.size // waveform.shape[-1], frames, harmonics), np.complex128)
    rest = waveform.reshape(-1, waveform.shape[-1]).copy()
    for row, turns in enumerate(_turns(pitch, waveform.shape, sample_rate)):
        carriers = _carriers(turns, harmonics, hop)
        heard = amplitudes[row, :, : carriers.shape[-1]]
        heard[...] = _amplitudes(rest[row], carriers)
        rest[row] -= _sum(heard, carriers)
    return amplitudes.reshape(*waveform.shape[:-1], frames, harmonics), rest.reshape(waveform.shape)


def harmonic_sum(amplitudes: Any, pitch: Any, sample_rate: int, hop: int) -> np.ndarray:
    """The sum of harmonics with these amplitudes, which Hann's window interpolates between the frames.

    Args:
        amplitudes: the amplitudes, complex `[..., F, harmonics]`.
        pitch, sample_rate, hop: the pitch, the sample rate and the hop, as in `harmonic_amplitudes`, with L = F hop.

    Returns:
        float64 `[..., F hop]`.

    Raises:
        ValueError: for a pitch that is not positive.
    """
    amplitudes = np.asarray(amplitudes)
    shape = (*amplitudes.shape[:-2], amplitudes.shape[-2] * hop)
    flat = amplitudes.reshape(-1, *amplitudes.shape[-2:])
    clips = np.zeros((len(flat), shape[-1]))
    for row, turns in enumerate(_turns(pitch, shape, sample_rate)):
        carriers = _carriers(turns, flat.shape[-1], hop)
        clips[row] = _sum(flat[row, :, : carriers.shape[-1]], carriers)
    return clips.reshape(shape)


def _amplitudes(clip: np.ndarray, carriers: np.ndarray) -> np.ndarray:
    """The amplitudes `[F, n]` of one clip `[L]`, by its `_carriers`."""
    hop = carriers.shape[1]
    window = sine_window(hop).reshape(2, hop) ** 2
    blocks = np.pad(clip, hop // 2).reshape(-1, hop)
    first, second = (np.einsum("fh, fhn -> fn", blocks * half, carriers) for half in window)
    return (2 / window.sum()) * (first[:-1] + second[1:]).conj()


def _sum(amplitudes: np.ndarray, carriers: np.ndarray) -> np.ndarray:
    """The sum `[L]` of harmonics with amplitudes `[F, n]`, by the `_carriers` of one clip."""
    hop = carriers.shape[1]
    window = sine_window(hop).reshape(2, hop) ** 2
    edges = np.pad(amplitudes, [(1, 1), (0, 0)], mode="edge")  # for the outermost halves
    after, before = (np.einsum("fhn, fn -> fh", carriers, frames).real for frames in (edges[1:], edges[:-1]))
    return (window[0] * after + window[1] * before).ravel()[hop // 2 : -(hop // 2)]


def _turns(pitch: Any, shape: tuple[int, ...], sample_rate: int) -> np.ndarray:
    """phi at each sample of clips of this shape, `[..., L]`, as float64 `[clips, L]`."""
    pitch = np.asarray(pitch, np.float64)
    if not (np.isfinite(pitch) & (pitch > 0)).all():
        raise ValueError(f"pitch = {pitch.ravel()[:8]} must be positive, in Hz")
    if pitch.ndim < len(shape):
        turns = pitch[..., None] * np.arange(shape[-1]) / sample_rate
    else:
        steps = (pitch[..., 1:] + pitch[..., :-1]) / 2  # the trapezoidal rule
        turns = np.cumsum(np.insert(steps, 0, 0, axis=-1), axis=-1) / sample_rate
    return np.broadcast_to(turns, shape).reshape(-1, shape[-1])


def _carriers(turns: np.ndarray, harmonics: int, hop: int) -> np.ndarray:
    """exp(2 pi i n phi) in blocks of H samples, of which the first begins H / 2 before the clip: `[F + 1, H, n]`.

    The numbers n are those of the harmonics that stay below 0.48 of the sample rate.
    """
    heard = np.arange(1, harmonics + 1) * np.diff(turns).max(initial=0.0) < HIGHEST
    fundamental = np.exp(2j * np.pi * np.pad(turns, hop // 2, mode="edge"))[:, None]
    powers = np.cumprod(np.broadcast_to(fundamental, (len(fundamental), heard.sum())), axis=-1)
    return powers.reshape(-1, hop, heard.sum())
