"""Halving and doubling the side of images, against the sums that they stand for."""

import numpy as np
import pytest

from diffusion.models.layers.resampling import check_taps, double, halve

X = np.random.default_rng(0).normal(size=(2, 6, 4, 3)).astype(np.float32)


def line(x, taps, border):
    """Filters along axis 1, zeros beyond the ends, and keeps every second; taps that sum to 1."""
    x = np.pad(x, ((0, 0), (border, border), (0, 0), (0, 0)))
    taps = np.asarray(taps) / np.sum(taps)
    starts = range(0, x.shape[1] - len(taps) + 1, 2)
    return np.stack([sum(tap * x[:, i + k] for k, tap in enumerate(taps)) for i in starts], axis=1)


def both(x, taps, border):
    turn = lambda a: a.swapaxes(1, 2)
    return turn(line(turn(line(x, taps, border)), taps, border))


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1), (1, 2, 3, 4)])
def test_halving_is_the_filtered_sum_and_doubling_its_transpose(taps):
    half = halve(X, taps)
    np.testing.assert_allclose(half, both(X, taps, len(taps) // 2 - 1), atol=1e-5)
    y = np.random.default_rng(1).normal(size=half.shape).astype(np.float32)
    np.testing.assert_allclose(np.vdot(double(y, taps), X), 4 * np.vdot(y, half), rtol=1e-4)


def test_a_border_that_is_there_is_not_added():
    taps = (1, 3, 3, 1)
    wide = np.pad(X, ((0, 0), (1, 1), (1, 1), (0, 0)))
    np.testing.assert_allclose(halve(wide, taps, padded=False), halve(X, taps), atol=1e-6)
    assert halve(X, taps, padded=False).shape == (2, 2, 1, 3)


@pytest.mark.parametrize("taps", [(), (1, 2, 1), (1, -1)])
def test_filters_that_do_not_lie_between_pixels_are_refused(taps):
    with pytest.raises(ValueError, match="even number of taps"):
        check_taps(taps)
