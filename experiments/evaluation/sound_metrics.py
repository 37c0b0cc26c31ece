"""Metrics of runs on sound: a classifier that was trained on real notes judges samples and held-out notes."""

from typing import Any

import numpy as np

from diffusion.data.sound import Sound, log_mel
from diffusion.experiments.evaluation import sample_metrics
from diffusion.experiments.evaluation.figures import HIGHER, LOWER
from diffusion.experiments.evaluation.real_images import Split
from diffusion.experiments.evaluation.subject import held_out_source
from diffusion.metrics import features
from diffusion.recipe import ConfigError

JUDGE = {"mels": 16, "window": 512, "hop": 128}  # the spectrogram that the classifier receives


def sound_of(subject: Any, metric: str) -> Sound:
    """The form of the clips of a run.

    Raises:
        ConfigError: for a run on other data, or on notes with their pitch.
    """
    sound = getattr(held_out_source(subject), "sound", None)
    if sound is None:
        raise ConfigError(
            f"--metrics={metric} is for runs on sound, but {subject.real.spec.name} holds none. Valid: a source such "
            "as instruments or wav_folder."
        )
    if sound.form.pitched:
        raise ConfigError(
            f"--metrics={metric} does not support notes with a pitch, but this run has them. Valid: python -m "
            "examples.sound.tones --workdir=RUN --out=OUT, which measures them at their pitch."
        )
    return sound


def heard(subject: Any) -> dict:
    """The share of samples that a classifier of real notes assigns to their class, and the distance in its features.

    The classifier receives log-mel spectrograms with 16 bands and a hop of 128 samples. It is trained only on the
    training notes.

    Args:
        subject: `model_metrics.Subject` of a run on sound.

    Raises:
        ConfigError: for a run on other data, or without classes.
    """
    sound = sound_of(subject, "sound")
    if not subject.config["model"].get("num_classes", 0):
        raise ConfigError(
            "--metrics=sound judges sounds by their class, but this model has no classes. Valid: a run with classes."
        )
    spectrograms = lambda x: pictures(sound, x)
    train = Split(spectrograms(subject.train.images), subject.train.labels, subject.train.spec)
    real = Split(spectrograms(subject.real.images), subject.real.labels, subject.real.spec)
    samples = spectrograms(subject.images)
    net = sample_metrics.trained_classifier(train)
    accuracy = sample_metrics.class_accuracy(samples, subject.labels, train, real)
    extractor = features.classifier_features(train.images, train.labels)
    count = min(len(samples), len(real.images), len(train.images))
    arguments = (samples, subject.labels, train, real, count, True, sample_metrics.FULL)
    distance = sample_metrics.distance(extractor, *arguments)
    context = {"judge_sha256": net.digest, "samples": len(samples)}
    return {
        "heard_as_its_class": {**_share(accuracy), "by_class": accuracy["by_class"], "better": HIGHER, **context},
        "real_heard_as_its_class": _share(accuracy["real"]),
        "frechet_distance_of_judge": {
            "value": distance["distance"],
            "interval": list(distance["interval"]),
            "samples": count,
            "reference": len(real.images),
            "noise": distance["noise"],
            "better": LOWER,
        },
        "frechet_distance_of_real": {
            "value": distance["floor"]["mean"],
            "standard_deviation": distance["floor"]["std"],
            "samples": count,
        },
    }


def pictures(sound: Sound, x: np.ndarray) -> np.ndarray:
    """The spectrograms of examples `[N, ...]` for the classifier, uint8 `[N, frames, bands, 1]`."""
    waveforms = sound.waveform(np.asarray(x, np.float32))
    padded = np.pad(waveforms, [(0, 0), (0, -waveforms.shape[-1] % JUDGE["hop"])])  # whole hops
    levels = log_mel(padded, sound.sample_rate, **JUDGE)
    return np.clip(np.round(255 * levels), 0, 255).astype(np.uint8)[..., None]


def _share(accuracy: dict) -> dict:
    return {"value": accuracy["share"], "interval": list(accuracy["interval"]), "samples": accuracy["count"]}
