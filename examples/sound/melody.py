"""A melody of notes from a trained run: each note is a separate sample at the requested pitch."""

import pathlib
from collections.abc import Callable

import numpy as np

from diffusion.data.sound import instruments
from diffusion.experiments.evaluation import plots, sound_files
from examples.sound.judge import RATE

BEAT = 0.42  # seconds
FADE = 0.04  # seconds in which a note fades out while the next one begins
HIGHEST = 2000  # highest frequency of the spectrogram in Hz
TUNE = (  # Beethoven, the theme of "An die Freude": (semitones above C 4, beats)
    *((4, 1), (4, 1), (5, 1), (7, 1), (7, 1), (5, 1), (4, 1), (2, 1), (0, 1), (0, 1), (2, 1), (4, 1)),
    *((4, 1.5), (2, 0.5), (2, 2)),
    *((4, 1), (4, 1), (5, 1), (7, 1), (7, 1), (5, 1), (4, 1), (2, 1), (0, 1), (0, 1), (2, 1), (4, 1)),
    *((2, 1.5), (0, 0.5), (0, 2)),
)
BASS = tuple((semitones, 2) for semitones in (-12, -5, -12, -5, -12, -5, -10, -5) * 2)
VOICES = {"flute": TUNE[:15], "brass": TUNE[15:], "pluck": BASS}
"""The flute begins, the brass goes on, and the pluck accompanies both."""


def hertz(semitones: float) -> float:
    """The pitch `semitones` above C 4, by equal temperament from A 4 = 440 Hz."""
    return 440 * 2 ** ((semitones - 9) / 12)


def vibratos(labels: np.ndarray) -> np.ndarray:
    """The vibrato of each note of the tune, `[N, 2]`: half the largest depth of its instrument, at 5.5 Hz."""
    return np.array([(instruments.VIBRATOS.get(instruments.NAMES[label], 0.0) / 2, 5.5) for label in labels])


def line(notes: list[np.ndarray], beats: list[float]) -> np.ndarray:
    """Joins notes: each is cut to its beats, and fades out while the next one begins.

    Args:
        notes: the waveforms of the notes, `[L]` at 16 kHz.
        beats: the beats of each note; with the fade they must take at most L samples.

    Returns:
        float `[samples]`.
    """
    fade = int(FADE * RATE)
    starts = np.round(np.concatenate([[0], np.cumsum(beats)]) * BEAT * RATE).astype(int)
    out = np.zeros(starts[-1] + fade)
    for note, start, end in zip(notes, starts[:-1], starts[1:]):
        cut = np.array(note[: end - start + fade])
        cut[-fade:] *= np.cos(np.linspace(0, np.pi / 2, fade)) ** 2
        out[start : start + len(cut)] += cut
    return out


def played(play: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """The tune, played by all voices.

    Args:
        play: a function (labels int `[N]`, pitches in Hz `[N]`) -> waveforms `[N, L]` at 16 kHz.

    Returns:
        float `[samples]` in [-1, 1].
    """
    voices = [(name, semitones, beats) for name, part in VOICES.items() for semitones, beats in part]
    labels = np.array([instruments.NAMES.index(name) for name, _, _ in voices])
    notes = play(labels, np.array([hertz(semitones) for _, semitones, _ in voices]))
    notes = notes / np.maximum(np.abs(notes).max(-1, keepdims=True), 1e-3)
    lines = {
        name: line([note for note, voice in zip(notes, voices) if voice[0] == name], [beats for _, beats in part])
        for name, part in VOICES.items()
    }
    first = len(lines["flute"]) - int(FADE * RATE)  # the brass begins while the flute fades
    both = np.zeros(max(first + len(lines["brass"]), len(lines["pluck"])))
    both[: len(lines["flute"])] += lines["flute"]
    both[first : first + len(lines["brass"])] += lines["brass"]
    both[: len(lines["pluck"])] += 0.7 * lines["pluck"]
    return 0.9 * both / np.abs(both).max()


def draw(tune: np.ndarray, sample_rate: int, path: pathlib.Path) -> None:
    """Draws the spectrogram of a melody up to 2 kHz, from -80 to 0 dB.

    Args:
        tune: waveform `[L]`.
        sample_rate: samples a second, in Hz.
        path: the PNG file.
    """
    figure = plots.blank(9, 3, layout="constrained")
    axes = figure.subplots()
    sound_files.spectrogram(axes, tune, sample_rate, 2048, 256, HIGHEST)
    axes.set(ylabel="kHz")
    plots.save(figure, path)
