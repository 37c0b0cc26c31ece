"""Metrics of copying from the training set, in a space of features; `neighbours` finds exact copies in pixels."""

from typing import NamedTuple

import numpy as np

from diffusion.metrics import bootstrap, pairwise


class Share(NamedTuple):
    """A share of the samples.

    Attributes:
        value: the share, in [0, 1].
        interval: its 95 % interval over draws of the samples (Wilson), with the training set fixed.
        samples: number of generated rows.
        train: number of training rows.
    """

    value: float
    interval: tuple[float, float]
    samples: int
    train: int


class DataCopying(NamedTuple):
    """The statistic of the data-copying test.

    Attributes:
        value: C_T; below 0 where samples lie nearer to the training set than held-out rows do. In one cell it is about
            N(0, 1) for a perfect model: far below (such as -3) indicates copying, far above underfitting.
        cells: float64 [K], the statistic of each cell; NaN for a cell with too few samples.
        samples: number of generated rows.
        held_out: number of held-out rows.
        train: number of training rows.
    """

    value: float
    cells: np.ndarray
    samples: int
    held_out: int
    train: int


def nearest(queries: np.ndarray, references: np.ndarray, block: int = pairwise.BLOCK) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distance from every row to its nearest reference row.

    Matrix products find the nearest row; its distance is then computed from the difference itself, so that an exact
    copy has distance 0.

    Args:
        queries: rows whose nearest reference is sought, [N, D].
        references: rows to compare with, [M, D], M >= 1.
        block: rows in one matrix product; bounds the memory, not the result.

    Returns:
        (distances float64 [N], indices int64 [N]).

    Raises:
        ValueError: if shapes do not fit, a feature is not finite, or there is no row.
    """
    queries = pairwise.checked("queries", queries)
    references = pairwise.checked("references", references)
    pairwise.same_dim(queries, references)
    _, index = pairwise.nearest(queries, references, pairwise.squared_distances, block)
    distances = np.empty(len(queries))
    for rows in pairwise.blocks(len(queries), block):
        difference = np.asarray(queries[rows], np.float64) - references[index[rows]]
        distances[rows] = np.linalg.norm(difference, axis=1)
    return distances, index


def most_similar(
    queries: np.ndarray, references: np.ndarray, block: int = pairwise.BLOCK
) -> tuple[np.ndarray, np.ndarray]:
    """Cosine of every row with the reference row to which it is most similar: 1 - d^2 / 2 of rows of length 1.

    Args:
        queries: rows whose most similar reference is sought, [N, D], none of them zero.
        references: rows to compare with, [M, D], none of them zero, M >= 1.
        block: rows in one matrix product.

    Returns:
        (cosines float64 [N] in [-1, 1], indices int64 [N]).

    Raises:
        ValueError: as in `nearest`, and if a row is zero.
    """
    queries = pairwise.checked("queries", queries)
    references = pairwise.checked("references", references)
    distances, index = nearest(pairwise.unit("queries", queries), pairwise.unit("references", references), block)
    return np.clip(1 - distances**2 / 2, -1, 1), index


def authenticity(samples: np.ndarray, train: np.ndarray, block: int = pairwise.BLOCK) -> Share:
    """Share of samples that are farther from their nearest training row than that row is from its own nearest.

        mean over s of [|s - x| > min_{x' != x} |x' - x|],    x = the training row nearest to s

    Alaa et al. 2022, "How Faithful is your Synthetic Data?", section 3.3, in the form of Stein et al. 2023, "Exposing
    flaws of generative model evaluation metrics", whose AuthPct is 100 times this. (The first paper's code takes the
    sample that is nearest to a training row instead.) An exact copy is never authentic. Real data does not score 1
    either: compare with the score of held-out rows in place of the samples.

    Args:
        samples: features of generated images, [N, D], N >= 1.
        train: features of the training images, [M, D], M >= 2.
        block: rows in one matrix product.

    Raises:
        ValueError: if shapes do not fit, a feature is not finite, or there are too few rows.
    """
    train = pairwise.checked("train", train, least=2)
    distances, index = nearest(samples, train, block)
    gaps = np.sqrt(pairwise.smallest(train, None, 1, block)[:, 0])
    return _share(distances > gaps[index], len(train))


def copied_by_ratio(samples: np.ndarray, train: np.ndarray, ratio: float = 1 / 3, block: int = pairwise.BLOCK) -> Share:
    """Share of samples much nearer to one training row than to any other: d_1 < ratio d_2.

    Yoon et al. 2023, "Diffusion Probabilistic Models Generalize when They Fail to Memorize", and Gu et al. 2023, "On
    Memorization in Diffusion Models", with a ratio of 1/3 and distances between pixels. An image that the training set
    holds twice has d_1 = d_2 and is never counted: remove duplicates first.

    Args:
        samples: features (or pixels) of generated images, [N, D], N >= 1.
        train: features (or pixels) of the training images, [M, D], M >= 2.
        ratio: the largest d_1 / d_2 of a copy, in (0, 1).
        block: rows in one matrix product.

    Raises:
        ValueError: if shapes do not fit, a feature is not finite, there are too few rows, or ratio is out of range.
    """
    if not 0 < ratio < 1:
        raise ValueError(f"ratio must lie in (0, 1), got {ratio} (1/3 in the papers)")
    samples = pairwise.checked("samples", samples)
    train = pairwise.checked("train", train, least=2)
    pairwise.same_dim(samples, train)
    squared = pairwise.smallest(samples, train, 2, block)
    return _share(squared[:, 0] < ratio**2 * squared[:, 1], len(train))


def copied_by_similarity(
    samples: np.ndarray, train: np.ndarray, threshold: float = 0.5, block: int = pairwise.BLOCK
) -> Share:
    """Share of samples whose largest cosine with a training row exceeds a threshold.

    Somepalli et al. 2023, "Diffusion Art or Digital Forgery?", whose threshold is 0.5 for SSCD's features. Other
    features need another threshold, such as the 99.9th percentile of the cosines of held-out rows.

    Args:
        samples: features of generated images, [N, D], N >= 1.
        train: features of the training images, [M, D], M >= 1.
        threshold: the cosine above which a sample counts as a copy, in (-1, 1).
        block: rows in one matrix product.

    Raises:
        ValueError: if shapes do not fit, a feature is not finite, a row is zero, or threshold is out of range.
    """
    if not -1 < threshold < 1:
        raise ValueError(f"threshold must be a cosine in (-1, 1), got {threshold} (0.5 in the paper)")
    return _share(most_similar(samples, train, block)[0] > threshold, len(train))


def data_copying(
    samples: np.ndarray,
    held_out: np.ndarray,
    train: np.ndarray,
    centres: np.ndarray | None = None,
    least: int = 20,
    block: int = pairwise.BLOCK,
) -> DataCopying:
    """C_T: a rank test, in each cell, of whether samples lie nearer to the training set than held-out rows do.

    With L the distance to the nearest training row of the same cell, U = #{(s, h): L(s) > L(h)} + ties / 2 and

        Z = (U - n m / 2) / sqrt(n m (n + m + 1) / 12),
        C_T = sum_cells share of held-out rows Z / sum of these shares

    over n samples and m held-out rows of a cell (Meehan et al. 2020, "A Non-Parametric Test to Detect Data-Copying in
    Generative Models", section 4, without the authors' code's continuity correction of 1/2 in U).

    Args:
        samples: features of generated images, [N, D].
        held_out: features of real images that the model was not trained on, [H, D].
        train: features of the training images, [M, D].
        centres: centres of the cells, [K, D]; a row belongs to the cell of its nearest centre (k-means of the training
            set in the paper). None for one cell.
        least: the number of samples that a cell needs to count, at least 1 (20 as in Stein et al. 2023).
        block: rows in one matrix product.

    Raises:
        ValueError: if shapes do not fit, a feature is not finite, least is below 1, a cell lacks training or held-out
            rows, or no cell has enough samples.
    """
    sets = {"samples": samples, "held_out": held_out, "train": train}
    sets = {name: pairwise.checked(name, rows) for name, rows in sets.items()}
    centres = np.zeros((1, sets["train"].shape[1])) if centres is None else pairwise.checked("centres", centres)
    cells = {name: nearest(rows, centres, block)[1] for name, rows in sets.items()}
    if least < 1:
        raise ValueError(f"least = {least} must be at least 1, the samples that a cell needs to be counted")
    scores = np.full(len(centres), np.nan)
    shares = np.zeros(len(centres))
    for cell in range(len(centres)):
        drawn, real, train_rows = (sets[name][cells[name] == cell] for name in ("samples", "held_out", "train"))
        if len(real) == 0 or len(train_rows) == 0:
            raise ValueError(
                f"cell {cell} has {len(train_rows)} training and {len(real)} held-out rows; it needs both. Pass fewer "
                "centres"
            )
        if len(drawn) >= least:
            scores[cell] = _rank_score(nearest(drawn, train_rows, block)[0], nearest(real, train_rows, block)[0])
            shares[cell] = len(real)
    if not shares.any():
        raise ValueError(f"no cell has {least} samples; there are only {len(sets['samples'])} samples in all")
    counted = shares > 0
    value = float(scores[counted] @ shares[counted] / shares.sum())
    return DataCopying(value, scores, *(len(rows) for rows in sets.values()))


def _rank_score(a, b):
    """Mann and Whitney's U of a against b, minus its mean and over its standard deviation for equal distributions."""
    b = np.sort(b)
    u = (np.searchsorted(b, a, "left") + np.searchsorted(b, a, "right")).sum() / 2
    return (u - len(a) * len(b) / 2) / np.sqrt(len(a) * len(b) * (len(a) + len(b) + 1) / 12)


def _share(flags, train):
    count = int(flags.sum())
    return Share(count / len(flags), bootstrap.wilson_interval(count, len(flags)), len(flags), train)
