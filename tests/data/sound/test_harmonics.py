"""Amplitudes of harmonics by closed forms, the exact way back of any clip, and what is refused."""

import numpy as np
import pytest

from diffusion import sound

RATE, HOP = 16000, 512


def tone(pitch, amplitudes, length=8192):
    time = np.arange(length) / RATE
    return sum((a * np.exp(2j * np.pi * n * pitch * time)).real for n, a in enumerate(amplitudes, 1))


@pytest.mark.parametrize("pitch", [110.0, 333.3, 880.0])
def test_the_amplitudes_of_a_steady_tone_are_its_own_at_every_time(pitch):
    amplitudes = np.array([0.5 * np.exp(0.3j), 0.2j, -0.1])
    found = sound.harmonic_amplitudes(tone(pitch, amplitudes), pitch, RATE, 5, HOP)
    assert found.shape == (16, 5)
    np.testing.assert_allclose(found[1:-1], np.broadcast_to([*amplitudes, 0, 0], (14, 5)), atol=2e-3)


def test_the_sum_of_constant_amplitudes_is_the_tone():
    """The windows sum to 1, also at the ends; harmonics above 0.48 of the sample rate are left out."""
    amplitudes = np.array([0.5 * np.exp(0.3j), 0.2j, -0.1])
    made = sound.harmonic_sum(np.broadcast_to(amplitudes, (16, 3)), 333.3, RATE, HOP)
    np.testing.assert_allclose(made, tone(333.3, amplitudes), atol=1e-12)
    high = sound.harmonic_sum(np.ones((4, 3)), 3000.0, RATE, HOP)  # 9,000 Hz is no frequency of this sample rate
    np.testing.assert_allclose(high, tone(3000.0, [1, 1], 2048), atol=1e-12)
    assert not sound.harmonic_amplitudes(tone(3000.0, [1, 1]), 3000.0, RATE, 3, HOP)[:, 2].any()


def test_a_pitch_of_less_than_one_hertz_is_one():
    """A quarter of a turn in a second."""
    tones = sound.harmonic_sum(np.ones((16, 1)), 0.25, sample_rate=64, hop=4)
    np.testing.assert_allclose(tones, np.cos(2 * np.pi * 0.25 * np.arange(64) / 64), atol=1e-12)


def test_a_decay_is_that_of_the_amplitudes():
    """exp(-t / 0.2 s) in a window of 64 ms: its mean over the window, by the integral of Hann's window."""
    time = np.arange(8192) / RATE
    found = sound.harmonic_amplitudes(np.exp(-time / 0.2) * tone(500.0, [1.0]), 500.0, RATE, 1, HOP)
    middles = ((np.arange(16) + 0.5) * HOP - 0.5) / RATE
    s = HOP / RATE / 0.2  # half a window over the decay: int (1 + cos(pi u)) / 2 exp(-s u) du over -1 .. 1
    mean = np.pi**2 / (np.pi**2 + s**2) * np.sinh(s) / s
    np.testing.assert_allclose(np.abs(found[1:-1, 0]), mean * np.exp(-middles[1:-1] / 0.2), rtol=2e-3)


def test_the_amplitudes_of_a_tone_with_vibrato_stay_the_same():
    """By the closed form of its phase; of a constant pitch those of the tenth harmonic fall and turn."""
    amplitudes = np.zeros(10, complex)
    amplitudes[[0, 9]] = 0.5 * np.exp(0.3j), 0.2j
    vibrato = sound.instruments.Vibrato(0.02, 6.0)
    time = np.arange(8192) / RATE
    turns = vibrato.turns(440.0, time)
    x = sum((a * np.exp(2j * np.pi * n * turns)).real for n, a in enumerate(amplitudes, 1))
    contour = 440 * (1 + 0.02 * np.sin(2 * np.pi * 6 * time))
    np.testing.assert_allclose(sound.harmonic_sum(np.tile(amplitudes, (16, 1)), contour, RATE, HOP), x, atol=1e-4)
    found = sound.harmonic_amplitudes(np.stack([x, 0 * x]), np.stack([contour, contour]), RATE, 10, HOP)
    np.testing.assert_allclose(found[0, 1:-1], np.broadcast_to(amplitudes, (14, 10)), atol=2e-3)
    assert not found[1].any()
    steady = sound.harmonic_amplitudes(x, 440.0, RATE, 10, HOP)[1:-1, 9]
    assert np.abs(steady - 0.2j).max() > 0.1


def test_a_clip_is_the_sum_of_its_harmonics_and_what_is_left():
    """Of clips of any two axes, each with its pitch: with as many harmonics as fit below 0.48 of the sample rate."""
    x = np.random.default_rng(1).normal(size=(2, 3, 2048))
    pitch = np.array([[200.0, 500.0, 900.0], [3000.0, 110.0, 333.3]])
    amplitudes, rest = sound.harmonics_apart(x, pitch, RATE, 5, HOP)
    np.testing.assert_array_equal(amplitudes, sound.harmonic_amplitudes(x, pitch, RATE, 5, HOP))
    np.testing.assert_allclose(sound.harmonic_sum(amplitudes, pitch, RATE, HOP) + rest, x, atol=1e-12)
    assert amplitudes.shape == (2, 3, 4, 5) and not amplitudes[1, 0, :, 2:].any() and amplitudes[1, 0, :, :2].all()


