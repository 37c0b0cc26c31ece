"""Distances of clouds by hand and by brute force; 1-NNA of equal, separate and copied sets."""

import itertools

import numpy as np
import pytest

from diffusion.metrics import point_clouds

rng = np.random.default_rng(0)


def test_chamfer_by_hand():
    a = np.array([[0.0, 0], [1, 0]])
    b = np.array([[[0.0, 2]], [[3, 0]]])  # squared: 4, 5 and 9, 4
    np.testing.assert_allclose(point_clouds.chamfer(a, b), [(4 + 5) / 2 + 4, (9 + 4) / 2 + 4])


def test_earth_movers_is_the_best_of_all_permutations():
    a, b = rng.normal(size=(5, 3)), rng.normal(size=(3, 5, 3))
    orders = [list(order) for order in itertools.permutations(range(5))]
    best = [min(np.linalg.norm(a - cloud[order], axis=1).mean() for order in orders) for cloud in b]
    np.testing.assert_allclose(point_clouds.earth_movers(a, b), best)
    # The best way to shift a cloud is to shift each point, whatever their order is.
    shift = np.array([0.3, -0.4, 1.2])
    np.testing.assert_allclose(point_clouds.earth_movers(a, (a + shift)[None, [3, 1, 0, 4, 2]]), [1.3])


def test_blocks_change_no_distance(monkeypatch):
    a, b = rng.normal(size=(4, 6, 3)), rng.normal(size=(5, 6, 3))
    done = []
    whole = point_clouds.distances(a, b, point_clouds.chamfer, done.append)
    own = point_clouds.distances(a, None, point_clouds.earth_movers)
    monkeypatch.setattr(point_clouds, "NUMBERS", 80)  # two clouds of 6 x 6 at once
    sizes = []
    counted = lambda one, several: (sizes.append(len(several)), point_clouds.chamfer(one, several))[1]
    np.testing.assert_array_equal(point_clouds.distances(a, b, counted), whole)
    assert sizes == [2, 2, 1] * 4
    np.testing.assert_array_equal(point_clouds.distances(a, None, point_clouds.earth_movers), own)
    np.testing.assert_allclose(own, point_clouds.distances(a, a, point_clouds.earth_movers), atol=1e-12)
    assert done == [1, 2, 3, 4]
    np.testing.assert_allclose(whole[2, 3], point_clouds.chamfer(b[3], a[2][None])[0])


def of(a, b):
    """1-NNA of sets of numbers."""
    apart = lambda x, y: np.abs(x[:, None] - y)
    return point_clouds.nearest_neighbour_accuracy(apart(a, a), apart(a, b), apart(b, b))


def test_1nna_is_a_half_for_equal_distributions_one_for_separate_sets_and_zero_for_copies():
    drawn = [of(*rng.normal(size=(2, 20))) for _ in range(400)]
    assert abs(np.mean(drawn) - 0.5) < 4 * np.std(drawn) / np.sqrt(400)
    a = rng.uniform(size=20)
    assert of(a, a + 5) == 1
    assert of(a, a + 1e-9) == 0
    for _ in range(20):  # by the nearest of all other numbers, one by one
        numbers = rng.normal(size=12)
        nearest = [
            min((j for j in range(12) if j != i), key=lambda j, i=i: abs(numbers[i] - numbers[j])) for i in range(12)
        ]
        assert of(numbers[:6], numbers[6:]) == np.mean([(i < 6) == (j < 6) for i, j in enumerate(nearest)])


def test_coverage_and_minimum_matching_distance_by_hand():
    across = np.array([[1.0, 2, 3], [0.5, 4, 1], [2, 2, 0.25]])  # nearest references: 0, 0, 2
    assert point_clouds.coverage(across) == 2 / 3
    assert point_clouds.minimum_matching_distance(across) == pytest.approx((0.5 + 2 + 0.25) / 3)
    assert point_clouds.coverage(across[:2]) == 1 / 3  # of three references, whatever the number of samples


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda a: point_clouds.earth_movers(a[0], a[:, :3]), "got 5 and 3 points"),
        (lambda a: point_clouds.distances(np.where(a > 0, a, np.nan), a, point_clouds.chamfer), "cloud 0.*NaN"),
        (lambda a: point_clouds.distances(a, a[:, :0], point_clouds.chamfer), r"second set.*\[4, 0, 3\]"),
        (lambda a: point_clouds.distances(a, a[..., :2], point_clouds.chamfer), "dimension; got 3 and 2"),
        (lambda a: point_clouds.nearest_neighbour_accuracy(np.eye(3), np.ones((3, 2)), np.eye(2)), "one size"),
        (lambda a: point_clouds.nearest_neighbour_accuracy(np.eye(1), np.ones((1, 1)), np.eye(1)), "at least 2; got"),
    ],
)
def test_mistakes_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make(np.random.default_rng(1).normal(size=(4, 5, 3)))
