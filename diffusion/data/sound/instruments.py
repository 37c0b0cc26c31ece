"""Eight synthetic instruments; a clip depends only on the numbers that identify it."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

NAMES = ("pluck", "organ", "bell", "flute", "square", "brass", "kick", "snare")
"""The names of the instruments, in the order of their numbers."""

HARMONIC = ("pluck", "organ", "flute", "square", "brass")
"""The instruments whose partials are multiples of the pitch."""

VIBRATOS = {"organ": 0.0, "flute": 0.02, "square": 0.01, "brass": 0.01}
"""The deepest vibrato of each instrument with a random vibrato, as a share of the pitch."""

LOWEST, OCTAVES = 110.0, 3.0  # the lowest pitch in Hz, and the range above it in octaves
BELL = 1.4  # the frequency of the bell's modulator divided by the pitch


class Vibrato(NamedTuple):
    """A pitch that rises and falls about its middle f: f (1 + depth sin(2 pi rate t)).

    Attributes:
        depth: the largest deviation as a share of the pitch, at least 0; 0 for a steady pitch.
        rate: the frequency of the vibrato in Hz.
    """

    depth: float
    rate: float

    def turns(self, pitch: float, time: np.ndarray) -> np.ndarray:
        """The turns of an oscillator with this vibrato since time 0.

        Args:
            pitch: the middle f of the pitch in Hz.
            time: the times in seconds, of any shape.

        Returns:
            The number of turns at each time, float of the shape of `time`.
        """
        swing = (1 - np.cos(2 * math.pi * self.rate * time)) / (2 * math.pi * self.rate)
        return pitch * (time + self.depth * swing)


STEADY = Vibrato(0.0, 5.5)


class Note(NamedTuple):
    """One note.

    Attributes:
        waveform: the waveform, float32 `[length]` in (-1, 1).
        label: the number of the instrument in `NAMES`.
        pitch: the pitch in Hz; 110 for the drums, which have no pitch.
        vibrato: the vibrato of the pitch.
    """

    waveform: np.ndarray
    label: int
    pitch: float
    vibrato: Vibrato


def fundamental(label: int, pitch: float) -> float:
    """The fundamental frequency in Hz, of which all partials of a tone are multiples.

    It equals the pitch, except for the bell, whose modulator has 7 / 5 of the pitch: there it is a fifth of the pitch.

    Args:
        label: the number of the instrument in `NAMES`.
        pitch: the pitch in Hz.
    """
    return pitch / 5 if NAMES[label] == "bell" else pitch


def clip(numbers: tuple[int, ...], sample_rate: int, length: int) -> Note:
    """One note, whose instrument, pitch, decay, vibrato and loudness follow from the numbers that identify it.

    Args:
        numbers: the numbers that identify the clip, non-negative; the instrument is the last number modulo 8.
        sample_rate: the sample rate in Hz.
        length: the number of samples of the clip.
    """
    rng = np.random.default_rng(numbers)
    label = numbers[-1] % len(NAMES)
    pitch = LOWEST * 2 ** rng.uniform(0, OCTAVES)
    wave, vibrato = INSTRUMENTS[label](rng, pitch, sample_rate, np.arange(length) / sample_rate)
    loudness = 10 ** rng.uniform(-0.6, -0.1)  # the size of the largest sample, -12 to -2 dB
    waveform = (loudness * wave / max(np.abs(wave).max(), 1e-9)).astype(np.float32)
    return Note(waveform, label, LOWEST if NAMES[label] in ("kick", "snare") else pitch, vibrato)


def _vibrato(rng: np.random.Generator, name: str) -> Vibrato:
    """A random vibrato for an instrument."""
    rate = rng.uniform(4, 7)
    return Vibrato(VIBRATOS[name] * rng.uniform(), rate)


_Tone = tuple[np.ndarray, Vibrato]  # (a waveform [length] of any loudness, its vibrato)


def _harmonics(turns: np.ndarray, pitch: float, sample_rate: int, amplitudes: dict[int, float]) -> np.ndarray:
    """A sum of the harmonics below 0.45 of the sample rate."""
    heard = {number: size for number, size in amplitudes.items() if number * pitch < 0.45 * sample_rate}
    return sum(size * np.sin(2 * math.pi * number * turns) for number, size in heard.items()) + 0 * turns


def _attack(time: np.ndarray, seconds: float) -> np.ndarray:
    return np.minimum(1, time / seconds)


def _pluck(rng: np.random.Generator, pitch: float, sample_rate: int, time: np.ndarray) -> _Tone:
    """Karplus and Strong's string: noise in a delay loop of one period, which loses its high frequencies."""
    from scipy.signal import lfilter  # imported here: SciPy's signals take long

    period = max(sample_rate / pitch - 0.5, 2.0)
    delay = int(period)
    share = period - delay
    share_kept = 10 ** (-3 / (pitch * rng.uniform(0.3, 1.5)))  # per period; -60 dB after the drawn time in seconds
    loop = np.zeros(delay + 3)
    loop[delay : delay + 3] = -share_kept * np.convolve([0.5, 0.5], [1 - share, share])
    loop[0] = 1
    burst = np.where(np.arange(len(time)) < delay, rng.uniform(-1, 1, len(time)), 0)
    return np.asarray(lfilter([1.0], loop, burst)), STEADY


