"""Precision, recall, density, coverage: by hand, by brute force from the definitions, and where rows coincide."""

import math

import numpy as np
import pytest

from diffusion.metrics import manifold, pairwise


def brute_force(samples, real, manifold_k, density_k):
    """The four definitions, one distance at a time."""

    def radius(rows, i, k):
        return sorted(math.dist(rows[i], rows[j]) for j in range(len(rows)) if j != i)[k - 1]

    near = [[math.dist(s, x) for x in real] for s in samples]
    real_balls = [radius(real, i, manifold_k) for i in range(len(real))]
    sample_balls = [radius(samples, i, manifold_k) for i in range(len(samples))]
    dense = [radius(real, i, density_k) for i in range(len(real))]
    n = range(len(samples))
    m = range(len(real))
    return {
        "precision": sum(any(near[i][j] <= real_balls[j] for j in m) for i in n) / len(n),
        "recall": sum(any(near[i][j] <= sample_balls[i] for i in n) for j in m) / len(m),
        "density": sum(near[i][j] < dense[j] for i in n for j in m) / len(n) / density_k,
        "coverage": sum(any(near[i][j] < dense[j] for i in n) for j in m) / len(m),
    }


def figures(found):
    return {name: getattr(found, name) for name in ("precision", "recall", "density", "coverage")}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_definitions_whatever_the_block(rng, dtype):
    real = (rng.normal(size=(40, 3)) + 5).astype(dtype)
    samples = (0.7 * rng.normal(size=(31, 3)) + 5.4).astype(dtype)
    expected = brute_force(samples.astype(float), real.astype(float), 2, 4)
    assert 0.3 < expected["recall"] < expected["precision"] < 1
    for block in (1, 7, 1000):
        found = manifold.overlap(samples, real, manifold_k=2, density_k=4, block=block)
        assert figures(found) == pytest.approx(expected, abs=1e-12)
        assert (found.manifold_k, found.density_k, found.samples, found.reference) == (2, 4, 31, 40)


def test_balls_of_density_may_be_the_smaller_ones(rng):
    """The neighbours are sorted once, for the larger of the two numbers."""
    real = rng.normal(size=(13, 3))
    samples = 0.7 * rng.normal(size=(9, 3)) + 0.2
    found = figures(manifold.overlap(samples, real, manifold_k=3, density_k=1))
    assert found == pytest.approx(brute_force(samples, real, 3, 1), abs=1e-12)
    assert found != figures(manifold.overlap(samples, real, manifold_k=3, density_k=3))


def test_by_hand():
    """Real 0, 1, 3 with k = 1: radii 1, 1, 2. Samples 2, 9 with k = 1: radii 7, 7."""
    found = manifold.overlap(np.array([[2.0], [9.0]]), np.array([[0.0], [1.0], [3.0]]), manifold_k=1, density_k=1)
    assert found.precision == 1 / 2  # 2 is on the edge of 1's ball and in 3's
    assert found.recall == 1
    assert found.density == 1 / 2  # only 3's ball holds 2 in its inside
    assert found.coverage == 1 / 3
    expected = {"precision": 1 / 2, "recall": 0, "density": 1 / 2, "coverage": 1 / 3}  # sqrt(var / n) with n - 1
    assert found.standard_errors == pytest.approx(expected)


def test_the_edge_of_a_ball_belongs_to_it_in_precision_and_recall():
    """Samples 0, 1 and real -1, 5 with k = 1: radii 1 and 1, and 6 and 6; -1 is on the edge of 0's ball."""
    found = manifold.overlap(np.array([[0.0], [1.0]]), np.array([[-1.0], [5.0]]), manifold_k=1, density_k=1)
    assert found.recall == 1 / 2 and found.precision == 1
    other = manifold.overlap(np.array([[-1.0], [5.0]]), np.array([[0.0], [1.0]]), manifold_k=1, density_k=1)
    assert other.precision == 1 / 2 and other.recall == 1
    assert other.density == 0  # the inside alone counts there


@pytest.mark.parametrize("block", [5, 64])
def test_ties_are_ties_whatever_the_rounding(rng, block):
    """A set against itself: every ball holds its centre and k - 1 others, far from the origin too."""
    rows = (100 + rng.normal(size=(60, 17))).astype(np.float32)
    found = manifold.overlap(rows, rows[::-1], block=block)
    expected = {"precision": 1, "recall": 1, "density": 1, "coverage": 1}
    assert figures(found) == pytest.approx(expected, rel=1e-12)


def test_collapsed_samples(rng):
    """All samples one real image: radius 0, so recall is that image alone, and coverage the balls that hold it."""
    real = rng.normal(size=(50, 6)) + 30
    samples = np.repeat(real[7:8], 20, axis=0)
    found = manifold.overlap(samples, real, block=8)
    assert found.precision == 1 and found.recall == 1 / 50
    balls = brute_force(samples, real, 3, 5)
    assert found.coverage == balls["coverage"] < 0.3 and found.density == pytest.approx(balls["density"])


def test_real_duplicates(rng):
    """Four equal real images have balls of radius 0: a copy of them lies on the edge and is precise, and no more."""
    real = np.concatenate([rng.normal(size=(20, 6)), np.full((4, 6), 9.1)])
    samples = np.concatenate([rng.normal(size=(9, 6)) - 50, np.full((1, 6), 9.1)])
    found = manifold.overlap(samples, real, manifold_k=3, density_k=3)
    assert found.precision == 1 / 10 and found.density == 0 and found.coverage == 0


def test_disjoint_sets(rng):
    found = manifold.overlap(rng.normal(size=(20, 2)), rng.normal(size=(20, 2)) + 100)
    assert figures(found) == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_smallest_distances(rng):
    rows = rng.normal(size=(23, 4))
    others = rng.normal(size=(11, 4))
    squared = np.square(rows[:, None] - others[None]).sum(-1)
    np.testing.assert_allclose(pairwise.smallest(rows, others, 3, block=4), np.sort(squared, axis=1)[:, :3], rtol=1e-12)
    own = np.sort(np.square(rows[:, None] - rows[None]).sum(-1), axis=1)[:, 1:4]  # the first is 0, the row itself
    np.testing.assert_allclose(pairwise.smallest(rows, None, 3, block=4), own, rtol=1e-12)


def test_bad_input(rng):
    rows = rng.normal(size=(6, 3))
    with pytest.raises(ValueError, match="samples must have at least 4 rows, got 3"):
        manifold.overlap(rows[:3], rows)
    with pytest.raises(ValueError, match="reference must have at least 6 rows, got 5"):
        manifold.overlap(rows, rows[:5])
    with pytest.raises(ValueError, match="manifold_k = 0 and density_k = 5 must be at least 1"):
        manifold.overlap(rows, rows, manifold_k=0)
    with pytest.raises(ValueError, match="features: 3 and 2 dimensions"):
        manifold.overlap(rows, rows[:, :2])
    with pytest.raises(ValueError, match="samples must be finite, but row 0"):
        manifold.overlap(rows * np.nan, rows)
    with pytest.raises(ValueError, match=r"1 \.\. 5, the number of other rows"):
        pairwise.smallest(rows, None, 6)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
