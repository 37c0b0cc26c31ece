"""Distances between the rows of two sets of features, block by block, so that no array holds all N^2 of them."""

from collections.abc import Callable, Iterator

import ml_dtypes
import numpy as np

BLOCK = 2048  # rows in one matrix product: 32 MiB of distances
_ROUNDING = 1e-13  # the rounding error of a squared distance in float64, as a share of |a|^2 + |b|^2


def checked(name: str, features: np.ndarray, least: int = 1) -> np.ndarray:
    """The features as an array [N, D], after the checks that every metric needs.

    Args:
        name: the set's name, for messages.
        features: the rows of the set, [N, D], NumPy or JAX, any real dtype.
        least: the least valid N.

    Returns:
        A NumPy array [N, D], float32, or float64 if float32 cannot represent the values of the dtype.

    Raises:
        ValueError: if the shape is not [N, D], a value is not a finite real number, or there are too few rows.
    """
    features = np.asarray(features)
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"{name} must have shape [N, D], got {list(features.shape)}")
    if features.dtype.kind not in "fiub" and features.dtype != ml_dtypes.bfloat16:
        raise ValueError(f"{name} must be real numbers, got {features.dtype}")
    features = features.astype(np.result_type(features.dtype, np.float32), copy=False)
    if len(features) < least:
        raise ValueError(f"{name} must have at least {least} rows, got {len(features)}")
    for rows in blocks(len(features), BLOCK):
        finite = np.isfinite(features[rows]).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"{name} must be finite, but row {rows.start + int(np.argmin(finite))} holds NaN or "
                "infinity; remove such images, or find their cause"
            )
    return features


def same_dim(a: np.ndarray, b: np.ndarray) -> None:
    """Refuses two sets with different numbers of features.

    Args:
        a: rows of one set, [N, D].
        b: rows of the other, [M, D].

    Raises:
        ValueError: if the numbers of columns differ.
    """
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"the sets have different features: {a.shape[1]} and {b.shape[1]} dimensions")


def blocks(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices that cover `count` rows; the last one may be shorter.

    Args:
        count: number of rows.
        size: rows of a slice, at least 1.

    Raises:
        ValueError: if size is not positive.
    """
    if size < 1:
        raise ValueError(f"a block must have at least 1 row, got block = {size}")
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def unit(name: str, features: np.ndarray) -> np.ndarray:
    """The rows divided by their Euclidean lengths, so that inner products are cosines.

    Args:
        name: the set's name, for messages.
        features: the rows, [N, D], already `checked`.

    Returns:
        float64 [N, D].

    Raises:
        ValueError: if a row is zero, and therefore has no direction.
    """
    features = np.asarray(features, np.float64)
    largest = np.abs(features).max(axis=1, keepdims=True)  # by which rows are divided, so that squares do not overflow
    if (largest == 0).any():
        raise ValueError(f"{name}: row {int(np.argmin(largest))} is zero, so it has no direction for a cosine")
    scaled = features / largest
    return scaled / np.linalg.norm(scaled, axis=1, keepdims=True)


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a - b|^2 = |a|^2 + |b|^2 - 2 a.b in float64; values below the rounding error become zero.

    The mean of b is first subtracted from both sets, since the difference of large squares would lose its digits.

    Args:
        a: rows of one set, [A, D].
        b: rows of the other, [B, D].

    Returns:
        float64 [A, B], at least 0.
    """
    origin = np.mean(b, axis=0, dtype=np.float64)
    a = np.asarray(a, np.float64) - origin
    b = np.asarray(b, np.float64) - origin
    size = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)[None, :]
    squared = size - 2 * (a @ b.T)
    squared[squared < _ROUNDING * size] = 0
    return squared


def nearest(
    queries: np.ndarray, references: np.ndarray, squared: Callable[[np.ndarray, np.ndarray], np.ndarray], block: int
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest reference of every query; if several are equally near, the first.

    Args:
        queries: rows whose nearest reference is sought, [N, ...].
        references: rows to compare with, [M, ...], M >= 1.
        squared: a function (queries [A, ...], references [B, ...]) -> squared distances, float64 [A, B].
        block: the largest number of queries and of references in one call, which bounds the memory.

    Returns:
        (the squared distances, float64 [N]; the indices of the references, int64 [N]).
    """
    best = np.full(len(queries), np.inf)
    index = np.zeros(len(queries), np.int64)
    for reference in blocks(len(references), block):
        for rows in blocks(len(queries), block):
            distances = squared(queries[rows], references[reference])
            closest = distances.argmin(axis=1)
            value = distances[np.arange(len(distances)), closest]
            nearer = value < best[rows]
            best[rows] = np.where(nearer, value, best[rows])
            index[rows] = np.where(nearer, closest + reference.start, index[rows])
    return best, index


def smallest(queries: np.ndarray, references: np.ndarray | None, count: int, block: int = BLOCK) -> np.ndarray:
    """The squared distances from every query to its `count` nearest references.

    Args:
        queries: rows whose nearest references are sought, [N, D].
        references: rows to compare with, [M, D], M >= count; None to compare each query with the other queries.
        count: the number of neighbours, at least 1.
        block: the number of rows in one matrix product, which bounds the memory and does not change the result.

    Returns:
        The squared distances in ascending order, float64 [N, count].

    Raises:
        ValueError: if there are fewer references than `count`.
    """
    others = len(queries) - 1 if references is None else len(references)
    if not 1 <= count <= others:
        raise ValueError(f"k = {count} must be in 1 .. {others}, the number of other rows")
    best = np.full((len(queries), count), np.inf)
    for rows in blocks(len(queries), block):
        for others in blocks(len(queries if references is None else references), block):
            other = (queries if references is None else references)[others]
            distances = squared_distances(queries[rows], other)
            if references is None and others == rows:
                np.fill_diagonal(distances, np.inf)
            together = np.concatenate([best[rows], distances], axis=1)
            best[rows] = np.partition(together, count - 1, axis=1)[:, :count]
    return np.sort(best, axis=1)
