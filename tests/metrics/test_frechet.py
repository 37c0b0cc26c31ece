"""Frechet distance against closed forms, and moments against exact sums."""

import tracemalloc

import numpy as np
import pytest
import scipy.linalg

from diffusion.metrics import frechet


def gaussian(mean, cov, count=101):
    """Moments whose mean and unbiased covariance are exactly these."""
    return frechet.Moments(count, np.asarray(mean, float), np.asarray(cov, float) * (count - 1))


def gather(rows, sizes):
    moments = frechet.init(rows.shape[1])
    start = 0
    for size in sizes:
        moments = frechet.update(moments, rows[start : start + size])
        start += size
    assert start == len(rows)
    return moments


def spd(rng, dim):
    root = rng.normal(size=(dim, dim))
    return root @ root.T + dim * np.eye(dim)


def test_equal_gaussians_are_at_distance_zero(rng):
    moments = gaussian(rng.normal(size=8), spd(rng, 8))
    assert 0 <= frechet.frechet_distance(moments, moments) < 1e-9


def test_rounding_makes_no_distance_negative(rng):
    """Equal sets are at 0 up to rounding, which falls on either side; of 50 of them some would be below."""
    for scale in rng.uniform(1, 100, 50):
        moments = gaussian(np.zeros(6), scale * spd(rng, 6))
        assert 0 <= frechet.frechet_distance(moments, moments) < 1e-9 * scale


def test_diagonal_covariances():
    a = gaussian([1.0, -2.0, 0.5], np.diag([4.0, 9.0, 1.0]))
    b = gaussian([0.0, 0.0, 0.5], np.diag([1.0, 16.0, 0.25]))
    expected = (1 + 4 + 0) + (2 - 1) ** 2 + (3 - 4) ** 2 + (1 - 0.5) ** 2
    assert frechet.frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_commuting_covariances(rng):
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    s = rng.uniform(0.1, 3, 6)
    t = rng.uniform(0.1, 3, 6)
    a = gaussian(np.zeros(6), rotation @ np.diag(s**2) @ rotation.T)
    b = gaussian(np.zeros(6), rotation @ np.diag(t**2) @ rotation.T)
    assert frechet.frechet_distance(a, b) == pytest.approx(((s - t) ** 2).sum(), rel=1e-10)


def test_rank_deficient_covariances(rng):
    """Of two lines u u^T and v v^T it is |u|^2 + |v|^2 - 2 |u.v|; `sqrtm` is not defined there."""
    u, v = rng.normal(size=(2, 5))
    a = gaussian(np.zeros(5), np.outer(u, u))
    b = gaussian(np.zeros(5), np.outer(v, v))
    assert frechet.frechet_distance(a, b) == pytest.approx(u @ u + v @ v - 2 * abs(u @ v), rel=1e-6)
    orthogonal = frechet.frechet_distance(gaussian([0, 0], np.diag([1, 0])), gaussian([0, 0], np.diag([0, 4])))
    assert orthogonal == pytest.approx(5, abs=1e-7)
    point = gaussian([0, 0], np.zeros((2, 2)))
    disc = gaussian([3, 4], np.eye(2))
    assert frechet.frechet_distance(point, disc) == pytest.approx(25 + 2)


def test_fewer_rows_than_features(rng):
    rows = rng.normal(size=(10, 40))
    moments = gather(rows, [10])
    assert frechet.frechet_distance(moments, moments) < 1e-6
    assert frechet.frechet_distance(moments, gather(rows + 2, [10])) == pytest.approx(40 * 4, rel=1e-7)


