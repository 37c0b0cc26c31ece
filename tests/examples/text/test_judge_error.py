"""A share corrected for the errors of its judge: exact where the rates are, and an interval that covers the truth."""

import math

import numpy as np
import pytest

from examples.text import judge_error


@pytest.mark.parametrize("truth, s, c", [(0.6, 0.9, 0.8), (0.25, 0.75, 1.0), (1.0, 0.8, 0.6), (0.0, 1.0, 0.7)])
def test_exact_rates_give_the_truth(truth, s, c):
    """q = p s + (1 - p) (1 - c) is what such a judge counts."""
    share = truth * s + (1 - truth) * (1 - c)
    count = lambda part: (round(10_000 * part), 10_000)
    found = judge_error.corrected(count(share), count(s), count(1 - c))
    assert found.value == pytest.approx(truth, abs=1e-12)
    assert found.interval[0] - 1e-12 <= truth <= found.interval[1] + 1e-12 and np.ptp(found.interval) < 0.1


def test_a_perfect_judge_leaves_the_share_and_its_interval():
    found = judge_error.corrected((40, 100), (100_000, 100_000), (0, 100_000))
    assert found.value == pytest.approx(0.4)
    middle = (40 + 1.959964**2 / 2) / (100 + 1.959964**2)  # Agresti and Coull's interval
    half = 1.959964 * math.sqrt(middle * (1 - middle) / (100 + 1.959964**2))
    assert found.interval == pytest.approx((middle - half, middle + half), abs=1e-4)


@pytest.mark.parametrize("truth, s, c", [(0.5, 0.9, 0.85), (0.9, 0.98, 0.95), (0.1, 0.95, 0.99)])
def test_the_interval_covers_the_truth_as_often_as_it_says(truth, s, c):
    rng = np.random.default_rng(0)
    counts = zip(
        rng.binomial(100, truth * s + (1 - truth) * (1 - c), 1000),
        rng.binomial(200, s, 1000),
        rng.binomial(200, 1 - c, 1000),
    )
    intervals = [judge_error.corrected((int(a), 100), (int(b), 200), (int(d), 200)).interval for a, b, d in counts]
    covered = np.mean([low <= truth <= high for low, high in intervals])
    assert 0.93 <= covered <= 0.99  # 0.95 -+ three standard errors; the method is known to be a little wide


def test_the_interval_has_the_errors_of_all_three_rates():
    """Twice z times the error of (q + c - 1) / (s + c - 1), by its slopes in each rate as differences."""
    z = 1.959964
    found = judge_error.corrected((36, 90), (70, 80), (12, 50), z).interval
    rates = np.array([(36 + z**2 / 2) / (90 + z**2), 71 / 82, 39 / 52])
    variances = rates * (1 - rates) / [90 + z**2, 82, 52]
    true_share = lambda q, s, c: (q + c - 1) / (s + c - 1)
    slopes = [(true_share(*(rates + step)) - true_share(*(rates - step))) / 2e-6 for step in 1e-6 * np.eye(3)]
    assert found[1] - found[0] == pytest.approx(2 * z * math.sqrt(np.square(slopes) @ variances), rel=1e-6)


def test_a_judge_that_knows_nothing_and_impossible_counts():
    assert math.isnan(judge_error.corrected((5, 10), (5, 10), (5, 10)).value)
    with pytest.raises(ValueError, match="got 11 of 10"):
        judge_error.corrected((11, 10), (5, 10), (5, 10))


@pytest.mark.parametrize("right, wrong", [((1, 1), (3, 4)), ((1, 1), (9, 10))])
def test_too_few_known_examples_bound_nothing(right, wrong):
    """s + c > 1; but s' + c' = 2/3 + 1/3 = 1 of the first, and 2/3 + 1/6 of the second."""
    found = judge_error.corrected((3, 4), right, wrong)
    assert 0 <= found.value <= 1 and found.interval == (0, 1)
