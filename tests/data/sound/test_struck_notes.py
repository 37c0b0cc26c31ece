"""What is struck dies away and what is blown rises; the first phases of Griffin and Lim are all around the circle."""

import numpy as np
import pytest

from diffusion import sound
from diffusion.data.sound import instruments, spectrograms

RATE = 8000
TIME = np.arange(2 * RATE) / RATE


def played(name, seed):
    return instruments.INSTRUMENTS[instruments.NAMES.index(name)](np.random.default_rng(seed), 200.0, RATE, TIME)[0]


def loudness(x, begin, end):
    return np.sqrt(np.mean(x[int(begin * RATE) : int(end * RATE)] ** 2))


@pytest.mark.parametrize("name", ["snare", "kick"])
def test_a_drum_is_gone_after_a_second_and_a_half(name):
    for seed in range(4):
        x = played(name, seed)
        assert loudness(x, 1.5, 2) < 1e-3 * loudness(x, 0, 0.05)


def test_the_pitch_of_a_kick_falls_to_that_of_a_bass():
    """Crossings of zero: more in the first twentieth of a second than in any later one, and 45 to 80 Hz at its end."""
    for seed in range(4):
        x = played("kick", seed)
        crossings = lambda begin, end, x=x: np.count_nonzero(np.diff(np.sign(x[int(begin * RATE) : int(end * RATE)])))
        assert crossings(0, 0.05) > crossings(0.25, 0.3)
        assert 45 - 5 <= crossings(0.25, 0.45) / 0.4 <= 80 + 5


def test_brass_brightens_as_it_gets_louder():
    """The share of its loudness above the fifth harmonic: next to none in its first instant."""
    for seed in range(4):
        x = played("brass", seed)

        def bright(begin, x=x):
            spectrum = np.abs(np.fft.rfft(x[int(begin * RATE) :][:160] * np.hanning(160)))  # 50 Hz apart
            return spectrum[18:].sum() / spectrum.sum()

        assert bright(0.5) > 3 * bright(0) and bright(0.5) > 0.02


def test_the_first_phases_are_uniform_and_those_of_the_seed(monkeypatch):
    spectra = []
    monkeypatch.setattr(spectrograms, "istft", lambda spectrum, window, hop: spectra.append(spectrum))
    levels = np.full((40, 20), 0.8)
    for seed in (0, 0, 1):
        sound.griffin_lim(levels, RATE, 256, 64, steps=0, seed=seed)
    phases = np.angle(spectra[0][np.abs(spectra[0]) > 0])
    assert len(phases) > 1000
    for turns in (1, 2):  # all the way around
        assert abs(np.exp(1j * turns * phases).mean()) < 5 / np.sqrt(len(phases))
    np.testing.assert_array_equal(spectra[0], spectra[1])
    assert np.abs(spectra[0] - spectra[2]).max() > 0