@pytest.mark.parametrize("counts", [(10, 12), (60, 12), (12, 60)])
def test_any_rank_against_singular_values(rng, counts):
    """With centred rows A and B the overlap is the sum of the singular values of A B^T / sqrt((n - 1)(m - 1))."""
    a, b = (rng.normal(size=(n, 40)) * np.linspace(0.01, 3, 40) + rng.normal(size=40) for n in counts)
    a[:, 7] = 1.0  # a feature that never changes
    centred = [rows - rows.mean(0) for rows in (a, b)]
    singular = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False)
    overlap = singular.sum() / np.sqrt((counts[0] - 1) * (counts[1] - 1))
    traces = sum(np.square(rows).sum() / (len(rows) - 1) for rows in centred)
    expected = np.square(a.mean(0) - b.mean(0)).sum() + traces - 2 * overlap
    found = frechet.frechet_distance(gather(a, [len(a)]), gather(b, [len(b)]))
    assert found == pytest.approx(expected, rel=1e-7)


@pytest.mark.extended
@pytest.mark.parametrize("count", [2, 20, 400])
def test_few_rows_of_many_features_by_the_general_formula(rng, count):
    """With S_a = R R, the root of R S_b R has the singular values of B R / sqrt(n - 1), B the centred rows."""
    basis, _ = np.linalg.qr(rng.normal(size=(400, 400)))
    spread = rng.uniform(0.5, 2, 400)
    root, cov = (basis @ np.diag(spread**power) @ basis.T for power in (1, 2))
    rows = rng.normal(size=(count, 400))
    centred = rows - rows.mean(0)
    overlap = np.linalg.svd(centred @ root, compute_uv=False)[: count - 1].sum() / np.sqrt(count - 1)
    expected = np.square(rows.mean(0)).sum() + np.trace(cov) + np.square(centred).sum() / (count - 1) - 2 * overlap
    distance = frechet.frechet_distance(gaussian(np.zeros(400), cov), gather(rows, [count]))
    assert distance == pytest.approx(expected, rel=1e-11)


def test_a_reference_of_few_rows_keeps_no_matrix_of_the_features(rng):
    features = 600
    reference = frechet.moments(rng.normal(size=(10, features)))
    few, many = (frechet.moments(rng.normal(size=(number, features))) for number in (20, features + 1))
    tracemalloc.start()
    distance = frechet.distance_to(reference)
    near = distance(few)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert size < 8 * features**2 / 4
    far = distance(many)
    assert (near, far) == pytest.approx([frechet.distance_to(other)(reference) for other in (few, many)], rel=1e-6)


@pytest.mark.slow
def test_2048_dimensions_agree_both_ways_round(rng):
    moments = []
    for scale in (1.0, 0.02):
        rows = rng.normal(size=(2500, 2048)) * np.geomspace(1, scale, 2048)
        moments.append(gather(rows, [2500]))
    distance = frechet.frechet_distance(*moments)
    assert distance == pytest.approx(frechet.frechet_distance(*moments[::-1]), rel=1e-10)


def test_translation_adds_its_squared_length(rng):
    a = gaussian(rng.normal(size=4), spd(rng, 4))
    shift = rng.normal(size=4)
    assert frechet.frechet_distance(a, a._replace(mean=a.mean + shift)) == pytest.approx(shift @ shift, rel=1e-9)


@pytest.mark.parametrize("dim", [1, 2, 17])
def test_agrees_with_the_general_matrix_root(rng, dim):
    s = spd(rng, dim)
    t = spd(rng, dim)
    shift = rng.normal(size=dim)
    expected = shift @ shift + np.trace(s + t - 2 * scipy.linalg.sqrtm(s @ t).real)
    a = gaussian(np.zeros(dim), s)
    b = gaussian(shift, t)
    assert frechet.frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet.frechet_distance(b, a) == pytest.approx(expected, rel=1e-8)


def test_moments_count_every_row_of_unequal_batches(rng):
    rows = rng.normal(size=(23, 5))
    moments = gather(rows, [8, 8, 7])
    assert moments.count == 23
    np.testing.assert_allclose(moments.mean, rows.mean(0), atol=1e-14)
    np.testing.assert_allclose(frechet.covariance(moments), np.cov(rows.T), atol=1e-13)
    assert not np.allclose(frechet.covariance(gather(rows[:16], [8, 8])), np.cov(rows.T))
    unchanged = frechet.update(moments, np.zeros((0, 5)))
    assert unchanged.count == 23


