"""Precision, recall, density and coverage: overlap of two sets of features, by balls around their rows."""

from typing import NamedTuple

import numpy as np

from diffusion.metrics import bootstrap, pairwise

_TIE = 1e-9  # squared distances that differ relatively by less are equal, so that rounding decides no tie


class Overlap(NamedTuple):
    """The four figures of `overlap`.

    Attributes:
        precision: share of samples inside the real manifold, in [0, 1].
        recall: share of real rows inside the samples' manifold, in [0, 1].
        density: mean number of real balls around a sample, over k; 1 is expected for equal distributions, and more
            is possible.
        coverage: share of real balls that hold a sample, in [0, 1].
        standard_errors: the standard errors of the four by name, over draws of the rows that are averaged, with the
            balls fixed.
        manifold_k: neighbours in precision and recall.
        density_k: neighbours in density and coverage.
        samples: number of generated rows.
        reference: number of real rows.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    standard_errors: dict[str, float]
    manifold_k: int
    density_k: int
    samples: int
    reference: int


def overlap(
    samples: np.ndarray, reference: np.ndarray, manifold_k: int = 3, density_k: int = 5, block: int = pairwise.BLOCK
) -> Overlap:
    """Precision and recall (Kynkaanniemi et al. 2019) with density and coverage (Naeem et al. 2020), in one pass.

    Let r_k(x) be the distance from x to the k-th nearest other row of its own set. With k = 3,

        precision = mean over samples s of [|s - x| <= r_k(x) for some real x],
        recall    = mean over real x of [|x - s| <= r_k(s) for some sample s]

    ("Improved Precision and Recall Metric for Assessing Generative Models", eq. 1 and 2), and with k = 5,

        density   = mean over samples s of (number of real x with |s - x| < r_k(x)) / k,
        coverage  = mean over real x of [|s - x| < r_k(x) for some sample s]

    ("Reliable Fidelity and Diversity Metrics for Generative Models", section 3).

    A row on the edge of a ball counts in the first two, as in the first paper's eq. 1, and does not count in the last
    two, as in the second paper's code (prdc, which never counts it); torch-fidelity and ADM's evaluator count it.
    Distances are float64, and those that agree within rounding are equal. All four depend on the numbers of rows, so
    compare only figures of equal numbers (50,000 samples against as many real images, or 10,000 against 10,000).

    Args:
        samples: features of generated images, [N, D], N > manifold_k.
        reference: features of real images, [M, D], M > max(manifold_k, density_k).
        manifold_k: neighbours in precision and recall.
        density_k: neighbours in density and coverage.
        block: rows in one matrix product; bounds the memory, not the result.

    Raises:
        ValueError: if shapes do not fit, a feature is not finite, a k is below 1, or there are too few rows for k
            neighbours.
    """
    if min(manifold_k, density_k) < 1:
        raise ValueError(f"manifold_k = {manifold_k} and density_k = {density_k} must be at least 1")
    samples = pairwise.checked("samples", samples, least=manifold_k + 1)
    reference = pairwise.checked("reference", reference, least=max(manifold_k, density_k) + 1)
    pairwise.same_dim(samples, reference)
    real = pairwise.smallest(reference, None, max(manifold_k, density_k), block)
    real_radii = real[:, manifold_k - 1] * (1 + _TIE)
    density_radii = real[:, density_k - 1] * (1 - _TIE)
    sample_radii = pairwise.smallest(samples, None, manifold_k, block)[:, -1] * (1 + _TIE)

    precise = np.zeros(len(samples), bool)
    balls = np.zeros(len(samples), np.int64)
    recalled = np.zeros(len(reference), bool)
    covered = np.zeros(len(reference), bool)
    for rows in pairwise.blocks(len(samples), block):
        for real_rows in pairwise.blocks(len(reference), block):
            squared = pairwise.squared_distances(samples[rows], reference[real_rows])
            precise[rows] |= (squared <= real_radii[real_rows]).any(axis=1)
            recalled[real_rows] |= (squared <= sample_radii[rows, None]).any(axis=0)
            inside = squared < density_radii[real_rows]
            balls[rows] += inside.sum(axis=1)
            covered[real_rows] |= inside.any(axis=0)

    by_name = {"precision": precise, "recall": recalled, "density": balls / density_k, "coverage": covered}
    errors = {name: bootstrap.standard_error(values) for name, values in by_name.items()}
    means = {name: float(values.mean()) for name, values in by_name.items()}
    return Overlap(
        **means,
        standard_errors=errors,
        manifold_k=manifold_k,
        density_k=density_k,
        samples=len(samples),
        reference=len(reference),
    )