def test_a_harmonic_that_vibrato_lifts_too_high_is_left_out():
    """17 times 440 Hz are 0.4675 of the sample rate, and with a depth of 0.03 at most 0.4815."""
    contour = lambda depth: 440 * (1 + depth * np.sin(2 * np.pi * 6 * np.arange(4096) / RATE))
    x = np.random.default_rng(0).normal(size=4096)
    for depth, heard in ((0.02, 17), (0.03, 16)):
        found = sound.harmonic_amplitudes(x, contour(depth), RATE, 20, HOP)
        assert found.all(0).sum() == found.any(0).sum() == heard


@pytest.mark.parametrize("power", [1.0, 0.5, 0.3])
def test_the_form_has_an_inverse_for_any_clip_and_pitch(power):
    clips = sound.Sound(RATE, 4096, sound.harmonics_and_rest(20, 256, power=power))
    noise = np.random.default_rng(3).uniform(-1, 1, (2, 4096)).astype(np.float32)
    noise[1, 1000:2500] = 0  # silence stays silent
    condition = clips.pitch_condition(np.array([123.4, 987.6]))
    x = clips.example(noise, condition)
    assert x.shape == (2, *clips.shape) == (2, 20 + 128, 32)
    np.testing.assert_allclose(clips.waveform(x.astype(np.float32), condition=condition), noise, atol=1e-5)
    np.testing.assert_allclose(clips.example(noise[1], clips.pitch_condition(987.6)), x[1], atol=1e-6)


@pytest.mark.parametrize("pitch", [150.0, 700.0])
def test_a_steady_tone_is_the_same_example_at_every_pitch(pitch):
    """Rows of constants: gain |a|^(1/2) in the phase of a; and next to nothing in the rest."""
    clips = sound.Sound(RATE, 8192, sound.harmonics_and_rest(8, gains=(3.0, 5.0)))
    x = clips.example(tone(pitch, [0.25, 0, 0.04j]), clips.pitch_condition(pitch))
    real, imaginary = np.split(x[:8, :], 2, axis=-1)
    np.testing.assert_allclose(real[0, 1:-1], 3 * 0.5, rtol=2e-2)
    np.testing.assert_allclose(imaginary[2, 1:-1], 3 * 0.2, rtol=3e-2)
    rest = clips.form.waveform(np.concatenate([0 * x[:8], x[8:]]), pitch, RATE)
    assert (rest[1024:-1024] ** 2).mean() < 1e-5 * (0.25**2 + 0.04**2) / 2


def test_the_condition_of_a_pitch_counts_octaves():
    condition = sound.Sound(RATE, 4096, sound.harmonics_and_rest()).pitch_condition(np.array([220.0, 880.0]))
    np.testing.assert_array_equal(condition["vector"], np.float32([[-1], [1]]))
    assert condition["vector"].dtype == np.float32 and set(condition) == {"vector"}


def test_the_condition_states_the_vibrato_that_the_harmonics_follow():
    """Octaves, depth over 0.01, and Hz above 5.5; a clip with them comes back, and its steady tone is constant."""
    clips = sound.Sound(RATE, 8192, sound.harmonics_and_rest(10))
    condition = clips.pitch_condition(np.array([440.0, 220.0]), np.array([(0.02, 6.0), (0.0, 4.0)]))
    np.testing.assert_allclose(condition["vector"], [[0, 2, 0.5], [-1, 0, -1.5]], atol=1e-6)
    time = np.arange(8192) / RATE
    turns = [sound.instruments.Vibrato(0.02, 6.0).turns(440.0, time), 220 * time]
    x = 0.25 * np.cos(2 * np.pi * 9 * np.array(turns))
    example = clips.example(x, condition)
    np.testing.assert_allclose(example[:, 8, 1:15], 2 * 0.5, rtol=2e-2)
    np.testing.assert_allclose(clips.waveform(example, condition=condition), x, atol=1e-6)
    np.testing.assert_allclose(clips.example(x[0], clips.pitch_condition(440.0, (0.02, 6.0))), example[0], atol=1e-6)


@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda: sound.harmonic_amplitudes(np.zeros(30), 100.0, RATE, 2, 8), "hop = 8 with 30 samples"),
        (lambda: sound.harmonic_amplitudes(np.zeros(0), 100.0, RATE, 2, 8), "hop = 8 with 0 samples"),
        (lambda: sound.harmonic_amplitudes(np.zeros(30), 100.0, RATE, 2, 5), "Valid: an even hop"),
        (lambda: sound.harmonic_amplitudes(np.zeros(32), -1.0, RATE, 2, 8), r"pitch = \[-1.\] must be positive"),
        (lambda: sound.harmonic_sum(np.zeros((2, 3)), np.nan, RATE, 8), r"pitch = \[nan\] must be positive"),
        (lambda: sound.harmonics_and_rest(0), "harmonics = 0 must be at least 1"),
        (lambda: sound.harmonics_and_rest(hop=6), "hop = 6 a multiple of 4"),
        (lambda: sound.harmonics_and_rest(power=0.0), r"power = 0.0 must be in \(0, 1\]"),
        (lambda: sound.harmonics_and_rest(gains=(1.0, 0.0)), r"gains = \(1.0, 0.0\) two positive"),
        (lambda: sound.harmonics_and_rest(gains=(1.0,)), r"gains = \(1.0,\) two positive"),
        (
            lambda: sound.Sound(RATE, 1024, sound.harmonics_and_rest()).example(np.zeros(1024)),
            "this form needs the pitch of each clip",
        ),
        (
            lambda: sound.Sound(RATE, 1024, sound.harmonics_and_rest()).waveform(np.zeros((328, 4))),
            "this form needs the pitch of each clip",
        ),
    ],
)
def test_what_does_not_fit_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()
