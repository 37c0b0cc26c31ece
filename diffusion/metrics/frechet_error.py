"""The standard error of a Frechet distance over draws of the samples."""

import numpy as np

from diffusion.metrics import bootstrap, frechet, pairwise

_SMALLEST = 1e-12  # share of the largest eigenvalue below which an eigenvalue is rounding


def standard_error(samples: np.ndarray, reference: frechet.Moments) -> float:
    """The standard error of the Frechet distance over draws of the samples, to first order, for a fixed reference.

    Let m and S be the mean and covariance of N samples, and mu and R those of the reference. By the delta method, one
    sample x moves the distance by its influence divided by N,

        influence(x) = 2 (m - mu).(x - m) + (x - m)^T (I - A) (x - m) - mean,    SE = std(influence) / sqrt(N),

    where A = L (L^T S L)^-1/2 L^T with R = L L^T is the derivative of 2 Tr((L^T S L)^1/2) with respect to S. This costs
    one more eigenvalue problem, while a bootstrap costs hundreds. If there are no more samples than features, so that
    S = M M^T with few columns of M, the singular values of L^T M take its place, in a time that grows with the square
    of the number of samples. The standard error does not include the bias at finite N (see `extrapolation`).

    Args:
        samples: features of the samples, [N, D], N >= 2.
        reference: moments of the D features of real images.

    Returns:
        The standard error, like the distance in squared units of the features.

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
