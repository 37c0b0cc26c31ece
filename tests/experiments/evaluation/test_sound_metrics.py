"""Errors of clips by closed forms; what the judge sees; and runs without sound, which have no such figures."""

import types

import numpy as np
import pytest

from diffusion import sound
from diffusion.experiments.config import ConfigError, recipes
from diffusion.experiments.evaluation import model_metrics, sound_files, sound_metrics
from diffusion.io import wav

CLIPS = sound.Sound(8000, 512, sound.samples(4), 16, 128, 64)
REAL = 0.1 * np.random.default_rng(0).normal(size=(3, 512)).astype(np.float32)


def test_errors_of_a_louder_clip():
    """Ten times as loud is 20 dB in every bin and band, and an error of nine times the signal: -20 log10(9) dB."""
    errors = {name: of(CLIPS, 10 * REAL, REAL) for name, of in sound_metrics.ERRORS.items()}
    np.testing.assert_allclose(errors["log_spectral_distance"], 20, atol=0.05)
    np.testing.assert_allclose(errors["mel_error"], 20, atol=1e-3)
    np.testing.assert_allclose(errors["signal_to_noise"], -20 * np.log10(9), atol=1e-3)
    np.testing.assert_allclose(errors["spectral_convergence"], 9, rtol=1e-5)
    np.testing.assert_allclose(errors["flatness_error"], 0, atol=1e-3)
    same = {name: float(of(CLIPS, REAL, REAL).max()) for name, of in sound_metrics.ERRORS.items()}
    assert all(same[name] == 0 for name in same if name != "signal_to_noise")


def test_flatness_by_closed_forms():
    """A tone on bin k of Hann's window has the powers 1/4, 1, 1/4; of an impulse all are equal.

    White noise of n independent exponential powers has -10 gamma / log(10) dB.
    """
    window, hop = sound_metrics.LONG
    bins, rest = window // 2 + 1, sound_metrics.QUIET
    tone = np.cos(2 * np.pi * 100 / window * np.arange(64 * window))[None]
    logs = (2 * np.log10(0.25) + (bins - 3) * np.log10(rest)) / bins
    expected = 10 * (logs - np.log10((1.5 + (bins - 3) * rest) / bins))
    np.testing.assert_allclose(sound_metrics.flatness(tone), expected, atol=0.3)  # the ends have broader lines
    impulse = np.zeros((1, 4 * window))
    impulse[0, 2 * window + hop // 2] = 1
    np.testing.assert_allclose(sound_metrics.flatness(impulse), 0, atol=1e-6)
    noise = np.random.default_rng(1).normal(size=(1, 64 * window))
    np.testing.assert_allclose(sound_metrics.flatness(noise), -10 * np.euler_gamma / np.log(10), atol=0.1)


def test_noise_at_the_levels_of_a_tone_is_no_tone():
    """Both see what the levels do not: noise with the tone's own spectrogram of bands."""
    time = np.arange(4096) / 8000
    tone = sum(0.1 * np.sin(2 * np.pi * pitch * time) for pitch in (330, 660, 990))[None]
    shifted = sum(0.1 * np.cos(2 * np.pi * pitch * time) for pitch in (330, 660, 990))[None]
    clips = sound.Sound(8000, 4096, sound.samples(), 40, 256, 64)
    noise = np.random.default_rng(0).normal(size=tone.shape)
    for _ in range(3):
        noise = sound.shaped(noise, clips.levels(tone) - clips.levels(noise), 8000, 256)
    for name in ("spectral_convergence", "flatness_error"):
        of = sound_metrics.ERRORS[name]
        assert of(clips, shifted, tone) < of(clips, noise, tone) / 3


def test_clips_of_any_length_have_a_log_spectral_distance():
    """A recipe may have clips of 2016 samples and a hop of 32, which 64 does not divide."""
    silence = np.zeros((3, 2016 - 512), np.float32)
    long = np.concatenate([REAL, silence], axis=1)
    whole = np.concatenate([long, np.zeros((3, 32), np.float32)], axis=1)
    distance = lambda x: sound_metrics.log_spectral_distance(CLIPS, 10 * x, x)
    np.testing.assert_allclose(distance(long), distance(whole))


def test_a_shift_counts_for_the_signal_and_hardly_for_the_spectrum():
    moved = np.roll(REAL, 1, axis=-1)
    assert sound_metrics.signal_to_noise(CLIPS, moved, REAL).max() < 0
    assert (
        sound_metrics.mel_error(CLIPS, moved, REAL).max()
        < 2
        < sound_metrics.mel_error(CLIPS, REAL[[1, 2, 0]], REAL).min()
    )


def test_the_judge_sees_the_levels_of_the_clip():
    seen = sound_metrics.pictures(CLIPS, CLIPS.form.example(REAL))
    assert seen.shape == (3, 4, 16, 1) and seen.dtype == np.uint8
    levels = sound.log_mel(REAL, 8000, **sound_metrics.JUDGE)
    np.testing.assert_allclose(seen[..., 0] / 255, levels, atol=0.51 / 255)


def test_files_and_a_picture(tmp_path):
    labels = np.array([1, 0, 1])
    sound_files.write(CLIPS, REAL, labels, ("bell", "drum"), tmp_path)
    assert sorted(path.name for path in (tmp_path / "sounds").iterdir()) == ["bell_0.wav", "drum_0.wav", "drum_1.wav"]
    kept, rate = wav.read(tmp_path / "sounds/drum_1.wav")
    assert rate == 8000
    np.testing.assert_allclose(kept[:, 0], REAL[2], atol=1 / 32768)


@pytest.mark.parametrize(
    "recipe, metric, message",
    [
        ("points:tiny", "sound", "--metrics=sound is of runs on sound"),
        ("sound/vocoder:tiny", "sound", "the model has no classes. Valid: --metrics=vocoder"),
        ("sound/spectrum:tiny", "vocoder", "the data have no spectrogram"),
    ],
)
def test_runs_without_them(recipe, metric, message):
    subject = types.SimpleNamespace(
        config=recipes.load(recipe), real=types.SimpleNamespace(spec=types.SimpleNamespace(name="spirals"))
    )
    with pytest.raises(ConfigError, match=message):
        model_metrics.METRICS[metric](subject)
