"""Permutation tests: whether two sets of rows could come from one set that was divided in two by chance."""

from collections.abc import Callable

import numpy as np


def p_value(
    difference: Callable[[np.ndarray, np.ndarray], float],
    first: int,
    second: int,
    draws: int,
    rng: np.random.Generator,
    paired: bool = False,
    strata: np.ndarray | None = None,
) -> float:
    """The two-sided p-value of a difference between two sets of rows, by exchanging rows between them.

        p = (1 + #{|d*| >= |d|}) / (1 + draws)

    where d is the difference between the sets and d* is the difference after a random exchange (Phipson and Smyth 2010,
    "Permutation P-values Should Never Be Zero").

    Args:
        difference: function from two int64 arrays of row numbers, [first] and [second], to a float. Rows are numbered
            over both sets: 0 .. first - 1 are the rows of the first set, and the following numbers are those of the
            second.
        first: number of rows of the first set.
        second: number of rows of the second set.
        draws: number of random exchanges, at least 1.
        rng: numpy Generator; the same state gives the same p-value.
        paired: whether row i of the first set is exchanged only with row i of the second; otherwise any rows are
            exchanged.
        strata: the stratum of each row, such as its class, int [first + second]; rows are exchanged only within a
            stratum, and the two rows of a pair must be in the same one. None for a single stratum.

    Returns:
        The p-value, in (0, 1].

    Raises:
        ValueError: if draws is below 1, strata has another shape, or `paired` is set for sets of different sizes or for
            pairs of different strata.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    if paired and first != second:
        raise ValueError(f"pairs need two sets of the same size; got {first} and {second} rows")
    rows = np.arange(first + second)
    strata = np.zeros(len(rows), int) if strata is None else np.asarray(strata)
    if strata.shape != rows.shape:
        raise ValueError(f"strata must have one value for each of the {len(rows)} rows; got {strata.shape}")
    if paired and (strata[:first] != strata[first:]).any():
        row = int(np.argmax(strata[:first] != strata[first:]))
        raise ValueError(
            f"the rows of pair {row} are in the strata {strata[row]} and {strata[first + row]}. Valid: pairs within "
            "one stratum"
        )
    groups = [np.flatnonzero(strata == value) for value in np.unique(strata)]
    observed = abs(difference(rows[:first], rows[first:])) * (1 - 1e-9)  # rounding makes no draw less extreme
    as_extreme = 0
    for _ in range(draws):
        dealt = rows.copy()
        if paired:
            swapped = np.flatnonzero(rng.random(first) < 0.5)
            dealt[swapped] += first
            dealt[swapped + first] -= first
        else:
            for group in groups:
                dealt[group] = rng.permutation(group)
        as_extreme += abs(difference(dealt[:first], dealt[first:])) >= observed
    return (1 + as_extreme) / (1 + draws)
