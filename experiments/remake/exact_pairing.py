"""Exact optimal transport between two clouds of equal size, which known potentials of similar clouds make faster."""

from typing import NamedTuple

import numpy as np
import scipy.optimize
from scipy.spatial.distance import cdist


class Potentials(NamedTuple):
    """Potentials of the pairing of two clouds x and y, which prove that it is the best.

    With potentials u of x and v of y, u_i + v_j <= |x_i - y_j|^2 for all i and j, with equality for pairs.

    Attributes:
        y: the points that were paired with x, `[N, D]`.
        values: their potentials v, `[N]`.
    """

    y: np.ndarray
    values: np.ndarray


def pairing(x: np.ndarray, y: np.ndarray, alike: Potentials | None = None) -> np.ndarray:
    """The permutation p with the least sum_i |x_i - y_p(i)|^2.

    The costs are reduced by potentials before SciPy's search. This does not change the optimum, since it takes the same
    sum from every permutation; with good potentials the search is short. The search's rows are the points of y: it is
    slower if neighbouring rows are neighbouring points.

    Args:
        x: points, `[N, D]`.
        y: points, `[N, D]`, best in random order.
        alike: potentials of two clouds from the same distributions; None starts the search without potentials.

    Returns:
        p, int `[N]`.
    """
    costs = cdist(y, x, "sqeuclidean")
    if alike is not None:
        costs -= (cdist(alike.y, x, "sqeuclidean") - alike.values[:, None]).min(0)
        costs -= costs.min(1, keepdims=True)
    return np.argsort(scipy.optimize.linear_sum_assignment(costs)[1])


def potentials(x: np.ndarray, y: np.ndarray) -> Potentials:
    """The potentials of the pairing of two clouds.

    They are the lengths of shortest paths between the points of y, by the algorithm of Bellman and Ford. The step from
    y_k to y_j costs the difference that x_k, the partner of y_k, would pay for y_j instead.

    Args:
        x: points, `[N, D]`.
        y: points, `[N, D]`.
    """
    y = y[pairing(x, y)]
    costs = cdist(x, y, "sqeuclidean")
    more = costs - np.diagonal(costs)[:, None]
    values = np.zeros(len(y))
    for _ in range(len(y)):
        shorter = np.minimum(values, (values[:, None] + more).min(0))
        if np.allclose(shorter, values, rtol=0, atol=1e-9):
            break
        values = shorter
    return Potentials(y, values)
