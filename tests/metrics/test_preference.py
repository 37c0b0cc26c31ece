"""Probabilities of preference by hand."""

import numpy as np
import pytest

from diffusion.metrics.preference import preferred


def test_by_hand():
    """Scores of equal height are a coin; ln 3 apart, three times out of four; very far apart, surely."""
    found = preferred([2.0, 1 + np.log(3), 0, 1e4], [2.0, 1, np.log(3), -1e4])
    np.testing.assert_allclose(found, [0.5, 0.75, 0.25, 1], rtol=1e-12)


def test_of_the_two_one_is_chosen():
    first, second = np.random.default_rng(0).normal(size=(2, 20)) * 10
    np.testing.assert_allclose(preferred(first, second) + preferred(second, first), 1, rtol=1e-12)


def test_bad_input():
    with pytest.raises(ValueError, match=r"got \[2\] and \[3\]"):
        preferred(np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match="finite"):
        preferred([np.nan], [1.0])
