"""FID-infinity on Gaussians, whose distance has a closed form, and the line's own arithmetic."""

import numpy as np
import pytest

from diffusion.metrics import extrapolation, frechet, frechet_error


def population(mean, deviations):
    """The moments of a Gaussian itself, as of very many rows."""
    count = 10**9
    return frechet.Moments(count, np.asarray(mean, float), np.diag(np.square(deviations)) * (count - 1.0))


@pytest.mark.parametrize("scale, shift", [(1.0, 0.0), (1.5, 0.1)])
def test_much_nearer_to_the_truth_than_fid_at_n(scale, shift):
    """N(shift, scale^2 I) against N(0, I) in 32 dimensions: 32 (shift^2 + (scale - 1)^2)."""
    dim, count = 32, 3000
    samples = shift + scale * np.random.default_rng(0).normal(size=(count, dim))
    truth = dim * (shift**2 + (scale - 1) ** 2)
    sizes = np.linspace(400, count, 15, dtype=int)
    found = extrapolation.extrapolate(samples, population(np.zeros(dim), np.ones(dim)), sizes)
    plain = found.distances[-1]
    assert found.sizes[-1] == count and found.reference == 10**9
    if scale == 1:
        # E|mean|^2 = D / N, and Tr(S - 2 S^1/2 + I) is |S - I|^2 / 4 to second order, D (D + 1) / N on average.
        assert found.slope == pytest.approx(dim + dim * (dim + 1) / 4, rel=0.1)
        assert abs(found.value - truth) < 0.1 * (plain - truth)
    assert abs(found.value - truth) < 5 * found.standard_error + 0.1 * found.slope / count


def test_the_line_and_its_error():
    """Three points by hand: 1/N = 0.5, 0.25, 0.125 and distances 3, 2, 1.25."""
    found = extrapolation._line(np.array([2, 4, 8]), np.array([3.0, 2.0, 1.25]), 7)
    x = np.array([0.5, 0.25, 0.125])
    y = np.array([3.0, 2.0, 1.25])
    design = np.stack([np.ones(3), x], axis=1)
    coefficients, residual, *_ = np.linalg.lstsq(design, y)
    covariance = residual[0] / (3 - 2) * np.linalg.inv(design.T @ design)
    assert (found.value, found.slope) == pytest.approx(tuple(coefficients), rel=1e-12)
    assert found.standard_error == pytest.approx(covariance[0, 0] ** 0.5, rel=1e-10)
    exact = extrapolation._line(np.array([2, 4, 8]), 5 + 3 / np.array([2, 4, 8]), 7)
    assert (exact.value, exact.slope) == pytest.approx((5, 3)) and exact.standard_error < 1e-12


def test_the_error_is_that_of_repeated_draws():
    """The residuals of subsets of the same rows do not show the error that the subsets share."""
    reference, sizes = population([0, 0], [1, 1]), np.linspace(100, 400, 7, dtype=int)
    lines = [
        extrapolation.extrapolate(np.random.default_rng(draw).normal(0.3, 1.2, size=(400, 2)), reference, sizes)
        for draw in range(60)
    ]
    spread = np.std([line.value for line in lines], ddof=1)  # known to 9 %, as of 60 draws
    errors = np.array([line.standard_error for line in lines])
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(spread, rel=0.25)


def test_the_error_of_all_rows_joins_that_of_the_line(rng):
    samples, reference = rng.normal(size=(40, 3)), population([1, 0, 0], [1, 2, 1])
    joined = extrapolation.extrapolate(samples, reference, [40, 20, 10])
    line = extrapolation._line(joined.sizes, joined.distances, joined.reference)
    whole = frechet_error.standard_error(samples, reference)
    assert joined.standard_error == pytest.approx((line.standard_error**2 + whole**2) ** 0.5, rel=1e-12)


def test_each_point_is_the_distance_of_so_many_rows(rng):
    samples = rng.normal(size=(40, 3))
    reference = population([1, 0, 0], [1, 2, 1])
    found = extrapolation.extrapolate(samples, reference, [40, 40, 20, 10], seed=3)
    whole = frechet.frechet_distance(frechet.update(frechet.init(3), samples), reference)
    assert found.distances[:2] == pytest.approx(whole, rel=1e-10)  # without replacement, all 40 are the set itself
    again = extrapolation.extrapolate(samples, reference, [40, 40, 20, 10], seed=3)
    np.testing.assert_array_equal(found.distances, again.distances)
    other = extrapolation.extrapolate(samples, reference, [40, 40, 20, 10], seed=4)
    assert found.distances[2] != other.distances[2]


def test_the_papers_sizes():
    found = extrapolation.extrapolate(np.random.default_rng(0).normal(size=(12000, 2)), population([0, 0], [1, 1]))
    assert found.sizes.tolist() == [5000 + 500 * i for i in range(15)]


def test_bad_input(rng):
    samples = rng.normal(size=(40, 3))
    reference = population([0, 0, 0], [1, 1, 1])
    with pytest.raises(ValueError, match="start at 5000, which is too large to fit a line with 40 samples"):
        extrapolation.extrapolate(samples, reference)
    with pytest.raises(ValueError, match="at least 3 different whole numbers"):
        extrapolation.extrapolate(samples, reference, [10, 10, 20])
    with pytest.raises(ValueError, match="at least 3 different whole numbers"):
        extrapolation.extrapolate(samples, reference, [10.5, 11.0, 20.0])
    with pytest.raises(ValueError, match="between 2 and the 40 samples"):
        extrapolation.extrapolate(samples, reference, [10, 20, 41])
    with pytest.raises(ValueError, match="features: 3 and 2 dimensions"):
        extrapolation.extrapolate(samples, population([0, 0], [1, 1]), [10, 20, 30])
    samples[5] = np.inf
    with pytest.raises(ValueError, match="row 5"):
        extrapolation.extrapolate(samples, reference, [10, 20, 30])


@pytest.fixture
def rng():
    return np.random.default_rng(0)
