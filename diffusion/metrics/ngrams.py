"""Runs of n symbols: the divergence between samples and real sequences."""

import numpy as np

NAMES = ("unigram_divergence", "bigram_divergence", "trigram_divergence")
"""The names of the figures by which an evaluation compares sequences of symbols, for n = 1, 2, 3."""


def codes(x: np.ndarray, n: int, size: int) -> np.ndarray:
    """A number for each run of n consecutive symbols; equal runs have equal numbers.

    Args:
        x: the sequences, int `[N, L]`, symbols 0 .. size - 1.
        n: length of a run, 1 .. L.
        size: number of symbols; size^n is below 2^63.

    Returns:
        int64 `[N, L - n + 1]`.

    Raises:
        ValueError: if sequences are shorter than n, or there are too many runs for 63 bits.
    """
    length = x.shape[1]
    if not 1 <= n <= length or size**n >= 2**63:
        raise ValueError(
            f"codes: n = {n} for sequences of length {length} and {size} symbols. Valid: 1 .. {length}, with size^n < "
            "2^63"
        )
    numbers = np.zeros((len(x), length - n + 1), np.int64)
    for i in range(n):
        numbers = numbers * size + x[:, i : length - n + 1 + i]
    return numbers


def divergence(counts: np.ndarray, others: np.ndarray) -> float:
    """The Jensen-Shannon divergence of two histograms in bits: 0 if they agree, 1 if they share no entry.

        JS(p, q) = H((p + q) / 2) - (H(p) + H(q)) / 2

    Args:
        counts, others: the counts of the two histograms, `[U]`, at least 0 and with a positive sum.

    Paper: Lin 1991, "Divergence Measures Based on the Shannon Entropy", eq. 4.1.
    """
    p, q = counts / counts.sum(), others / others.sum()
    entropy = lambda p: -np.sum(p * np.log2(np.where(p > 0, p, 1)))
    return max(float(entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2), 0.0)
