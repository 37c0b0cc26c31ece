"""The Inception Score, from the logits of a classifier."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from diffusion.metrics import pairwise


class InceptionScore(NamedTuple):
    """A score and its spread.

    Attributes:
        value: mean over the splits, in [1, K].
        standard_deviation: the standard deviation over the splits, with divisor `splits` as is usual; 0 for one split.
            It is the figure that papers print after the sign +-, and not the error of the mean.
        splits: number of splits.
        samples: number of images N.
    """

    value: float
    standard_deviation: float
    splits: int
    samples: int


def inception_score(logits: np.ndarray, splits: int = 10, seed: int | None = 0) -> InceptionScore:
    """exp(E_x KL(p(y | x) || p(y))), the mean over splits of the images (Salimans et al. 2016, section 4).

    KL is the entropy of the mean minus the mean of the entropies, both from log-softmax in float64, so that a
    probability that underflows contributes 0. Split i has the rows i N // splits to (i + 1) N // splits, so that every
    row counts. The rows are shuffled first: samples sorted by class would give every split few classes and a low score.
    torch-fidelity also shuffles, with its own generator; the authors' code and TF-GAN keep the order (seed=None), and
    so does ADM's evaluator, see `inception_score_of_parts`. The score grows with the images in a split, so report N and
    splits beside it (50,000 in 10 splits is usual). The 2015-12-05 network has 1,008 logits; the authors' code, ADM and
    torch-fidelity take them without the bias of the last layer, TF-GAN with it.

    Args:
        logits: logits of the images, [N, K], N >= splits, K >= 2.
        splits: number of splits, at least 1.
        seed: the seed of the shuffle; None keeps the order.

    Raises:
        ValueError: if the shape is not [N, K] with K >= 2, a logit is not finite, every row is a distribution, or there
            are fewer rows than splits.
    """
    if splits < 1:
        raise ValueError(f"splits must be at least 1, got {splits}")
    logits = _checked(logits, splits)
    order = np.arange(len(logits)) if seed is None else np.random.default_rng(seed).permutation(len(logits))
    return _mean(logits, order, [i * len(logits) // splits for i in range(splits + 1)])


def inception_score_of_parts(logits: np.ndarray, size: int = 5000) -> InceptionScore:
    """The Inception Score as ADM's evaluator measures it: over consecutive splits of one size, the last with the rest.

    Args:
        logits: logits of the images, [N, K], K >= 2.
        size: number of rows in a split, at least 1.

    Raises:
        ValueError: if size is below 1; otherwise as in `inception_score`.
    """
    if size < 1:
        raise ValueError(f"inception_score_of_parts: size = {size} must be at least 1")
    logits = _checked(logits, 1)
    return _mean(logits, np.arange(len(logits)), [*range(0, len(logits), size), len(logits)])


def _checked(logits: np.ndarray, least: int) -> np.ndarray:
    """The logits [N, K]; refuses less than `least` rows or 2 classes, probabilities, and numbers not finite."""
    logits = pairwise.checked("logits", logits, least=least)
    if logits.shape[1] < 2:
        raise ValueError(f"the Inception Score needs logits of at least 2 classes, got {logits.shape[1]}")
    if logits.min() >= 0 and np.allclose(logits.sum(axis=1), 1, atol=1e-3):
        raise ValueError(
            "the Inception Score takes logits, but each row is a distribution: not negative, with the sum 1. Valid: "
            "the logits, or log(probabilities)"
        )
    return logits


def _mean(logits: np.ndarray, order: np.ndarray, edges: Sequence[int]) -> InceptionScore:
    """The score over splits, which are given by their edges in the order of rows."""
    scores = [_score(logits, order[start:stop]) for start, stop in itertools.pairwise(edges)]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)), len(scores), len(logits))


def _score(logits, rows):
    total = np.zeros(logits.shape[1])
    entropies = 0.0
    for block in pairwise.blocks(len(rows), pairwise.BLOCK):
        shifted = np.asarray(logits[rows[block]], np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        p = np.exp(log_p)
        total += p.sum(axis=0)
        entropies -= (p * log_p).sum()
    mean = total / len(rows)
    present = mean[mean > 0]  # p ln p tends to 0
    return np.exp(max(0.0, -(present * np.log(present)).sum() - entropies / len(rows)))
