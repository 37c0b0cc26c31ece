"""MIND, the Monge Inception distance: the sliced Wasserstein distance of features, on the scale of FID."""

from typing import NamedTuple

import numpy as np

from diffusion.metrics import bootstrap, pairwise, vector_distances

BLOCK = 50  # directions at once: bounds the memory and changes the result by rounding only


class Monge(NamedTuple):
    """A sliced Wasserstein distance.

    Attributes:
        value: the distance.
        direction_error: standard error of the value over draws of the directions, the rows fixed.
        samples: rows of each set that are compared.
        directions: number of random directions.
    """

    value: float
    direction_error: float
    samples: int
    directions: int


def mind(samples: np.ndarray, reference: np.ndarray, directions: int = 1000, seed: int = 0) -> Monge:
    """Monge Inception distance: 3 D times the squared sliced 2-Wasserstein distance of two sets of N features.

        3 D mean over u of  1/N sum_i (<u, x>_(i) - <u, y>_(i))^2,     u uniform on the sphere, (i) the i-th in order

    If one set is larger, as many of its rows as the smaller has are drawn without replacement. Two sets whose means
    differ by m and which are equal otherwise have 3 |m|^2. It has a bias that falls with N: compare figures of equal N
    (1,000, 2,000 or 5,000 in the paper, which takes Inception's 2048 features and 1,000 directions).

    Args:
        samples: features of generated images, [N, D].
        reference: features of real images, [M, D].
        directions: number of random directions, at least 2.
        seed: the seed of the directions and of the rows that are drawn; the same seed gives the same figure.

    Returns:
        The distance, in units of the features squared.

    Raises:
        ValueError: if shapes do not fit, a feature is not finite, or there are fewer than two directions.

    Reference: Berthet et al., "MIND: Monge Inception Distance for Generative Models Evaluation", 2026.
    """
    if directions < 2:
        raise ValueError(f"MIND needs at least 2 directions, got {directions}")
    x = pairwise.checked("samples", samples)
    y = pairwise.checked("reference", reference)
    pairwise.same_dim(x, y)
    count = min(len(x), len(y))
    rng = np.random.default_rng(seed)
    x, y = (rows if len(rows) == count else rows[rng.permutation(len(rows))[:count]] for rows in (x, y))
    along = vector_distances.directions(directions, x.shape[1], seed)
    distances = np.empty(directions)
    for block in pairwise.blocks(directions, BLOCK):
        ordered = [np.sort(rows @ along[block].T, axis=0) for rows in (x, y)]
        distances[block] = 3 * x.shape[1] * ((ordered[0] - ordered[1]) ** 2).mean(axis=0)
    return Monge(float(distances.mean()), bootstrap.standard_error(distances), count, directions)
