"""Notes of instruments: functions of their number, at their pitch, no two alike."""

import numpy as np
import pytest

from diffusion.data.sound import instruments

RATE, LENGTH = 8000, 2048


def test_a_note_is_a_function_of_its_number():
    first = [instruments.clip((1, row), RATE, LENGTH) for row in range(16)]
    again = [instruments.clip((1, row), RATE, LENGTH) for row in reversed(range(16))][::-1]
    for (x, label, pitch, vibrato), (y, other, *rest), row in zip(first, again, range(16), strict=True):
        assert [pitch, vibrato] == rest and 110 <= pitch <= 880 and (pitch == 110) == (row % 8 >= 6)
        np.testing.assert_array_equal(x, y)
        assert label == other == row % 8
        assert x.dtype == np.float32 and x.shape == (LENGTH,) and 0.2 < np.abs(x).max() < 1
    assert len({x.tobytes() for x, *_ in first}) == 16
    other_split = instruments.clip((0, 0), RATE, LENGTH)[0]
    assert (other_split != first[0][0]).any()


def test_the_highest_sample_of_a_note_is_from_12_to_2_decibels_below_1(monkeypatch):
    monkeypatch.setattr(
        instruments, "INSTRUMENTS", [lambda rng, pitch, rate, time: (-3 * np.ones_like(time), None)] * 8
    )
    levels = [20 * np.log10(-instruments.clip((0, row), RATE, 4).waveform.min()) for row in range(800)]
    np.testing.assert_allclose([min(levels), max(levels)], [-12, -2], atol=0.1)
    np.testing.assert_allclose(np.mean(levels), -7, atol=5 * 10 / 12**0.5 / 800**0.5)


