"""Figures of a run's samples, each beside real images, held-out images and noise."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from diffusion.data import buckets, pipeline, sources
from diffusion.metrics import bootstrap, classifier, frechet, image_sets, neighbours, references
from diffusion.metrics.features import FEATURES, Extractor, inception_features, moments, rows
from diffusion.metrics.features import names as feature_names
from experiments import config as configs
from experiments.run.examples import varied
from experiments.sampling.sample_files import check_samples

SEED = 0  # of the subsets, the resamples and the noise, so that the same samples give the same report
NEIGHBOURS = 2000  # images whose nearest training image is sought, at most: drawn at random where there are more


class Effort(NamedTuple):
    """How much work an evaluation spends.

    Attributes:
        draws: bootstrap resamples of an interval; 0 for no intervals.
        subsets: random subsets of real training images whose mean distance is the floor.
    """

    draws: int
    subsets: int


FULL = Effort(500, 20)
IN_LOOP = Effort(0, 4)
AFFORDABLE = ((256, FULL), (1024, Effort(20, 4)), (np.inf, Effort(0, 2)))  # by the features D: a distance costs D^3


class Split(NamedTuple):
    """Real images uint8 [N, H, W, C], labels int64 [N] (zeros without classes), and the description of the split."""

    images: np.ndarray
    labels: np.ndarray
    spec: sources.DataSpec


def evaluate_samples(images: np.ndarray, labels: np.ndarray, config: Mapping, split: str = "validation") -> dict:
    """The few figures of some samples that a training loop logs, without intervals.

    Args:
        images: uint8 `[N, H, W, C]`, samples.
        labels: int `[N]`, the classes that were asked for; zeros if the model has none.
        config: the run's config; its dataset's training split and `split` are the real images.
        split: that the samples are compared with; by default the one that choices may be made on.

    Returns:
        {"asked_class": share in [0, 1], "fd_FEATURE": distance, "fd_FEATURE_over_floor": ratio,
        "nearest_over_held_out": ratio of median distances to the training set}; "asked_class" where the classifier is
        among the features and the model has classes.

    Raises:
        ConfigError, WorkdirError, ValueError: as in `measure`.
    """
    measured = measure(images, labels, config, split, effort=IN_LOOP)
    flat = {} if measured["asked_class"] is None else {"asked_class": measured["asked_class"]["share"]}
    for name, figure in measured["frechet"].items():
        flat |= {f"fd_{name}": figure["distance"], f"fd_{name}_over_floor": figure["ratio"]}
    median = {name: measured["neighbours"][name]["quantiles"]["0.5"] for name in ("samples", "held_out")}
    return flat | {"nearest_over_held_out": median["samples"] / median["held_out"]}


def measure(
    images: np.ndarray,
    labels: np.ndarray,
    config: Mapping,
    split: str,
    effort: Effort = FULL,
    advance: Callable[[int], None] = lambda done: None,
) -> dict:
    """Every figure of a set of samples, each beside its reference.

    Args:
        images: uint8 `[N, H, W, C]`, samples.
        labels: int `[N]`, the classes that were asked for.
        config: the run's config.
        split: of the dataset, that the samples are compared with.
        effort: how many resamples and subsets.
        advance: told the number of parts done, of len(config.evaluate.features) + 2.

    Returns:
        {"asked_class": dict | None, "frechet": {feature: dict}, "neighbours": dict, "count": N of the distances}.

    Raises:
        ConfigError: if a feature is not known, or a split is not in the dataset.
        WorkdirError: if the samples do not fit the dataset.
    """
    names = tuple(config["evaluate"]["features"])
    for name in names:
        if name not in feature_names():
            raise configs.unknown("config.evaluate.features", name, feature_names(), "feature")
    if split == config["data"]["split"]:
        raise configs.ConfigError(
            f"config.evaluate.split = {split!r} is what the model was trained on, and the floor would compare images "
            "with themselves. Valid: another split, e.g. 'test', or 'train[90%:]' after training on 'train[:90%]'."
        )
    train, real = (split_of(config, name) for name in (config["data"]["split"], split))
    classes = real.spec.num_classes if config["model"].get("num_classes", 0) else 0
    check_samples(images, labels, real.spec.shape, classes)
    if "classifier" in names and not real.spec.num_classes:
        raise configs.ConfigError(
            f"config.evaluate.features holds 'classifier', but {real.spec.name} has no classes to train it on. "
            f"Valid: {', '.join(sorted(set(FEATURES) - {'classifier'}))}."
        )
    asked = asked_class(images, labels, train, real) if "classifier" in names and classes else None
    advance(1)
    count = min(len(images), len(real.images), len(train.images))
    distances = {}
    for done, name in enumerate(names):
        extractor = _extractor(config, name, train)
        distances[name] = distance(extractor, images, labels, train, real, count, bool(classes), effort)
        advance(done + 2)
    rng = np.random.default_rng(SEED)
    some = lambda of: of if len(of) <= NEIGHBOURS else of[rng.permutation(len(of))[:NEIGHBOURS]]
    copies = neighbours.copying(some(images), some(real.images), train.images)
    advance(len(names) + 2)
    return {"asked_class": asked, "frechet": distances, "neighbours": copies, "count": count}


def asked_class(images: np.ndarray, labels: np.ndarray, train: Split, real: Split) -> dict:
    """Share of samples that a classifier, trained on the real training images alone, takes for the class asked for.

    Args:
        images: uint8 `[N, H, W, C]`, samples.
        labels: int `[N]`, the classes asked for.
        train: real images that the classifier learns from.
        real: real images that it is tested on, for reference.

    Returns:
        {"share", "interval", "count", "by_class", "real": {...}, "classifier_sha256"}, shares in [0, 1], intervals
        Wilson's of 95 %.
    """
    net = classifier.cached(train.images, train.labels)

    def share(of, wanted):
        right = classifier.predict(net, of) == wanted
        by_class = {str(c): float(right[wanted == c].mean()) for c in np.unique(wanted)}
        return bootstrap.share(right) | {"by_class": by_class}

    return share(images, labels) | {"real": share(real.images, real.labels), "classifier_sha256": net.digest}


def distance(extractor, images, labels, train: Split, real: Split, count: int, balanced: bool, effort: Effort) -> dict:
    """Frechet distance of samples to all images of a split, beside real training images and noise, N alike.

    Args:
        extractor: a `features.Extractor`.
        images: uint8 `[M, H, W, C]`, samples, M >= N.
        labels: int `[M]`.
        train: real images that the floor's subsets are drawn from.
        real: the reference; all of its images.
        count: N.
        balanced: whether samples and the floor's subsets hold every class alike.
        effort: how many resamples and subsets, at most; see AFFORDABLE.

    Returns:
        {"distance", "interval" (or None), "floor": {"mean", "std", "unbalanced_mean" (or None)}, "noise", "ratio",
        "ratio_interval" (or None), "all_samples": {"mean", "std", "ratio"}, "dimensions", "extractor", "effort"}:
        the distance of the first N, and under "all_samples" the mean over random subsets of N of all samples.
    """
    rng = np.random.default_rng(SEED)
    reference = _real_moments(extractor, real.images)
    distance_to_real = frechet.distance_to(reference)
    to_reference = lambda features: distance_to_real(_moments(features))
    most = next(most for dim, most in AFFORDABLE if len(reference.mean) <= dim)
    effort = Effort(min(effort.draws, most.draws), min(effort.subsets, most.subsets))
    as_they_are = lambda wanted: np.arange(len(wanted))
    order = balanced_order if balanced else as_they_are

    def subsets(features, wanted, order):
        values = []
        for _ in range(effort.subsets):
            shuffled = rng.permutation(len(wanted))
            values.append(to_reference(features[shuffled[order(wanted[shuffled])[:count]]]))
        return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1))}

    made = rows(extractor.extract, images)
    real_made = _real_rows(extractor, train.images)
    first = order(labels)[:count]
    chosen = made[first]
    measured = to_reference(chosen)
    floor = subsets(real_made, train.labels, order)
    every = subsets(made, labels, order)
    floor["unbalanced_mean"] = subsets(real_made, train.labels, as_they_are)["mean"] if balanced else None
    noise = rng.integers(0, 256, (count, *images.shape[1:]), dtype=np.uint8)
    interval = None
    if effort.draws:
        values = bootstrap.replicates(
            lambda chosen_rows: to_reference(chosen[chosen_rows]),
            count,
            effort.draws,
            rng,
            labels[first] if balanced else None,
        )
        interval = bootstrap.percentile_interval(values, estimate=measured)
    return {
        "distance": measured,
        "interval": interval,
        "ratio": measured / floor["mean"],
        "ratio_interval": None if interval is None else tuple(end / floor["mean"] for end in interval),
        "floor": floor,
        "all_samples": every | {"ratio": every["mean"] / floor["mean"]},
        "noise": distance_to_real(moments(extractor.extract, noise)),
        "dimensions": len(reference.mean),
        "extractor": extractor.record,
        "effort": effort._asdict(),
    }


def balanced_order(labels: np.ndarray) -> np.ndarray:
    """Row numbers `[N]` so that the classes take turns, each in the order of its rows."""
    turn = np.zeros(len(labels), int)
    for label in np.unique(labels):
        mine = labels == label
        turn[mine] = np.arange(mine.sum())
    return np.lexsort((labels, turn))


def split_of(config: Mapping, split: str) -> Split:
    """Real images of a split of the run's dataset, read once.

    Raises:
        ConfigError: if the dataset or the split is not there.
    """
    data = config["data"]
    try:
        return _read_split(data["name"], split, data["dir"], data["damaged"], varied(config))
    except sources.DamagedRecord:
        raise  # no mistake in the config
    except ValueError as error:
        how = ""
        if data["latents"]["dir"]:
            how = (
                f" The samples of a run on latents are measured by --samples=RUN/samples.npz --reference="
                f"{data['name']}@{data['split']} --size=SIDE --protocol=adm, without --workdir."
            )
        raise configs.ConfigError(f"config.data, config.evaluate.split: {error}{how}") from error


@functools.lru_cache(maxsize=4)
def _read_split(name: str, split: str, data_dir: str, damaged: str, size: tuple[int, ...]) -> Split:
    records, spec = sources.open_source(name, split, data_dir, varied=size)
    images = np.empty((spec.size, *spec.shape), np.uint8)
    labels = np.zeros(spec.size, np.int64)
    found = 0
    for start in range(0, spec.size, 1000):
        rows = range(start, min(start + 1000, spec.size))
        for record in pipeline.sound(records, rows) if damaged == "skip" else records.__getitems__(rows):
            if record is not None:
                image = buckets.fit(record["image"], size)[0] if size else record["image"]  # the middle
                images[found] = image
                labels[found] = record.get("label", 0)
                found += 1
    return Split(images[:found], labels[:found], spec)


def _extractor(config: Mapping, name: str, train: Split) -> Extractor:
    if name == "inception":
        return inception_features(config["evaluate"]["inception"], config["evaluate"]["protocol"])
    return FEATURES[name](train.images, train.labels)


def _real_moments(extractor: Extractor, images: np.ndarray) -> frechet.Moments:
    if not extractor.keep:
        return moments(extractor.extract, images)
    return _kept(extractor, images).statistics.moments["features"]


def _real_rows(extractor: Extractor, images: np.ndarray) -> np.ndarray:
    return _kept(extractor, images).rows["features"] if extractor.keep else rows(extractor.extract, images)


def _kept(extractor: Extractor, images: np.ndarray) -> references.Gathered:
    """Features of real images, which are the same at every evaluation."""
    space = references.function_space(extractor)
    return references.gather(image_sets.from_array(images), space, ("features",), references.cache_folder())


def _moments(features: np.ndarray) -> frechet.Moments:
    return frechet.update(frechet.init(features.shape[1]), features)
