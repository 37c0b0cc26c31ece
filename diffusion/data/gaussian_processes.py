"""Gaussian processes on the steps of a series, whose conditional distributions are closed forms."""

import math
from typing import NamedTuple

import numpy as np

LEAST = 1e-6  # variance of the noise, below which a covariance is not safely inverted


class GaussianProcess(NamedTuple):
    """Series x of mean 0 with a known covariance.

    Attributes:
        shape: (L, C), steps and channels.
        covariance: float64 `[L C, L C]`, of the series flattened step by step.
    """

    shape: tuple[int, int]
    covariance: np.ndarray


def matern(lag: np.ndarray, scale: float) -> np.ndarray:
    """Matern's kernel of smoothness 3/2: (1 + sqrt(3) r / s) exp(-sqrt(3) r / s).

    Args:
        lag: r >= 0, the distance of two steps, in steps.
        scale: s > 0, in steps.

    Reference: Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006.
    """
    r = math.sqrt(3) * lag / scale
    return (1 + r) * np.exp(-r)


def periodic(lag: np.ndarray, period: float, scale: float) -> np.ndarray:
    """The kernel of functions that repeat themselves: exp(-2 sin^2(pi r / p) / s^2).

    Args:
        lag: r >= 0, the distance of two steps, in steps.
        period: p > 0, in steps.
        scale: s > 0; the smaller, the more waves in a period.

    Reference: Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006.
    """
    return np.exp(-2 * (np.sin(math.pi * lag / period) / scale) ** 2)


def stationary(
    length: int,
    channels: int = 1,
    *,
    correlation: float = 0.6,
    noise: float = 0.05,
    share: float = 0.5,
    scale: float = 10.0,
    period: float = 12.0,
    period_scale: float = 1.0,
) -> GaussianProcess:
    """Trend, season and noise, of variance 1 at every step.

        k = (1 - n) ((1 - q) matern + q periodic),    Cov(x_lc, x_mb) = k(|l - m|) R_cb + n 1[l = m, c = b]

    R has ones on its diagonal and the correlation elsewhere: the channels share everything but the noise.

    Args:
        length: L, the steps of a series.
        channels: C, the channels.
        correlation: the correlation of two channels, in [0, 1).
        noise: n, the variance of the noise, in [1e-6, 1).
        share: q, the share of the season in what is not noise, in [0, 1].
        scale: the scale of Matern's kernel, in steps.
        period: the period of the season, in steps.
        period_scale: the scale of the periodic kernel.

    Raises:
        ValueError: for a number out of range.
    """
    if length < 2 or channels < 1:
        raise ValueError(f"length = {length} must be at least 2 and channels = {channels} at least 1")
    if not (0 <= correlation < 1 and LEAST <= noise < 1 and 0 <= share <= 1):
        raise ValueError(
            f"correlation = {correlation} must be in [0, 1), noise = {noise} in [{LEAST}, 1) and share = {share} in "
            "[0, 1]"
        )
    if not min(scale, period, period_scale) > 0:
        raise ValueError(f"scale = {scale}, period = {period} and period_scale = {period_scale} must be positive")
    lag = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    kernel = (1 - share) * matern(lag, scale) + share * periodic(lag, period, period_scale)
    related = correlation + (1 - correlation) * np.eye(channels)
    covariance = (1 - noise) * np.kron(kernel, related) + noise * np.eye(length * channels)
    return GaussianProcess((length, channels), covariance)


def draw(mean: np.ndarray, covariance: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """Draws of N(mean, covariance), float64 `[number, D]`.

    Args:
        mean: the mean, `[D]`.
        covariance: the covariance, `[D, D]`, which may be singular.
        number: how many draws.
        rng: the generator of the draws.
    """
    values, axes = np.linalg.eigh(covariance)
    root = axes * np.sqrt(np.maximum(values, 0))
    return mean + rng.normal(size=(number, len(mean))) @ root.T


def conditional(process: GaussianProcess, given: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The exact distribution of a series when some of its values are given.

        mean = K_xo K_oo^-1 x_o,    covariance = K - K_xo K_oo^-1 K_ox

    A given value has itself as mean, and variance 0.

    Args:
        process: the process that the series is drawn from.
        given: the values where the mask is True, `[L, C]`, anything else elsewhere.
        mask: whether each value is given, Bool `[L, C]`.

    Returns:
        (mean `[L, C]`, covariance `[L C, L C]`), float64.

    Raises:
        ValueError: for other shapes.

    Reference: Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006.
    """
    if np.shape(given) != process.shape or np.shape(mask) != process.shape:
        raise ValueError(
            f"given has the shape {np.shape(given)} and mask {np.shape(mask)}; both must have the shape {process.shape}"
        )
    K = process.covariance
    is_given = np.asarray(mask, bool).ravel()
    weights = np.linalg.solve(K[np.ix_(is_given, is_given)], K[is_given]).T
    values = np.asarray(given, np.float64).ravel()[is_given]
    mean = weights @ values
    covariance = K - weights @ K[is_given]
    mean[is_given], covariance[is_given], covariance[:, is_given] = values, 0, 0  # exact, without rounding
    return mean.reshape(process.shape), (covariance + covariance.T) / 2


def deviation(process: GaussianProcess, covariance: np.ndarray) -> np.ndarray:
    """The standard deviation of each value, float64 `[L, C]`: the root of the covariance's diagonal.

    Args:
        process: the process of the series.
        covariance: the covariance, `[L C, L C]`, e.g. from `conditional`; a variance below 0 by rounding counts as 0.
    """
    return np.sqrt(np.maximum(np.diag(covariance), 0)).reshape(process.shape)
