"""Sets of point clouds: distances between clouds, and how alike two sets are by them.

    chamfer(a, b) = mean_i min_j |a_i - b_j|^2 + mean_j min_i |a_i - b_j|^2
    earth_movers(a, b) = min over permutations p of mean_i |a_i - b_p(i)|

The first is of squared lengths and the second of lengths, both means over points, as PointFlow's code has them; in the
papers they are sums.

| figure | over samples S and references R of one size | of the data's own distribution |
| --- | --- | --- |
| 1-NNA | share of S and R whose nearest other cloud of both is of their own set | 1/2 |
| coverage | share of R that are the nearest reference of a sample | that of a floor |
| minimum matching distance | mean over R of the distance to the nearest sample | likewise |

Only 1-NNA measures quality and variety at once: coverage rises with bad samples that are scattered, and the minimum
matching distance hardly sees samples that are bad.

References: Achlioptas et al. 2018, "Learning Representations and Generative Models for 3D Point Clouds" (coverage,
minimum matching distance); Lopez-Paz & Oquab 2017, "Revisiting Classifier Two-Sample Tests"; Yang et al. 2019,
"PointFlow" (1-NNA of clouds).
"""

__all__ = [
    "chamfer",
    "coverage",
    "distances",
    "earth_movers",
    "minimum_matching_distance",
    "nearest_neighbour_accuracy",
]

from collections.abc import Callable
from typing import Any

import numpy as np

from diffusion.metrics import pairwise
from diffusion.package import public

NUMBERS = 2**22  # distances of points that are held at once: 32 MiB


def chamfer(cloud: np.ndarray, clouds: np.ndarray) -> np.ndarray:
    """The Chamfer distance of one cloud to several, of squared lengths; the clouds may have another number of points.

        mean_i min_j |a_i - b_j|^2 + mean_j min_i |a_i - b_j|^2

    Args:
        cloud: points of one cloud, [N, D].
        clouds: points of the others, [K, M, D].

    Returns:
        float64 [K].
    """
    squared = _between(cloud, clouds, "sqeuclidean")
    return squared.min(axis=2).mean(axis=0) + squared.min(axis=0).mean(axis=1)


def earth_movers(cloud: np.ndarray, clouds: np.ndarray) -> np.ndarray:
    """The earth mover's distance of one cloud to several of as many points, by exact assignment.

        min over permutations p of mean_i |a_i - b_p(i)|

    Args:
        cloud: points of one cloud, [N, D].
        clouds: points of the others, [K, N, D].

    Returns:
        float64 [K].

    Raises:
        ValueError: if the clouds have another number of points.

    Reference: Kuhn 1955, "The Hungarian method"; scipy.optimize.linear_sum_assignment.
    """
    from scipy.optimize import linear_sum_assignment  # imported here: it takes long

    if cloud.shape[0] != clouds.shape[1]:
        raise ValueError(
            "the earth mover's distance matches point with point, so both clouds need the same number; got "
            f"{len(cloud)} and {clouds.shape[1]} points"
        )
    length = _between(cloud, clouds, "euclidean")
    return np.array([length[:, k][linear_sum_assignment(length[:, k])].mean() for k in range(len(clouds))])


def distances(
    first: np.ndarray,
    second: np.ndarray | None,
    distance: Callable[[np.ndarray, np.ndarray], np.ndarray],
    done: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """The distances between all clouds of two sets, in blocks that fit into memory.

    Args:
        first: clouds of the first set, [A, N, D].
        second: clouds of the second set, [B, M, D]; None for the first set itself, whose distances are computed once
            for each pair.
        distance: `chamfer` or `earth_movers`, symmetric.
        done: receives the number of rows that are done.

    Returns:
        float64 [A, B].

    Raises:
        ValueError: for sets that are no clouds, without points, or with numbers that are not finite.
    """
    first = _checked("first", first)
    others = first if second is None else _checked("second", second)
    if first.shape[2] != others.shape[2]:
        raise ValueError(f"clouds must have the same dimension; got {first.shape[2]} and {others.shape[2]}")
    table = np.zeros((len(first), len(others)))
    block = max(1, NUMBERS // (first.shape[1] * others.shape[1]))
    for row, cloud in enumerate(first):
        begin = row + 1 if second is None else 0
        for part in pairwise.blocks(len(others) - begin, block):
            columns = slice(part.start + begin, part.stop + begin)
            table[row, columns] = distance(cloud, others[columns])
        done(row + 1)
    return table + table.T if second is None else table


def nearest_neighbour_accuracy(within: np.ndarray, across: np.ndarray, references: np.ndarray) -> float:
    """1-NNA: the share of clouds whose nearest other cloud is of their own set.

    1/2 in expectation where both sets are of one distribution, 1 where the sets are far apart, 0 where each sample is a
    copy of a different reference.

    Args:
        within: distances between samples, [N, N].
        across: distances from samples to references, [N, N].
        references: distances between references, [N, N].

    Returns:
        Share in [0, 1].

    Raises:
        ValueError: if the sets are not of one size of at least 2, for which chance is not 1/2.

    Reference: Lopez-Paz & Oquab 2017; Yang et al. 2019.
    """
    number = len(across)
    if number < 2 or not within.shape == across.shape == references.shape == (number, number):
        raise ValueError(
            f"1-NNA needs two sets of one size, at least 2; got distances of the shapes {list(within.shape)}, "
            f"{list(across.shape)} and {list(references.shape)}"
        )
    every = np.block([[within, across], [across.T, references]])
    np.fill_diagonal(every, np.inf)
    is_sample = np.arange(2 * number) < number
    return float((is_sample[every.argmin(axis=1)] == is_sample).mean())


def coverage(across: np.ndarray) -> float:
    """The share of references that are the nearest of at least one sample.

    Args:
        across: distances from samples to references, [N, M].

    Reference: Achlioptas et al. 2018.
    """
    return len(np.unique(across.argmin(axis=1))) / across.shape[1]


def minimum_matching_distance(across: np.ndarray) -> float:
    """The mean over references of the distance to their nearest sample; arguments as `coverage`.

    Reference: Achlioptas et al. 2018.
    """
    return float(across.min(axis=0).mean())


def _between(cloud: np.ndarray, clouds: np.ndarray, metric: Any) -> np.ndarray:
    """Lengths between points, [N, K, M]."""
    from scipy.spatial.distance import cdist

    count, points, dims = clouds.shape
    return cdist(cloud, clouds.reshape(count * points, dims), metric).reshape(len(cloud), count, points)


def _checked(name: str, clouds: np.ndarray) -> np.ndarray:
    clouds = np.asarray(clouds, np.float64)
    if clouds.ndim != 3 or not clouds.size:
        raise ValueError(f"the {name} set must be clouds [K, N, D] with at least one point; got {list(clouds.shape)}")
    finite = np.isfinite(clouds).all(axis=(1, 2))
    if not finite.all():
        raise ValueError(f"cloud {int(np.argmin(finite))} of the {name} set holds NaN or infinity")
    return clouds


public.declare(__name__)
