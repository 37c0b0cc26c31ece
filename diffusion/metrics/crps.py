"""The continuous ranked probability score (CRPS) of forecasts, by samples and in closed form, and their intervals.

    CRPS(F, y) = integral (F(z) - 1[y <= z])^2 dz = E|X - y| - E|X - X'| / 2,    X, X' ~ F independent

It is 0 for a point at y, |X - y| for any other point, and in units of y; lower is better. Its mean is least where F is
the distribution of y: a proper score (Gneiting and Raftery 2007).
"""

import math
from collections.abc import Sequence

import numpy as np

LEVELS = tuple(i / 20 for i in range(1, 20))
"""0.05, 0.1, .., 0.95: the levels of CSDI."""


def fair(samples: np.ndarray, y: np.ndarray) -> np.ndarray:
    """An unbiased estimate of the CRPS of the distribution that the samples are drawn from.

        mean_i |x_i - y| - sum_ij |x_i - x_j| / (2 S (S - 1))

    Args:
        samples: the samples of each forecast, `[S, ...]`, S >= 2.
        y: the targets, `[...]`.

    Returns:
        float64 `[...]`; one value may be below 0.

    Raises:
        ValueError: for other shapes, fewer than 2 samples, or a number that is not finite.

    Reference: Ferro, "Fair scores for ensemble forecasts", 2014; Zamo and Naveau, "Estimation of the continuous ranked
    probability score with limited information", 2018.
    """
    return _energy(samples, y, lambda S: S * (S - 1), least=2)


def plug_in(samples: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The exact CRPS of the empirical distribution of the samples: `fair` with S^2 for S (S - 1), S >= 1.

    The empirical distribution of the samples scores worse than the distribution that they are drawn from, on average by
    E|X - X'| / (2 S).

    Reference: Gneiting and Raftery, "Strictly Proper Scoring Rules, Prediction, and Estimation", 2007.
    """
    return _energy(samples, y, lambda S: S**2, least=1)


def _energy(samples, y, pairs, least):
    samples, y = _checked(samples, y, least)
    S = len(samples)
    # sum_ij |x_i - x_j| = 2 sum_i (2 i - S - 1) x_(i), of the samples in their order
    rank = np.arange(1 - S, S, 2).reshape(-1, *[1] * y.ndim)
    spread = 2 * (rank * np.sort(samples, axis=0)).sum(0)
    return np.abs(samples - y).mean(0) - spread / (2 * pairs(S))


def gaussian(mean: np.ndarray, std: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The CRPS of N(mean, std^2), exactly.

        std (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)),    z = (y - mean) / std

    Args:
        mean, y: the mean of each forecast, and its target, `[...]`.
        std: the standard deviation, `[...]`, >= 0; where it is 0 the score is |y - mean|.

    Returns:
        float64 `[...]`.

    Raises:
        ValueError: if std has a negative value or NaN.

    Reference: Gneiting and Raftery, "Strictly Proper Scoring Rules, Prediction, and Estimation", 2007.
    """
    from scipy.special import ndtr  # imported here: it takes long

    std = np.asarray(std, np.float64)
    if not (std >= 0).all():
        raise ValueError(f"std has the value {std.min()}. Valid: at least 0")
    some = std > 0
    error = np.asarray(y, np.float64) - mean
    z = error / np.where(some, std, 1)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return np.where(some, std * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi)), np.abs(error))


def quantile_losses(samples: np.ndarray, y: np.ndarray, levels: Sequence[float] = LEVELS) -> np.ndarray:
    """Twice the mean quantile loss of each target over the levels.

        sum_k 2 (q_nk - y_n) (1[y_n <= q_nk] - a_k) / K,    q_nk the a_k-quantile of the samples

    Args:
        samples: the samples of each target, `[S, ...]`, S >= 1.
        y: the targets, `[...]`.
        levels: a, in (0, 1).

    Returns:
        float64 `[...]`, in units of y, >= 0.

    Raises:
        ValueError: as `fair`.
    """
    samples, y = _checked(samples, y, 1)
    a = np.asarray(levels, np.float64).reshape(-1, *[1] * y.ndim)
    q = np.quantile(samples, a.ravel(), axis=0)
    return 2 * ((q - y) * ((y <= q) - a)).mean(0)