@pytest.mark.parametrize("name", ("pluck", "organ", "flute", "square", "brass"))
def test_its_pitch(name, pitch=200.0):
    """A clip repeats itself after a period of its pitch, and not after half of one."""
    play = instruments.INSTRUMENTS[instruments.NAMES.index(name)]
    x = play(np.random.default_rng(5), pitch, RATE, np.arange(LENGTH) / RATE)[0][800:]
    alike = lambda lag: np.corrcoef(x[lag:], x[: len(x) - lag])[0, 1]
    period = round(RATE / pitch)
    assert alike(period) > 0.9
    assert alike(period // 2) < 0.6


@pytest.mark.parametrize("row", [instruments.NAMES.index(name) for name in instruments.HARMONIC])
def test_a_note_has_the_pitch_that_it_states(row):
    """Of its energy above half the pitch most lies within 5 % of the pitch from a multiple of it, as of noise a tenth.

    A plucked string's noise has a mean, which the loop keeps, and nobody hears.
    """
    x, _, pitch, _ = instruments.clip((7, row), RATE, 2 * LENGTH)
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


@pytest.mark.extended
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
    x = instruments.INSTRUMENTS[instruments.NAMES.index(name)](Lowest(), pitch, rate, time)[0]
    sines = np.sin(2 * np.pi * pitch * time[:, None] * np.arange(1, 46))
    late = time > attack
    found = np.linalg.lstsq(sines[late], (x * np.exp(time / decay))[late], rcond=None)[0]
    np.testing.assert_allclose(found, [amplitudes.get(n, 0) for n in range(1, 46)], atol=1e-9)
    early = ~late
    whole = sines[early] @ found * np.exp(-time[early] / decay)
    np.testing.assert_allclose(x[early], whole * time[early] / attack, atol=1e-9)


class Highest(Lowest):
    """In place of random numbers the highest of each interval, and noise of 1."""

    def uniform(self, low=0.0, high=1.0, size=None):
        return high if size is None else np.full(size, high)

    def normal(self, size):
        return np.ones(size)


class Quarter(Lowest):
    """In place of random numbers those at a quarter of each interval, and no noise."""

    def uniform(self, low=0.0, high=1.0, size=None):
        return low + (high - low) / 4 if size is None else np.full(size, low + (high - low) / 4)


def vibrato(time, depth, rate):
    """How far a pitch of 1 with vibrato has turned: the integral of 1 + depth sin(2 pi rate t)."""
    return time + depth * (1 - np.cos(2 * np.pi * rate * time)) / (2 * np.pi * rate)


def wave(turns):
    return np.sin(2 * np.pi * turns)


STRUCK = {  # (name, draws): the waveform at 200 Hz, of the time
    ("bell", Lowest): lambda t: np.exp(-t / 0.1) * np.sin(400 * np.pi * t + 2 * np.exp(-t / 0.1) * wave(280 * t))
    * np.minimum(1, t / 0.002),
    ("bell", Highest): lambda t: np.exp(-t / 0.4) * np.sin(400 * np.pi * t + 4 * np.exp(-t / 0.4) * wave(280 * t))
    * np.minimum(1, t / 0.002),
    ("brass", Lowest): lambda t: np.minimum(1, t / 0.03)
    * np.sin(400 * np.pi * t + 2 * np.minimum(1, t / 0.03) * wave(200 * t)),
    ("brass", Highest): lambda t: np.minimum(1, t / 0.1)
    * np.sin(400 * np.pi * vibrato(t, 0.01, 7) + 4 * np.minimum(1, t / 0.1) * wave(200 * vibrato(t, 0.01, 7))),
    ("kick", Lowest): lambda t: wave(45 * t + 150 * 0.02 * -np.expm1(-t / 0.02)) * np.exp(-t / 0.05)
    * np.minimum(1, t / 0.001),
    ("kick", Highest): lambda t: wave(80 * t + 300 * 0.05 * -np.expm1(-t / 0.05)) * np.exp(-t / 0.15)
    * np.minimum(1, t / 0.001),
    ("snare", Lowest): lambda t: 0.7 * 0.3 * wave(160 * t) * np.exp(-t / 0.05),
    ("snare", Highest): lambda t: 0.3 * np.exp(-t / 0.12) + 0.7 * wave(220 * t) * np.exp(-t / 0.05),
    ("organ", Highest): lambda t: sum(wave(n * 200 * t) for n in (1, 2, 3, 4, 6, 8)) * np.minimum(1, t / 0.01),
    ("organ", Quarter): lambda t: sum(0.325 * wave(n * (200 * t + 0.25)) for n in (1, 2, 3, 4, 6, 8))
    * np.minimum(1, t / 0.01),
    ("flute", Quarter): lambda t: (lambda turns: wave(turns) + 0.15 * wave(2 * turns) + 0.05 * wave(3 * turns))(
        200 * vibrato(t, 0.005, 4.75) + 0.25) * np.minimum(1, t / 0.0675),
    ("flute", Highest): lambda t: (  # its breath of ones is smoothed, and at the end a quarter of it is missing
        wave(200 * vibrato(t, 0.02, 7)) + 0.3 * wave(400 * vibrato(t, 0.02, 7)) + 0.05 * wave(600 * vibrato(t, 0.02, 7))
        + np.where(t < t[-1], 0.1, 0.075)) * np.minimum(1, t / 0.12),
    ("square", Quarter): lambda t: sum(wave(n * (200 * vibrato(t, 0.0025, 4.75) + 0.25)) / n for n in range(1, 36, 2))
    * np.exp(-t / 0.725) * np.minimum(1, t / 0.004),
    ("brass", Quarter): lambda t: np.minimum(1, t / 0.0475) * np.sin(
        400 * np.pi * vibrato(t, 0.0025, 4.75) + np.pi / 2
        + 2.5 * np.minimum(1, t / 0.0475) * wave(200 * vibrato(t, 0.0025, 4.75) + 0.25)),
    ("square", Highest): lambda t: sum(wave(n * 200 * vibrato(t, 0.01, 7)) / n for n in range(1, 36, 2))
    * np.exp(-t / 2) * np.minimum(1, t / 0.004),
}  # fmt: skip


@pytest.mark.parametrize("name, draws", STRUCK)
def test_a_note_is_between_two_closed_forms(name, draws, rate=16000):
    """That of the lowest of each drawn number, and that of the highest; harmonics end below 7,200 Hz.

    A phase is a whole turn at both, so of notes with a random phase there is a third form.
    """
    time = np.arange(rate // 4) / rate
    x = instruments.INSTRUMENTS[instruments.NAMES.index(name)](draws(), 200.0, rate, time)[0]
    np.testing.assert_allclose(x, STRUCK[name, draws](time), atol=1e-9)


@pytest.mark.parametrize("draws, seconds", [(Lowest, 0.3), (Highest, 1.5)])
def test_a_plucked_string_goes_round_and_fades(draws, seconds, pitch=200.0, rate=16100):
    """By its recursion, y_n = x_n + k (y_(n - 80) + y_(n - 81)) / 2: here a period is 80 1/2 samples, with no rest.

    The lowest noise is -1 and the highest 1, in the first period alone; k^(pitch T) is 60 dB.
    """
    time = np.arange(400) / rate
    x = instruments.INSTRUMENTS[instruments.NAMES.index("pluck")](draws(), pitch, rate, time)[0]
    kept = 10 ** (-3 / (pitch * seconds))
    y = np.zeros(81 + len(time))
    for n in range(len(time)):
        burst = (-1.0 if draws is Lowest else 1.0) * (n < 80)
        y[81 + n] = burst + kept * (y[81 + n - 80] + y[81 + n - 81]) / 2
    np.testing.assert_allclose(x, y[81:], atol=1e-9)


def test_harmonics_that_the_sample_rate_cannot_hold_are_left_out():
    """At 900 Hz and 8000 samples a second the fourth lies at 0.45 of the rate, no longer below."""
    time = np.arange(3000) / RATE
    x = instruments.INSTRUMENTS[instruments.NAMES.index("organ")](Lowest(), 900.0, RATE, time)[0][1000:]
    size = np.abs(np.fft.rfft(x))[[225, 450, 675, 900]] / 1000  # of the multiples of 900 Hz
    np.testing.assert_allclose(size, [0.1, 0.1, 0.1, 0], atol=1e-9)


@pytest.mark.parametrize("name, depth", [("organ", 0.0), ("flute", 0.02), ("square", 0.01), ("brass", 0.01)])
def test_a_note_states_its_vibrato(name, depth, pitch=200.0, rate=16000):
    """Of the highest draws: the angle of its lowest partial turns as the stated vibrato does, but for its start."""
    time = np.arange(rate // 2) / rate
    _, stated = instruments.INSTRUMENTS[instruments.NAMES.index(name)](Highest(), pitch, rate, time)
    assert stated == (depth, 7.0)
    np.testing.assert_allclose(stated.turns(pitch, time), pitch * vibrato(time, depth, 7), atol=1e-9)


@pytest.mark.parametrize("name", ["pluck", "bell", "kick", "snare"])
def test_a_struck_note_is_steady(name):
    time = np.arange(100) / RATE
    assert instruments.INSTRUMENTS[instruments.NAMES.index(name)](Lowest(), 200.0, RATE, time)[1].depth == 0


def test_the_partials_of_a_tone_are_multiples_of_its_fundamental():
    """The bell's at 200 Hz are 200 +- 280 k, as many as its decay leaves apart: multiples of 40, not of 200."""
    label = instruments.NAMES.index("bell")
    assert instruments.fundamental(label, 200.0) == 40 and instruments.fundamental(0, 200.0) == 200
    time = np.arange(4 * RATE) / RATE
    x, _ = instruments.INSTRUMENTS[label](Highest(), 200.0, RATE, time)
    size = np.abs(np.fft.rfft(x * np.hanning(len(x)) * (time > 0.5)))
    peaks = np.fft.rfftfreq(len(x), 1 / RATE)[np.argsort(size)[-40:]]
    assert np.abs(peaks / 40 - np.round(peaks / 40)).max() < 0.2 and (np.abs(peaks / 200 % 1 - 0.5) < 0.4).any()
