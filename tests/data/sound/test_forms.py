"""Examples along frequency: what a tone is there, and what it is a bin higher."""

import numpy as np
import pytest

from diffusion import sound

BINS, BLOCKS = 64, 6


def of_tone(form, kappa):
    """The covariance of the coefficients about a tone of kappa bins and random phase, without the clip's ends."""
    turns = np.pi * kappa / BINS * np.arange(BINS * BLOCKS)
    x = np.stack([form.example(np.cos(turns + phase)) for phase in (0, np.pi / 2)])
    about = x[:, int(kappa) - 5 : int(kappa) + 7, 1:-1].reshape(2, -1)
    return about.T @ about / 2


@pytest.mark.parametrize("kappa", [20.3, 31.0, 40.75])
def test_pitch_is_a_shift_where_signs_alternate(kappa):
    form = sound.lapped_spectrum(BINS, power=1.0, along="frequency", alternating=True)
    here, higher = of_tone(form, kappa), of_tone(form, kappa + 1)
    np.testing.assert_allclose(higher, here, atol=2e-3 * np.abs(here).max())
    plain = sound.lapped_spectrum(BINS, power=1.0, along="frequency")
    here, higher = of_tone(plain, kappa), of_tone(plain, kappa + 1)
    assert np.linalg.norm(higher - here) > np.linalg.norm(here)  # half of the products have the other sign


@pytest.mark.parametrize("along, alternating", [("time", False), ("frequency", True)])
def test_a_lapped_spectrum_is_that_of_the_clip_with_its_magnitudes_pressed(along, alternating):
    """3 sign(X) |X|^(1/2), of which every second coefficient of every second block has the other sign; and back."""
    clip = np.random.default_rng(0).normal(size=BINS * BLOCKS)
    form = sound.lapped_spectrum(BINS, power=0.5, gain=3.0, along=along, alternating=alternating)
    x = form.example(clip)
    rows = x.T if along == "frequency" else x
    spectrum = sound.mdct(clip, sound.sine_window(BINS))
    signs = np.where(np.outer(np.arange(len(rows)) % 2, np.arange(BINS) % 2) * alternating, -1, 1)
    np.testing.assert_allclose(rows, 3 * signs * np.sign(spectrum) * np.abs(spectrum) ** 0.5, rtol=1e-6)
    np.testing.assert_allclose(form.waveform(x), clip, atol=1e-6)
    assert x.dtype == form.waveform(x).dtype == np.float64  # of NumPy, and not rounded by JAX


def test_two_sounds_are_read_alike_if_their_waveforms_are_equal():
    form = lambda gain: sound.lapped_spectrum(BINS, gain=gain)
    first = sound.Sound(8000, 512, form(3.0))
    assert first.reads_alike(sound.Sound(8000, 512, form(3.0)))
    assert not first.reads_alike(sound.Sound(8000, 512, form(4.0)))
    assert not first.reads_alike(sound.Sound(16000, 512, form(3.0)))


