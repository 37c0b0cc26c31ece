"""Kernel distances against sums written out pair by pair, closed forms, and repeated draws."""

import math

import ml_dtypes
import numpy as np
import pytest

from diffusion.metrics import kernel_distance, pairwise


def by_pairs(k, x, y, unbiased):
    """The definition, one pair at a time (Gretton et al. 2012, eq. 3 and 5)."""
    n = len(x)
    m = len(y)
    skip = lambda i, j: unbiased and i == j
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if not skip(i, j)) / (n * (n - unbiased))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if not skip(i, j)) / (m * (m - unbiased))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def cubic(a, b):
    return (sum(s * t for s, t in zip(a, b)) / len(a) + 1) ** 3


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("block", [3, 100])
def test_all_pairs_whatever_the_block(rng, unbiased, block):
    x = rng.normal(size=(10, 4))
    y = rng.normal(size=(7, 4)) + 1
    found = kernel_distance.mmd2(kernel_distance.cubic, x, y, unbiased, block)
    assert found.value == pytest.approx(by_pairs(cubic, x, y, unbiased), rel=1e-12)
    assert (found.samples, found.reference) == (10, 7)
    rbf = lambda a, b: math.exp(-(math.dist(a, b) ** 2) / (2 * 1.5**2))
    found = kernel_distance.mmd2(kernel_distance.gaussian(1.5), x, y, unbiased, block)
    assert found.value == pytest.approx(by_pairs(rbf, x, y, unbiased), rel=1e-10)


def first_order(k, x, y, unbiased):
    """The standard error of Hoeffding's projection, one pair at a time."""
    total = 0
    for own, other in ((x, y), (y, x)):
        within = [
            sum(k(a, b) for j, b in enumerate(own) if not (unbiased and i == j)) / (len(own) - unbiased)
            for i, a in enumerate(own)
        ]
        rest = np.array(within) - [sum(k(a, b) for b in other) / len(other) for a in own]
        total += 4 * rest.var(ddof=1) / len(own)
    return math.sqrt(total)


@pytest.mark.parametrize("unbiased", [True, False])
def test_the_standard_error_is_of_the_rows_of_both_sets(rng, unbiased):
    x, y = rng.normal(size=(10, 4)), rng.normal(size=(4, 4)) + 1
    error = kernel_distance.mmd2(kernel_distance.cubic, x, y, unbiased).standard_error
    assert error == pytest.approx(first_order(cubic, x, y, unbiased), rel=1e-10)


def test_the_figures_of_subsets_are_a_mean_and_the_deviation_of_a_draw(rng, monkeypatch):
    """Of 1, 2 and 6: mean 3, and sqrt((4 + 1 + 9) / 2)."""
    values = iter([1.0, 2.0, 6.0])
    monkeypatch.setattr(kernel_distance, "mmd2", lambda *_: kernel_distance.Discrepancy(next(values), 0.0, 2, 2))
    kid = kernel_distance.kid(rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), subsets=3, size=2)
    assert kid[:3] == pytest.approx((3.0, math.sqrt(7), math.sqrt(7 / 3)))


def test_by_hand():
    """x = 0, 1 and y = 0, 2 in one dimension: k = 1, 1, 8; 1, 1, 125; cross 1, 1, 1, 27."""
    x = np.array([[0.0], [1.0]])
    y = np.array([[0.0], [2.0]])
    unbiased = kernel_distance.mmd2(kernel_distance.cubic, x, y)
    assert unbiased.value == pytest.approx(1 + 1 - 2 * (1 + 1 + 1 + 27) / 4)
    biased = kernel_distance.mmd2(kernel_distance.cubic, x, y, unbiased=False)
    assert biased.value == pytest.approx((1 + 1 + 1 + 8) / 4 + (1 + 1 + 1 + 125) / 4 - 2 * 30 / 4)


def test_unbiased_for_gaussians_with_the_error_that_it_says(rng):
    """The kernel exp(-|x - y|^2 / 2) between N(0, I) and N(m, I): 2 3^(-D/2) (1 - exp(-|m|^2 / 6))."""
    dim, shift = 3, 1.0
    expected = 2 * 3 ** (-dim / 2) * (1 - np.exp(-dim * shift**2 / 6))
    kernel = kernel_distance.gaussian(1.0)
    draw = lambda rows: rng.normal(size=(rows, dim))
    draws = [kernel_distance.mmd2(kernel, draw(60), draw(80) + shift) for _ in range(500)]
    values = np.array([draw.value for draw in draws])
    assert values.mean() == pytest.approx(expected, abs=4 * values.std() / 500**0.5)
    assert np.mean([draw.standard_error for draw in draws]) == pytest.approx(values.std(), rel=0.1)


