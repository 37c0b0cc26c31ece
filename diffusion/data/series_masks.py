"""Masks of series for forecasting and imputation: they choose the hidden values, and make records of the series.

A record has the known values in its condition, and its example is the hidden values, so that the series is their sum:

    {"x": values where hidden, else 0,
     "condition": {"given": values where known, else 0, "mask": whether known, "real": whether hidden}}    all [L, C]

The run then learns p(hidden | known): noise, losses and samples concern only the hidden values ("real", see
`diffusion.padding`). A missing value is not known; in training it is not hidden either.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Hiding = Callable[[np.random.Generator, np.ndarray], np.ndarray]
"""(rng, Bool `[L, C]` where the series has values) -> Bool `[L, C]`, what is hidden. What is there else, is given."""


def forecast(horizon: int) -> Hiding:
    """Hides the last steps of all channels.

    Args:
        horizon: how many steps to hide, at least 1.

    Raises:
        ValueError: for none; when called, if no step is left.
    """
    if horizon < 1:
        raise ValueError(f"forecast: horizon = {horizon} must be at least 1 step")

    def hidden(rng: np.random.Generator, there: np.ndarray) -> np.ndarray:
        if horizon >= len(there):
            raise ValueError(
                f"forecast: horizon = {horizon} hides the whole of a series of {len(there)} steps. Valid: a horizon "
                "below the length"
            )
        return there & (np.arange(len(there)) >= len(there) - horizon)[:, None]

    return hidden


def gaps(least: float = 0.1, most: float = 0.7, longest: int = 12) -> Hiding:
    """Hides single points and gaps, each channel's own, until at least a random share of the series is hidden.

    Values that are missing anyway count in that share. The last gap may go beyond it, and gaps may join to longer ones.
    If there are two values or more, one at least is hidden and one given.

    Args:
        least, most: the bounds of that share, which is uniform between them, 0 < least <= most < 1.
        longest: the longest gap, in steps, before gaps join. Half of the gaps are single points by a coin, the others
            have 1 to `longest` steps.

    Raises:
        ValueError: for a number out of range.
    """
    if not 0 < least <= most < 1 or longest < 1:
        raise ValueError(
            f"gaps: least = {least}, most = {most}, longest = {longest}. Valid: 0 < least <= most < 1 <= longest"
        )

    def hidden(rng: np.random.Generator, there: np.ndarray) -> np.ndarray:
        length, channels = there.shape
        hides = np.zeros(there.shape, bool)
        share = rng.uniform(least, most)
        while np.count_nonzero(hides) / hides.size < share:
            size = 1 if rng.random() < 0.5 else rng.integers(1, longest + 1)
            first = rng.integers(1 - size, length)
            hides[max(first, 0) : first + size, rng.integers(channels)] = True
        one, other = rng.permutation(np.flatnonzero(there))[:2] if there.sum() > 1 else (None, None)
        hides &= there
        if one is not None and not hides.any():
            hides.flat[one] = True
        if other is not None and (hides == there).all():
            hides.flat[other] = False
        return hides

    return hidden


def missing() -> Hiding:
    """Hides the missing values, and nothing else: to fill them by samples. Nothing can be learned from it."""
    return lambda rng, there: ~there


def record(values: np.ndarray, hidden: np.ndarray, where: str = "the series") -> dict[str, Any]:
    """The record of a series with a hidden part.

    Args:
        values: the series, float `[L, C]`, NaN where a value is missing.
        hidden: whether each value is hidden, Bool `[L, C]`; the example is NaN where a value is missing and hidden.
        where: a name for the series in a message.

    Raises:
        ValueError: if nothing is given, or nothing hidden.
    """
    mask = ~np.isnan(values) & ~hidden
    if not mask.any():
        raise ValueError(f"{where}: all of its values are hidden or missing, so nothing is given")
    if not hidden.any():
        raise ValueError(f"{where}: none of its values is hidden, so there is nothing to predict")
    part = lambda chosen: np.where(chosen, values, 0).astype(np.float32)
    return {"x": part(hidden), "condition": {"given": part(mask), "mask": mask, "real": hidden}}


def check(condition: Mapping[str, Any]) -> None:
    """Refuses a batch of conditions that are no parts of series.

    Args:
        condition: "given" float `[B, L, C]`, "mask" and "real" Bool `[B, L, C]`, concrete.

    Raises:
        ValueError: for other shapes and types, a given value that is not finite or is also hidden, and a series without
            given or without hidden values; the message has the number of the series.
    """
    given, mask, real = (np.asarray(condition[name]) for name in ("given", "mask", "real"))
    if not (given.shape == mask.shape == real.shape) or given.ndim != 3:
        raise ValueError(f"given {given.shape}, mask {mask.shape} and real {real.shape} must have one shape [B, L, C]")
    if mask.dtype != bool or real.dtype != bool:
        raise ValueError(f"mask has the type {mask.dtype} and real {real.dtype}. Valid: Bool")
    for wrong, why in (
        (mask & ~np.isfinite(given), "has a given value that is no finite number"),
        (mask & real, "has a value that is both given and hidden"),
        (~mask.any(axis=(1, 2)), "has nothing that is given"),
        (~real.any(axis=(1, 2)), "has nothing that is hidden, and there is nothing to predict"),
    ):
        if wrong.any():
            raise ValueError(f"series {np.argwhere(wrong)[0][0]} {why}")
