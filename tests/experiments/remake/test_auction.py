"""The auction of large clouds beside SciPy's exact assignment."""

import numpy as np
import pytest

from diffusion.experiments.remake import auction, exact_pairing


def mean_square(x, y, p):
    return ((x - y[p]) ** 2).sum(-1).mean()


@pytest.mark.extended
@pytest.mark.parametrize("number", [2, 3, 40, 299, 301, 700])
@pytest.mark.parametrize("apart", [0.0, 5.0])
def test_its_mean_is_the_least_to_the_precision(number, apart):
    rng = np.random.default_rng(number)
    x = rng.normal(size=(number, 2))
    y = rng.normal(size=(number, 2)) * [1.0, 0.3] + apart
    p = auction.pairing(x, y)
    least = mean_square(x, y, exact_pairing.pairing(x, y))
    assert sorted(p) == list(range(number))
    assert least - 1e-9 <= mean_square(x, y, p) <= least + 1e-6


def test_equal_points_and_one_point_are_paired(monkeypatch):
    monkeypatch.setattr(auction, "REMEMBERED", 3)
    x = np.repeat([[0.0, 0.0], [1.0, 0.0]], 5, 0)
    p = auction.pairing(x, x[::-1])
    assert mean_square(x, x[::-1], p) == 0 and sorted(p) == list(range(10))
    assert auction.pairing(np.zeros((6, 1)), np.zeros((6, 1))).tolist() != [0] * 6
    assert auction.pairing(np.zeros((1, 2)), np.ones((1, 2))).tolist() == [0]


def test_a_coarse_precision_is_kept_and_few_remembered_columns_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 120, 3))
    least = mean_square(x, y, exact_pairing.pairing(x, y))
    assert least < mean_square(x, y, auction.pairing(x, y, precision=0.3)) <= least + 0.3
    many = auction.pairing(x, y)
    monkeypatch.setattr(auction, "REMEMBERED", 2)
    assert np.array_equal(auction.pairing(x, y), many)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_points_that_are_not_finite_are_refused(bad):
    x = np.zeros((4, 2))
    broken = x.copy()
    broken[2, 1] = bad
    for pair in ((x, broken), (broken, x)):
        with pytest.raises(ValueError, match="not finite"):
            auction.pairing(*pair)
    with pytest.raises(ValueError, match="precision = 0"):
        auction.pairing(x, x, precision=0)
