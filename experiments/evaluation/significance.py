"""Tests whether two settings differ in a figure: over seeds if there are several, otherwise over samples."""

import math
from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np

from diffusion.experiments.evaluation.figures import LEVEL, Figure, Z
from diffusion.experiments.evaluation.real_images import Split, balanced_order
from diffusion.experiments.evaluation.sample_metrics import FULL, SEED, distance_to, extractor_of
from diffusion.metrics import bootstrap, classifier, frechet, permutation
from diffusion.metrics.features import rows

ROUNDING = 1e-12  # share of the largest value below which differences scatter by rounding alone


class Difference(NamedTuple):
    """The second value minus the first, with its 95 % interval; interval and p are NaN where no test is possible."""

    value: float
    low: float
    high: float
    p: float  # two-sided, for the hypothesis of no difference
    how: str  # the test, in words


Seed = TypeVar("Seed", bound=Hashable)


class Samples(NamedTuple):
    """Samples of a run: uint8 `[N, H, W, C]`, the requested classes int `[N]`, and the seed of the first."""

    images: np.ndarray
    labels: np.ndarray
    seed: int | None


def compare_seeds(first: Mapping[Seed, float], second: Mapping[Seed, float]) -> Difference | None:
    """The difference of two means over training runs, {seed: value}; None for fewer than two runs on either side.

    It is Student's t of the pairs of equal seeds if there are at least two pairs, and otherwise Welch's test.
    """
    from scipy import stats  # imported here: it takes most of a second, and comparisons of exact figures need no test

    shared = [seed for seed in first if seed in second]
    if len(shared) > 1:
        gaps = [second[seed] - first[seed] for seed in shared]
        largest = max(abs(values[seed]) for values in (first, second) for seed in shared)
        test = stats.ttest_1samp(gaps, 0.0) if np.ptp(gaps) > ROUNDING * largest else None
        return _difference_by_test(float(np.mean(gaps)), test, f"{len(shared)} pairs of equal seeds, Student's t")
    if min(len(first), len(second)) < 2:
        return None
    values = [list(first.values()), list(second.values())]
    test = stats.ttest_ind(values[1], values[0], equal_var=False) if any(map(np.ptp, values)) else None
    gap = float(np.mean(values[1]) - np.mean(values[0]))
    return _difference_by_test(gap, test, f"{len(first)} and {len(second)} seeds, Welch's t")


def _difference_by_test(gap: float, test, how: str) -> Difference:
    if test is None and gap:  # the runs of a setting agree exactly, as shares of few samples may
        return Difference(gap, math.nan, math.nan, math.nan, f"{how}: not tested, as the runs do not scatter")
    if test is None:
        return Difference(gap, gap, gap, 1.0, how)
    low, high = test.confidence_interval(LEVEL)
    return Difference(gap, float(low), float(high), float(test.pvalue), how)


def compare_intervals(first: Figure, second: Figure) -> Difference | None:
    """The difference of two figures from their 95 % intervals, as if normal and independent; None without intervals."""
    widths = [_width(figure) for figure in (first, second)]
    if widths[0] is None or widths[1] is None:
        return None
    from scipy import stats

    gap = second.value - first.value
    half = float(np.hypot(widths[0], widths[1])) / 2
    p = float(2 * stats.norm.sf(Z * abs(gap) / half)) if half else float(not gap)
    return Difference(gap, gap - half, gap + half, p, "the intervals of both, as if independent")


def _width(figure: Figure) -> float | None:
    """The width of a figure's interval; None for a figure without one."""
    return None if figure.low is None or figure.high is None else figure.high - figure.low


def compare_samples(
    first: Samples,
    second: Samples,
    config: Mapping,
    splits: tuple[Split, Split],
    advance: Callable[[int], None] = lambda done: None,
) -> dict[str, Difference]:
    """The differences of two sets of samples: p from a permutation test, and the interval from a bootstrap.

    If both sets have the same seed and the same classes, sample i of both begins with the same noise. Such samples are
    exchanged and resampled as pairs.

    Args:
        first: samples of a run.
        second: samples of another run, measured under the same protocol.
        config: the config of either run; its evaluation, and whether the model has classes, are read.
        splits: the training images, and the images that the samples are compared with.
        advance: a function that receives the number of figures done.

    Returns:
        {"asked_class" or "fd_FEATURE": the difference}, for features whose distance is cheap enough to repeat a
        thousand times.
    """
    train, real = splits
    conditional = bool(config["model"].get("num_classes", 0)) and bool(real.spec.num_classes)
    count = min(len(first.images), len(second.images), len(real.images), len(train.images))
    pairs = first.seed is not None and first.seed == second.seed and np.array_equal(first.labels, second.labels)
    order = balanced_order if conditional else lambda labels: np.arange(len(labels))
    chosen = [order(samples.labels)[:count] for samples in (first, second)]
    strata = np.concatenate([first.labels[chosen[0]], second.labels[chosen[1]]]) if conditional else None
    differences = {}
    if conditional and "classifier" in config["evaluate"]["features"]:
        net = classifier.cached(train.images, train.labels)
        right = [classifier.predict(net, samples.images) == samples.labels for samples in (first, second)]
        every = np.concatenate([first.labels, second.labels])
        differences["asked_class"] = _tested(
            np.concatenate(right), (len(right[0]), len(right[1])), np.mean, pairs, every
        )
        advance(1)
    for done, name in enumerate(config["evaluate"]["features"], start=2):
        extractor = extractor_of(name, config, train)
        distance, effort = distance_to(extractor, real, FULL)
        if effort.draws == FULL.draws:
            features = [rows(extractor.extract, samples.images[some]) for samples, some in zip((first, second), chosen)]
            to_real = lambda rows_, distance=distance: distance(frechet.moments(rows_))
            differences[f"fd_{name}"] = _tested(np.concatenate(features), (count, count), to_real, pairs, strata)
        advance(done)
    return differences


def _tested(
    pooled: np.ndarray,
    sizes: tuple[int, int],
    statistic: Callable[[np.ndarray], float],
    pairs: bool,
    strata: np.ndarray | None,
) -> Difference:
    """The difference of a statistic between the first and the last rows of `pooled`."""
    first, second = sizes
    gap = lambda a, b: float(statistic(pooled[b])) - float(statistic(pooled[a]))
    p = permutation.p_value(gap, first, second, FULL.draws, np.random.default_rng(SEED), pairs, strata)
    ends = (slice(0, first), slice(first, first + second))
    resampled = [
        bootstrap.replicates(
            lambda chosen, part=part: float(statistic(pooled[part][chosen])),
            part.stop - part.start,
            FULL.draws,
            np.random.default_rng(SEED if pairs else SEED + which),  # pairs draw the same rows of both
            None if strata is None else strata[part],
        )
        for which, part in enumerate(ends)
    ]
    value = gap(np.arange(first), np.arange(first, first + second))
    low, high = bootstrap.percentile_interval(resampled[1] - resampled[0], LEVEL, estimate=value)
    how = f"{first:,} pairs of samples of equal noise" if pairs else f"{first:,} and {second:,} samples"
    return Difference(value, low, high, p, f"{how}, exchanged")
