"""Runs of n symbols: numbers of runs, and the divergence of two histograms by hand."""

import numpy as np
import pytest

from diffusion.metrics import ngrams


def test_codes_are_the_numbers_of_runs_in_base_k():
    x = np.array([[0, 1, 2], [2, 2, 2]])
    np.testing.assert_array_equal(ngrams.codes(x, 1, 3), x)
    np.testing.assert_array_equal(ngrams.codes(x, 2, 3), [[1, 5], [8, 8]])
    np.testing.assert_array_equal(ngrams.codes(x, 3, 50_000), [[50_002], [2 * (50_000**2 + 50_001)]])
    for n, size in ((0, 3), (4, 3), (3, 2**21)):
        with pytest.raises(ValueError, match=r"Valid: 1 \.\. 3, with size\^n < 2\^63"):
            ngrams.codes(x, n, size)


@pytest.mark.parametrize("p, q, bits", [
    ([1, 0], [0, 1], 1.0),
    ([3, 1], [6, 2], 0.0),
    ([1, 0], [1, 1], 1.5 - 0.75 * np.log2(3)),  # H(3/4, 1/4) - H(1/2, 1/2) / 2
])  # fmt: skip
def test_the_divergence_is_jensens_and_shannons(p, q, bits):
    found = ngrams.divergence(np.array(p), np.array(q))
    assert abs(found - bits) < 1e-12 and found >= 0
