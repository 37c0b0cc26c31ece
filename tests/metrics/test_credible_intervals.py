"""Coverage of credible intervals: exact shares by order statistics."""

import numpy as np
import pytest

from diffusion.metrics.credible_intervals import coverage


def test_the_interval_is_between_order_statistics():
    """Of 1 .. 9 the interval of 80 % is [1, 9], of 60 % [2, 8]; 9.5 and 0 lie outside of both."""
    samples = np.random.default_rng(0).permutation(np.arange(1.0, 10.0))[:, None] * [1.0, 10.0]
    truths = np.array([[1.0, 95.0], [9.0, 20.0], [9.5, 0.0], [5.0, 80.0]])
    np.testing.assert_array_equal(coverage(samples, truths, 0.8), [3 / 4, 2 / 4])
    np.testing.assert_array_equal(coverage(samples, truths, 0.6), [1 / 4, 2 / 4])


@pytest.mark.parametrize(
    "number, level, scale, expected", [(9, 0.8, 1.0, 0.8), (99, 0.9, 1.0, 0.9), (9, 0.8, 0.0, 0.0)]
)
def test_truths_of_the_same_law_are_covered_at_the_level(number, level, scale, expected):
    """4,000 problems of one truth each; samples without any spread cover nothing."""
    random = np.random.default_rng(1)
    samples, truths = scale * random.standard_normal((number, 4000)), random.standard_normal((1, 4000))
    shares = coverage(samples, truths, level)
    assert abs(shares.mean() - expected) < 4.5 * (expected * (1 - expected) / 4000) ** 0.5 + 1e-12


def test_what_has_no_interval_is_refused():
    with pytest.raises(ValueError, match=r"8 samples are too few for an interval of 0\.8\. Valid: at least 9 samples"):
        coverage(np.zeros((8, 2)), np.zeros((1, 2)), 0.8)
    with pytest.raises(ValueError, match=r"level = 1\.0 must be in \(0, 1\)"):
        coverage(np.zeros((8, 2)), np.zeros((1, 2)), 1.0)
    with pytest.raises(ValueError, match=r"one shape after their first axis; got \(8, 2\) and \(1, 3\)"):
        coverage(np.zeros((8, 2)), np.zeros((1, 3)), 0.5)
