"""The demodulated spectrum: its transform by its sum, its inverse, a tone by closed forms, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import sound

RATE, BINS = 16000, 512


def tone(pitch, seconds=1.024, phase=0.3):
    return np.sin(2 * np.pi * pitch * np.arange(int(RATE * seconds)) / RATE + phase)


def test_the_transform_is_its_sum():
    bins = 8
    x = np.random.default_rng(0).normal(size=(2, 5 * bins))
    n, k = np.arange(2 * bins), np.arange(bins)
    turns = np.outer(k + 0.5, n - bins + 0.5) / (2 * bins)
    basis = np.sin(np.pi * (n + 0.5) / (2 * bins)) * np.exp(-2j * np.pi * turns) / bins
    padded = np.pad(x, [(0, 0), (bins // 2, bins // 2)])
    for i in range(5):
        expected = padded[:, i * bins : (i + 2) * bins] @ basis.T
        np.testing.assert_allclose(sound.odd_stft(x, bins)[:, i], expected, atol=1e-13)


@pytest.mark.parametrize("numerics, dtype, error", [(np, np.float64, 1e-13), (np, np.float32, 2e-6), (jnp, None, 2e-6)])
def test_the_inverse_is_exact(numerics, dtype, error):
    x = numerics.asarray(np.random.default_rng(1).normal(size=(3, 6 * 16)), dtype)
    again = sound.odd_istft(sound.odd_stft(x, 16), 16)
    assert again.dtype == x.dtype and type(again) is type(x)
    np.testing.assert_allclose(again, x, atol=error)


def test_the_inverse_gives_the_nearest_clip():
    """No clip is nearer: what is left of a spectrum is orthogonal to the spectrum of every clip."""
    rng = np.random.default_rng(2)
    spectrum = rng.normal(size=(4, 8)) + 1j * rng.normal(size=(4, 8))
    rest = spectrum - sound.odd_stft(sound.odd_istft(spectrum, 8), 8)
    for other in rng.normal(size=(5, 32)):
        assert abs(np.vdot(sound.odd_stft(other, 8), rest).real) < 1e-12


@pytest.mark.parametrize("pitch", [110.0, 443.21, 880.0])
@pytest.mark.parametrize("harmonic", [1, 3])
def test_a_steady_tone_is_constant_along_time(pitch, harmonic):
    """a sin(2 pi n f_0 t + phi) has (2 a / pi) W(d) exp(i (phi - pi / 2)) in the frequencies around the partial."""
    spectrum = sound.odd_stft(0.5 * tone(harmonic * pitch), BINS)
    spectrum = spectrum * sound.carriers(pitch, RATE, len(spectrum), BINS).conj()
    line = sound.harmonic_axis(pitch, RATE, BINS)[:, 0]
    near = np.abs((np.arange(BINS) + 0.5) * RATE / (2 * BINS) - harmonic * pitch) < 1.5 * RATE / (2 * BINS)
    assert near.sum() == 3
    expected = 0.5 * 2 / np.pi * line[near] * np.exp(1j * (0.3 - np.pi / 2))
    inside = spectrum[1:-1, near]  # the first and the last frame are half outside
    np.testing.assert_allclose(inside, np.broadcast_to(expected, inside.shape), atol=2e-3)
    plain = sound.odd_stft(0.5 * tone(harmonic * pitch), BINS)[1:-1, near]
    assert np.abs(np.diff(plain, axis=0)).max() > 0.1  # without carriers it turns


def test_co_ordinates_among_the_harmonics():
    """At a harmonic the line is 1, half a distance off it is small; cos(pi f / f_0) tells even from odd."""
    spacing = RATE / (2 * BINS)
    axis = sound.harmonic_axis(8.5 * spacing, RATE, BINS)  # harmonics 1, 3, 5 .. lie on frequencies 8, 25, 42 ..
    np.testing.assert_allclose(axis[[8, 25, 42], 0], 1, atol=1e-6)
    np.testing.assert_allclose(axis[[8, 25, 42], 1], -1, atol=1e-6)
    np.testing.assert_allclose(axis[:, 3], np.log2(1 + (np.arange(BINS) + 0.5) / 8.5) / 4, rtol=1e-6)
    np.testing.assert_allclose(axis[:, 1] ** 2 + axis[:, 2] ** 2, 1, rtol=1e-5)
    assert np.abs(axis[[12, 13], 0]).max() < 0.03
    half = sound.harmonic_axis(8 * spacing, RATE, BINS)  # the window half a frequency off: pi / 4
    np.testing.assert_allclose(half[[7, 8], 0], np.pi / 4, atol=1e-6)


@pytest.mark.parametrize("power", [1.0, 0.5, 0.3])
def test_the_form_has_an_inverse_for_any_clip_and_pitch(power):
    clips = sound.Sound(RATE, 4096, sound.demodulated_spectrum(256, power=power))
    noise = np.random.default_rng(3).uniform(-1, 1, (2, 4096)).astype(np.float32)
    noise[1, 1000:2500] = 0  # silence stays silent
    condition = clips.of_pitch(np.array([123.4, 987.6]))
    x = clips.example(noise, condition)
    assert x.shape == (2, *clips.shape) == (2, 256, 32)
    np.testing.assert_allclose(clips.waveform(x.astype(np.float32), condition=condition), noise, atol=1e-5)
    one = clips.example(noise[1], clips.of_pitch(987.6))
    np.testing.assert_allclose(one, x[1], atol=1e-6)


def test_the_root_and_the_gain_of_the_form():
    clip = np.random.default_rng(4).normal(size=2048).astype(np.float32)
    plain = sound.Sound(RATE, 2048, sound.demodulated_spectrum(256, power=1.0, gain=1.0))
    bent = sound.Sound(RATE, 2048, sound.demodulated_spectrum(256, power=0.5, gain=3.0))
    size = lambda clips: np.hypot(*np.split(clips.example(clip, clips.of_pitch(200.0)), 2, axis=-1))
    np.testing.assert_allclose(size(bent), 3 * np.sqrt(size(plain)), rtol=1e-4)
    spectrum = sound.odd_stft(clip, 256).T
    np.testing.assert_allclose(size(plain), np.abs(spectrum), rtol=1e-4)


def test_the_condition_of_a_pitch():
    clips = sound.Sound(RATE, 4096, sound.demodulated_spectrum())
    condition = clips.of_pitch(np.array([220.0, 880.0]))
    np.testing.assert_array_equal(condition["vector"], [[-1], [1]])
    assert condition["vector"].dtype == condition["aligned"].dtype == np.float32
    np.testing.assert_array_equal(condition["aligned"], sound.harmonic_axis(np.array([220.0, 880.0]), RATE, 512))


@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda: sound.odd_stft(np.zeros(30), 8), "30 samples are no whole number of blocks. Valid: a multiple of 8"),
        (lambda: sound.odd_stft(np.zeros(0), 8), "0 samples are no whole number"),
        (lambda: sound.odd_stft(np.zeros(30), 5), "bins = 5. Valid: even"),
        (lambda: sound.odd_istft(np.zeros((2, 7), complex), 8), r"shape \(2, 7\). Valid: \[..., frames, 8\]"),
        (lambda: sound.carriers(-1.0, RATE, 4, 8), r"pitch = \[-1.\] must be positive"),
        (lambda: sound.harmonic_axis(np.nan, RATE, 8), r"pitch = \[nan\] must be positive"),
        (lambda: sound.demodulated_spectrum(bins=3), "bins = 3 must be even"),
        (lambda: sound.demodulated_spectrum(power=0.0), r"power = 0.0 in \(0, 1\]"),
        (lambda: sound.demodulated_spectrum(gain=-1.0), "gain = -1.0 positive"),
        (
            lambda: sound.Sound(RATE, 1024, sound.demodulated_spectrum()).example(np.zeros(1024)),
            "this form needs the pitch of each clip",
        ),
        (
            lambda: sound.Sound(RATE, 1024, sound.demodulated_spectrum()).waveform(np.zeros((512, 4))),
            "this form needs the pitch of each clip",
        ),
    ],
)
def test_what_does_not_fit_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()
