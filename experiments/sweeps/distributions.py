"""Distributions that a sweep samples from, each as its quantile function: u in [0, 1) -> value.

Invalid arguments raise a ConfigError.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from diffusion.arrays import arguments
from diffusion.recipe import ConfigError

Distribution = Callable[[float], Any]
DIGITS = 4  # the significant digits of a drawn number, so that people can read and type it


def uniform(low: float, high: float) -> Distribution:
    """Uniform between low and high, to four digits."""
    _require(low < high, f"uniform({low}, {high})", "low < high")
    return lambda u: _rounded(low + u * (high - low))


def log_uniform(low: float, high: float) -> Distribution:
    """Log-uniform between low and high, to four digits; suitable for a learning rate."""
    _require(0 < low < high, f"log_uniform({low}, {high})", "0 < low < high")
    return lambda u: _rounded(math.exp(math.log(low) + u * (math.log(high) - math.log(low))))


def integers(low: int, high: int) -> Distribution:
    """Uniform over the integers from low to high, both included."""
    valid = arguments.fits(low, int) and arguments.fits(high, int) and low <= high
    _require(valid, f"integers({low}, {high})", "two integers, low <= high")
    return lambda u: low + int(u * (high - low + 1))


def choice(values: Sequence[Any]) -> Distribution:
    """Uniform over the values."""
    values = tuple(values)
    _require(len(values) > 0, "choice([])", "at least one value")
    return lambda u: values[int(u * len(values))]


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _require(fits: bool, what: str, valid: str) -> None:
    if not fits:
        raise ConfigError(f"{what}. Valid: {valid}.")
