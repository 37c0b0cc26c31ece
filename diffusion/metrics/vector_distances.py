"""Distances between two sets of vectors, for examples that are not pictures: energy, kernel and sliced Wasserstein.

Each distance is zero only between equal distributions. Each function computes a plug-in estimate: the distance between
the two empirical distributions. The estimate is never negative. For two sets from the same distribution it is above
zero, and the larger, the fewer rows there are. Compare it with a floor: the same distance for an equal number of real
rows.
"""

from collections.abc import Callable

import numpy as np

from diffusion.arrays.arguments import is_count
from diffusion.metrics import kernel_distance, pairwise

NAMES = ("energy_distance", "mmd", "sliced_wasserstein", "frechet_distance")
"""The names of the figures by which an evaluation compares samples that are not pictures."""


def energy(samples: np.ndarray, reference: np.ndarray) -> float:
    """The squared energy distance.

        2 E|X - Y| - E|X - X'| - E|Y - Y'|

    It is the squared maximum mean discrepancy for the kernel -|x - y| (Sejdinovic et al. 2013), which has no bandwidth.

    Args:
        samples: generated vectors, [N, D], N >= 2.
        reference: real vectors, [M, D], M >= 2.

    Returns:
        The squared distance, in the unit of the vectors.

    Raises:
        ValueError: if shapes do not fit, or a number is not finite.

    Reference: Szekely and Rizzo, "Energy statistics: a class of statistics based on distances", 2013, equation 2.3.
    """
    return kernel_distance.mmd2(minus_distance, samples, reference, unbiased=False).value


def minus_distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """-|x_i - y_j|, float64 [A, B]."""
    return -np.sqrt(pairwise.squared_distances(x, y))


def gaussian_mmd(samples: np.ndarray, reference: np.ndarray, sigma: float) -> float:
    """The squared maximum mean discrepancy for the kernel exp(-|x - y|^2 / (2 sigma^2)), in [0, 2].

    Args:
        samples: generated vectors, [N, D], N >= 2.
        reference: real vectors, [M, D], M >= 2.
        sigma: bandwidth, > 0; `median_distance` of real rows is a usual choice.

    Raises:
        ValueError: if shapes do not fit, a number is not finite, or sigma is not positive.

    Reference: Gretton et al., "A Kernel Two-Sample Test", 2012, equation 5.
    """
    return kernel_distance.mmd2(kernel_distance.gaussian(sigma), samples, reference, unbiased=False).value


def median_distance(rows: np.ndarray) -> float:
    """The median distance between two different rows of a set, a usual bandwidth (Gretton et al. 2012, section 8).

    Args:
        rows: the vectors, [N, D], N >= 2, not all equal.

    Raises:
        ValueError: if at least half of all pairs have equal rows, since the median is then 0.
    """
    rows = pairwise.checked("rows", rows, least=2)
    distances = np.sqrt(pairwise.squared_distances(rows, rows))[np.triu_indices(len(rows), 1)]
    middle = float(np.median(distances))
    if not middle > 0:
        raise ValueError(
            "at least half of all pairs of rows are equal, so the median distance is 0 and cannot be the bandwidth"
        )
    return middle


def directions(number: int, dim: int, seed: int = 0) -> np.ndarray:
    """Random directions, uniform on the sphere: float64 [number, dim] of length 1.

    Raises:
        ValueError: if number or dim is below 1.
    """
    if not (is_count(number) and is_count(dim)):
        raise ValueError(f"directions: number = {number} and dim = {dim} must be integers of at least 1")
    drawn = np.random.default_rng(seed).normal(size=(number, dim))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def sliced_wasserstein(samples: np.ndarray, reference: np.ndarray, along: np.ndarray) -> float:
    """The squared sliced 2-Wasserstein distance: the distance of projections to a line, averaged over lines.

        mean over u of  int_0^1 (F^-1(q) - G^-1(q))^2 dq

    F and G are the distribution functions of <u, x> and <u, y>. The integral is exact for sets of equal size. Otherwise
    it is the mean over q = (i - 1/2) / N, for which the reference's quantiles are interpolated between its rows.

    Args:
        samples: generated vectors, [N, D], N >= 1.
        reference: real vectors, [M, D], M >= 1.
        along: directions of length 1, [P, D], see `directions`.

    Returns:
        The squared distance, in the squared unit of the vectors.

    Raises:
        ValueError: if shapes do not fit, or a number is not finite.

    Reference: Bonneel et al., "Sliced and Radon Wasserstein Barycenters of Measures", 2015, definition 2.
    """
    x = pairwise.checked("samples", samples)
    y = pairwise.checked("reference", reference)
    pairwise.same_dim(x, y)
    return sliced_to(np.sort(y @ along.T, axis=0), len(x))(x @ along.T)


def sliced_to(reference: np.ndarray, count: int) -> Callable[[np.ndarray], float]:
    """`sliced_wasserstein` to one reference, as a function of projected rows [N, P].

    Args:
        reference: the reference's rows, projected to P directions and sorted along axis 0, [M, P].
        count: the number N of rows of the samples, >= 1.

    Raises:
        ValueError: if count is below 1.
    """
    if not is_count(count):
        raise ValueError(f"sliced_to: count = {count} must be an integer of at least 1")
    if len(reference) != count:
        middle = (np.arange(count) + 0.5) / count
        at = (np.arange(len(reference)) + 0.5) / len(reference)
        reference = np.stack([np.interp(middle, at, column) for column in reference.T], axis=1)
    return lambda projected: float(np.mean((np.sort(projected, axis=0) - reference) ** 2))
