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
    assert [float(of(CLIPS, REAL, REAL).max()) for of in list(sound_metrics.ERRORS.values())[:2]] == [0, 0]


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
