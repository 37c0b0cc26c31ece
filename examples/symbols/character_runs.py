"""An n-gram model of characters: the likelihood of a text from counts of character runs in a training text."""

from typing import NamedTuple

import numpy as np

from diffusion.metrics import ngrams


class Counts(NamedTuple):
    """The runs of n characters of a text, for one n.

    Attributes:
        runs: the runs as numbers in ascending order, int64 `[U]`.
        times: the number of occurrences of each run, int64 `[U]`.
        contexts: the runs of n - 1 characters that a character follows, as numbers in ascending order, int64 `[V]`.
        followed: the number of occurrences of each context with a following character, int64 `[V]`.
        followers: the number of different characters that follow each context, int64 `[V]`.
    """

    runs: np.ndarray
    times: np.ndarray
    contexts: np.ndarray
    followed: np.ndarray
    followers: np.ndarray


def count(text: np.ndarray, n: int, size: int) -> Counts:
    """The counts of a text int `[N]` of symbols 0 .. size - 1."""
    runs, times = np.unique(ngrams.codes(text[None], n, size)[0], return_counts=True)
    contexts, first, followers = np.unique(runs // size, return_index=True, return_counts=True)
    return Counts(runs, times, contexts, np.add.reduceat(times, first), followers)


def fit(text: np.ndarray, longest: int, size: int) -> list[Counts]:
    """The counts of runs of 1 .. longest characters."""
    return [count(text, n, size) for n in range(1, longest + 1)]


def bits(model: list[Counts], windows: np.ndarray, size: int) -> np.ndarray:
    """-log2 p of each character of windows, given the characters before it in its window.

        p_n(c | h) = (count(h c) + followers(h) p_(n-1)(c | h')) / (count(h) + followers(h)),    p_0 = 1 / size

    with h the last n - 1 characters, h' the last n - 2 of them, and followers(h) the number of different characters
    that follow h.

    Args:
        model: the counts, of `fit`.
        windows: int `[N, L]` symbols.
        size: number of symbols.

    Returns:
        float64 `[N, L]`.

    The paper: Witten and Bell 1991, "The Zero-Frequency Problem", method C, interpolated.
    """
    p = np.full(windows.shape, 1 / size)
    for n, counts in enumerate(model, 1):
        if n > windows.shape[1]:
            break
        runs = ngrams.codes(windows, n, size)
        times = _looked_up(counts.runs, counts.times, runs)
        followed, followers = (
            _looked_up(counts.contexts, values, runs // size) for values in (counts.followed, counts.followers)
        )
        shorter = p[:, n - 1 :]
        longer = (times + followers * shorter) / np.maximum(followed + followers, 1)
        p[:, n - 1 :] = np.where(followed > 0, longer, shorter)
    return -np.log2(p)


def _looked_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value of each wanted key; 0 for a missing one."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
