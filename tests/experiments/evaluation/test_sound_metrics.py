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
        ("sound/tones:tiny", "sound", "asks for no pitch, and the notes of this run have one"),
        ("sound/spectrum:tiny", "vocoder", "the data have no spectrogram"),
    ],
)
def test_runs_without_them(recipe, metric, message):
    subject = types.SimpleNamespace(
        config=recipes.load(recipe), real=types.SimpleNamespace(spec=types.SimpleNamespace(name="spirals"))
    )
    with pytest.raises(ConfigError, match=message):
        model_metrics.METRICS[metric](subject)


# ==== Runs ====


def run_on(monkeypatch, clips, records=(), **changes):
    """A run on clips, whose network makes what `images` says."""

    class Source(list):
        sound = clips
        spec = types.SimpleNamespace(name="clips")

    source = Source(records)
    config = types.SimpleNamespace(evaluate=types.SimpleNamespace(split="test", number=changes.pop("number", 100)))
    monkeypatch.setattr(sound_metrics.data, "source", lambda config, split: source if split == "test" else None)
    monkeypatch.setattr(sound_metrics.pipeline, "fetch", lambda source, rows: [records[row] for row in rows])
    monkeypatch.setattr(sound_metrics.checkpoints, "load_ema", lambda folder: ("params", 7))
    recipe = types.SimpleNamespace(on=lambda spec: recipe)
    monkeypatch.setattr(sound_metrics.resolve, "recipe", lambda config, shape: recipe)
    monkeypatch.setattr(sound_metrics.generate, "seeds", lambda config, number: np.arange(number))
    real = types.SimpleNamespace(spec=source.spec)
    return types.SimpleNamespace(config=config, real=real, workdir="run")


@pytest.mark.parametrize("number, count", [(2, 2), (9, 3)])
def test_a_vocoder_is_measured_beside_griffin_lim_another_clip_and_noise(monkeypatch, number, count):
    """A network that makes the true clips half as loud: an error of half the signal, 6 dB, everywhere."""
    time = np.arange(512) / 8000
    clips = np.float32([0.3 * np.sin(2 * np.pi * pitch * time) for pitch in (440, 1100, 2500)])
    records = [{"x": CLIPS.example(clip), "condition": {"spectrogram": CLIPS.levels(clip)}} for clip in clips]
    subject = run_on(monkeypatch, CLIPS, records, number=number)

    def images(params, condition, seeds):
        assert params == "params" and len(condition["spectrogram"]) == len(seeds) == count
        np.testing.assert_allclose(condition["spectrogram"], CLIPS.levels(clips[:count]))
        return CLIPS.example(clips[:count] / 2)

    monkeypatch.setattr(
        sound_metrics.generate, "generator", lambda recipe: types.SimpleNamespace(images=images, nfe=12)
    )
    found = sound_metrics.vocoder_error(subject)
    value = {name: figure["value"] for name, figure in found.items()}
    half = 20 * np.log10(2)
    assert value["signal_to_noise"] == pytest.approx(half, abs=1e-3)
    assert value["spectral_convergence"] == pytest.approx(0.5, abs=1e-4)
    assert found["mel_error"]["protocol"] == {"clips": f"the first {count} of test", "step": 7, "nfe": 12}
    assert found["mel_error"]["samples"] == count
    suffixes = ("", "_of_griffin_lim", "_of_another_clip", "_of_noise")
    assert set(found) == {f"{name}{suffix}" for name in sound_metrics.ERRORS for suffix in suffixes}
    others = np.roll(clips[:count], 1, axis=0)
    for name in ("mel_error", "signal_to_noise"):
        expected = sound_metrics.ERRORS[name](CLIPS, others, clips[:count]).mean()
        assert value[f"{name}_of_another_clip"] == pytest.approx(expected)
    assert value["spectral_convergence_of_griffin_lim"] < value["spectral_convergence_of_noise"]
    by_hand = np.stack([sound.griffin_lim(CLIPS.levels(clip), 8000, 128, 64) for clip in clips[:count]])
    expected = sound_metrics.mel_error(CLIPS, by_hand, clips[:count]).mean()
    assert value["mel_error_of_griffin_lim"] == pytest.approx(expected, rel=1e-4)
    assert value["mel_error_of_noise"] < value["mel_error_of_another_clip"]  # noise at the levels of the clip


def test_noise_is_left_out_where_no_levels_shape_it(monkeypatch):
    plain = sound.Sound(8000, 512, sound.samples(4), 16, 128, 48)
    assert not plain.can_shape
    records = [{"x": plain.example(clip), "condition": {"spectrogram": np.zeros((10, 16))}} for clip in REAL]
    subject = run_on(monkeypatch, plain, records)
    monkeypatch.setattr(type(plain), "levels", lambda self, x: np.zeros((*np.shape(x)[:-1], 10, 16), np.float32))
    monkeypatch.setattr(sound_metrics, "griffin_lim", lambda one, rate, window, hop: np.zeros(512))
    made = types.SimpleNamespace(images=lambda params, condition, seeds: plain.example(REAL), nfe=1)
    monkeypatch.setattr(sound_metrics.generate, "generator", lambda recipe: made)
    assert not any(name.endswith("_of_noise") for name in sound_metrics.vocoder_error(subject))


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
    assert found["heard_as_its_class"] == {"value": 0.75, "interval": [0.5, 0.9], **about}
    assert found["real_heard_as_its_class"] == {"value": 1.0, "interval": [0.5, 0.9], "samples": 3}
    expected = {"value": 2.0, "interval": [1.5, 2.5], "samples": 2, "reference": 2, "noise": 9.0}
    assert found["frechet_distance_of_judge"] == expected
    assert found["frechet_distance_of_real"] == {"value": 0.5, "standard_deviation": 0.1, "samples": 2}