def quantile_form(
    samples: np.ndarray, y: np.ndarray, real: np.ndarray | None = None, levels: Sequence[float] = LEVELS
) -> float:
    """The CRPS as CSDI reports it: the mean of `quantile_losses` over 19 levels, over the mean absolute target.

        sum_k sum_n 2 (q_nk - y_n) (1[y_n <= q_nk] - a_k) / (K sum_n |y_n|),    q_nk the a_k-quantile of the samples

    Args:
        samples: the samples of all targets of the test set, `[S, ...]`.
        y: the targets, `[...]`.
        real: the targets that count, Bool `[...]`; None: all.
        levels: a, in (0, 1).

    Returns:
        A number without a unit, relative to the size of the targets.

    Raises:
        ValueError: as `fair`, and where no target counts or all are 0.

    Reference: Tashiro et al., "CSDI: Conditional Score-based Diffusion Models for Probabilistic Time Series
    Imputation", 2021, appendix on the CRPS.
    """
    samples, y = _checked(samples, y, 1)
    real = np.ones(y.shape, bool) if real is None else np.asarray(real, bool)
    scale = np.abs(y[real]).sum()
    if not scale > 0:
        raise ValueError(
            "quantile_form: the score is relative to the size of the targets, and no target counts or all are 0"
        )
    return float(quantile_losses(samples[:, real], y[real], levels).sum() / scale)


def quantile_sum(
    samples: np.ndarray, y: np.ndarray, real: np.ndarray | None = None, levels: Sequence[float] = LEVELS
) -> float:
    """CRPS-sum: `quantile_form` of the sum over channels, which sees whether samples know how these go together.

    Args:
        samples: the samples, `[S, ..., C]`.
        y: the targets, `[..., C]`.
        real: the targets that count, Bool `[..., C]`; a step counts if every channel does.
        levels: the levels of `quantile_form`.

    Reference: Salinas et al., "High-dimensional multivariate forecasting with low-rank Gaussian copula processes",
    2019; Tashiro et al., "CSDI", 2021, with the quantile form.
    """
    real = np.ones(np.shape(y), bool) if real is None else np.asarray(real, bool)
    return quantile_form(np.sum(samples, -1), np.sum(y, -1), np.asarray(real.all(-1)), levels)


def coverage(samples: np.ndarray, y: np.ndarray, level: float) -> np.ndarray:
    """Whether each target lies in the central interval of its samples, between the quantiles (1 -+ level) / 2.

    Args:
        samples: the samples of each forecast, `[S, ...]`.
        y: the targets, `[...]`.
        level: the share that the interval should cover, in (0, 1). If the targets have the samples' distribution, it
            covers the share level (S - 1) / (S + 1) of them.

    Returns:
        Bool `[...]`.

    Raises:
        ValueError: if level is not in (0, 1), there are fewer than two samples, the shapes do not fit, or a number is
            not finite.
    """
    if not 0 < level < 1:
        raise ValueError(f"level = {level} must be in (0, 1)")
    samples, y = _checked(samples, y, 2)
    low, high = np.quantile(samples, ((1 - level) / 2, (1 + level) / 2), axis=0)
    return (low <= y) & (y <= high)


def _checked(samples, y, least):
    samples, y = np.asarray(samples, np.float64), np.asarray(y, np.float64)
    if samples.shape[1:] != y.shape or len(samples) < least:
        raise ValueError(f"samples {samples.shape} and targets {y.shape}. Valid: [S, ...] and [...], S >= {least}")
    for name, values in (("samples", samples), ("targets", y)):
        if not np.isfinite(values).all():
            raise ValueError(f"{(~np.isfinite(values)).sum()} of the {name} are not finite numbers")
    return samples, y
