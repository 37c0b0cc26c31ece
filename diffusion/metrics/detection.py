"""How well a score tells two sets apart: its area under the curve, and its hits at few false alarms, with intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy  # imports its subpackages when they are first used
from numpy.typing import ArrayLike

from diffusion.metrics import bootstrap


def auroc(positives: ArrayLike, negatives: ArrayLike, level: float = 0.95) -> dict[str, Any]:
    """The probability that a positive scores higher than a negative; a tie counts half.

        A = mean over pairs of [p > n] + [p = n] / 2,    var A = var(V_p) / P + var(V_n) / N

    V_p is the share of negatives below the positive p, and V_n is the share of positives above the negative n (DeLong
    et al. 1988, "Comparing the Areas under Two or More Correlated Receiver Operating Characteristic Curves"). The
    interval takes logit A to be normally distributed, so that it stays in (0, 1). If the variance is 0, for example
    because all pairs are in order, the interval is Wilson's interval of the share A of min(P, N) trials.

    Args:
        positives: scores of the positives, `[P]`, P >= 2.
        negatives: scores of the negatives, `[N]`, N >= 2.
        level: the coverage of the interval, in (0, 1).

    Returns:
        {"value", "interval": [low, high], "positives": P, "negatives": N}.

    Raises:
        ValueError: if there are fewer than two positives or negatives, a score is not finite, or level is out of range.
    """
    p = np.asarray(positives, np.float64).ravel()
    n = np.asarray(negatives, np.float64).ravel()
    if min(p.size, n.size) < 2 or not (np.isfinite(p).all() and np.isfinite(n).all()):
        raise ValueError(f"auroc needs at least two finite scores in each set; got {p.size} and {n.size}")
    if not 0 < level < 1:
        raise ValueError(f"auroc: level = {level} must be in (0, 1)")
    place = lambda values, sorted_: (
        (np.searchsorted(sorted_, values, "left") + np.searchsorted(sorted_, values, "right")) / (2 * sorted_.size)
    )
    positive_ranks = place(p, np.sort(n))
    negative_ranks = 1 - place(n, np.sort(p))
    area = positive_ranks.mean()
    variance = positive_ranks.var(ddof=1) / p.size + negative_ranks.var(ddof=1) / n.size
    if variance == 0:
        number = min(p.size, n.size)
        quantile = float(scipy.stats.norm.ppf((1 + level) / 2))
        low, high = bootstrap.wilson_interval(round(area * number), number, quantile)
    else:
        half = scipy.stats.norm.ppf((1 + level) / 2) * np.sqrt(variance) / (area * (1 - area))
        logit = np.log(area / (1 - area))
        low, high = (float(1 / (1 + np.exp(-value))) for value in (logit - half, logit + half))
    return {"value": float(area), "interval": [low, high], "positives": p.size, "negatives": n.size}


def hits_at(positives: ArrayLike, negatives: ArrayLike, false_positives: float | Sequence[float]) -> np.ndarray:
    """The share of positives that score above a threshold which at most a share of the negatives exceeds.

    Args:
        positives: scores of the positives, `[P]`, P >= 1.
        negatives: scores of the negatives, `[N]`, N >= 1.
        false_positives: one or several shares in [0, 1]; for a share below 1 / N no negative may exceed the threshold,
            and for a share of 1 all may.

    Returns:
        The shares of positives, float64, in the shape of `false_positives`.

    Raises:
        ValueError: if a share is out of range, there are no positives or negatives, or a score is NaN.
    """
    share = np.asarray(false_positives, np.float64)
    p = np.asarray(positives, np.float64)
    n = np.sort(np.asarray(negatives, np.float64))[::-1]
    if not (n.size and np.all((share >= 0) & (share <= 1))):
        raise ValueError(f"hits_at: false_positives = {false_positives} of {n.size} negatives. Valid: shares in [0, 1]")
    if not p.size or np.isnan(p).any() or np.isnan(n).any():
        raise ValueError(f"hits_at needs positives, and no score that is NaN; got {p.size} positives")
    allowed = np.floor(share * n.size + 1e-9).astype(int)  # in floating point, 0.29 * 100 is below 29
    threshold = np.append(n, -np.inf)[allowed]
    return np.mean(p > threshold[..., None], axis=-1)


def hits_interval(
    positives: ArrayLike, negatives: ArrayLike, false_positives: float, level: float = 0.95
) -> tuple[float, float]:
    """The interval of the share of positives above the threshold that a share of all possible negatives exceeds.

    `hits_at` estimates this share from N negatives, whose threshold is uncertain. With q = `false_positives`, the
    number of negatives above the true threshold is binomial,

        K ~ Bin(N, q),    a <= K <= b with probability (1 + level) / 2 or more.

    The threshold therefore lies between the (b + 1)-th and the a-th highest of the negatives. Wilson's interval at
    (1 + level) / 2 gives both ends: the lower one for the positives above the a-th highest negative (0 if a = 0), and
    the upper one for the positives above the (b + 1)-th highest (1 if b = N). The interval assumes nothing about the
    distributions of the scores. By Bonferroni's inequality it covers the share with a probability of at least `level`,
    up to the approximation of Wilson's interval. (For the interval of a quantile see David and Nagaraja 2003, "Order
    Statistics", section 7.1.)

    Args:
        positives: scores of independent positives, `[P]`, P >= 1.
        negatives: scores of independent negatives, `[N]`, N >= 1.
        false_positives: the share q of negatives above the threshold, in [0, 1].
        level: the coverage of the interval, in (0, 1).

    Returns:
        (low, high) in [0, 1].

    Raises:
        ValueError: if the share or the level is out of range, there are no positives or negatives, or a score is NaN.
    """
    hits_at(positives, negatives, false_positives)  # refuses what is no score or no share
    if not 0 < level < 1:
        raise ValueError(f"hits_interval: level = {level} must be in (0, 1)")
    p = np.asarray(positives, np.float64)
    n = np.sort(np.asarray(negatives, np.float64))[::-1]
    tail = (1 - level) / 4  # a half of the error for the threshold and a half for the share, each at two ends
    few, many = (int(scipy.stats.binom.ppf(end, n.size, false_positives)) for end in (tail, 1 - tail))
    z = float(scipy.stats.norm.ppf(1 - tail))
    above = lambda threshold: bootstrap.wilson_interval(int(np.sum(p > threshold)), p.size, z)
    low = above(n[few - 1])[0] if few > 0 else 0.0
    high = above(n[many])[1] if many < n.size else 1.0
    return low, high
