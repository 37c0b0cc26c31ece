"""Credible intervals of samples, and how often they cover the truth."""

import math

import numpy as np


def coverage(samples: np.ndarray, truths: np.ndarray, level: float) -> np.ndarray:
    """The share of the truths that lie in the central interval of the samples, number by number.

    The interval reaches from the k-th smallest to the k-th largest of S samples. A true value from the same
    distribution lies in it with the probability 1 - 2 k / (S + 1), and k is the largest number for which this is at
    least the level. Samples that vary too little cover fewer truths; samples that vary too much cover more of them.

    Args:
        samples: samples `[S, ...]`.
        truths: truths `[M, ...]`; each is compared with all samples.
        level: probability of the interval, in (0, 1).

    Returns:
        The shares, float64 `[...]`, in [0, 1]. If the samples have the truths' distribution, their mean is
        1 - 2 k / (S + 1), which is at least the level.

    Raises:
        ValueError: for arrays of other shapes, a level out of range, or too few samples for it.
    """
    samples, truths = np.asarray(samples), np.asarray(truths)
    if samples.shape[1:] != truths.shape[1:] or not len(samples) or not len(truths):
        raise ValueError(
            f"coverage: samples [S, ...] and truths [M, ...] must have one shape after their first axis; got "
            f"{samples.shape} and {truths.shape}"
        )
    if not 0 < level < 1:
        raise ValueError(f"coverage: level = {level} must be in (0, 1)")
    k = math.floor((1 - level) / 2 * (len(samples) + 1) + 1e-9)
    if k < 1:
        raise ValueError(
            f"coverage: {len(samples)} samples are too few for an interval of {level:g}. Valid: at least "
            f"{math.ceil(2 / (1 - level) - 1e-9) - 1} samples"
        )
    ordered = np.sort(samples, axis=0)
    return ((ordered[k - 1] <= truths) & (truths <= ordered[-k])).mean(0)