def test_moments_of_one_set(rng):
    rows = rng.normal(size=(23, 5)).astype(np.float32)
    moments = frechet.moments(rows)
    assert moments.count == 23 and moments.mean.dtype == np.float64
    np.testing.assert_allclose(moments.mean, rows.astype(float).mean(0), atol=1e-14)
    np.testing.assert_allclose(frechet.covariance(moments), np.cov(rows.T.astype(float)), atol=1e-13)
    with pytest.raises(ValueError, match="shape"):
        frechet.moments(rows[0])


def test_no_rows_have_moments_of_zero():
    assert [part.tolist() if np.ndim(part) else part for part in frechet.init(2)] == [0, [0, 0], [[0, 0], [0, 0]]]


def test_merge_in_any_order(rng):
    parts = [rng.normal(size=(n, 3)) * 5 + n for n in (1, 4, 9)]
    a, b, c = (gather(part, [len(part)]) for part in parts)
    whole = gather(np.concatenate(parts), [14])
    empty = frechet.init(3)
    merges = [
        frechet.merge(frechet.merge(a, b), c),
        frechet.merge(a, frechet.merge(c, b)),
        frechet.merge(empty, frechet.merge(c, frechet.merge(b, frechet.merge(a, empty)))),
    ]
    for merged in merges:
        assert merged.count == 14
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-13)
        np.testing.assert_allclose(merged.m2, whole.m2, rtol=1e-11, atol=1e-11)


def test_moments_keep_small_variance_on_a_large_mean(rng):
    """E[x^2] - E[x]^2 would lose all digits here."""
    rows = rng.integers(-8, 9, size=(60, 2)).astype(float)
    moments = gather(rows + 2.0**40, [7] * 8 + [4])
    np.testing.assert_allclose(frechet.covariance(moments), np.cov(rows.T), rtol=1e-3, atol=1e-2)


def test_float32_features_are_summed_in_float64():
    rows = np.full((3000, 1), 0.1, np.float32)
    rows[::2] = 0.3
    moments = gather(rows, [1000] * 3)
    expected = (float(np.float32(0.1)) + float(np.float32(0.3))) / 2
    assert moments.mean.dtype == moments.m2.dtype == np.float64
    assert moments.mean[0] == pytest.approx(expected, rel=1e-14)


def test_bad_input(rng):
    moments = gather(rng.normal(size=(5, 3)), [5])
    with pytest.raises(ValueError, match="dim = 0"):
        frechet.init(0)
    with pytest.raises(ValueError, match=r"\[B, 3\], got \[5, 4\]"):
        frechet.update(moments, np.zeros((5, 4)))
    with pytest.raises(ValueError, match=r"got \[3\]"):
        frechet.update(moments, np.zeros(3))
    for bad in (np.nan, np.inf):
        features = np.zeros((4, 3))
        features[2, 1] = bad
        with pytest.raises(ValueError, match="row 2"):
            frechet.update(moments, features)
    other = gather(rng.normal(size=(5, 2)), [5])
    with pytest.raises(ValueError, match="features: 3 and 2 dimensions"):
        frechet.merge(moments, other)
    with pytest.raises(ValueError, match="features: 3 and 2 dimensions"):
        frechet.frechet_distance(moments, other)
    with pytest.raises(ValueError, match="moments must be finite"):
        frechet.frechet_distance(moments, moments._replace(m2=moments.m2 * np.nan))
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        frechet.frechet_distance(moments, gather(np.zeros((1, 3)), [1]))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_covariance_is_symmetric_whatever_its_file_holds():
    """Rounding in a file's halves: their mean."""
    stored = frechet.Moments(3, np.zeros(2), np.array([[4.0, 1.0], [3.0, 6.0]]))
    np.testing.assert_array_equal(frechet.covariance(stored), [[2.0, 1.0], [1.0, 3.0]])
