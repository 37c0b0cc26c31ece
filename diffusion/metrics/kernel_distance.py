"""Kernel distances between two sets of features: the squared maximum mean discrepancy, KID and CMMD."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from diffusion.metrics import pairwise

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(x float64 `[A, D]`, y float64 `[B, D]`) -> float64 `[A, B]`, symmetric."""


class Discrepancy(NamedTuple):
    """A squared maximum mean discrepancy.

    Attributes:
        value: the estimate; an unbiased one can be negative.
        standard_error: the standard error of the estimate over draws of both sets, from the first-order term of its
            variance.
        samples: number of generated rows N.
        reference: number of reference rows M.
    """

    value: float
    standard_error: float
    samples: int
    reference: int


class SubsetMean(NamedTuple):
    """A discrepancy averaged over subsets of the rows.

    Attributes:
        value: mean over the subsets.
        standard_deviation: the standard deviation over the subsets, with divisor subsets - 1: the scatter of one
            subset's estimate.
        standard_error: standard_deviation / sqrt(subsets); too small where subsets share many rows, as they do when
            subsets times size exceeds the number of rows.
        subsets: number of subsets.
        size: rows of a subset.
        samples: number of generated rows to draw from.
        reference: number of reference rows to draw from.
    """

    value: float
    standard_deviation: float
    standard_error: float
    subsets: int
    size: int
    samples: int
    reference: int


def cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """KID's kernel (x.y / D + 1)^3 (Binkowski et al. 2018, section 4).

    Args:
        x: float64 [A, D].
        y: float64 [B, D].

    Returns:
        float64 [A, B].
    """
    return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian(sigma: float) -> Kernel:
    """The kernel exp(-|x - y|^2 / (2 sigma^2)).

    Args:
        sigma: bandwidth, > 0, in units of the features.

    Raises:
        ValueError: if sigma is not positive.
    """
    if not sigma > 0:
        raise ValueError(f"the bandwidth of a Gaussian kernel must be positive, got sigma = {sigma}")
    return lambda x, y: np.exp(pairwise.squared_distances(x, y) / (-2 * sigma**2))


def mmd2(
    kernel: Kernel, samples: np.ndarray, reference: np.ndarray, unbiased: bool = True, block: int = pairwise.BLOCK
) -> Discrepancy:
    """Squared maximum mean discrepancy of all rows.

        mean k(x_i, x_j) + mean k(y_i, y_j) - 2 mean k(x_i, y_j)

    (Gretton et al. 2012, "A Kernel Two-Sample Test"). The first two means leave out i = j if `unbiased` (their eq. 3)
    and count all pairs if not (eq. 5, never negative). The standard error is the first-order term of the variance
    (their section 5, Hoeffding's projection):

        SE^2 = 4 Var_i(mean_j k(x_i, x_j) - mean_j k(x_i, y_j)) / N + the same with x and y exchanged.

    Args:
        kernel: (x float64 [A, D], y float64 [B, D]) -> float64 [A, B], symmetric.
        samples: features of generated images, [N, D], N >= 2.
        reference: features of real images, [M, D], M >= 2.
        unbiased: whether to take the unbiased estimate.
        block: rows in one matrix product; bounds the memory and changes the result by rounding only.

    Returns:
        The discrepancy, in units of the kernel.

    Raises:
        ValueError: if shapes do not fit, a feature is not finite, or a set has fewer than two rows.
    """
    x = pairwise.checked("samples", samples, least=2)
    y = pairwise.checked("reference", reference, least=2)
    pairwise.same_dim(x, y)
    within_x, within_y = (_within(kernel, rows, unbiased, block) for rows in (x, y))
    cross_x, cross_y = _cross(kernel, x, y, block)
    value = within_x.mean() + within_y.mean() - 2 * cross_x.mean()
    variance = 4 * (within_x - cross_x).var(ddof=1) / len(x) + 4 * (within_y - cross_y).var(ddof=1) / len(y)
    return Discrepancy(float(value), float(np.sqrt(variance)), len(x), len(y))


