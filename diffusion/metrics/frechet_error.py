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
    one more eigenvalue problem; a bootstrap costs hundreds. For no more samples than features, S = M M^T, the singular
    values of L^T M take its place, in a time that grows with the square of the samples. It does not include the bias at
    finite N (`extrapolation`).

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
    mean, (number, features) = samples.mean(axis=0, dtype=np.float64), samples.shape
    with frechet.one_thread():
        order, root = frechet.cholesky(frechet.covariance(reference))
        if number <= features:
            deviations = (samples - mean)[:, order] / np.sqrt(number - 1)  # M^T, whose factor need not be triangular
            vectors, roots, _ = np.linalg.svd(root.T @ deviations.T, full_matrices=False)
            values = roots**2
        else:
            cov = frechet.covariance(frechet.moments(samples))
            values, vectors = np.linalg.eigh(root.T @ cov[order][:, order] @ root)
    in_range = values > _SMALLEST * values.max(initial=0)
    half = root @ (vectors[:, in_range] / values[in_range] ** 0.25)  # A = half half^T, in this order of the features
    influence = np.empty(len(samples))
    for rows in pairwise.blocks(len(samples), pairwise.BLOCK):
        x = np.asarray(samples[rows], np.float64) - mean
        shift = 2 * x @ (mean - reference.mean)
        influence[rows] = shift + np.square(x).sum(axis=1) - np.square(x[:, order] @ half).sum(axis=1)
    return bootstrap.standard_error(influence)