def test_the_condition_of_a_pitch_has_octaves_hundredths_and_hertz():
    """880 Hz is an octave above 440 Hz; a depth of 2 % is two units, and 6 Hz half a Hertz above the middle rate."""
    of = sound.Sound(8000, 512, sound.harmonics_and_rest())
    (vector,) = of.pitch_condition([880.0], [[0.02, 6.0]]).values()
    np.testing.assert_allclose(vector, [[1, 2, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(of.pitch_condition([220.0, 440.0])["vector"], [[-1], [0]], atol=1e-7)


@pytest.mark.parametrize("vibrato", [None, (0.02, 6.0)])
def test_a_tone_is_its_amplitude_real_parts_first_whatever_its_vibrato(vibrato):
    """cos(2 pi phi) / 4 has the amplitude 1/4 and 2 sin(4 pi phi) that of -2 i: a |a|^(-1/2) times 2, at all times."""
    of = sound.Sound(16000, 4096, sound.harmonics_and_rest(harmonics=2, hop=512))
    depth, rate = vibrato or (0.0, 5.5)
    time = np.arange(of.length) / of.sample_rate
    phase = 2 * np.pi * 440 * (time + depth * (1 - np.cos(2 * np.pi * rate * time)) / (2 * np.pi * rate))
    condition = of.pitch_condition(440.0, vibrato)
    clip = np.cos(phase) / 4 + 2 * np.sin(2 * phase)
    x = of.example(clip, condition)
    assert x.shape == of.shape == (2 + 256, 2 * 8)
    amplitudes = np.stack(np.split(x[:2], 2, axis=-1))[..., 1:-1]  # the ends have half a window
    expected = np.array([[1, 0], [0, -2 * 2**0.5]])[..., None] * np.ones(6)
    np.testing.assert_allclose(amplitudes, expected, atol=0.05)
    np.testing.assert_allclose(of.waveform(x, condition=condition), clip, atol=1e-5)


@pytest.mark.parametrize("along, shape", [("time", (8, 4)), ("frequency", (32, 8))])
def test_the_shape_of_a_condition_is_said_beforehand(along, shape):
    of = sound.Sound(8000, 512, sound.lapped_spectrum(32, along=along), mels=4)
    levels = of.levels(np.ones(512))
    assert of.condition(levels).shape == of.condition_shape == shape


def test_a_shaped_clip_is_divided_by_the_levels_of_its_own_window():
    of = sound.Sound(8000, 1024, sound.samples(gain=1.0), mels=8, window=256, hop=64, shaped=True)
    clip = np.random.default_rng(0).normal(size=1024)
    x = of.example(clip)
    np.testing.assert_allclose(x[:, 0], sound.flattened(clip, of.levels(clip), 8000, 256), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(of.waveform(x, of.levels(clip)), clip, atol=1e-6)


def test_the_shortest_clip_is_one_sample_at_one_hertz():
    of = sound.Sound(1, 1, sound.samples())
    of.check()
    for wrong in ({"length": 0}, {"sample_rate": 0}, {"mels": -1}):
        with pytest.raises(ValueError, match="must be at least 1"):
            of._replace(**wrong).check()


RANGES = {  # function of a value, values that it takes, values that it refuses, words of the error
    "fold": (lambda fold: sound.samples(fold), [1], [0], "fold = 0"),
    "gain": (lambda gain: sound.samples(1, gain), [1e-3], [0.0, -1.0], "gain = "),
    "bins": (sound.lapped_spectrum, [2], [0, 1, 3], "bins = "),
    "power": (lambda power: sound.lapped_spectrum(power=power), [1e-3, 1.0], [0.0, 1.01], "power = "),
    "gain of a spectrum": (lambda gain: sound.lapped_spectrum(gain=gain), [1e-3], [0.0], "gain = 0"),
    "window": (lambda name: sound.lapped_spectrum(window=name), ["sine", "kaiser_bessel"], ["hann"], "Valid: sine"),
    "along": (lambda name: sound.lapped_spectrum(along=name), ["time", "frequency"], ["both"], "Valid: time"),
    "harmonics": (sound.harmonics_and_rest, [1], [0], "harmonics = 0"),
    "hop": (lambda hop: sound.harmonics_and_rest(hop=hop), [4, 8], [0, 2, 6], "hop = "),
    "power of a tone": (lambda power: sound.harmonics_and_rest(power=power), [1e-3, 1.0], [0.0, 1.01], "power = "),
    "gains": (lambda gain: sound.harmonics_and_rest(gains=(gain, 1.0)), [1e-3], [0.0], "gains = "),
    "two gains": (lambda n: sound.harmonics_and_rest(gains=(1.0,) * n), [2], [1, 3], "gains = "),
    "length": (lambda n: sound.Sound(1, n, sound.samples()).check(), [1, 2**26], [0, 2**26 + 1], "length = "),
    "blocks": (
        lambda n: sound.Sound(1, n, sound.samples(4)).check(),
        [4, 8],
        [6],
        "is not a multiple of 4, the samples of one step",
    ),
    "hops": (lambda n: sound.Sound(8000, n, sound.samples(), 4).check(), [64], [96], "is not a multiple of hop = 64"),
    "bands along frequency": (
        lambda mels: sound.Sound(8000, 64, sound.lapped_spectrum(along="frequency"), mels).check(),
        [0, 2],
        [1],
        "mels = 1",
    ),
    "bands of a pitch": (
        lambda mels: sound.Sound(8000, 512, sound.harmonics_and_rest(), mels).check(),
        [0],
        [2],
        "have it as their condition",
    ),
    "shaped bands": (
        lambda mels: sound.Sound(8000, 128, sound.samples(), mels, shaped=True).check(),
        [2],
        [0, 1],
        "at least 2",
    ),
    "shaped length": (
        lambda n: sound.Sound(8000, n, sound.samples(), 2, shaped=True).check(),
        [128, 256],
        [64, 192],
        "a divisor of length",
    ),
    "shaped hop": (
        lambda hop: sound.Sound(8000, 384, sound.samples(), 2, 256, hop, True).check(),
        [64, 128],
        [96],
        "multiple of hop",
    ),
}


@pytest.mark.parametrize("name", RANGES)
def test_the_ends_of_a_range(name):
    call, valid, refused, words = RANGES[name]
    for value in valid:
        call(value)
    for value in refused:
        with pytest.raises(ValueError, match=words):
            call(value)
