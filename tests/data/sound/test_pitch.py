"""Pitches of tones whose pitch is known, and shares of energy by closed forms."""

import numpy as np
import pytest

from diffusion import sound
from diffusion.data.sound import instruments

RATE = 16000
TIME = np.arange(RATE) / RATE


def tone(pitch, sizes=(1.0,)):
    return sum(size * np.sin(2 * np.pi * (n + 1) * pitch * TIME + n) for n, size in enumerate(sizes))


@pytest.mark.parametrize("pitch", [110.0, 261.63, 441.7, 879.9])
@pytest.mark.parametrize("sizes", [(1.0,), (1.0, 0.5, 0.3), (0.0, 1.0, 1.0), (0.5, 1.0, 0.3, 0.6)])
def test_the_pitch_of_a_tone_is_known_closely(pitch, sizes):
    """To 2 cents, also where the fundamental is missing or weak: the period is that of all partials."""
    found = sound.yin(tone(pitch, sizes), RATE)
    assert abs(sound.cents(found, pitch)) < 2


def test_the_pitch_of_a_tone_that_decays_is_the_first_deep_dip_of_its_differences():
    """The definition of YIN, sum by sum: the energies of both halves of a difference are not those of the first."""
    clip = (tone(300.0, (1.0, 0.5)) * np.exp(-TIME / 0.02))[:1000]
    d = np.array([((clip[:500] - clip[lag : lag + 500]) ** 2).sum() for lag in range(230)])
    normalised = np.append(1.0, d[1:] * np.arange(1, 230) / np.cumsum(d[1:]))
    lag = next(k for k in range(13, 228) if normalised[k] < 0.1 and normalised[k] == normalised[k - 1 : k + 2].min())
    before, at, after = d[lag - 1 : lag + 2]
    lowest = lag + (before - after) / (2 * (before - 2 * at + after))
    assert sound.yin(clip, RATE) == pytest.approx(RATE / lowest, rel=1e-9)


def test_the_pitch_of_notes():
    """Within 20 cents of the pitch that they state, though two instruments have vibrato and noise."""
    for row in (3, 4, 5, 1):
        note = instruments.clip((5, row), RATE, 16384)
        assert abs(sound.cents(sound.yin(note.waveform, RATE), note.pitch)) < 20


@pytest.mark.parametrize("seed, least, most", [(281, 21, 21), (2349, 3, 3), (0, 3, 21)])
def test_of_noise_the_period_is_within_a_sample_of_one_in_the_range(seed, least, most):
    """From 4 to 20 samples; a parabola through three differences may have its lowest point far outside of them."""
    noise = np.random.default_rng(seed).normal(size=80)
    assert least <= 1000 / sound.yin(noise, 1000, 50.0, 250.0) <= most


def test_cents():
    assert sound.cents(880, 440) == 1200 and sound.cents(440, 440 * 2 ** (1 / 12)) == pytest.approx(-100)


def test_shares_by_closed_forms():
    """Of two sines the share is that of their energies; of white noise that of the frequencies."""
    both = tone(400.0) + 0.5 * np.sin(2 * np.pi * 600 * TIME)
    assert sound.harmonic_share(both, RATE, 400.0) == pytest.approx(1 / 1.25, abs=3e-3)
    assert sound.harmonic_share(both, RATE, 200.0) == pytest.approx(1, abs=5e-3)
    assert sound.harmonic_share(3 + both, RATE, 200.0) == pytest.approx(1, abs=2e-2)  # a mean is not heard
    noise = np.random.default_rng(0).normal(size=RATE * 8)
    assert sound.harmonic_share(noise, RATE, 400.0) == pytest.approx(40 / 400, abs=0.01)
    assert sound.harmonic_share(np.zeros(RATE), RATE, 400.0) == 0
    low = np.sin(2 * np.pi * 50 * TIME)
    assert sound.harmonic_share(low, RATE, 400.0, within=100.0) < 1e-3  # 0 Hz is no multiple


@pytest.mark.parametrize("within, share", [(11.9, 1 / 6), (12.0, 5 / 6), (16.0, 1.0)])
def test_energy_just_within_the_distance_counts(within, share):
    """Lines 4 Hz apart: a sine 12 Hz above the pitch is one line of 4 in 6 parts of energy between two of 1."""
    time = np.arange(64 * 512) / 8192
    assert sound.harmonic_share(np.sin(2 * np.pi * 412 * time), 8192, 400.0, within) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("arguments", [(0.0, 1200.0), (900.0, 800.0), (70.0, 5000.0), (1.0, 1200.0)])
def test_a_range_that_does_not_fit_is_refused(arguments):
    with pytest.raises(ValueError, match="two periods of the lowest pitch within 16000 samples"):
        sound.yin(tone(440.0), RATE, *arguments)


def test_the_pitch_of_a_quiet_clip_is_that_of_a_loud_one():
    loud, quiet = (sound.yin(size * tone(441.7, (1.0, 0.5)), RATE) for size in (1.0, 1e-4))
    assert quiet == pytest.approx(loud, rel=1e-6)


@pytest.mark.parametrize(
    "lowest, highest, length", [(70.0, 4000.0, 16000), (70.0, 70.1, 16000), (70.0, 1200.0, 2 * (228 + 2))]
)
def test_a_range_that_just_fits_is_taken(lowest, highest, length):
    """16,000 / 70 is 228 samples, and two more are read."""
    sound.yin(tone(440.0)[:length], RATE, lowest, highest)
    with pytest.raises(ValueError, match="two periods of the lowest"):
        sound.yin(tone(440.0)[: 2 * (228 + 2) - 2], RATE, lowest, highest)
    for wrong in ((lowest, 4000.1), (highest, highest), (-lowest, highest)):
        with pytest.raises(ValueError, match="two periods of the lowest"):
            sound.yin(tone(440.0), RATE, *wrong)
