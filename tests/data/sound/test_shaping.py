"""Clips flattened by their levels: an exact inverse, noise of size 1, and noise with the spectrum of a clip."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from diffusion import sound

RATE, WINDOW, HOP, MELS = 8000, 256, 64, 40
OF = (RATE, WINDOW)


def levels(waveform):
    return sound.log_mel(waveform, RATE, MELS, WINDOW, HOP)


def colored(number=6, length=4096):
    """Noise of which the highs fall off, and which fades: float32 `[number, length]`."""
    noise = np.random.default_rng(0).normal(size=(number, length))
    return np.float32(signal.lfilter([0.1], [1, -0.9], noise) * np.exp(-np.arange(length) / 2000))


def test_the_way_back_is_exact():
    clips = colored()
    clips[0, 1000:3000] = 0  # silence
    flat = sound.flattened(clips, levels(clips), *OF)
    np.testing.assert_allclose(sound.shaped(flat, levels(clips), *OF), clips, atol=1e-6)
    on_device = jax.jit(lambda x, l: sound.shaped(x, l, *OF))(jnp.asarray(flat), jnp.asarray(levels(clips)))
    np.testing.assert_allclose(on_device, clips, atol=1e-5)


def test_the_envelope_of_white_noise_is_its_deviation_and_scales_with_it():
    noise = np.random.default_rng(1).normal(size=(16, 4096)).astype(np.float32)
    for size in (1.0, 0.1):
        found = sound.envelope(levels(size * noise), *OF)
        assert found.shape == (16, 64, 128)
        np.testing.assert_allclose(np.exp(np.log(found).mean((0, 1)))[2:-2], size, rtol=0.25)
    silence = sound.envelope(np.zeros((3, MELS)), *OF)
    assert silence.min() >= 1e-4 and silence.max() < 1e-3


def test_flat_clips_are_white_and_shaped_noise_has_the_clips_levels():
    clips = colored()
    flat = sound.flattened(clips, levels(clips), *OF)
    spectrum = np.abs(sound.stft(flat, WINDOW, HOP)).mean((0, 1))[4:-4]
    before = np.abs(sound.stft(clips, WINDOW, HOP)).mean((0, 1))[4:-4]
    assert spectrum.max() / spectrum.min() < 2.5 < 8 < before[0] / before[-1]
    assert 0.7 < flat.std() < 1.4 and flat[:, :2048].std() < 1.3 * flat[:, 2048:].std()
    noise = np.random.default_rng(2).normal(size=clips.shape).astype(np.float32)
    made = sound.shaped(noise, levels(clips), *OF)
    error = lambda other: 100 * np.abs(levels(other).mean(0) - levels(clips).mean(0)).mean()  # dB
    assert error(made) < 3 < 15 < error(noise)


def test_an_example_of_a_shaped_sound_needs_its_levels_to_be_heard():
    of = sound.Sound(RATE, 2048, sound.samples(8, 1.0), MELS, WINDOW, HOP, shaped=True)
    of.check()
    clip = colored(1, 2048)[0]
    x = of.example(clip)
    assert x.shape == of.shape
    np.testing.assert_allclose(of.waveform(x, of.levels(clip)), clip, atol=1e-6)
    with pytest.raises(ValueError, match="to return a waveform"):
        of.waveform(x)
    for wrong in (of._replace(mels=0), of._replace(hop=96, length=96 * 64), of._replace(length=64 * 33)):
        with pytest.raises(ValueError, match=r"shaped|no whole number"):
            wrong.check()


def test_of_the_frames_of_a_block_the_loudest_counts():
    x = np.random.default_rng(3).normal(size=(1, 1024)).astype(np.float32)
    loud = np.random.default_rng(4).uniform(0.5, 1, (1, 1024 // (WINDOW // 2), MELS)).astype(np.float32)
    both = loud.repeat(2, axis=1)
    for quiet in (0, 1):  # of the two frames of each block
        one = both.copy()
        one[:, quiet::2] -= 0.3
        np.testing.assert_array_equal(sound.shaped(x, one, *OF), sound.shaped(x, both, *OF))


def test_noise_is_shaped_in_blocks_of_half_a_window():
    of = sound.Sound(RATE, 3 * (WINDOW // 2), sound.samples(8), MELS, WINDOW, HOP)
    assert of.can_shape
    for change in ({"length": 5 * (WINDOW // 4)}, {"hop": 48}, {"mels": 1}):
        assert not of._replace(**change).can_shape
