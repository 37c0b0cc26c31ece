"""Exact optimal transport between clouds of as many points, made fast by the potentials of another pair of clouds."""

from typing import NamedTuple

import numpy as np
import scipy.optimize
from scipy.spatial.distance import cdist


class Potentials(NamedTuple):
    """Potentials of the pairing of two clouds x and y.

    Attributes:
        y: `[N, D]` the points that were paired with x.
        values: `[N]` their potentials v: with those of x, u_i + v_j <= |x_i - y_j|^2, with equality for pairs.
    """

    y: np.ndarray
    values: np.ndarray


def pairing(x: np.ndarray, y: np.ndarray, alike: Potentials | None = None) -> np.ndarray:
    """The permutation p with the least sum_i |x_i - y_p(i)|^2.

    Potentials change no optimum, since they take the same sum from every permutation. SciPy's search is short in costs
    that good ones have reduced. Its rows are those of y: it is slower where its rows lie in order.

    Args:
        x: `[N, D]` points.
        y: `[N, D]` points, best in random order.
        alike: potentials of two clouds that were drawn like these; without them the pairing starts from nothing.

    Returns:
        `[N]` int p.
    """
    costs = cdist(y, x, "sqeuclidean")
    if alike is not None:
        costs -= (cdist(alike.y, x, "sqeuclidean") - alike.values[:, None]).min(0)
        costs -= costs.min(1, keepdims=True)
    return np.argsort(scipy.optimize.linear_sum_assignment(costs)[1])


def potentials(x: np.ndarray, y: np.ndarray) -> Potentials:
    """The potentials of the pairing of two clouds.

    They are shortest paths (Bellman and Ford) between the points of y, where a path from y_k to y_j costs what x_k,
    which is paired with y_k, pays more for y_j.
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
