"""Metrics of a run's model, besides the distances of its samples, for `evaluate --workdir --metrics`.

To add one: a function of a Subject below, with `@pictures_alone` if it takes only pictures, and a line in METRICS.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays import chunks, padding
from diffusion.experiments.evaluation import backbone_figures, image_metrics, sound_metrics
from diffusion.experiments.evaluation.cloud_metrics import measure_clouds
from diffusion.experiments.evaluation.figures import BETTER, HIGHER, LOWER
from diffusion.experiments.evaluation.manifold_likelihood import negative_log_likelihood
from diffusion.experiments.evaluation.real_images import Split, balanced_order, drawn_rows
from diffusion.experiments.evaluation.sample_metrics import SEED, trained_classifier
from diffusion.experiments.evaluation.series_process import measure_process
from diffusion.experiments.evaluation.series_scores import continuous_ranked_probability_score
from diffusion.experiments.evaluation.subject import Subject as Subject, unguided
from diffusion.experiments.evaluation.symbol_bounds import bits_per_symbol
from diffusion.experiments.sampling import generate, run_denoiser
from diffusion.flows import likelihood, ode
from diffusion.io import limits
from diffusion.metrics import bootstrap, classifier_accuracy, features, memorisation
from diffusion.recipe import ConfigError
from diffusion.training.checkpointing import checkpoints
from diffusion.training.runtime import progress

TOLERANCE = 1e-5  # absolute and relative tolerance of the likelihood's solver
EARLIEST = 1e-5  # the time at which the likelihood is taken, if the schedule begins earlier
LEVELS = 7  # bits between the density of bytes scaled to [-1, 1] and that of the bytes, log2(128)
BATCH = 64  # examples whose likelihood is computed at once


# (Subject) -> {metric: {"value", "standard_error" or "interval", "samples", ...}}, as the metrics of `image_metrics`.
Metric = Callable[[Subject], dict]


def pictures_alone(metric: Metric) -> Metric:
    """Marks a metric that takes only pictures; a run on other examples is refused before anything is measured."""
    metric.pictures_alone = True  # type: ignore[attr-defined]
    return metric


def takes_pictures_alone(metric: Metric) -> bool:
    """Whether a metric is marked by `pictures_alone`."""
    return getattr(metric, "pictures_alone", False)


@pictures_alone
def accuracy(subject: Subject) -> dict:
    """Classifier accuracy score, and its ceiling: the score of as many real training images, of every class alike."""
    if not subject.config["model"].get("num_classes", 0):
        raise ConfigError("--metrics=cas trains a classifier on labelled samples, but this model has no classes.")
    count = min(len(subject.images), len(subject.train.images))
    if len(missing := np.setdiff1d(subject.real.labels, subject.labels[:count])):
        raise ConfigError(
            f"--metrics=cas: none of the {count} samples has the classes {missing.tolist()}. Make more: diffusion "
            "sample --config.sample.number=N."
        )
    if len(missing := np.setdiff1d(subject.real.labels, subject.train.labels)):
        raise ConfigError(
            f"--metrics=cas: no training image has the classes {missing.tolist()}, which held-out images have, so that "
            "there is no score of real images. Valid: a config.evaluate.split of classes of the training split."
        )
    shuffled = np.random.default_rng(SEED).permutation(len(subject.train.images))
    some = shuffled[balanced_order(subject.train.labels[shuffled])[:count]]  # a random draw may lack a class
    sets = {
        "cas": (subject.images[:count], subject.labels[:count]),
        "cas_of_real_images": (subject.train.images[some], subject.train.labels[some]),
    }
    metrics = {}
    for name, (images, labels) in sets.items():
        trained_classifier(Split(images, labels, subject.train.spec), "samples" if name == "cas" else "real images")
        score = classifier_accuracy.classifier_accuracy(images, labels, subject.real.images, subject.real.labels)
        metrics[name] = {
            "value": score.value,
            "interval": list(score.interval),
            "samples": score.samples,
            "reference": score.test,
            "by_class": score.by_class,
            "sha256": score.digest,
        }
    metrics["cas"]["better"] = HIGHER
    return metrics


@pictures_alone
def copying(subject: Subject) -> dict:
    """Whether samples lie nearer to the training images than held-out images do.

    C_T is below -3 if they do. "authenticity" is the share of samples that are not near copies, beside the same share
    of held-out images.
    """
    if subject.train.spec.num_classes:
        trained_classifier(subject.train)
        extractor = features.classifier_features(subject.train.images, subject.train.labels)
    else:
        extractor = features.pixels(subject.train.images, subject.train.labels)
    every = (subject.images, subject.real.images, subject.train.images)
    samples, held_out, train = (features.rows(extractor.extract, images) for images in every)
    statistic = memorisation.data_copying(samples, held_out, train).value
    counts = {"samples": len(samples), "reference": len(train)}
    metrics = {"data_copying": {"value": statistic, **counts, "features": extractor.record}}
    for name, rows in (("authenticity", samples), ("authenticity_of_held_out", held_out)):
        metrics[name] = image_metrics.describe_share(memorisation.authenticity(rows, train))
    return metrics


def bits_per_dim(subject: Subject) -> dict:
    """Bits per dimension of held-out examples under the moving average, without guidance; see `diffusion.likelihood`.

    For pictures they are the bits of the bytes, and for other examples the bits of the density of their numbers. The
    padding of padded examples is not counted.
    """
    config: Any = subject.config
    shape = subject.real.images.shape[1:]
    params, step = checkpoints.load_ema(subject.workdir)
    recipe = unguided(subject)  # a guided flow has another density
    recipe = generate.on_trained_schedule(recipe, params)
    schedule = recipe.schedule
    denoise = run_denoiser.denoiser(recipe)
    start = max(schedule.t_min, EARLIEST)
    pictures = subject.real.images.dtype == np.uint8
    conditions = subject.real.labels if subject.real.conditions is None else subject.real.conditions
    solver = ode.dormand_prince(start, schedule.t_max, TOLERANCE, TOLERANCE)

    @jax.jit
    def measured(params, images, labels, numbers):
        keys = jax.vmap(lambda number: jax.random.split(jax.random.fold_in(jax.random.key(SEED), number)))(numbers)
        x = likelihood.dequantise(images, keys[:, 0]) if pictures else images
        real = run_denoiser.real_of(recipe, labels)
        dims = math.prod(shape) if real is None else padding.count(real, x)
        probe = likelihood.hutchinson(likelihood.rademacher(keys[:, 1], shape))
        density = likelihood.log_likelihood(denoise(params, labels), schedule, x, solver, probe, real=real)
        bits = likelihood.bits_per_dim(density.log_density, dims) - (0 if pictures else LEVELS)
        return bits, jnp.broadcast_to(density.nfe, images.shape[:1])

    chosen = np.sort(drawn_rows(len(subject.real.images), config.evaluate.number))
    count = len(chosen)
    examples = jax.tree.map(lambda leaf: leaf[chosen], (subject.real.images, conditions))
    with progress.bar("likelihood", count, "examples") as advance:
        bits, nfe = chunks.applied(
            lambda batch: measured(params, batch[0], generate.as_condition(batch[1]), batch[2]),
            (*examples, chosen),
            BATCH,
            advance,
        )
    bits = bits.astype(np.float64)
    return {
        "bits_per_dim": {
            **bootstrap.mean(bits),
            "better": LOWER,
            "protocol": {
                "density": "probability flow from t_start to the prior, change of variables",
                "t_start": start,
                "solver": "Dormand-Prince 5(4), step control for each image",
                "rtol": TOLERANCE,
                "atol": TOLERANCE,
                "evaluations": float(nfe.mean()),
                "divergence": "Hutchinson, one Rademacher probe an image, held fixed",
                "probes": 1,
                "dequantisation": "uniform, (byte + u) / 128 - 1, one draw an image; + 7 bits" if pictures else "none",
                "dimensions": "of what is real" if subject.real.conditions is not None else "all",
                "images": f"{count} of the {len(subject.real.images)} held-out images, drawn by seed {SEED}",
                "weights": "moving average",
                "step": step,
                "guidance": 1.0,
                "seed": SEED,
            },
        }
    }


METRICS: dict[str, Metric] = {
    "cas": accuracy,
    "copying": copying,
    "bpd": bits_per_dim,
    "nll": negative_log_likelihood,
    "crps": continuous_ranked_probability_score,
    "process": measure_process,
    "sound": sound_metrics.heard,
    "clouds": measure_clouds,
    "backbone": backbone_figures.geometry,
    "symbols": bits_per_symbol,
}


def metric_of(name: str | Metric) -> Metric:
    """The metric of a name in `METRICS`; a function is returned as it is."""
    return METRICS[name] if isinstance(name, str) else name


def check_figures(name: str | Metric, figures: Any) -> None:
    """Refuses figures of a metric that the report could not show.

    Args:
        name: the metric, by its name or its function.
        figures: the figures that it returned, with plain numbers.

    Raises:
        ConfigError: names the metric, what it returned, and the valid form.
    """
    called = name if isinstance(name, str) else getattr(name, "__name__", repr(name))
    valid = 'Valid: {name: {"value": a number or None, "samples": their number, ...}}; see docs/extend.md#a-metric.'
    if not isinstance(figures, Mapping):
        raise ConfigError(f"the metric {called!r} returns {limits.kind(figures)}. {valid}")
    for figure, entry in figures.items():
        if not isinstance(entry, Mapping) or "value" not in entry:
            raise ConfigError(f"the metric {called!r} returns {figure!r} = {limits.short(entry)}. {valid}")
        value = entry["value"]
        if value is not None and not (isinstance(value, int | float) and "samples" in entry):
            raise ConfigError(f"the metric {called!r} returns {figure!r} = {limits.short(entry)}. {valid}")
        if (better := entry.get("better")) not in (None, *BETTER):
            raise ConfigError(
                f'the metric {called!r} returns {figure!r} with "better": {limits.short(better)}. Valid: '
                f"{', '.join(map(repr, BETTER))}, or no such entry; see docs/extend.md#a-metric."
            )


REMOVED = {
    "vocoder": "it was removed with the recipe sound/vocoder, whose clips were no nearer to the notes than noise was. "
    "Version 0.1.0 is the last that has both. Valid: --metrics=sound, for a run with classes"
}
"""Why a metric of earlier versions is gone, and what takes its place."""
