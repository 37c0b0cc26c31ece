"""Metrics of samples other than pictures (points, series, volumes, pytrees), compared with real ones and noise."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from diffusion.data.transforms import to_model
from diffusion.experiments.evaluation.figures import LOWER, spread
from diffusion.experiments.evaluation.real_images import Split, balanced_order
from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.metrics import bootstrap, frechet, kernel_distance, pairwise, vector_distances
from diffusion.recipe import ConfigError

SEED = 0  # seed of subsets, resamples, directions and noise
MOST = 2000  # samples that are compared, at most
REFERENCE = 5000  # real examples that they are compared with, at most, drawn at random where there are more
DIRECTIONS = 128  # directions of the sliced distance
DRAWS = 200  # resamples of an interval, at most
SUBSETS = 10  # most subsets of real training examples; their mean distance is the floor


Distance = Callable[[np.ndarray], Callable[[np.ndarray], float]]
"""Rows [N, D] -> (numbers of chosen rows [N] -> the distance of these to fixed real examples)."""


def _kernel(kernel: kernel_distance.Kernel, real: np.ndarray) -> Distance:
    """The squared discrepancy of a kernel; a resample changes the weights of the rows of the kernel's matrix."""
    within = sum(kernel(real[rows], real).mean(1).sum() for rows in pairwise.blocks(len(real), 500)) / len(real)

    def distance(rows: np.ndarray) -> Callable[[np.ndarray], float]:
        inside = kernel(rows, rows)
        cross = np.concatenate([kernel(rows[part], real).mean(1) for part in pairwise.blocks(len(rows), 500)])

        def discrepancy(chosen: np.ndarray) -> float:
            weight = np.bincount(chosen, minlength=len(rows)) / len(chosen)
            return float(weight @ inside @ weight + within - 2 * weight @ cross)

        return discrepancy

    return distance


def _sliced(real: np.ndarray) -> Distance:
    along = vector_distances.directions(DIRECTIONS, real.shape[1], SEED)
    reference = np.sort(real @ along.T, axis=0)

    def distance(rows: np.ndarray) -> Callable[[np.ndarray], float]:
        projected = rows @ along.T
        to_real = vector_distances.sliced_to(reference, len(rows))
        return lambda chosen: to_real(projected[chosen])

    return distance


def _frechet(real: np.ndarray) -> Distance:
    to_real = frechet.distance_to(frechet.moments(real))
    return lambda rows: lambda chosen: to_real(frechet.moments(rows[chosen]))


HOW = {  # the definitions of the figures, which are all squared distances
    "energy_distance": "2 E|X - Y| - E|X - X'| - E|Y - Y'| (Szekely and Rizzo 2013)",
    "mmd": "Gaussian kernel, its bandwidth the median distance of real examples (Gretton et al. 2012)",
    "sliced_wasserstein": f"squared 2-Wasserstein distance along {DIRECTIONS} directions (Bonneel et al. 2015)",
    "frechet_distance": "of Gaussian fits to the numbers as they are: sees means and covariances alone",
}
MASKED = "; masked numbers count as 0, and every example has its own mask, also where two are compared"
FIGURES = tuple(f"{name}{suffix}" for name in vector_distances.NAMES for suffix in ("", "_over_floor"))


def check_features(config: Mapping, data: str, what: str, numbers: str) -> None:
    """Refuses features of pictures for data that are not pictures.

    Args:
        config: the config of the run.
        data: the name of the data.
        what: a description of its examples, in words.
        numbers: the numbers that the feature "pixels" compares, in words.

    Raises:
        ConfigError: names the first feature of pictures.
    """
    if wrong := [name for name in config["evaluate"]["features"] if name != "pixels"]:
        raise ConfigError(
            f"config.evaluate.features holds {wrong[0]!r}, a feature of pictures, but the examples of {data} are "
            f"{what}. Valid: ('pixels',), {numbers} as they are."
        )