def _organ(rng: np.random.Generator, pitch: float, sample_rate: int, time: np.ndarray) -> _Tone:
    drawbars = {number: rng.uniform(0.1, 1) for number in (1, 2, 3, 4, 6, 8)}
    vibrato = _vibrato(rng, "organ")
    turns = vibrato.turns(pitch, time) + rng.uniform()
    return _harmonics(turns, pitch, sample_rate, drawbars) * _attack(time, 0.01), vibrato


def _bell(rng: np.random.Generator, pitch: float, sample_rate: int, time: np.ndarray) -> _Tone:
    """Chowning's bell: the frequency is modulated at 1.4 times the pitch, and the modulation decays."""
    decay = np.exp(-time / rng.uniform(0.1, 0.4))
    modulator = np.sin(2 * math.pi * BELL * pitch * time)
    wave = np.sin(2 * math.pi * pitch * time + rng.uniform(2, 4) * decay * modulator)
    return decay * wave * _attack(time, 0.002), STEADY


def _flute(rng: np.random.Generator, pitch: float, sample_rate: int, time: np.ndarray) -> _Tone:
    vibrato = _vibrato(rng, "flute")
    turns = vibrato.turns(pitch, time) + rng.uniform()
    tone = _harmonics(turns, pitch, sample_rate, {1: 1.0, 2: rng.uniform(0.1, 0.3), 3: 0.05})
    breath = np.convolve(rng.normal(size=len(time)), [0.25, 0.5, 0.25], "same") * rng.uniform(0.03, 0.1)
    return (tone + breath) * _attack(time, rng.uniform(0.05, 0.12)), vibrato


def _square(rng: np.random.Generator, pitch: float, sample_rate: int, time: np.ndarray) -> _Tone:
    odd = {number: 1 / number for number in range(1, 40, 2)}
    vibrato = _vibrato(rng, "square")
    tone = _harmonics(vibrato.turns(pitch, time) + rng.uniform(), pitch, sample_rate, odd)
    return tone * np.exp(-time / rng.uniform(0.3, 2.0)) * _attack(time, 0.004), vibrato


def _brass(rng: np.random.Generator, pitch: float, sample_rate: int, time: np.ndarray) -> _Tone:
    """Chowning's brass: the frequency is modulated at the pitch itself, and the modulation rises with the loudness."""
    rise = _attack(time, rng.uniform(0.03, 0.1))
    vibrato = _vibrato(rng, "brass")
    angle = 2 * math.pi * (vibrato.turns(pitch, time) + rng.uniform())
    return rise * np.sin(angle + rng.uniform(2, 4) * rise * np.sin(angle)), vibrato


def _kick(rng: np.random.Generator, pitch: float, sample_rate: int, time: np.ndarray) -> _Tone:
    """A sine whose pitch falls."""
    low, fall = rng.uniform(45, 80), rng.uniform(0.02, 0.05)
    turns = low * time + rng.uniform(150, 300) * fall * (1 - np.exp(-time / fall))
    return np.sin(2 * math.pi * turns) * np.exp(-time / rng.uniform(0.05, 0.15)) * _attack(time, 0.001), STEADY


def _snare(rng: np.random.Generator, pitch: float, sample_rate: int, time: np.ndarray) -> _Tone:
    noise = rng.normal(size=len(time)) * np.exp(-time / rng.uniform(0.04, 0.12))
    tone = np.sin(2 * math.pi * rng.uniform(160, 220) * time) * np.exp(-time / 0.05)
    return 0.3 * noise + 0.7 * rng.uniform(0.3, 1) * tone, STEADY


INSTRUMENTS: tuple[Callable[..., _Tone], ...] = (
    _pluck, _organ, _bell, _flute, _square, _brass, _kick, _snare,
)  # fmt: skip
