"""Notes of instruments: functions of their number, at their pitch, no two alike."""

import numpy as np
import pytest

from diffusion.sound import instruments

RATE, LENGTH = 8000, 2048


def test_a_note_is_a_function_of_its_number():
    first = [instruments.clip((1, row), RATE, LENGTH) for row in range(16)]
    again = [instruments.clip((1, row), RATE, LENGTH) for row in reversed(range(16))][::-1]
    for (x, label, pitch), (y, other, again_pitch), row in zip(first, again, range(16)):
        assert pitch == again_pitch and 110 <= pitch <= 880 and (pitch == 110) == (row % 8 >= 6)
        np.testing.assert_array_equal(x, y)
        assert label == other == row % 8
        assert x.dtype == np.float32 and x.shape == (LENGTH,) and 0.2 < np.abs(x).max() < 1
    assert len({x.tobytes() for x, *_ in first}) == 16
    other_split = instruments.clip((0, 0), RATE, LENGTH)[0]
    assert (other_split != first[0][0]).any()


@pytest.mark.parametrize("name", ("pluck", "organ", "flute", "square", "brass"))
def test_its_pitch(name, pitch=200.0):
    """A clip repeats itself after a period of its pitch, and not after half of one."""
    play = instruments.INSTRUMENTS[instruments.NAMES.index(name)]
    x = play(np.random.default_rng(5), pitch, RATE, np.arange(LENGTH) / RATE)[800:]
    alike = lambda lag: np.corrcoef(x[lag:], x[: len(x) - lag])[0, 1]
    period = round(RATE / pitch)
    assert alike(period) > 0.9
    assert alike(period // 2) < 0.6


@pytest.mark.parametrize("row", [instruments.NAMES.index(name) for name in instruments.HARMONIC])
def test_a_note_has_the_pitch_that_it_states(row):
    """Of its energy above half the pitch most lies within 5 % of the pitch from a multiple of it, as of noise a tenth.

    A plucked string's noise has a mean, which the loop keeps, and nobody hears.
    """
    x, _, pitch = instruments.clip((7, row), RATE, 2 * LENGTH)
    power = np.abs(np.fft.rfft(x * np.hanning(len(x)))) ** 2
    ratio = np.fft.rfftfreq(len(x), 1 / RATE) / pitch
    near = np.abs(ratio - np.round(ratio)) < 0.05
    heard = ratio > 0.5
    assert power[near & heard].sum() > 0.8 * power[heard].sum()


class Lowest:
    """In place of random numbers the lowest of each interval, and no noise."""

    def uniform(self, low=0.0, high=1.0, size=None):
        return low if size is None else np.full(size, low)

    def normal(self, size):
        return np.zeros(size)


@pytest.mark.parametrize(
    "name, amplitudes, attack, decay",
    [
        ("organ", dict.fromkeys((1, 2, 3, 4, 6, 8), 0.1), 0.01, np.inf),
        ("flute", {1: 1.0, 2: 0.1, 3: 0.05}, 0.05, np.inf),
        ("square", {n: 1 / n for n in range(1, 40, 2)}, 0.004, 0.3),
    ],
)
def test_harmonics_have_the_amplitudes_of_the_instrument(name, amplitudes, attack, decay, pitch=110.0, rate=16000):
    """By least squares on sines of 45 multiples of the pitch, after the attack, with the decay taken out."""
    time = np.arange(rate // 4) / rate
    x = instruments.INSTRUMENTS[instruments.NAMES.index(name)](Lowest(), pitch, rate, time)
    sines = np.sin(2 * np.pi * pitch * time[:, None] * np.arange(1, 46))
    late = time > attack
    found = np.linalg.lstsq(sines[late], (x * np.exp(time / decay))[late], rcond=None)[0]
    np.testing.assert_allclose(found, [amplitudes.get(n, 0) for n in range(1, 46)], atol=1e-9)
    early = ~late
    whole = sines[early] @ found * np.exp(-time[early] / decay)
    np.testing.assert_allclose(x[early], whole * time[early] / attack, atol=1e-9)


def test_harmonics_that_the_sample_rate_cannot_hold_are_left_out():
    """At 900 Hz and 8000 samples a second the fourth lies at 0.45 of the rate, no longer below."""
    time = np.arange(3000) / RATE
    x = instruments.INSTRUMENTS[instruments.NAMES.index("organ")](Lowest(), 900.0, RATE, time)[1000:]
    size = np.abs(np.fft.rfft(x))[[225, 450, 675, 900]] / 1000  # of the multiples of 900 Hz
    np.testing.assert_allclose(size, [0.1, 0.1, 0.1, 0], atol=1e-9)
