"""Exact nearest neighbours in the training set, which show copies."""

import numpy as np

from diffusion.metrics import detection, pairwise

# Centred bytes lie in [-128, 127], so that their products are integers of at most 2^14: 1,024 of them add up to at most
# 2^24, and every partial sum is exact in float32, in whatever order a matrix product takes it.
_EXACT_DIMS = 1024
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def nearest(queries: np.ndarray, references: np.ndarray, block: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """Exact Euclidean distance of every query image to its nearest reference image.

        |q - r|^2 = |q|^2 + |r|^2 - 2 q.r

    over bytes centred at 128, without rounding: the inner products are float32 matrix products over at most 1,024
    dimensions at a time, added in float64. Exact copies therefore have distance 0, not almost 0.

    Args:
        queries: images whose nearest reference is sought, uint8 [N, ...].
        references: images of the same shape, uint8 [M, ...], M >= 1.
        block: number of queries and of references in one matrix product; bounds the memory, not the result.

    Returns:
        (distances float64 [N] in units of the full pixel range: images read as [0, 1]; indices int64 [N]).

    Raises:
        TypeError: if the images are not uint8.
        ValueError: if shapes differ or there is no reference.
    """
    for name, images in (("queries", queries), ("references", references)):
        if images.dtype != np.uint8:
            raise TypeError(f"{name} must be uint8 images, got {images.dtype}")
    if queries.shape[1:] != references.shape[1:]:
        raise ValueError(
            f"both sets must have images of one shape; got {list(queries.shape[1:])} and {list(references.shape[1:])}"
        )
    if len(references) == 0:
        raise ValueError("nearest needs at least one reference image")
    squared = lambda query, reference: _squared_distances(_centred(query), _centred(reference))
    distances, index = pairwise.nearest(queries, references, squared, block)
    return np.sqrt(distances) / 255, index


def _centred(images):
    return images.reshape(len(images), -1).astype(np.float32) - 128


def _squared_distances(a, b):
    squared = np.square(a, dtype=np.float64).sum(1)[:, None] + np.square(b, dtype=np.float64).sum(1)[None, :]
    for start in range(0, a.shape[1], _EXACT_DIMS):
        columns = slice(start, start + _EXACT_DIMS)
        squared -= 2.0 * (a[:, columns] @ b[:, columns].T)
    return squared


def copying(samples: np.ndarray, held_out: np.ndarray, train: np.ndarray) -> dict:
    """Compares the distances of samples to the training set with the distances of held-out images.

    Samples of the data's distribution are as far from the training images as new data is: about 1 % of them fall below
    the first percentile of the held-out images. If a model copies, many more do.

    Args:
        samples: generated images, uint8 [N, ...].
        held_out: real images that the model was not trained on, uint8 [H, ...].
        train: the training images, uint8 [M, ...].

    Returns:
        {"samples": {...}, "held_out": {...}} with quantiles of the distance by their probability ("0.5" is the median;
        unit: full pixel range), "exact_duplicates" (distance 0) and "count" of each;
        "share_below_held_out_percentile": {"1": share, "5": share}, shares of samples in [0, 1]; and
        "interval_below_held_out_percentile": their intervals over draws of both sets, `detection.hits_interval`.

    Raises:
        TypeError: if images are not uint8.
        ValueError: if shapes differ or a set is empty.
    """
    if len(samples) == 0 or len(held_out) == 0:
        raise ValueError(f"samples and held-out images must not be empty; got {len(samples)} and {len(held_out)}")
    distances = {"samples": nearest(samples, train)[0], "held_out": nearest(held_out, train)[0]}
    result = {
        name: {
            "count": len(values),
            "quantiles": {f"{q:g}": float(np.quantile(values, q)) for q in QUANTILES},
            "exact_duplicates": int((values == 0).sum()),
        }
        for name, values in distances.items()
    }
    ends = {f"{percent}": percent / 100 for percent in (1, 5)}
    below = lambda end: distances["samples"] < np.quantile(distances["held_out"], end)
    over_draws = lambda end: detection.hits_interval(-distances["samples"], -distances["held_out"], end)
    result["share_below_held_out_percentile"] = {name: float(below(end).mean()) for name, end in ends.items()}
    result["interval_below_held_out_percentile"] = {name: list(over_draws(end)) for name, end in ends.items()}
    return result
