"""Distances of vectors against their closed forms between Gaussians, and on sets that are shifted by hand."""

import numpy as np
import pytest
from scipy import stats

from diffusion.metrics import vector_distances

N = 3000


def draws(seed, mean, std, dim=1):
    return mean + std * np.random.default_rng(seed).normal(size=(N, dim))


def mean_length(mean, std):
    """E|Z| of Z ~ N(mean, std^2), a folded normal."""
    return std * np.sqrt(2 / np.pi) * np.exp(-(mean**2) / (2 * std**2)) + mean * (1 - 2 * stats.norm.cdf(-mean / std))


@pytest.mark.extended
def test_the_energy_distance_of_two_gaussians():
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|, each difference of two normals being normal."""
    expected = 2 * mean_length(1.0, np.sqrt(1 + 4)) - mean_length(0, np.sqrt(2)) - mean_length(0, np.sqrt(8))
    measured = vector_distances.energy(draws(0, 0, 1), draws(1, 1, 2))
    assert measured == pytest.approx(expected, rel=0.1)
    assert vector_distances.energy(draws(0, 0, 1), draws(1, 0, 1)) < 0.02 * expected


def test_the_energy_distance_by_hand():
    """Two points against two: 2 * mean(3, 4, 1, 2) - mean(0, 2, 2, 0) - mean(0, 1, 1, 0)."""
    x, y = np.array([[0.0], [2.0]]), np.array([[3.0], [4.0]])
    assert vector_distances.energy(x, y) == pytest.approx(2 * 2.5 - 1 - 0.5)


def test_the_kernel_distance_of_two_gaussians():
    """E k(x, y) = (s^2 / (s^2 + v))^(D/2) exp(-|d|^2 / (2 (s^2 + v))), where x - y ~ N(d, v I)."""
    sigma, dim, shift = 1.5, 2, 1.0
    mean = lambda v, squared: (sigma**2 / (sigma**2 + v)) ** (dim / 2) * np.exp(-squared / (2 * (sigma**2 + v)))
    expected = mean(2, 0) + mean(8, 0) - 2 * mean(5, dim * shift**2)
    measured = vector_distances.gaussian_mmd(draws(0, 0, 1, dim), draws(1, shift, 2, dim), sigma)
    assert measured == pytest.approx(expected, rel=0.05)


def test_the_sliced_distance_of_two_gaussians():
    """|m_1 - m_2|^2 / D + (s_1 - s_2)^2 between isotropic ones, for the mean over all directions."""
    along = vector_distances.directions(400, 3)
    measured = vector_distances.sliced_wasserstein(draws(0, 0, 1, 3), draws(1, 1, 2, 3), along)
    assert measured == pytest.approx(1 + 1, rel=0.06)


def test_the_sliced_distance_of_a_shifted_set_is_exact():
    along = vector_distances.directions(7, 3, seed=1)
    x = draws(0, 0, 1, 3)
    shift = np.array([1.0, -2.0, 0.5])
    expected = np.mean((along @ shift) ** 2)
    assert vector_distances.sliced_wasserstein(x, x + shift, along) == pytest.approx(expected, rel=1e-6)


def test_sets_of_two_sizes_have_quantiles_between_their_rows():
    """Of 0, 1 the quantiles at 1/8, 3/8, 5/8, 7/8 are 0, 1/4, 3/4, 1 between the rows' own at 1/4 and 3/4."""
    along = np.ones((1, 1))
    measured = vector_distances.sliced_wasserstein(np.zeros((4, 1)), np.array([[0.0], [1.0]]), along)
    assert measured == pytest.approx(np.mean(np.array([0, 1 / 4, 3 / 4, 1]) ** 2))


def test_numbers_far_from_zero_have_the_distances_of_their_differences():
    """Seconds of a clock near 10^6: distances of rows do not depend on where the rows lie."""
    rng = np.random.default_rng(3)
    x, y = (np.round(64 * rng.normal(size=(size, 2))) / 64 for size in (20, 30))  # exact after the shift, too
    measures = (
        vector_distances.energy,
        lambda x, y: vector_distances.gaussian_mmd(x, y, 0.7),
        lambda x, y: vector_distances.median_distance(x),
    )
    for measure in measures:
        assert measure(x + 2.0**24, y + 2.0**24) == pytest.approx(measure(x, y), rel=1e-9)


def test_the_median_distance():
    assert vector_distances.median_distance(np.array([[0.0], [1.0], [3.0]])) == pytest.approx(2)
    with pytest.raises(ValueError, match="at least half of all pairs of rows are equal"):
        vector_distances.median_distance(np.zeros((5, 2)))
