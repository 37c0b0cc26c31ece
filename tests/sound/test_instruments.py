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
