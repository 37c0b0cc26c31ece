"""The standard error of a Frechet distance over draws of the samples."""

import numpy as np

from diffusion.metrics import bootstrap, frechet, pairwise

_SMALLEST = 1e-12  # share of the largest eigenvalue below which an eigenvalue is rounding


def standard_error(samples: np.ndarray, reference: frechet.Moments) -> float:
    """Standard error of the Frechet distance over draws of the samples, the reference held fixed, to first order.

    By the delta method: with m, S the mean and covariance of N samples and mu, R the mean and covariance of the
    reference, one sample x moves the distance by its influence over N,

        influence(x) = 2 (m - mu).(x - m) + (x - m)^T (I - A) (x - m) - mean,    SE = std(influence) / sqrt(N),

    where A = L (L^T S L)^-1/2 L^T with R = L L^T is the derivative of 2 Tr((L^T S L)^1/2) with respect to S. It costs
    one more eigenvalue problem; a bootstrap costs hundreds. It does not include the bias at finite N (`extrapolation`).

    Args:
        samples: features, [N, D], N >= 2.
        reference: moments of the real features.

    Returns:
        The standard error, in squared units of the features.

    Raises:
        ValueError: if shapes do not fit, a feature is not finite, or there are fewer than two rows.
    """
    samples = pairwise.checked("samples", samples, least=2)
    pairwise.same_dim(samples, reference.mean[None])
    moments = frechet.moments(samples)
    with frechet.one_thread():
        order, root = frechet.cholesky(frechet.covariance(reference))
        values, vectors = np.linalg.eigh(root.T @ frechet.covariance(moments)[order][:, order] @ root)
    in_range = values > _SMALLEST * values.max(initial=0)
    half = root @ (vectors[:, in_range] / values[in_range] ** 0.25)  # A = half half^T, in this order of the features
    influence = np.empty(len(samples))
    for rows in pairwise.blocks(len(samples), pairwise.BLOCK):
        x = np.asarray(samples[rows], np.float64) - moments.mean
        shift = 2 * x @ (moments.mean - reference.mean)
        influence[rows] = shift + np.square(x).sum(axis=1) - np.square(x[:, order] @ half).sum(axis=1)
    return bootstrap.standard_error(influence)
