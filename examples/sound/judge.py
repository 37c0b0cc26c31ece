"""Measures whether a note has the right instrument and pitch and is a clear tone; the judge can say "none of these".

The judge is a small classifier of spectrograms. It is trained on real notes of the eight instruments, and on broken
notes as a ninth class: tones with random phases, two instruments at once, and struck notes that are played backwards.
Pitch and the share of harmonics are measured without a network (`sound.yin`, `sound.harmonic_share`).
"""

from typing import NamedTuple

import numpy as np

from diffusion import sound
from diffusion.data.sound import instruments
from diffusion.metrics import bootstrap, classifier

RATE, LENGTH = 16000, 16384
BANDS, WINDOW, HOP = 24, 2048, 1024  # of the spectrogram that the judge reads
NONE = len(instruments.NAMES)  # the class of notes of no instrument
NEAR = 20.0  # cents
TONES = ("pluck", "organ", "bell", "flute", "square", "brass")  # instruments for which noise is a broken note
STRUCK = ("pluck", "bell", "kick", "snare")  # instruments for which a note played backwards is a broken one


class Notes(NamedTuple):
    """Waveforms and the requested notes.

    Attributes:
        waveforms: float `[N, L]` at 16 kHz.
        labels: the numbers of their instruments, int `[N]`.
        pitches: their pitches in Hz, float `[N]`.
        vibratos: the depth of their vibratos as a share of the pitch, and the rate in Hz, float `[N, 2]`.
    """

    waveforms: np.ndarray
    labels: np.ndarray
    pitches: np.ndarray
    vibratos: np.ndarray


def real_notes(split: int, number: int) -> Notes:
    """The first notes of the recipes' data, with one instrument after the other.

    Args:
        split: 0 for the training notes, 1 for those of the test split.
        number: the number of notes.
    """
    rows = [instruments.clip((2029, split, row), RATE, LENGTH) for row in range(number)]
    return Notes(*(np.array(column) for column in zip(*rows)))


def broken_notes(notes: Notes, seed: int) -> np.ndarray:
    """A broken copy of each note, float `[N, L]`, with a random kind of damage that hides the note's instrument."""
    rng = np.random.default_rng(seed)
    tones = []
    for row, waveform in enumerate(notes.waveforms):
        name = instruments.NAMES[notes.labels[row]]
        kinds = ["blend"] + ["noise"] * (name in TONES) + ["backwards"] * (name in STRUCK)
        kind = kinds[rng.integers(len(kinds))]
        if kind == "noise":
            window = int(rng.choice([256, 1024]))
            spectrum = sound.stft(waveform, window, window // 4)
            turned = spectrum * np.exp(2j * np.pi * rng.uniform(size=spectrum.shape))
            tones.append(sound.istft(turned, window, window // 4) * 2)
        elif kind == "backwards":
            tones.append(waveform[::-1])
        else:
            others = np.flatnonzero(notes.labels != notes.labels[row])
            other = notes.waveforms[rng.choice(others)]
            tones.append((waveform / np.abs(waveform).max() + other / np.abs(other).max()) / 4)
    return np.array(tones)


def pictures(waveforms: np.ndarray) -> np.ndarray:
    """The spectrograms that the judge reads: two levels of each band, which tell tones from noise.

    The first level is the logarithm of the band's mean magnitude, the second the mean of the logarithm. In a band with
    a single frequency the second one is low. In a band of noise it is near the first one. Levels more than 60 dB below
    the loudest sample count as silence.

    Args:
        waveforms: float `[N, L]`.

    Returns:
        uint8 `[N, L / 1024, 24, 2]`.
    """
    waveforms = waveforms / np.maximum(np.abs(waveforms).max(-1, keepdims=True), 1e-9)
    magnitude = np.abs(sound.stft(waveforms, WINDOW, HOP))
    filters = sound.mel_filters(BANDS, WINDOW, RATE)
    filters = filters / filters.sum(0)
    decibels = lambda size: 20 * np.log10(np.maximum(size, 1e-3))
    both = np.stack([decibels(magnitude @ filters), decibels(magnitude) @ filters], -1)
    return np.clip(255 * (1 + both / 60), 0, 255).astype(np.uint8)


def trained_judge(number: int = 800, steps: int = 200) -> classifier.Classifier:
    """The judge, trained on training notes and as many broken ones, from the library's cache or trained now."""
    notes = real_notes(0, number)
    images = np.concatenate([pictures(notes.waveforms), pictures(broken_notes(notes, seed=0))])
    labels = np.concatenate([notes.labels, np.full(number, NONE)])
    training = lambda images, labels, seed: classifier.train(images, labels, seed, steps)
    return classifier.cached(images, labels, training=training)


def measured(judge: classifier.Classifier, notes: Notes) -> dict:
    """The figures of notes.

    Args:
        judge: the judge.
        notes: the notes, with the requested instruments and pitches.

    Returns:
        {"heard": the share of notes in which the judge hears the instrument, as {"share", "interval", "count"},
        "in_tune": the share of the harmonic instruments' notes within 20 cents, "harmonic": the mean harmonic share of
        these notes, "by_instrument": {name: {"heard", "in_tune", "cents": the median error, "harmonic"}}}.
    """
    heard = classifier.predict(judge, pictures(notes.waveforms)) == notes.labels
    tonal = np.isin(notes.labels, [instruments.NAMES.index(name) for name in instruments.HARMONIC])
    cents = np.full(len(heard), np.nan)
    share = np.full(len(heard), np.nan)
    for row in np.flatnonzero(tonal):
        waveform, pitch = notes.waveforms[row], float(notes.pitches[row])
        cents[row] = sound.cents(sound.yin(waveform, RATE), pitch)
        share[row] = sound.harmonic_share(waveform, RATE, pitch)
    in_tune = np.abs(cents) <= NEAR
    table = {}
    for label, name in enumerate(instruments.NAMES):
        mine = notes.labels == label
        table[name] = {"heard": float(heard[mine].mean())}
        if name in instruments.HARMONIC:
            middle = float(np.median(np.abs(cents[mine])))
            table[name] |= {"in_tune": float(in_tune[mine].mean()), "cents": middle}
            table[name] |= {"harmonic": float(share[mine].mean())}
    return {
        "heard": bootstrap.share(heard),
        "in_tune": bootstrap.share(in_tune[tonal]),
        "harmonic": bootstrap.mean(share[tonal]),
        "by_instrument": table,
    }
