"""Frechet distance between two sets of features, from float64 moments that batches update one by one."""

import contextlib
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import threadpoolctl

from diffusion.arrays.arguments import described
from diffusion.metrics import pairwise

SMALL_PRODUCT = 10**8  # multiply-adds that one thread does sooner than several find together


class Moments(NamedTuple):
    """The sufficient statistics of a Gaussian fit: count, mean and sum of outer products of deviations.

    Attributes:
        count: number of rows seen.
        mean: float64 [D], their mean.
        m2: float64 [D, D], sum over rows of (row - mean)(row - mean)^T.
    """

    count: int
    mean: np.ndarray
    m2: np.ndarray


def init(dim: int) -> Moments:
    """Moments of no rows at all.

    Args:
        dim: number of features D, at least 1.

    Raises:
        ValueError: if dim is not positive.
    """
    if dim < 1:
        raise ValueError(f"moments need at least one feature, got dim = {dim}")
    return Moments(0, np.zeros(dim), np.zeros((dim, dim)))


def update(moments: Moments, features: np.ndarray) -> Moments:
    """Moments of the rows seen so far and of one more batch.

    Args:
        moments: moments so far, of D features.
        features: features of one batch, [B, D], any real dtype; any B, so that the last partial batch counts like the
            others.

    Raises:
        ValueError: if the shape is not [B, D] or a feature is not finite.
    """
    features = np.asarray(features, np.float64)
    dim = moments.mean.shape[0]
    if features.ndim != 2 or features.shape[1] != dim:
        raise ValueError(f"features must have shape [B, {dim}], got {list(features.shape)}")
    if not np.isfinite(features).all():
        row = int(np.argmin(np.isfinite(features).all(axis=1)))
        raise ValueError(f"features must be finite, but row {row} of this batch holds NaN or infinity")
    if len(features) == 0:
        return moments
    mean = features.mean(axis=0)
    deviations = features - mean
    with one_thread() if deviations.size * dim < SMALL_PRODUCT else contextlib.nullcontext():
        product = deviations.T @ deviations
    return merge(moments, Moments(len(features), mean, product))


def moments(features: np.ndarray) -> Moments:
    """The moments of one set of rows, features [N, D] of any real dtype, block by block; errors as in `update`."""
    total = init(np.shape(features)[-1])
    for rows in pairwise.blocks(len(features), pairwise.BLOCK):
        total = update(total, features[rows])
    return total


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of the union of two sets of rows, without the cancellation of E[x^2] - E[x]^2.

    With delta = mean_b - mean_a and n = n_a + n_b,

        mean = mean_a + delta n_b / n,    m2 = m2_a + m2_b + delta delta^T n_a n_b / n

    (Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances",
    eq. 2.1).

    Args:
        a: moments of the first set.
        b: moments of the second set, of as many features.

    Returns:
        Moments of both together; the order of merging changes them by rounding only.

    Raises:
        ValueError: if the numbers of features differ.
    """
    _require_same_dim(a, b)
    if a.count == 0 or b.count == 0:
        return b if a.count == 0 else a
    count = a.count + b.count
    delta = b.mean - a.mean
    mean = a.mean + delta * (b.count / count)
    m2 = a.m2 + b.m2 + np.outer(delta, delta) * (a.count * b.count / count)
    return Moments(count, mean, m2)


def covariance(moments: Moments) -> np.ndarray:
    """Unbiased covariance, m2 / (count - 1).

    Args:
        moments: moments of at least two rows.

    Returns:
        float64 [D, D], symmetric.

    Raises:
        TypeError: for features in place of their moments.
        ValueError: if there are fewer than two rows, or a moment (for example of a file) is not finite.
    """
    if not isinstance(moments, Moments):
        raise TypeError(
            f"a Frechet distance takes the moments of two sets of features; got {described(moments)}. Valid: "
            "moments(features)"
        )
    if moments.count < 2:
        raise ValueError(f"a covariance needs at least 2 rows, got {moments.count}")
    if not (np.isfinite(moments.mean).all() and np.isfinite(moments.m2).all()):
        raise ValueError("moments must be finite, but these hold NaN or infinity; compute them again")
    cov = moments.m2 / (moments.count - 1)
    return (cov + cov.T) / 2


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared Frechet (2-Wasserstein) distance between the two Gaussian fits.

        d^2 = |mu_a - mu_b|^2 + Tr(S_a) + Tr(S_b) - 2 Tr((L^T S_b L)^1/2)    with S_a = L L^T

    Dowson and Landau 1982, eq. 4, have L = S_a^1/2. Heusel et al. 2017, eq. 6, who use the distance as a score of
    generators, write Tr((S_a S_b)^1/2), whose eigenvalues are the same for every such L. A Cholesky factor takes a
    fraction of the time of S_a^1/2, and with pivoting it exists for every rank. The matrix under the root is symmetric
    and positive semi-definite: its eigenvalues are real, and a rank-deficient covariance is no special case, where
    general matrix roots (`scipy.linalg.sqrtm`) fail. Eigenvalues below zero are rounding errors and count as zero.

    A set of no more rows than features has a factor of few columns, S_b = M M^T. The trace is then the sum of the
    singular values of L^T M, in a time that grows with the square of the rows, where the other form takes the cube of
    the features.

    Args:
        a: moments of the first set, at least two rows.
        b: moments of the second set, at least two rows.

    Returns:
        The distance, at least 0, in squared units of the features.

    Raises:
        TypeError: for features in place of their moments.
        ValueError: if the numbers of features differ or a set has fewer than two rows.
    """
    return distance_to(a)(b)