def test_kid_is_the_mean_over_subsets(rng):
    x = rng.normal(size=(40, 3))
    y = rng.normal(size=(30, 3)) + 0.5
    kid = kernel_distance.kid(x, y, subsets=200, size=20, seed=1)
    full = kernel_distance.mmd2(kernel_distance.cubic, x, y).value
    assert kid.value == pytest.approx(full, abs=5 * kid.standard_error)  # a subset's mean is the full estimate
    assert kid.standard_error == pytest.approx(kid.standard_deviation / 200**0.5)
    assert (kid.subsets, kid.size, kid.samples, kid.reference) == (200, 20, 40, 30)
    assert kid == kernel_distance.kid(x, y, subsets=200, size=20, seed=1)
    assert kid.value != kernel_distance.kid(x, y, subsets=200, size=20, seed=2).value
    whole = kernel_distance.kid(x[:20], y[:20], subsets=3, size=20)  # every subset is the whole set
    assert whole.value == pytest.approx(by_pairs(cubic, x[:20], y[:20], True), rel=1e-12)
    assert whole.standard_deviation < 1e-12


def test_cmmd_is_the_biased_estimate_of_directions(rng):
    x = rng.normal(size=(9, 5))
    y = rng.normal(size=(6, 5)) + 1
    unit = lambda rows: [row / math.sqrt(sum(row**2)) for row in rows]
    rbf = lambda a, b: math.exp(-(math.dist(a, b) ** 2) / 200)
    expected = 1000 * by_pairs(rbf, unit(x), unit(y), False)
    assert kernel_distance.cmmd(x, y).value == pytest.approx(expected, rel=1e-9)
    assert kernel_distance.cmmd(7 * x, y).value == pytest.approx(expected, rel=1e-9)
    error = 1000 * first_order(rbf, unit(x), unit(y), False)
    assert kernel_distance.cmmd(x, y).standard_error == pytest.approx(error, rel=1e-6)
    assert 0 <= kernel_distance.cmmd(x, x).value < 1e-10


def test_any_real_dtype(rng):
    x = rng.integers(0, 5, (8, 4))
    expected = by_pairs(cubic, x, x + 1, True)
    for dtype in (np.uint8, np.int64, np.float16, np.float32, np.float64, ml_dtypes.bfloat16):
        found = kernel_distance.mmd2(kernel_distance.cubic, x.astype(dtype), (x + 1).astype(dtype))
        assert found.value == pytest.approx(expected, rel=1e-12)


def test_bad_input(rng):
    x = rng.normal(size=(5, 3))
    y = rng.normal(size=(5, 3))
    mmd2 = lambda x, y, **options: kernel_distance.mmd2(kernel_distance.cubic, x, y, **options)
    for bad in (np.nan, np.inf):
        broken = y.copy()
        broken[3, 1] = bad
        with pytest.raises(ValueError, match="reference must be finite, but row 3"):
            mmd2(x, broken)
    with pytest.raises(ValueError, match=r"samples must have shape \[N, D\], got \[5\]"):
        mmd2(x[:, 0], y)
    with pytest.raises(ValueError, match="samples must be real numbers, got complex128"):
        mmd2(x * 1j, y)
    with pytest.raises(ValueError, match="features: 3 and 2 dimensions"):
        mmd2(x, y[:, :2])
    with pytest.raises(ValueError, match="samples must have at least 2 rows, got 1"):
        mmd2(x[:1], y)
    with pytest.raises(ValueError, match="block = 0"):
        mmd2(x, y, block=0)
    with pytest.raises(ValueError, match="sigma = 0"):
        kernel_distance.gaussian(0)
    with pytest.raises(
        ValueError, match=r"1000 rows cannot be drawn from 5 samples and 5 reference rows\. Valid: size <= 5"
    ):
        kernel_distance.kid(x, y)
    with pytest.raises(ValueError, match="1 subsets"):
        kernel_distance.kid(x, y, subsets=1, size=3)
    with pytest.raises(ValueError, match="subsets of 1 rows"):
        kernel_distance.kid(x, y, subsets=2, size=1)
    with pytest.raises(ValueError, match="samples: row 2 is zero"):
        kernel_distance.cmmd(x * (np.arange(5) != 2)[:, None], y)


def test_unit_rows_of_any_scale():
    rows = np.array([[3e300, 4e300], [3e-300, -4e-300]])
    np.testing.assert_allclose(pairwise.unit("rows", rows), [[0.6, 0.8], [0.6, -0.8]], rtol=1e-15)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
