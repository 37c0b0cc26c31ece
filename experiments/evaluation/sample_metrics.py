"""Metrics of a run's samples, compared with real images, held-out images and noise."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from diffusion.experiments.evaluation import figures, held_out, symbol_metrics, vector_metrics
from diffusion.experiments.evaluation.real_images import Split, balanced_order, split_of
from diffusion.experiments.sampling.sample_files import check_samples
from diffusion.io import limits
from diffusion.metrics import (
    bootstrap,
    classifier,
    frechet,
    image_sets,
    neighbours,
    ngrams,
    references,
    vector_distances,
)
from diffusion.metrics.features import FEATURES, Extractor, inception_features, moments, names as feature_names, rows
from diffusion.recipe import ConfigError, unknown
from diffusion.training.runtime import progress

SEED = 0  # seed of subsets, resamples and noise: the same samples give the same report
NEIGHBOURS = 2000  # images whose nearest training image is sought, at most: drawn at random where there are more


class Effort(NamedTuple):
    """How much work an evaluation spends."""

    draws: int  # bootstrap resamples of an interval; 0 for no intervals
    subsets: int  # random subsets of real training images whose mean distance is the floor, at least 1


FULL = Effort(500, 20)
IN_LOOP = Effort(0, 4)
# (the largest number of features D, the effort for it): the cost of a distance grows with D^3.
AFFORDABLE = ((256, FULL), (1024, Effort(20, 4)), (np.inf, Effort(0, 2)))


def evaluate_samples(
    images: np.ndarray,
    labels: np.ndarray,
    config: Mapping,
    split: str = "validation",
    real_splits: tuple[Split, Split] | None = None,
) -> dict:
    """The few metrics of samples that a training loop logs, without intervals; arguments as in `measure`.

    Returns:
        {"asked_class": share in [0, 1], "fd_FEATURE": distance, "fd_FEATURE_over_floor": ratio,
        "nearest_over_held_out": ratio of median distances to the training set}. "asked_class" is there if the
        classifier is among the features and the model has classes.
    """
    measured = measure(images, labels, config, split, effort=IN_LOOP, real_splits=real_splits)
    return {name: figure.value for name, figure in figures.read_samples(measured).items()}


def measure(
    images: np.ndarray,
    labels: np.ndarray,
    config: Mapping,
    split: str,
    effort: Effort = FULL,
    advance: Callable[[int], None] = lambda done: None,
    real_splits: tuple[Split, Split] | None = None,
) -> dict:
    """Measures a set of samples by every metric, beside real images, held-out images and noise.

    Args:
        images: the samples, uint8 `[N, H, W, C]`.
        labels: the classes that were requested, int `[N]`; zeros if the model has none.
        config: the run's config.
        split: the split of the dataset that the samples are compared with.
        effort: the numbers of bootstrap resamples and random subsets.
        advance: a function that receives the number of parts done, of len(config.evaluate.features) + 2.
        real_splits: the training images, and the images that the samples are compared with; None for the splits of
            config.data.

    Returns:
        {"asked_class": dict | None, "frechet": {feature: dict}, "neighbours": dict, "count": N of the distances,
        "trained_on": {"count", "of"}, the number of records of the split that were trained on}. For examples other than
        pictures, what `vector_metrics.measure` or `symbol_metrics.measure` returns, with "trained_on".

    Raises:
        ConfigError: if a feature is not known, a split is not in the dataset, or the split has records of the training.
        WorkdirError: if the samples do not fit the dataset.
    """
    names = tuple(config["evaluate"]["features"])
    for name in names:
        if name not in feature_names():
            raise unknown("config.evaluate.features", name, feature_names(), "feature")
    train, real = real_splits or (split_of(config, config["data"]["split"]), split_of(config, split))
    shared = held_out.require(config, train, real)
    classes = real.spec.num_classes if config["model"].get("num_classes", 0) else 0
    if not real.spec.pictures:
        kind = symbol_metrics if real.spec.dtype == "int32" else vector_metrics
        asked = labels if classes else None
        measured = kind.measure(images, config, train, real, effort.draws, effort.subsets, asked)
        advance(len(names) + 2)
        return measured | {"trained_on": shared._asdict()}
    check_samples(images, labels, real.spec.shape, classes)
    if "classifier" in names and not real.spec.num_classes:
        raise ConfigError(
            f"config.evaluate.features holds 'classifier', but {real.spec.name} has no classes to train it on. "
            f"Valid: {', '.join(sorted(set(FEATURES) - {'classifier'}))}."
        )
    recognised = class_accuracy(images, labels, train, real) if "classifier" in names and classes else None
    advance(1)
    count = min(len(images), len(real.images), len(train.images))
    distances = {}
    for done, name in enumerate(names):
        extractor = extractor_of(name, config, train)
        distances[name] = distance(extractor, images, labels, train, real, count, bool(classes), effort)
        advance(done + 2)
    rng = np.random.default_rng(SEED)
    some = lambda rows: rows if len(rows) <= NEIGHBOURS else rows[rng.permutation(len(rows))[:NEIGHBOURS]]
    copies = neighbours.copying(some(images), some(real.images), train.images)
    advance(len(names) + 2)
    return {
        "asked_class": recognised,
        "frechet": distances,
        "neighbours": copies,
        "count": count,
        "trained_on": shared._asdict(),
    }


def figure_names() -> tuple[str, ...]:
    """The figures that `measure` can compute; a distance has another figure with the suffix of `figures.FLOOR`."""
    distances = (*(f"fd_{name}" for name in feature_names()), *vector_distances.NAMES, *ngrams.NAMES)
    return ("asked_class", *distances)


def extractor_of(name: str, config: Mapping, train: Split) -> Extractor:
    """The extractor of a name in config.evaluate.features.

    Args:
        name: the name.
        config: the config of the run.
        train: the training split; some extractors, such as the classifier, learn from it.

    Raises:
        ConfigError: if the function of this name returns no extractor.
    """
    if name == "inception":
        return inception_features(config["evaluate"]["inception"], config["evaluate"]["protocol"])
    extractor = FEATURES[name](train.images, train.labels)
    if not (callable(getattr(extractor, "extract", None)) and hasattr(extractor, "record")):
        raise ConfigError(
            f"config.evaluate.features: {name!r} returns {limits.kind(extractor)}. Valid: a function (images, "
            "labels) that returns a features.Extractor; see docs/extend.md#a-metric."
        )
    return extractor


def trained_classifier(train: Split, what: str = "real images") -> classifier.Classifier:
    """The classifier of the training images, read from the cache, or trained now with a progress bar.

    Args:
        train: the images and their labels.
        what: the noun for the images, for the bar.
    """

    def training(images, labels, seed):
        with progress.bar(f"training the classifier of {what}", classifier.STEPS, "steps") as advance:
            return classifier.train(images, labels, seed, advance=advance)

    return classifier.cached(train.images, train.labels, training=training)


def class_accuracy(images: np.ndarray, labels: np.ndarray, train: Split, real: Split) -> dict:
    """The share of samples that a classifier recognises as the requested class, beside the same share of real images.

    Args:
        images: samples, uint8 `[N, H, W, C]`.
        labels: their requested classes, int `[N]`.
        train: the split on which the classifier is trained.
        real: the split of real images.
    """
    net = classifier.cached(train.images, train.labels)

    def share(images, labels):
        right = classifier.predict(net, images) == labels
        by_class = {str(label): float(right[labels == label].mean()) for label in np.unique(labels)}
        return bootstrap.share(right) | {"by_class": by_class}

    measured = share(images, labels) | {"real": share(real.images, real.labels), "classifier_sha256": net.digest}
    return measured | {"better": figures.HIGHER}


def distance(
    extractor: Extractor,
    images: np.ndarray,
    labels: np.ndarray,
    train: Split,
    real: Split,
    count: int,
    balanced: bool,
    effort: Effort,
) -> dict:
    """Frechet distance of samples to all images of a split, beside N real training images and N images of noise.

    Args:
        extractor: the extractor of the features.
        images: the samples, uint8 `[M, H, W, C]`, M >= N.
        labels: the classes of the samples, int `[M]`.
        train: real images that the floor's subsets are drawn from.
        real: the reference; all of its images.
        count: N.
        balanced: whether samples and the floor's subsets hold every class alike.
        effort: the largest numbers of resamples and subsets; see AFFORDABLE.

    Returns:
        {"distance", "interval" (or None), "floor": {"mean", "std" (or None), "unbalanced_mean" (or None)}, "noise",
        "ratio", "ratio_interval" (or None), "all_samples": {"mean", "std" (or None), "ratio"}, "dimensions",
        "extractor", "effort", "better"}: the distance of the first N, and under "all_samples" the mean over random
        subsets of N of all samples. "std" is None where the only subset of N holds all.
    """
    rng = np.random.default_rng(SEED)
    distance_to_real, effort = distance_to(extractor, real, effort)
    to_reference = lambda features: distance_to_real(frechet.moments(features))
    real_rows = _kept(extractor, train).rows["features"] if extractor.keep else rows(extractor.extract, train.images)
    unbalanced = lambda labels: np.arange(len(labels))
    order = balanced_order if balanced else unbalanced

    def subsets(features, labels, order):
        values = []
        for _ in range(effort.subsets if count < len(labels) else 1):  # all of them are one subset
            shuffled = rng.permutation(len(labels))
            values.append(to_reference(features[shuffled[order(labels[shuffled])[:count]]]))
        return figures.spread(values)

    sample_rows = rows(extractor.extract, images)
    first = order(labels)[:count]
    chosen = sample_rows[first]
    measured = to_reference(chosen)
    floor = subsets(real_rows, train.labels, order)
    every = subsets(sample_rows, labels, order)
    unbalanced_mean = subsets(real_rows, train.labels, unbalanced)["mean"] if balanced else None
    noise = rng.integers(0, 256, (count, *images.shape[1:]), dtype=np.uint8)
    interval = None
    if effort.draws:
        statistic = lambda drawn: to_reference(chosen[drawn])
        values = bootstrap.replicates(statistic, count, effort.draws, rng, labels[first] if balanced else None)
        interval = bootstrap.percentile_interval(values, estimate=measured)
    return {
        "distance": measured,
        "interval": interval,
        "ratio": measured / floor["mean"],
        "ratio_interval": None if interval is None else tuple(end / floor["mean"] for end in interval),
        "floor": {**floor, "unbalanced_mean": unbalanced_mean},
        "all_samples": every | {"ratio": every["mean"] / floor["mean"]},
        "noise": distance_to_real(moments(extractor.extract, noise)),
        "dimensions": real_rows.shape[1],
        "extractor": extractor.record,
        "effort": effort._asdict(),
        "better": figures.LOWER,
    }


def distance_to(extractor: Extractor, real: Split, effort: Effort) -> tuple[Callable[[frechet.Moments], float], Effort]:
    """A function from moments to their Frechet distance from all images of a split.

    Args:
        extractor: the feature space.
        real: the split of real images.
        effort: the requested numbers of bootstrap draws and subsets.

    Returns:
        (the function, the effort, reduced to what is affordable for the dimension of the features).
    """
    if extractor.keep:
        reference = _kept(extractor, real).statistics.moments["features"]
    else:
        reference = moments(extractor.extract, real.images)
    most = next(most for dim, most in AFFORDABLE if len(reference.mean) <= dim)
    effort = Effort(min(effort.draws, most.draws), min(effort.subsets, most.subsets))
    return frechet.distance_to(reference), effort


def _kept(extractor: Extractor, split: Split) -> references.Gathered:
    """Features of real images, which are the same at every evaluation, from the cache on disk."""
    space = references.function_space(extractor)
    return references.gather(image_sets.from_array(split.images), space, ("features",), references.cache_folder())
