"""Pairings against SciPy's of the plain costs, and potentials against the duality of linear programs."""

import numpy as np
import pytest
import scipy.optimize
from scipy.spatial.distance import cdist

from diffusion.experiments.remake import exact_pairing
from diffusion.experiments.remake.exact_pairing import Potentials, pairing, potentials


def _clouds(seed: int, number: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(number, 2)), 2 + rng.normal(size=(number, 2))


@pytest.mark.parametrize("hint", ["none", "alike", "nonsense"])
def test_pairs_are_those_of_the_plain_costs(hint):
    x, y = _clouds(0)
    nonsense = Potentials(y[:7], np.arange(7.0) * 10)
    alike = {"none": None, "alike": potentials(*_clouds(1, 40)), "nonsense": nonsense}[hint]
    np.testing.assert_array_equal(
        pairing(x, y, alike), scipy.optimize.linear_sum_assignment(cdist(x, y, "sqeuclidean"))[1]
    )


def test_potentials_lie_below_the_costs_and_add_up_to_the_least_sum():
    x, y = _clouds(2)
    found = potentials(x, y)
    costs = cdist(x, found.y, "sqeuclidean")
    u = np.diagonal(costs) - found.values
    assert (costs - u[:, None] - found.values).min() > -1e-8
    plain = cdist(x, y, "sqeuclidean")
    least = plain[scipy.optimize.linear_sum_assignment(plain)].sum()
    assert u.sum() + found.values.sum() == pytest.approx(least, rel=1e-12)


def test_potentials_are_exact_however_far_apart_points_lie():
    """A path that is shorter by 4 counts beside others of millions; all of these numbers are exact."""
    x, y = np.array([[3000.0], [-2], [-2], [0]]), np.array([[-2.0], [-1], [-100], [-3000]])
    found = potentials(x, y)
    costs = cdist(x, found.y, "sqeuclidean")
    assert (costs - np.diagonal(costs)[:, None] + found.values[:, None] - found.values).min() == 0


def test_potentials_of_the_same_clouds_leave_nothing_to_search(monkeypatch):
    """Costs that their own potentials have reduced are 0 for pairs, and nowhere below."""
    x, y = _clouds(3)
    hint, searched = potentials(x, y), []
    solve = scipy.optimize.linear_sum_assignment
    monkeypatch.setattr(
        exact_pairing.scipy.optimize, "linear_sum_assignment", lambda costs: (searched.append(costs), solve(costs))[1]
    )
    p = pairing(x, y, hint)
    assert searched[0].min() == 0
    np.testing.assert_allclose(searched[0][p, np.arange(len(x))], 0, atol=1e-8)
