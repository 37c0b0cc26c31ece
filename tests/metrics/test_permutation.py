"""Permutation tests: exact p-values of small sets by hand, and the share of false alarms where nothing differs."""

import itertools

import numpy as np
import pytest

from diffusion.metrics import permutation


def means(values):
    return lambda a, b: float(values[b].mean() - values[a].mean())


def test_pairs_have_the_p_value_of_all_sign_flips():
    a = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    d = np.array([0.1, 0.4, 0.2, -0.1, 0.3])
    flips = np.array([abs((d * signs).mean()) for signs in itertools.product((-1, 1), repeat=5)])
    exact = (flips >= abs(d.mean()) - 1e-12).mean()
    values = np.concatenate([a, a + d])
    result = permutation.p_value(means(values), 5, 5, 4000, np.random.default_rng(0), paired=True)
    assert result == pytest.approx(exact, abs=0.025)
    # Unpaired, the differences drown in the scatter of a.
    assert permutation.p_value(means(values), 5, 5, 1000, np.random.default_rng(0)) > 0.5


def test_sets_of_different_sizes_have_the_p_value_of_all_splits():
    values = np.array([0.0, 0.3, 0.1, 2.0, 1.7, 2.2, 1.1])
    splits = [set(chosen) for chosen in itertools.combinations(range(7), 3)]
    gaps = [abs(values[[i for i in range(7) if i not in s]].mean() - values[list(s)].mean()) for s in splits]
    exact = np.mean(np.array(gaps) >= gaps[0] - 1e-12)
    result = permutation.p_value(means(values), 3, 4, 4000, np.random.default_rng(0))
    assert result == pytest.approx(exact, abs=0.02)


def test_rows_stay_in_their_stratum():
    strata = np.array([0, 0, 1, 1, 0, 1])
    seen = []
    permutation.p_value(lambda a, b: seen.append((a, b)) or 0.0, 4, 2, 50, np.random.default_rng(0), strata=strata)
    for a, b in seen:
        assert sorted([*a, *b]) == list(range(6)) and strata[[*a, *b]].tolist() == strata.tolist()


def test_row_i_of_a_pair_takes_the_place_of_row_i():
    seen = []
    permutation.p_value(lambda a, b: seen.append((a, b)) or 0.0, 5, 5, 50, np.random.default_rng(0), paired=True)
    for a, b in seen:
        assert (np.minimum(a, b) == range(5)).all() and (np.maximum(a, b) == range(5, 10)).all()
    swapped = np.mean([a >= 5 for a, _ in seen[1:]])
    assert swapped == pytest.approx(0.5, abs=0.15)


@pytest.mark.extended
def test_where_nothing_differs_five_in_a_hundred_are_below_five_percent():
    rng = np.random.default_rng(1)
    result = [
        permutation.p_value(means(rng.normal(size=40)), 20, 20, 99, rng, paired=bool(repeat % 2))
        for repeat in range(400)
    ]
    assert np.mean(np.array(result) <= 0.05) == pytest.approx(0.05, abs=0.03)


def test_a_draw_is_as_extreme_in_spite_of_rounding_and_the_samples_themselves_count():
    """The first difference is that of the samples: no p-value of 9 draws is below 1 / 10."""
    for others, p in ((1 - 1e-12, 1.0), (-1 + 1e-12, 1.0), (0.9, 0.1)):
        gaps = iter([1.0, *[others] * 9])
        assert permutation.p_value(lambda a, b, gaps=gaps: next(gaps), 2, 2, 9, np.random.default_rng(0)) == p


def test_bad_input():
    with pytest.raises(ValueError, match="draws"):
        permutation.p_value(means(np.zeros(4)), 2, 2, 0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="3 and 1 rows"):
        permutation.p_value(means(np.zeros(4)), 3, 1, 9, np.random.default_rng(0), paired=True)
    with pytest.raises(ValueError, match="pair 1 are in the strata 0 and 1"):
        strata = np.array([0, 0, 1, 0, 1, 1])
        permutation.p_value(means(np.zeros(6)), 3, 3, 9, np.random.default_rng(0), paired=True, strata=strata)
    with pytest.raises(ValueError, match="each of the 6 rows"):
        permutation.p_value(means(np.zeros(6)), 3, 3, 9, np.random.default_rng(0), strata=np.zeros(3))
