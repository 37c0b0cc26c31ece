"""Errors of clips by closed forms; what the judge sees; and runs without sound, which have no such figures."""

import types

import numpy as np
import pytest

from diffusion import sound
from diffusion.experiments.evaluation import model_metrics, sound_files, sound_metrics
from diffusion.io import wav
from diffusion.recipe import ConfigError, recipes

CLIPS = sound.Sound(8000, 512, sound.samples(4), 16, 128, 64)
REAL = 0.1 * np.random.default_rng(0).normal(size=(3, 512)).astype(np.float32)


def test_the_judge_sees_the_levels_of_the_clip():
    seen = sound_metrics.pictures(CLIPS, CLIPS.form.example(REAL))
    assert seen.shape == (3, 4, 16, 1) and seen.dtype == np.uint8
    levels = sound.log_mel(REAL, 8000, **sound_metrics.JUDGE)
    np.testing.assert_allclose(seen[..., 0] / 255, levels, atol=0.51 / 255)


def test_the_judge_sees_whole_hops_of_a_clip_of_any_length():
    clips = sound.Sound(8000, 600, sound.samples(4), 16, 128, 64)  # 4 hops of 128, and 88 samples
    waveforms = 0.1 * np.random.default_rng(0).normal(size=(2, 600)).astype(np.float32)
    seen = sound_metrics.pictures(clips, clips.form.example(waveforms))
    assert seen.shape == (2, 5, 16, 1)
    levels = sound.log_mel(np.pad(waveforms, [(0, 0), (0, 40)]), 8000, **sound_metrics.JUDGE)
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
        ("points:tiny", "sound", "--metrics=sound is for runs on sound"),
        ("sound/tones:tiny", "sound", "--metrics=sound does not support notes with a pitch, but this run has them"),
    ],
)
def test_runs_without_them(recipe, metric, message):
    real = types.SimpleNamespace(spec=types.SimpleNamespace(name="spirals"))
    subject = types.SimpleNamespace(config=recipes.load(recipe), real=real, built=None)
    with pytest.raises(ConfigError, match=message):
        model_metrics.METRICS[metric](subject)


# ==== Runs ====


def run_on(monkeypatch, clips):
    """A run on clips."""

    class Source(list):
        sound = clips
        spec = types.SimpleNamespace(name="clips")

    source = Source()
    config = types.SimpleNamespace(evaluate=types.SimpleNamespace(split="test", number=100))
    monkeypatch.setattr(sound_metrics, "held_out_source", lambda subject: source)
    return types.SimpleNamespace(config=config, real=types.SimpleNamespace(spec=source.spec), workdir="run")


def test_the_judge_s_figures_of_a_run(monkeypatch):
    """What is heard is a share of pictures of levels; the floor is that of real notes."""
    seen = {}

    def accuracy(samples, labels, train, real):
        seen["accuracy"] = (samples, labels, train, real)
        share = {"share": 0.75, "interval": (0.5, 0.9), "count": 3, "by_class": {"0": 0.75}}
        return {**share, "real": {**share, "share": 1.0}}

    def distance(extractor, samples, labels, train, real, count, balanced, effort):
        seen["distance"] = (extractor, samples, count, balanced, effort)
        return {"distance": 2.0, "interval": (1.5, 2.5), "noise": 9.0, "floor": {"mean": 0.5, "std": 0.1}}

    subject = run_on(monkeypatch, CLIPS)
    subject.config = {"model": {"num_classes": 2}}
    monkeypatch.setattr(sound_metrics, "sound_of", lambda subject, metric: CLIPS if metric == "sound" else None)
    monkeypatch.setattr(
        sound_metrics.sample_metrics, "trained_classifier", lambda train: types.SimpleNamespace(digest="d")
    )
    monkeypatch.setattr(sound_metrics.sample_metrics, "class_accuracy", accuracy)
    monkeypatch.setattr(sound_metrics.sample_metrics, "distance", distance)
    monkeypatch.setattr(sound_metrics.features, "classifier_features", lambda images, labels: ("features", len(images)))
    x = CLIPS.example(REAL)
    half = lambda number: types.SimpleNamespace(
        images=np.resize(x, (number, *x.shape[1:])), labels=np.arange(number), spec=0
    )
    subject.images, subject.labels, subject.train, subject.real = x, np.array([0, 1, 1]), half(4), half(2)
    found = sound_metrics.heard(subject)
    samples, labels, train, real = seen["accuracy"]
    np.testing.assert_array_equal(samples, sound_metrics.pictures(CLIPS, x))
    assert (len(train.images), len(real.images)) == (4, 2) and labels is subject.labels
    assert train.images.dtype == np.uint8 and train.images.shape[1:] == samples.shape[1:]
    extractor, given, count, balanced, effort = seen["distance"]
    assert extractor == ("features", 4) and count == 2 and balanced is True
    assert effort == sound_metrics.sample_metrics.FULL and given is samples
    about = {"by_class": {"0": 0.75}, "judge_sha256": "d", "samples": 3}
    assert found["heard_as_its_class"] == {"value": 0.75, "interval": [0.5, 0.9], "better": "higher", **about}
    assert found["real_heard_as_its_class"] == {"value": 1.0, "interval": [0.5, 0.9], "samples": 3}
    expected = {"value": 2.0, "interval": [1.5, 2.5], "samples": 2, "reference": 2, "noise": 9.0, "better": "lower"}
    assert found["frechet_distance_of_judge"] == expected
    assert found["frechet_distance_of_real"] == {"value": 0.5, "standard_deviation": 0.1, "samples": 2}
