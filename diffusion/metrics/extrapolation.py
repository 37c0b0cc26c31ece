"""The Frechet distance at infinitely many samples, and its bias at finitely many."""

from typing import NamedTuple

import numpy as np

from diffusion.metrics import frechet, frechet_error, pairwise

POINTS = 15  # subset sizes, and the smallest of them, as in the paper
SMALLEST = 5000


class Extrapolation(NamedTuple):
    """A line through Frechet distances at several numbers of samples.

    Attributes:
        value: intercept of the line, the distance at 1/N = 0; can be negative by noise.
        standard_error: the standard error of the intercept over draws of the samples.
        slope: the slope of the line in 1/N, so that slope / N is the bias at N samples.
        sizes: int64 [P] numbers of samples N.
        distances: float64 [P], the distance at each.
        reference: number of rows of the reference moments, whose own bias stays in every distance.
    """

    value: float
    standard_error: float
    slope: float
    sizes: np.ndarray
    distances: np.ndarray
    reference: int


def extrapolate(
    samples: np.ndarray, reference: frechet.Moments, sizes: np.ndarray | None = None, seed: int = 0
) -> Extrapolation:
    """FID-infinity: the intercept of the line FID_N = FID_inf + slope / N, by least squares over subset sizes.

    Chong and Forsyth 2020, "Effectively Unbiased FID and Inception Score and Where to Find Them", section 4: 15 sizes
    evenly from 5,000 to the number of samples, each subset drawn without replacement, as in the authors' code. (That
    code also draws the generator's noise from a Sobol sequence; this function takes any samples.) The bias of the
    covariance falls as 1/N only where N is large beside the number of features: with 2,048 features, start at 5,000 or
    more. The reference keeps its own bias. The standard error is

        SE^2 = s^2 (1/P + m^2 / sum_i (1/N_i - m)^2) + SE_N^2,    m = mean_i 1/N_i,    s^2 = sum_i r_i^2 / (P - 2).

    The first term is the error of least squares, with the residuals r_i. All subsets are drawn from the same N samples.
    The residuals do not show the error that the subsets share, so that the second term adds it: SE_N is the standard
    error of the distance of all samples (`frechet_error.standard_error`).

    Args:
        samples: features of generated images, [N, D].
        reference: moments of the real features.
        sizes: numbers of samples, [P], at least 3 different, 2 <= size <= N; None for the paper's.
        seed: the seed of the subsets.

    Returns:
        The line and its points: distances against sizes are the curve of the bias.

    Raises:
        ValueError: if shapes do not fit, a feature is not finite, or there are too few samples or sizes.
    """
    samples = pairwise.checked("samples", samples, least=2)
    pairwise.same_dim(samples, reference.mean[None])
    if sizes is None:
        if len(samples) < 2 * SMALLEST:
            raise ValueError(
                f"the paper's sizes start at {SMALLEST}, which is too large to fit a line with {len(samples)} "
                f"samples. Make at least {2 * SMALLEST} samples, or pass other sizes"
            )
        sizes = np.linspace(SMALLEST, len(samples), POINTS).astype(np.int64)
    sizes = np.asarray(sizes)
    if sizes.ndim != 1 or sizes.dtype.kind not in "iu" or len(np.unique(sizes)) < 3:
        raise ValueError(f"sizes must be at least 3 different whole numbers, got {sizes.tolist()}")
    if sizes.min() < 2 or sizes.max() > len(samples):
        raise ValueError(f"sizes must lie between 2 and the {len(samples)} samples, got {sizes.tolist()}")
    rng = np.random.default_rng(seed)
    distance = frechet.distance_to(reference)
    distances = np.empty(len(sizes))
    for i, size in enumerate(sizes):
        subset = samples[rng.choice(len(samples), size, replace=False)]
        distances[i] = distance(frechet.moments(subset))
    line = _line(sizes.astype(np.int64), distances, reference.count)
    over_draws = frechet_error.standard_error(samples, reference)
    return line._replace(standard_error=float(np.hypot(line.standard_error, over_draws)))


def _line(sizes, distances, reference):
    inverse = 1 / sizes
    deviation = inverse - inverse.mean()
    slope = deviation @ distances / (deviation @ deviation)
    value = distances.mean() - slope * inverse.mean()
    residuals = distances - value - slope * inverse
    variance = residuals @ residuals / (len(sizes) - 2)
    error = np.sqrt(variance * (1 / len(sizes) + inverse.mean() ** 2 / (deviation @ deviation)))
    return Extrapolation(float(value), float(error), float(slope), sizes, distances, reference)