def distance_to(reference: Moments) -> Callable[[Moments], float]:
    """`frechet_distance` to one reference, whose root is computed once for all other sets.

    Args:
        reference: moments of at least two rows.

    Raises:
        ValueError: as in `frechet_distance`.
    """
    from scipy.linalg import lapack  # imported here: most commands import this module, and few need a distance

    cov = covariance(reference)
    spread = np.trace(cov)
    with one_thread():
        order, factor = cholesky(cov)
    del cov  # of 2,048 or more features; only the other form needs a matrix of this size
    square = functools.cache(lambda: np.pad(factor, ((0, 0), (0, len(factor) - factor.shape[1]))))

    def distance(other: Moments) -> float:
        other_cov = covariance(other)
        _require_same_dim(reference, other)
        with one_thread():
            if other.count <= len(other.mean):
                other_order, columns = cholesky(other_cov)
                root = np.empty_like(columns)
                root[other_order] = columns
                overlap = np.linalg.svd(factor.T @ root[order], compute_uv=False).sum()
            else:
                # L^T S L, lower triangle (the stubs lack this function and the next one)
                product, _ = lapack.dsygst(other_cov[order][:, order], square(), itype=2, lower=1)  # pyright: ignore[reportAttributeAccessIssue]
                overlap = np.sqrt(np.clip(np.linalg.eigvalsh(product, UPLO="L"), 0, None)).sum()
        shift = reference.mean - other.mean
        return float(max(0.0, shift @ shift + spread + np.trace(other_cov) - 2 * overlap))

    return distance


def cholesky(cov: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(order of the features, L with L L^T = cov in this order, of as many columns as the rank), with pivoting.

    Args:
        cov: float64 [D, D], symmetric and positive semi-definite, of any rank.

    Returns:
        (order int [D], L float64 [D, rank], lower triangular).
    """
    from scipy.linalg import lapack  # imported here: most commands import this module, and few need a distance

    # The factorisation stops where the rest is rounding.
    factor, order, rank, _ = lapack.dpstrf(cov, lower=1)  # pyright: ignore[reportAttributeAccessIssue]
    return order - 1, np.tril(factor[:, :rank])


def one_thread():
    """One BLAS thread: at 2,048 dimensions a second one saves little, and waits for seconds while cores are busy."""
    return _libraries().limit(limits=1, user_api="blas")


@functools.cache
def _libraries():
    import scipy.linalg  # noqa: F401, whose BLAS is one of them

    return threadpoolctl.ThreadpoolController()


def _require_same_dim(a: Moments, b: Moments) -> None:
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"the moments are of different features: {a.mean.shape[0]} and {b.mean.shape[0]} dimensions")
