"""MIND, by hand, by shifts and scales of known distance, and in one dimension; the ratio of several spaces."""

import numpy as np
import pytest

from diffusion.metrics import vector_distances
from diffusion.metrics.mind import mind
from diffusion.metrics.representation_ratio import FLOORS, representation_ratio

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6))


def by_hand(x, y, along):
    total = 0.0
    for u in along:
        for a, b in zip(sorted(float(row @ u) for row in x), sorted(float(row @ u) for row in y), strict=True):
            total += (a - b) ** 2
    return 3 * x.shape[1] * total / len(x) / len(along)


def test_the_distance_is_the_sum_over_directions_and_ordered_rows():
    y = RNG.normal(size=(40, 6)) * 2 + 1
    found = mind(X, y, directions=70, seed=3)  # more than one block
    along = vector_distances.directions(70, 6, 3)
    assert found.value == pytest.approx(by_hand(X, y, along), rel=1e-12)
    assert (found.samples, found.directions) == (40, 70)
    each = [by_hand(X, y, [u]) for u in along]
    assert found.direction_error == pytest.approx(np.std(each, ddof=1) / np.sqrt(70), rel=1e-9)


def test_a_shift_has_three_times_its_squared_length():
    """The mean of <u, m>^2 over the sphere is |m|^2 / D."""
    shift = np.array([1.0, -2, 0, 0.5, 0, 3])
    found = mind(X + shift, X, directions=4000)
    assert abs(found.value - 3 * shift @ shift) < 4 * found.direction_error < 0.1 * found.value


def test_in_one_dimension_it_is_the_squared_wasserstein_distance():
    x = RNG.normal(size=(30, 1))
    y = RNG.normal(size=(30, 1)) + 2
    assert mind(x, y, directions=2).value == pytest.approx(3 * np.mean((np.sort(x[:, 0]) - np.sort(y[:, 0])) ** 2))


def test_equal_sets_have_none_and_of_the_larger_rows_are_drawn():
    assert mind(X, X[::-1]).value == pytest.approx(0, abs=1e-12)
    larger = np.concatenate([X, X + 100])
    found = mind(X, larger, seed=1)
    assert found.samples == 40 and found == mind(X, larger, seed=1)
    assert found.value > 1000  # the rows are drawn from all of them, not from the first


@pytest.mark.parametrize(
    ("x", "y", "directions", "words"),
    [
        (X, X[:, :5], 10, "features: 6 and 5 dimensions"),
        (X, np.full((3, 6), np.nan), 10, "reference"),
        (X, X, 1, "2 directions"),
    ],
)
def test_sets_that_do_not_fit_are_refused(x, y, directions, words):
    with pytest.raises(ValueError, match=words):
        mind(x, y, directions)


def test_the_ratio_is_the_mean_over_spaces():
    assert representation_ratio({"a": 6.0, "b": 0.1}, {"a": 2.0, "b": 0.1}) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="samples have a, and the real images a, b"):
        representation_ratio({"a": 6.0}, {"a": 2.0, "b": 0.1})
    with pytest.raises(ValueError, match="in b is 0"):
        representation_ratio({"a": 6.0, "b": 1.0}, {"a": 2.0, "b": 0.0})


def test_real_images_are_as_far_as_the_authors_measured():
    """Yang et al. 2026, eval_all_fds.py: validation images of ImageNet have the ratio one under these distances."""
    measured = {"adm": 1.68, "fdr-convnext": 56.87, "dinov2": 14.19, "fdr-mae": 0.04, "siglip": 0.60, "clip": 5.60}
    assert representation_ratio(measured, FLOORS) == pytest.approx(1.0)
    for name, distance in measured.items():
        assert representation_ratio({name: 2 * distance}, {name: FLOORS[name]}) == pytest.approx(2.0)
