"""Copying in feature space, against brute force from the definitions."""

import math

import numpy as np
import pytest

from diffusion.metrics import memorisation


def near(row, rows):
    """Distances from one row to all of them."""
    return [math.dist(row, other) for other in rows]


@pytest.mark.parametrize("block", [4, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nearest_rows(rng, block, dtype):
    train = (rng.normal(size=(19, 5)) + 50).astype(dtype)
    queries = np.concatenate([(rng.normal(size=(9, 5)) + 50).astype(dtype), train[[3, 18]]])
    distances, index = memorisation.nearest(queries, train, block)
    expected = [near(query, train) for query in queries.astype(float)]
    np.testing.assert_allclose(distances, np.min(expected, axis=1), rtol=1e-12)
    assert index.tolist() == np.argmin(expected, axis=1).tolist()
    assert distances[-2:].tolist() == [0, 0]  # exactly, although |q|^2 + |r|^2 - 2 q.r is rounded


@pytest.mark.parametrize("block", [4, 1000])
def test_most_similar_rows(rng, block):
    train = rng.normal(size=(19, 5))
    queries = rng.normal(size=(9, 5))
    queries[0] = 3 * train[7]
    queries[1] = -train[2]
    cosines, index = memorisation.most_similar(queries, train, block)
    cosine = lambda a, b: sum(a * b) / math.hypot(*a) / math.hypot(*b)
    expected = [[cosine(query, row) for row in train] for query in queries]
    np.testing.assert_allclose(cosines, np.max(expected, axis=1), atol=1e-12)
    assert index.tolist() == np.argmax(expected, axis=1).tolist()
    assert cosines[0] == pytest.approx(1, abs=1e-15) and index[0] == 7


def test_authenticity(rng):
    train = rng.normal(size=(30, 3))
    samples = rng.normal(size=(40, 3))
    samples[:5] = train[10:15]
    authentic = 0
    for sample in samples:
        distances = near(sample, train)
        closest = int(np.argmin(distances))
        gap = min(near(train[closest], np.delete(train, closest, axis=0)))
        authentic += distances[closest] > gap
    found = memorisation.authenticity(samples, train, block=7)
    assert found.value == authentic / 40 and 0 < authentic < 36
    assert found.interval[0] < found.value < found.interval[1] and (found.samples, found.train) == (40, 30)
    assert memorisation.authenticity(train, train).value == 0
    twice = np.concatenate([train, train])  # the gap of every training row is 0, and so is a copy's distance
    assert memorisation.authenticity(train, twice).value == 0
    assert memorisation.authenticity(train + 100, train).value == 1


def test_copies_by_ratio(rng):
    train = rng.normal(size=(25, 4))
    samples = np.concatenate([rng.normal(size=(10, 4)), train[:6] + 0.01, train[3:4]])
    ratios = [sorted(near(sample, train))[0] / sorted(near(sample, train))[1] for sample in samples]
    for ratio in (1 / 3, 0.6):
        expected = sum(r < ratio for r in ratios) / 17
        assert memorisation.copied_by_ratio(samples, train, ratio, block=6).value == expected
    assert memorisation.copied_by_ratio(samples, train).value >= 7 / 17
    assert memorisation.copied_by_ratio(train, np.concatenate([train, train])).value == 0  # as the docstring says


def test_copies_by_similarity(rng):
    train = rng.normal(size=(20, 8))
    samples = np.concatenate([rng.normal(size=(10, 8)), 5 * train[:4] + 0.01])
    cosines = memorisation.most_similar(samples, train)[0]
    expected = sum(c > 0.9 for c in cosines) / 14
    assert memorisation.copied_by_similarity(samples, train, 0.9).value == expected
    assert expected == 4 / 14


def mann_whitney(a, b):
    """U by all pairs, standardised."""
    u = sum((x > y) + 0.5 * (x == y) for x in a for y in b)
    return (u - len(a) * len(b) / 2) / math.sqrt(len(a) * len(b) * (len(a) + len(b) + 1) / 12)


def test_data_copying_in_one_cell(rng):
    train, held_out, samples = (rng.normal(size=(n, 3)) for n in (50, 40, 45))
    samples[:3] = held_out[:3]  # equal distances count half
    found = memorisation.data_copying(samples, held_out, train)
    expected = mann_whitney([min(near(s, train)) for s in samples], [min(near(h, train)) for h in held_out])
    assert found.value == pytest.approx(expected, rel=1e-12) and abs(found.value) < 3
    assert (found.samples, found.held_out, found.train) == (45, 40, 50)
    copies = train[rng.integers(0, 50, 45)] + 0.01 * rng.normal(size=(45, 3))
    assert memorisation.data_copying(copies, held_out, train).value < -5
    assert memorisation.data_copying(2 * samples, held_out, train).value > 3


def test_data_copying_in_cells(rng):
    centres = np.array([[-10.0, 0], [10, 0], [0, 10]])
    around = lambda counts: np.concatenate([rng.normal(size=(n, 2)) + c for n, c in zip(counts, centres)])
    train = around((20, 20, 20))
    held_out = around((5, 15, 10))
    samples = around((8, 9, 2))
    found = memorisation.data_copying(samples, held_out, train, centres, least=3)

    def expected(seen, real, drawn):
        return mann_whitney([min(near(row, seen)) for row in drawn], [min(near(row, seen)) for row in real])

    parts = [expected(train[:20], held_out[:5], samples[:8]), expected(train[20:40], held_out[5:20], samples[8:17])]
    np.testing.assert_allclose(found.cells, [*parts, np.nan], rtol=1e-10)
    assert found.value == pytest.approx((5 * parts[0] + 15 * parts[1]) / 20, rel=1e-10)


def test_bad_input(rng):
    rows = rng.normal(size=(6, 3))
    with pytest.raises(ValueError, match="queries must have at least 1 rows, got 0"):
        memorisation.nearest(rows[:0], rows)
    with pytest.raises(ValueError, match="train must have at least 2 rows, got 1"):
        memorisation.authenticity(rows, rows[:1])
    with pytest.raises(ValueError, match="features: 3 and 2 dimensions"):
        memorisation.copied_by_ratio(rows, rows[:, :2])
    for ratio in (0, 1):
        with pytest.raises(ValueError, match=rf"ratio must lie in \(0, 1\), got {ratio}"):
            memorisation.copied_by_ratio(rows, rows, ratio=ratio)
    with pytest.raises(ValueError, match="threshold must be a cosine"):
        memorisation.copied_by_similarity(rows, rows, threshold=1.5)
    with pytest.raises(ValueError, match="references: row 1 is zero"):
        memorisation.copied_by_similarity(rows, rows * (np.arange(6) != 1)[:, None])
    with pytest.raises(ValueError, match="held_out must be finite, but row 2"):
        memorisation.data_copying(rows, rows * np.where(np.arange(6) == 2, np.nan, 1)[:, None], rows)
    with pytest.raises(ValueError, match="cell has 20 samples; there are only 6"):
        memorisation.data_copying(rows, rows, rows)
    with pytest.raises(ValueError, match="cell 1 has 0 training and 0 held-out rows"):
        memorisation.data_copying(rows, rows, rows, np.array([[0.0, 0, 0], [99, 99, 99]]), least=1)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_what_is_at_a_threshold_is_no_copy():
    """A cosine of exactly 1/2, and a distance that is exactly half of the next one."""
    along, between = np.array([[1.0, 0, 0, 0]]), np.full((1, 4), 0.5)
    assert memorisation.copied_by_similarity(along, between, 0.5).value == 0
    assert memorisation.copied_by_similarity(along, between, 0.5 - 1e-9).value == 1
    sample, train = np.array([[0.0]]), np.array([[1.0], [-2.0]])
    assert memorisation.copied_by_ratio(sample, train, 0.5).value == 0
    assert memorisation.copied_by_ratio(sample, train, 0.5 + 1e-9).value == 1
