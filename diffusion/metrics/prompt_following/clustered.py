"""The mean over pictures, several for each prompt, and its standard error over draws of the prompts."""

__all__ = ["Mean", "figure", "mean", "mean_of_means", "share"]

import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion.metrics import bootstrap
from diffusion.package import public


class Mean(NamedTuple):
    """A mean over pictures.

    Attributes:
        value: the mean.
        standard_error: the standard error of the mean, over draws of the prompts; NaN for one prompt.
        samples: number of pictures.
        prompts: number of prompts.
    """

    value: float
    standard_error: float
    samples: int
    prompts: int


def mean(values: Sequence[float] | np.ndarray, prompts: Sequence[Hashable] | np.ndarray) -> Mean:
    """The mean of values, whose standard error takes the pictures of a prompt as one draw.

    s^2 = P / (P - 1) sum_p (sum_{i in p} (x_i - mean))^2 / N^2, for N values of P prompts: the linearised variance of a
    mean over clusters. With one picture a prompt it is the usual standard error.

    Args:
        values: one value for each picture, `[N]`, N >= 1.
        prompts: the prompt of each value, `[N]`; values of one prompt belong together.

    Reference: Cochran 1977, "Sampling Techniques", section 9A.2.
    """
    numbers = np.asarray(values, np.float64)
    middle = float(numbers.mean())
    names = {name: number for number, name in enumerate(dict.fromkeys(prompts))}
    error = bootstrap.standard_error(numbers, np.array([names[name] for name in prompts]))
    return Mean(middle, error, len(numbers), len(names))


def mean_of_means(parts: Sequence[Mean]) -> Mean:
    """The mean of the means of independent parts, where each part weighs the same.

    Args:
        parts: the means to average, at least one, of different prompts.
    """
    error = math.sqrt(sum(part.standard_error**2 for part in parts)) / len(parts)
    value = sum(part.value for part in parts) / len(parts)
    return Mean(value, error, sum(part.samples for part in parts), sum(part.prompts for part in parts))


def share(right: Sequence[float] | np.ndarray, prompts: Sequence[Hashable] | np.ndarray) -> dict[str, Any]:
    """The share of True, with Wilson's interval for as many independent pictures as have its standard error.

    With p the share and s the standard error of `mean` over P prompts, these are n = P / (P - 1) p (1 - p) / s^2, at
    most all: all of them with one picture a prompt, P where the pictures of a prompt always agree. Where s is 0, as if
    all are True, n = P.

    Args:
        right: whether each picture is right, `[N]`, N >= 1; 1/2 for a tie of two pictures, which is half right.
        prompts: the prompt of each picture, `[N]`; pictures of one prompt belong together.

    Returns:
        {"share", "interval" (95 %), "count": N, "prompts": P}.

    Reference: Korn and Graubard 1998, "Confidence Intervals for Proportions with Small Expected Number of Positive
    Counts Estimated from Survey Data", the effective sample size; Wilson 1927.
    """
    average = mean([*map(float, right)], prompts)
    number = float(average.prompts)
    if average.prompts > 1 and average.standard_error > 0:
        spread = average.value * (1 - average.value) / average.standard_error**2
        number = min(average.prompts / (average.prompts - 1) * spread, float(average.samples))
    number = max(number, 1.0)
    interval = bootstrap.wilson_interval(average.value * number, number)
    return {"share": average.value, "interval": list(interval), "count": average.samples, "prompts": average.prompts}


def figure(values: Sequence[float] | np.ndarray, prompts: Sequence[Hashable]) -> dict[str, Any]:
    """The mean of values by `mean`, as a record has it: None for a standard error that is not finite.

    Args:
        values: one value for each picture, `[N]`, N >= 1.
        prompts: the prompt of each value, `[N]`; values of one prompt belong together.

    Returns:
        {"value", "standard_error", "samples", "prompts"}.
    """
    with np.errstate(invalid="ignore"):  # infinite values give NaN
        average = mean(values, prompts)
    return {
        **average._asdict(),
        "standard_error": average.standard_error if math.isfinite(average.standard_error) else None,
    }


public.declare(__name__, renamed={"of_means": "mean_of_means"})
