"""Spectrograms against scipy's, sines whose levels are known, and the two halves of Griffin and Lim's method."""

import jax
import numpy as np
import pytest
import scipy.signal

from diffusion import sound

RATE = 8000


def noise(length, seed=0):
    return np.random.default_rng(seed).normal(size=length)


def test_frames_are_scipys():
    x = noise(640)
    window, hop = 64, 16
    shape = scipy.signal.get_window("hann", window)
    frames = scipy.signal.ShortTimeFFT(shape, hop, RATE, fft_mode="onesided", phase_shift=None)
    theirs = frames.stft(np.pad(x, (24, 24)), p0=2, p1=42)  # frame p is centred on p hop
    np.testing.assert_allclose(sound.stft(x, window, hop), 2 / shape.sum() * theirs.T, atol=1e-12)
    np.testing.assert_allclose(
        jax.jit(lambda x: sound.stft(x, window, hop))(np.float32(x)), sound.stft(x, window, hop), atol=1e-5
    )


def test_the_inverse_of_a_clips_own_frames_is_the_clip():
    x = noise(640, 1)
    np.testing.assert_allclose(sound.istft(sound.stft(x, 64, 16), 64, 16), x, atol=1e-9)


def test_bands_are_triangles_with_corners_at_equal_distances_in_mel():
    """Between the first and the last peak they add up to one; each is highest nearest to its corner."""
    mels, window = 20, 1024
    filters = sound.mel_filters(mels, window, RATE)
    mel = lambda f: 2595 * np.log10(1 + f / 700)
    frequencies = np.arange(window // 2 + 1) * RATE / window
    peaks = mel(RATE / 2) * np.arange(1, mels + 1) / (mels + 1)
    inside = (mel(frequencies) >= peaks[0]) & (mel(frequencies) <= peaks[-1])
    np.testing.assert_allclose(filters.sum(1)[inside], 1, atol=1e-12)
    nearest = frequencies[filters.argmax(0)]
    assert np.abs(nearest - 700 * (10 ** (peaks / 2595) - 1)).max() <= RATE / window
    with pytest.raises(ValueError, match="mels = 200 is too many"):
        sound.mel_filters(200, 256, RATE)


def test_levels_of_a_sine():
    """A sine at the centre of a bin has its amplitude there and half of it in the two bins beside (Hann's window)."""
    amplitude, window, hop, bin_ = 0.1, 256, 64, 40
    x = amplitude * np.sin(2 * np.pi * bin_ / window * np.arange(2048))
    magnitude = np.abs(sound.stft(x, window, hop))[8]
    np.testing.assert_allclose(magnitude[bin_ - 1 : bin_ + 2], [0.05, 0.1, 0.05], atol=1e-6)
    weights = sound.mel_filters(20, window, RATE)[bin_ - 1 : bin_ + 2]
    expected = np.maximum(0, 1 + np.log10(np.maximum(amplitude * np.array([0.5, 1, 0.5]) @ weights, 1e-9)) / 5)
    heard = expected > 0.3
    np.testing.assert_allclose(sound.log_mel(x, RATE, 20, window, hop)[8][heard], expected[heard], atol=1e-3)
    assert sound.log_mel(0 * x, RATE, 20, window, hop).max() == 0


def test_griffin_lim_comes_nearer_to_the_spectrogram():
    x = sound.instruments.clip((1, 3), RATE, 2048).waveform
    levels = sound.log_mel(x, RATE, 40, 256, 64)
    error = lambda steps: np.abs(
        sound.log_mel(sound.griffin_lim(levels, RATE, 256, 64, steps), RATE, 40, 256, 64) - levels
    ).mean()
    first, second, last = error(0), error(1), error(30)
    assert second < 0.6 * first and last < 0.6 * second, (first, second, last)


def test_whole_numbers_are_not_silence():
    """Frames are linear: those of 16-bit numbers are 2^15 times those of the same clip in [-1, 1)."""
    x = np.random.default_rng(2).integers(-(2**15), 2**15, 640).astype(np.int16)
    np.testing.assert_allclose(sound.stft(x, 64, 16) / 2**15, sound.stft(x / 2**15, 64, 16), atol=1e-6)
    levels = lambda x: sound.log_mel(x, RATE, 8, 64, 16)
    for found in (levels(x), jax.jit(levels)(x)):
        np.testing.assert_allclose(found, levels(x / 2**15) + np.log10(2**15) / 5, atol=1e-5)


def test_what_callers_share_is_read_only():
    with pytest.raises(ValueError, match="read-only"):
        sound.mel_filters(20, 1024, RATE)[0, 0] = 1


def test_products_have_full_precision_where_devices_have_less():
    """An accelerator multiplies matrices of float32 in fewer bits, unless the product says which."""
    x, window = np.zeros(64, np.float32), sound.sine_window(8)
    for program in (
        lambda x: sound.mdct(x, window),
        lambda x: sound.imdct(x.reshape(8, 8), window),
        lambda x: sound.log_mel(x, RATE, 8, 64, 16),
    ):
        products = [eqn for eqn in jax.make_jaxpr(program)(x).eqns if eqn.primitive.name == "dot_general"]
        assert len(products) == 1
        assert set(products[0].params["precision"]) == {jax.lax.Precision.HIGHEST}


@pytest.mark.parametrize("window, hop", [(64, 64), (64, 65), (64, 15), (63, 16), (64, 0)])
def test_sizes_that_do_not_fit(window, hop):
    with pytest.raises(ValueError, match=f"window = {window} and hop = {hop}"):
        sound.stft(np.zeros(64), window, hop)
    with pytest.raises(ValueError, match="65 samples are not a multiple of the hop"):
        sound.stft(np.zeros(65), 64, 16)


def test_bands_at_the_lowest_level_are_silent():
    np.testing.assert_array_equal(sound.griffin_lim(np.zeros((8, 40)), RATE, 256, 64, steps=1), np.zeros(512))


def test_between_bands_values_are_linear_in_frequency_at_the_middles_of_bins():
    """Of values that are the bands' own middles: the frequencies (k + 1/2) R / (2 N), cut off at the outermost."""
    middles = sound.mel_corners(6, 8000)[1:-1]
    frequencies = (np.arange(16) + 0.5) * 8000 / 32
    between = sound.between_bands(middles, 8000, 16)
    np.testing.assert_allclose(between, np.clip(frequencies, middles[0], middles[-1]), rtol=1e-5)
