"""The area under the curve is the share of pairs in order, its interval covers, and shares of hits are counted."""

import math

import numpy as np
import pytest
import scipy.stats

from diffusion.metrics import bootstrap, detection


def test_the_area_is_the_share_of_pairs_in_order_with_ties_by_half():
    rng = np.random.default_rng(0)
    p, n = rng.integers(0, 6, 23), rng.integers(0, 5, 17)
    pairs = np.sign(np.subtract.outer(p, n))
    assert detection.auroc(p, n)["value"] == pytest.approx((pairs + 1).mean() / 2)


def test_the_interval_covers_the_area_of_two_normal_laws():
    rng = np.random.default_rng(1)
    true = scipy.stats.norm.cdf(1 / np.sqrt(2))
    intervals = [detection.auroc(rng.normal(1, 1, 40), rng.normal(0, 1, 60))["interval"] for _ in range(500)]
    covered = np.mean([low <= true <= high for low, high in intervals])
    assert 0.92 < covered < 0.98
    assert 0.05 < np.mean([high - low for low, high in intervals]) < 0.25


def test_the_interval_has_the_variance_of_both_sets():
    """DeLong's: of each positive's share of negatives below it, and of each negative's share of positives above it."""
    rng = np.random.default_rng(2)
    p, n = rng.normal(1, 1, 6), rng.normal(0, 2, 40)
    above = np.subtract.outer(p, n) > 0
    variance = above.mean(1).var(ddof=1) / 6 + above.mean(0).var(ddof=1) / 40
    area = above.mean()
    half = 1.959964 * np.sqrt(variance) / (area * (1 - area))
    expected = [1 / (1 + np.exp(-(np.log(area / (1 - area)) + sign * half))) for sign in (-1, 1)]
    assert detection.auroc(p, n)["interval"] == pytest.approx(expected, rel=1e-6)


def test_an_interval_of_another_level_has_its_quantile():
    """z = 0.674490 for one half: in DeLong's on the logits, and in Wilson's p >= n / (n + z^2) at an area of 1."""
    rng = np.random.default_rng(2)
    logit = lambda found: np.log(np.array(found["interval"]) / (1 - np.array(found["interval"])))
    p, n = rng.normal(1, 1, 6), rng.normal(0, 2, 40)
    usual, half = (np.ptp(logit(detection.auroc(p, n, **level))) for level in ({}, {"level": 0.5}))
    assert half / usual == pytest.approx(0.674490 / 1.959964, rel=1e-5)
    found = detection.auroc(np.arange(100, 200), np.arange(100), level=0.5)
    assert found["interval"] == pytest.approx([100 / (100 + 0.674490**2), 1], rel=1e-6)


@pytest.mark.parametrize("level", [0, 1, 95, float("nan")])
def test_a_level_outside_of_zero_and_one_is_refused(level):
    """A level in percent has no quantile, and gave an interval of NaN."""
    with pytest.raises(ValueError, match=rf"auroc: level = {level} must be in \(0, 1\)"):
        detection.auroc([1, 2, 3], [0, 1, 2], level=level)


def test_perfect_scores_have_an_interval_below_one():
    found = detection.auroc(np.arange(100, 200), np.arange(100))
    assert found["value"] == 1 and found["interval"][1] == 1 and 0.95 < found["interval"][0] < 0.98  # 3.84 of 103.84
    with pytest.raises(ValueError, match="two finite scores"):
        detection.auroc([1], [2, 3])


def test_hits_are_counted_above_what_few_negatives_exceed():
    negatives = np.arange(100)
    positives = np.array([50, 94.5, 98.5, 120])
    assert detection.hits_at(positives, negatives, 0.05) == 0.75  # 5 of 100 exceed 94
    assert detection.hits_at(positives, negatives, (0.0, 0.01)).tolist() == [0.25, 0.5]
    assert detection.hits_at([94, 94.5], negatives, 0.05) == 0.5  # a score at the threshold does not exceed it
    assert detection.hits_at([70.5], negatives, 0.29) == 1  # 29 of 100 exceed 70, though 0.29 * 100 is below 29
    assert detection.hits_at([-1, 200], negatives, 1.0) == 1  # all may exceed it
    for share in (5, -0.01, float("nan")):
        with pytest.raises(ValueError, match=r"Valid: shares in \[0, 1\]"):
            detection.hits_at(positives, negatives, share)


@pytest.mark.parametrize("share, number, few, many", [(0.05, 100, 1, 10), (0.01, 100, 0, 4), (0.5, 6, 0, 6)])
def test_the_interval_of_hits_holds_for_each_threshold_that_the_negatives_allow(share, number, few, many):
    """Wilson's interval of 97.5 % above the few-th and (many + 1)-th highest negative, found by adding up Bin(N, q)."""
    below = lambda count: sum(math.comb(number, k) * share**k * (1 - share) ** (number - k) for k in range(count + 1))
    assert few == next(k for k in range(number + 1) if below(k) >= 0.0125)
    assert many == next(k for k in range(number + 1) if below(k) >= 0.9875)
    negatives = np.arange(number, 0, -1.0)  # the k-th highest is number + 1 - k
    positives = np.arange(0.5, 2 * number, 0.25)
    interval = lambda above: bootstrap.wilson_interval(np.sum(positives > above), len(positives), 2.2414027)
    low, high = detection.hits_interval(positives, np.roll(negatives, 3), share)
    assert low == pytest.approx(interval(number + 1 - few)[0] if few else 0, rel=1e-6)
    assert high == pytest.approx(interval(number - many)[1] if many < number else 1, rel=1e-6)
    assert low <= detection.hits_at(positives, negatives, share) <= high


def test_the_interval_of_hits_has_its_level():
    positives, negatives = np.arange(100.0), np.arange(200.0) - 100
    interval = lambda level: detection.hits_interval(positives, negatives, 0.1, level)
    assert interval(0.99)[0] < interval(0.5)[0] < interval(0.5)[1] < interval(0.99)[1]
    for level in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"level = .* must be in \(0, 1\)"):
            interval(level)
    with pytest.raises(ValueError, match="needs positives"):
        detection.hits_interval([], negatives, 0.1)