def measure(
    samples: np.ndarray,
    config: Mapping,
    train: Split,
    real: Split,
    draws: int,
    subsets: int,
    labels: np.ndarray | None = None,
) -> dict:
    """Distances of samples to real examples.

    Args:
        samples: the samples, float32 or uint8 [M, ...], in the form of the examples; [M, D] for pytrees.
        config: the run's config.
        train: real examples from which the floor's subsets are drawn.
        real: the real examples of the reference.
        draws: the number of bootstrap resamples of an interval; at most DRAWS are used, and 0 gives no intervals.
        subsets: the number of subsets of the floor; at most SUBSETS are used.
        labels: the classes of the samples, int [M], of which they and the floor's subsets then hold every one alike;
            None for a model without classes.

    Returns:
        {"distances": {name: {"value", "interval" (or None), "floor": {"mean", "std" (None where the only subset holds
        all training examples)}, "noise", "ratio", "how"}}, "count": N, "reference": the number of real examples,
        "dimensions": D, "sigma": the bandwidth of the kernel, and the entries of pictures: None for "asked_class" and
        "neighbours", {} for "frechet"}.

    Raises:
        ConfigError: for features that only pictures have.
        WorkdirError: if the samples do not fit the data.
    """
    check_features(config, real.spec.name, "arrays of numbers", "the numbers of an example")
    shape = real.images.shape[1:]
    if samples.shape[1:] != shape or samples.dtype != real.images.dtype or len(samples) < 2:
        raise WorkdirError(
            f"the samples are {samples.dtype} {list(samples.shape)}, but {real.spec.name} has {real.images.dtype} [N, "
            f"{', '.join(map(str, shape))}]; a distance needs at least 2"
        )
    if samples.dtype.kind == "f" and not np.isfinite(samples).all():
        number = int((~np.isfinite(samples.reshape(len(samples), -1)).all(1)).sum())
        raise WorkdirError(
            f"{number} of {len(samples)} samples hold NaN or infinity. Valid: finite samples; make them again with "
            "other weights or settings"
        )
    rng = np.random.default_rng(SEED)
    flat = lambda x: (to_model(x) if x.dtype == np.uint8 else x).reshape(len(x), -1).astype(np.float64)
    some = lambda x, most: x if len(x) <= most else x[np.sort(rng.permutation(len(x))[:most])]
    compared_samples, strata = selected(samples, train, labels)
    chosen, reference = flat(compared_samples), flat(some(real.images, REFERENCE))
    noise = reference.mean(0) + reference.std(0) * rng.normal(size=chosen.shape)
    floors = list(map(flat, real_subsets(train, len(chosen), subsets, strata is not None, rng)))
    sigma = vector_distances.median_distance(some(reference, 1000))
    distances = {
        "energy_distance": _kernel(vector_distances.minus_distance, reference),
        "mmd": _kernel(kernel_distance.gaussian(sigma), reference),
        "sliced_wasserstein": _sliced(reference),
    }
    # Otherwise a covariance is singular, and the fit means nothing.
    if min(len(chosen), len(reference)) > chosen.shape[1]:
        distances["frechet_distance"] = _frechet(reference)
    how = HOW if real.conditions is None else {name: f"{text}{MASKED}" for name, text in HOW.items()}
    return compared(distances, chosen, floors, noise, len(reference), draws, rng, how, strata) | {"sigma": sigma}


def selected(samples: np.ndarray, train: Split, labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """(the samples that are compared, `[N, ...]`, their classes, int `[N]`, or None without labels).

    N is at most MOST, and at most the number of training examples, of which a floor has as many.
    """
    rows = _rows_of_all_classes(labels, min(len(samples), len(train.images), MOST))
    return samples[rows], None if labels is None else labels[rows]


def _rows_of_all_classes(labels: np.ndarray | None, count: int) -> np.ndarray:
    """Numbers of `count` rows in which the classes take turns; of the first rows where there are no labels."""
    return np.arange(count) if labels is None else balanced_order(labels)[:count]


def real_subsets(
    train: Split, count: int, subsets: int, balanced: bool, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Random sets of `count` training examples for the floor, of every class alike if `balanced`; at most SUBSETS.

    All training examples are one set, so that there is no other.
    """
    for _ in range(min(subsets, SUBSETS) if count < len(train.images) else 1):
        shuffled = rng.permutation(len(train.images))
        yield train.images[shuffled[_rows_of_all_classes(train.labels[shuffled] if balanced else None, count)]]


def compared(
    distances: Mapping[str, Distance],
    chosen: np.ndarray,
    floors: Sequence[np.ndarray],
    noise: np.ndarray,
    reference: int,
    draws: int,
    rng: np.random.Generator,
    how: Mapping[str, str],
    strata: np.ndarray | None = None,
) -> dict[str, Any]:
    """Measures each distance of the samples, with its interval, beside the floor and noise; returns as `measure`.

    Args:
        distances: the distances to the real examples, by name.
        chosen: rows of the samples, `[N, D]`.
        floors: rows of real training examples, `[N, D]` each, at least one.
        noise: rows of noise, `[N, D]`.
        reference: the number of real examples.
        draws: the number of bootstrap resamples of an interval; at most DRAWS are used, and 0 gives no intervals.
        rng: the generator of the resamples.
        how: the definition of each distance, in words.
        strata: the classes of the samples, int `[N]`; a resample has as many of each. None for no classes.
    """
    every = np.arange(len(chosen))
    measured = {}
    for name, distance in distances.items():
        distance_of_rows = distance(chosen)
        value = distance_of_rows(every)
        floor = [distance(rows)(every) for rows in floors]
        mean_floor = max(float(np.mean(floor)), float(np.finfo(np.float64).tiny))  # equal examples would give 0
        interval = None
        if draws:
            values = bootstrap.replicates(distance_of_rows, len(chosen), min(draws, DRAWS), rng, strata)
            interval = bootstrap.percentile_interval(values, estimate=value)
        measured[name] = {
            "value": value,
            "interval": interval,
            "floor": {**spread(floor), "mean": mean_floor},
            "ratio": value / mean_floor,
            "ratio_interval": None if interval is None else tuple(end / mean_floor for end in interval),
            "noise": distance(noise)(every),
            "how": how[name],
            "better": LOWER,
        }
    return {
        "asked_class": None,
        "frechet": {},
        "neighbours": None,
        "distances": measured,
        "count": len(chosen),
        "reference": reference,
        "dimensions": chosen.shape[1],
        "sigma": None,
    }
