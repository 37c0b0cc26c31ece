"""Metrics of runs on sound: what a judge of real notes hears in the samples, and the error of a vocoder.

Each stands beside its floor: other real notes; Griffin and Lim's clip from the same spectrogram, and another clip.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from diffusion.data import pipeline
from diffusion.experiments.config import ConfigError, data, resolve
from diffusion.experiments.evaluation import sample_metrics
from diffusion.experiments.evaluation.real_images import Split
from diffusion.experiments.sampling import generate
from diffusion.metrics import bootstrap, features
from diffusion.sound import Sound, griffin_lim, log_mel, shaped, stft
from diffusion.training.checkpointing import checkpoints

JUDGE = {"mels": 16, "window": 512, "hop": 128}  # of the picture of a clip that the judge sees
FRAMES = (256, 64)  # window and hop of the log-spectral distance
RESOLUTIONS = ((128, 32), (512, 128), (1024, 256))  # windows and hops of the spectral convergence
LONG = (1024, 256)  # window and hop in which tones are lines, and noise between them shows
QUIET = 1e-6  # of a frame's loudest power: the least that counts for its flatness


def sound_of(subject: Any, metric: str) -> Sound:
    """What the clips of a run are.

    Raises:
        ConfigError: for a run on other data, or on notes with their pitch.
    """
    sound = getattr(data.source(subject.config, subject.config.evaluate.split), "sound", None)
    if sound is None:
        raise ConfigError(
            f"--metrics={metric} is of runs on sound, and {subject.real.spec.name} holds none. Valid: a source such as "
            "instruments or wav_folder."
        )
    if sound.form.pitched:
        raise ConfigError(
            f"--metrics={metric} asks for no pitch, and the notes of this run have one. Valid: "
            "python -m examples.sound.tones --workdir=RUN --out=OUT, which measures them at their pitch."
        )
    return sound


# ==== Samples of classes ====


def heard(subject: Any) -> dict:
    """The share of samples that a classifier of real notes hears as their class, and the distance in its features.

    The judge sees pictures of levels, 16 bands by frames of 128 samples; it is trained on the training notes alone.

    Args:
        subject: `model_metrics.Subject` of a run on sound.

    Raises:
        ConfigError: for a run on other data, or without classes.
    """
    sound = sound_of(subject, "sound")
    if not subject.config["model"].get("num_classes", 0):
        raise ConfigError(
            "--metrics=sound: the model has no classes. Valid: --metrics=vocoder, of one with a spectrogram."
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
        "heard_as_its_class": {**_share(accuracy), "by_class": accuracy["by_class"], **context},
        "real_heard_as_its_class": _share(accuracy["real"]),
        "frechet_distance_of_judge": {
            "value": distance["distance"],
            "interval": list(distance["interval"]),
            "samples": count,
            "reference": len(real.images),
            "noise": distance["noise"],
        },
        "frechet_distance_of_real": {
            "value": distance["floor"]["mean"],
            "standard_deviation": distance["floor"]["std"],
            "samples": count,
        },
    }


def pictures(sound: Sound, x: np.ndarray) -> np.ndarray:
    """What the judge sees of examples `[N, ...]`: levels as uint8 `[N, frames, bands, 1]`."""
    waveforms = sound.waveform(np.asarray(x, np.float32))
    levels = log_mel(_padded(waveforms, JUDGE["hop"]), sound.sample_rate, **JUDGE)
    return np.uint8(np.clip(np.round(255 * levels), 0, 255))[..., None]


def _padded(waveforms: np.ndarray, hop: int) -> np.ndarray:
    """Clips `[N, L]` with zeros behind them, up to a whole number of hops."""
    return np.pad(waveforms, [(0, 0), (0, -waveforms.shape[-1] % hop)])


def _share(accuracy: dict) -> dict:
    return {"value": accuracy["share"], "interval": list(accuracy["interval"]), "samples": accuracy["count"]}


# ==== A vocoder ====


def vocoder_error(subject: Any) -> dict:
    """Errors of clips that are made from the spectrograms of held-out clips, against these clips.

    Args:
        subject: `model_metrics.Subject` of a run whose network receives a spectrogram.

    Raises:
        ConfigError: for another run.
    """
    sound = sound_of(subject, "vocoder")
    if not sound.mels:
        raise ConfigError("--metrics=vocoder: the data have no spectrogram. Valid: a source of sound with mels > 0.")
    config = subject.config
    source = data.source(config, config.evaluate.split)
    count = min(config.evaluate.number, len(source))
    records = pipeline.fetch(source, np.arange(count))
    given = np.stack([record["condition"]["spectrogram"] for record in records])
    clips = sound.waveform(np.stack([record["x"] for record in records]), given)
    levels = sound.levels(clips)
    params, step = checkpoints.load_ema(subject.workdir)
    recipe = resolve.recipe(config, sound.shape).on(subject.real.spec)
    make = generate.generator(recipe)
    generated = make.images(params, {"spectrogram": given}, generate.seeds(config, count))
    by_hand = [griffin_lim(one, sound.sample_rate, sound.window, sound.hop) for one in levels]
    sets = {
        "": sound.waveform(np.asarray(generated, np.float32), given),
        "_of_griffin_lim": np.float32(by_hand),
        "_of_another_clip": np.roll(clips, 1, axis=0),
    }
    if sound.can_shape:
        noise = np.random.default_rng(0).normal(size=clips.shape).astype(np.float32)
        sets["_of_noise"] = shaped(noise, levels, sound.sample_rate, sound.window)
    protocol = {"clips": f"the first {count} of {config.evaluate.split}", "step": step, "nfe": make.nfe}
    metrics = {}
    for name, distance in ERRORS.items():
        for suffix, waveforms in sets.items():
            metrics[f"{name}{suffix}"] = bootstrap.mean(distance(sound, waveforms, clips)) | {"protocol": protocol}
    return metrics


def log_spectral_distance(sound: Sound, made: np.ndarray, real: np.ndarray) -> np.ndarray:
    """The root mean square over bins of the difference of log power, in dB, mean over frames: `[N]`.

    sqrt(mean_k (20 log10 |X_ik| - 20 log10 |Y_ik|)^2), with magnitudes of at least 1e-4 (-80 dB). Gray and Markel,
    "Distance Measures for Speech Processing", 1976.
    """
    decibels = lambda x: 20 * np.log10(np.maximum(np.abs(stft(_padded(x, FRAMES[1]), *FRAMES)), 1e-4))
    return np.sqrt(((decibels(made) - decibels(real)) ** 2).mean(-1)).mean(-1)


def mel_error(sound: Sound, made: np.ndarray, real: np.ndarray) -> np.ndarray:
    """The mean absolute difference of the levels that the network received, in dB: `[N]`."""
    return 100 * np.abs(sound.levels(np.asarray(made, np.float32)) - sound.levels(real)).mean((-2, -1))


def signal_to_noise(sound: Sound, made: np.ndarray, real: np.ndarray) -> np.ndarray:
    """10 log10(sum x^2 / sum (x - y)^2) in dB: `[N]`; phases count."""
    error = ((made - real) ** 2).sum(-1)
    return 10 * np.log10(np.maximum((real**2).sum(-1), 1e-12) / np.maximum(error, 1e-12))


def spectral_convergence(sound: Sound, made: np.ndarray, real: np.ndarray) -> np.ndarray:
    """The relative error of magnitudes, mean over short, middle and long windows: `[N]`, 0 for the clip, 1 for silence.

    mean_w sqrt(sum_ik (|X_ik| - |Y_ik|)^2 / sum_ik |Y_ik|^2). In long windows noise is far from a tone of its level.
    Arik et al., "Fast Spectrogram Inversion using Multi-head Convolutional Neural Networks", 2019; Yamamoto et al.,
    "Parallel WaveGAN", 2020, for the windows.
    """

    def error(window: int, hop: int) -> np.ndarray:
        made_levels, real_levels = (np.abs(stft(_padded(x, hop), window, hop)) for x in (made, real))
        squared = ((made_levels - real_levels) ** 2).sum((-2, -1))
        return np.sqrt(squared / np.maximum((real_levels**2).sum((-2, -1)), 1e-12))

    return np.mean([error(*sizes) for sizes in RESOLUTIONS], axis=0)


def flatness(waveforms: np.ndarray) -> np.ndarray:
    """Spectral flatness in dB of clips `[N, L]`: `[N]`; 0 for a spectrum without lines, lower for tones.

    10 log10(geometric / arithmetic mean over k of |X_ik|^2) in long windows, mean over frames by their power. Gray and
    Markel, "A Spectral-Flatness Measure for Studying the Autocorrelation Method of Linear Prediction", 1974.
    """
    power = np.abs(stft(_padded(waveforms, LONG[1]), *LONG)) ** 2
    power = np.maximum(power, np.maximum(QUIET * power.max(-1, keepdims=True), 1e-20))
    frame_flatness = 10 * (np.log10(power).mean(-1) - np.log10(power.mean(-1)))
    loudness = power.sum(-1)
    return (frame_flatness * loudness).sum(-1) / loudness.sum(-1)


def flatness_error(sound: Sound, made: np.ndarray, real: np.ndarray) -> np.ndarray:
    """The difference of spectral flatness, in dB: `[N]`; noise at the levels of a tone is flatter than the tone."""
    return np.abs(flatness(made) - flatness(real))


ERRORS: dict[str, Callable[[Sound, np.ndarray, np.ndarray], np.ndarray]] = {
    "log_spectral_distance": log_spectral_distance,
    "mel_error": mel_error,
    "signal_to_noise": signal_to_noise,
    "spectral_convergence": spectral_convergence,
    "flatness_error": flatness_error,
}