def kid(samples: np.ndarray, reference: np.ndarray, subsets: int = 100, size: int = 1000, seed: int = 0) -> SubsetMean:
    """Kernel inception distance: the mean unbiased `mmd2` with the kernel `cubic` over random subsets.

    Binkowski et al. 2018, "Demystifying MMD GANs", section 4: 100 subsets of 1,000 rows of each set, drawn without
    replacement within a subset. torch-fidelity draws as many, with its own generator, and reports the standard
    deviation over the subsets (divisor `subsets`), not the error of the mean; clean-fid draws as many from NumPy's
    global generator and reports only the mean, with smaller subsets where there are fewer rows. All three agree in
    expectation. Papers often print the value times 1,000. For all rows at once, which has the smallest error, call
    `mmd2(cubic, samples, reference)`.

    Args:
        samples: features of generated images, [N, D].
        reference: features of real images, [M, D].
        subsets: number of subsets, at least 2.
        size: rows of a subset, 2 <= size <= min(N, M).
        seed: the seed of the subsets; the same seed gives the same figure.

    Raises:
        ValueError: if shapes do not fit, a feature is not finite, subsets or size is below 2, or a set has too few rows
            for a subset.
    """
    if subsets < 2 or size < 2:
        raise ValueError(f"KID needs subsets >= 2 and size >= 2, got {subsets} subsets of {size} rows")
    x = pairwise.checked("samples", samples)
    y = pairwise.checked("reference", reference)
    pairwise.same_dim(x, y)
    if min(len(x), len(y)) < size:
        raise ValueError(
            f"a subset of {size} rows cannot be drawn from {len(x)} samples and {len(y)} reference rows. Valid: size "
            f"<= {min(len(x), len(y))}; report the size beside the figure"
        )
    rng = np.random.default_rng(seed)
    values = np.empty(subsets)
    for i in range(subsets):
        some_x, some_y = (rows[rng.choice(len(rows), size, replace=False)] for rows in (x, y))
        values[i] = mmd2(cubic, some_x, some_y).value
    deviation = float(values.std(ddof=1))
    return SubsetMean(float(values.mean()), deviation, deviation / subsets**0.5, subsets, size, len(x), len(y))


def cmmd(samples: np.ndarray, reference: np.ndarray) -> Discrepancy:
    """CLIP maximum mean discrepancy: 1,000 `mmd2` of embeddings of length 1, Gaussian kernel with sigma = 10.

    Jayasumana et al. 2024, "Rethinking FID: Towards a Better Evaluation Metric for Image Generation", section 4. The
    estimate is the biased one (all pairs count), as in the authors' code. The embeddings are those of CLIP ViT-L/14 at
    336 pixels. The authors' code scales them to length 1, and so does this function. The kernel is then nearly linear
    and the differences small: the authors' float32 loses digits that float64 keeps.

    Args:
        samples: image embeddings of generated images, [N, D], N >= 2.
        reference: image embeddings of real images, [M, D], M >= 2.

    Returns:
        The discrepancy, times 1,000, at least 0.

    Raises:
        ValueError: as in `mmd2`, and if an embedding is zero.
    """
    x = pairwise.unit("samples", pairwise.checked("samples", samples))
    y = pairwise.unit("reference", pairwise.checked("reference", reference))
    plain = mmd2(gaussian(10.0), x, y, unbiased=False)
    return plain._replace(value=max(0.0, 1000 * plain.value), standard_error=1000 * plain.standard_error)


def _within(kernel: Kernel, x: np.ndarray, unbiased: bool, block: int) -> np.ndarray:
    """mean_j k(x_i, x_j) of each i, float64 [N], without j = i if unbiased; each block of pairs is taken once."""
    sums = np.zeros(len(x))
    slices = list(pairwise.blocks(len(x), block))
    for i, rows in enumerate(slices):
        for columns in slices[i:]:
            values = kernel(np.asarray(x[rows], np.float64), np.asarray(x[columns], np.float64))
            if rows == columns:
                if unbiased:
                    np.fill_diagonal(values, 0)
                sums[rows] += values.sum(axis=1)
            else:
                sums[rows] += values.sum(axis=1)
                sums[columns] += values.sum(axis=0)
    return sums / (len(x) - 1 if unbiased else len(x))


def _cross(kernel: Kernel, x: np.ndarray, y: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """mean_j k(x_i, y_j) of each i, and mean_i of each j: float64 [N] and [M]."""
    row_sums = np.zeros(len(x))
    column_sums = np.zeros(len(y))
    for rows in pairwise.blocks(len(x), block):
        for columns in pairwise.blocks(len(y), block):
            values = kernel(np.asarray(x[rows], np.float64), np.asarray(y[columns], np.float64))
            row_sums[rows] += values.sum(axis=1)
            column_sums[columns] += values.sum(axis=0)
    return row_sums / len(y), column_sums / len(x)
