"""Errors of figures: bootstrap intervals of a statistic, Wilson's interval of a share, the standard error of a mean."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def replicates(
    statistic: Callable[[np.ndarray], float | np.ndarray],
    rows: int,
    draws: int,
    rng: np.random.Generator,
    strata: np.ndarray | None = None,
) -> np.ndarray:
    """The values of a statistic for many resamples of the rows, which are drawn with replacement (Efron 1979).

    Args:
        statistic: function from the numbers of the chosen rows, int64 [rows], to a float or floats [...]; the rows
            themselves are known to the function.
        rows: number of rows, at least 2.
        draws: number of resamples, at least 1.
        rng: numpy Generator; the same state gives the same resamples.
        strata: int [rows] or None; with strata, each stratum (such as a class) keeps its number of rows, as in a design
            that fixes these numbers.

    Returns:
        The values, float64 [draws] or [draws, ...].

    Raises:
        ValueError: if rows or draws is too small, or strata has another length.
    """
    if rows < 2:
        raise ValueError(f"a bootstrap needs at least 2 rows, got {rows}")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    if strata is None:
        strata = np.zeros(rows, int)
    if np.shape(strata) != (rows,):
        raise ValueError(f"strata must have shape [{rows}], got {list(np.shape(strata))}")
    groups = [np.flatnonzero(strata == value) for value in np.unique(strata)]
    values = []
    for _ in range(draws):
        chosen = [group[rng.integers(len(group), size=len(group))] for group in groups]
        values.append(statistic(np.concatenate(chosen)))
    return np.array(values, np.float64)


def percentile_interval(values: np.ndarray, level: float = 0.95, estimate: float | None = None) -> tuple[float, float]:
    """Percentile interval of bootstrap replicates (Efron and Tibshirani 1993, section 13.3).

    A resample with replacement repeats rows. A statistic with a finite-sample bias (a Frechet distance grows as N
    shrinks) therefore has that bias twice in every replicate. With an `estimate`, the replicates are first shifted so
    that their mean is the estimate, which removes the second bias.

    Args:
        values: the replicates, [draws], finite.
        level: probability inside the interval, in (0, 1).
        estimate: the statistic of the rows themselves, for a biased statistic; None does not shift.

    Returns:
        (low, high).

    Raises:
        ValueError: if level is outside (0, 1), there is no replicate, or a replicate is not finite.
    """
    values = np.asarray(values, np.float64)
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError("an interval needs at least one replicate, and all replicates must be finite")
    if estimate is not None:
        values = values - values.mean() + estimate
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson_interval(successes: float, trials: float, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval for a share, which is valid even if every trial succeeds and a bootstrap has no spread.

        (p + z^2 / (2 n) +- z sqrt(p (1 - p) / n + z^2 / (4 n^2))) / (1 + z^2 / n),    p = successes / trials

    Reference: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".

    Args:
        successes: the number of trials that succeeded, in 0..trials.
        trials: n, at least 1; for draws that are not independent, the number of independent draws with the same error.
        z: normal quantile, > 0; the default gives 95 %.

    Returns:
        (low, high) in [0, 1].

    Raises:
        ValueError: if the counts are impossible, or z is not positive.
    """
    if not z > 0:
        raise ValueError(f"wilson_interval: z = {z} must be above 0")
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials. Valid: 0 <= successes <= trials and trials >= 1")
    share = successes / trials
    centre = share + z * z / (2 * trials)
    half = z * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    low = (centre - half) / (1 + z * z / trials) if successes else 0.0  # exactly, where rounding would leave 1e-19
    high = (centre + half) / (1 + z * z / trials) if successes < trials else 1.0
    return float(low), float(high)


def share(right: Sequence[bool] | np.ndarray) -> dict[str, Any]:
    """The share of True values: {"share", "interval" (Wilson's, 95 %), "count": number of all values}.

    Args:
        right: one value for each trial, at least one.
    """
    count = int(np.sum(right))
    number = len(right)
    return {"share": count / number, "interval": list(wilson_interval(count, number)), "count": number}


def standard_error(values: np.ndarray, groups: np.ndarray | None = None) -> float:
    """The standard error of a mean, s / sqrt(N) with s^2 = sum((x - mean)^2) / (N - 1).

    Draws of one group may depend on each other. With G groups, of which d_g is the sum of x - mean, the standard error
    is sqrt(G / (G - 1) sum_g d_g^2) / N: the linearised variance of a mean over clusters (Cochran 1977, "Sampling
    Techniques", section 9A.2).

    Args:
        values: draws, `[N]`.
        groups: the number of each draw's group, int `[N]`; None for independent draws.

    Returns:
        The standard error, NaN for fewer than two values or groups.
    """
    if groups is None:
        return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    distinct, group = np.unique(groups, return_inverse=True)
    number = len(distinct)
    if number < 2:
        return float("nan")
    deviations = np.bincount(group, values - np.mean(values))
    return float(np.sqrt(number / (number - 1) * np.sum(deviations**2)) / len(values))


def mean(values: np.ndarray, groups: np.ndarray | None = None) -> dict[str, Any]:
    """The mean: {"value", "standard_error", "samples": number of values}.

    "standard_error" is None if there is only one value or group, or a value is not finite.

    Args:
        values: draws, `[N]`, at least one.
        groups: the number of each draw's group, as in `standard_error`; None for independent draws.
    """
    error = standard_error(values, groups) if np.isfinite(values).all() else float("nan")
    return {
        "value": float(np.mean(values)),
        "standard_error": None if np.isnan(error) else error,
        "samples": len(values),
    }


def proportion(right: np.ndarray) -> dict[str, Any]:
    """The share of True values as `mean` returns it; if all agree, with Wilson's interval in place of an error of 0.

    Args:
        right: independent trials, Bool `[N]`, at least one.

    Returns:
        {"value", "standard_error", "samples"}; if all agree, "standard_error" is None, and there is an "interval".
    """
    count, number = int(np.sum(right)), len(right)
    figure = mean(np.asarray(right, np.float64))
    if 0 < count < number:
        return figure
    return {**figure, "standard_error": None, "interval": list(wilson_interval(count, number))}


def means_by_class(
    values: np.ndarray, labels: np.ndarray, names: Sequence[str], figure: Callable[[np.ndarray], dict[str, Any]] = mean
) -> dict[str, dict[str, Any]]:
    """The mean of the values of each class that has any, as `mean` returns it, by the name of the class.

    Args:
        values: independent draws, `[N]`.
        labels: the index of each value's class in `names`, int `[N]`.
        names: names of the classes.
        figure: the function of the values of a class, `mean` or `proportion`.
    """
    by_class = {name: values[np.asarray(labels) == label] for label, name in enumerate(names)}
    return {name: figure(some) for name, some in by_class.items() if len(some)}
