"""Positions of a plan's evaluations along a full trajectory, for caches whose rule depends on the step."""

from typing import Any

import numpy as np

from diffusion.timesteps import Plan


def evaluations(plan: Plan, whole: Plan | None = None) -> dict[str, Any]:
    """The arguments of caches that depend on the plan: `steps` for `tea_cache`, `whole` and `at` for `mag_cache`.

        positions = caching.evaluations(plan)
        cache = caching.mag_cache(0.1, ratios, whole=positions["whole"], at=positions["at"])

    Args:
        plan: the sampled plan, with or without steps that renoise.
        whole: the plan of the full trajectory, of which `plan` may be the end, or repeat a part; None for the times of
            `plan` that are lower than all earlier times.

    Returns:
        A mapping. "steps": number of evaluations in the plan; "whole": number of evaluations in the full trajectory;
        "at": for each part of the plan between steps that renoise, the positions of its evaluations in the full
        trajectory, counted from 0, possibly fractional.
    """
    times = _times(plan)
    knots = times if whole is None else _times(whole)
    knots = knots[~np.isnan(knots)]
    knots = knots[np.append(True, knots[1:] < np.minimum.accumulate(knots)[:-1])]
    parts = np.split(times, np.flatnonzero(np.isnan(times)))
    places = lambda part: np.interp(-part[~np.isnan(part)], -knots, np.arange(len(knots)))
    at = tuple(tuple(map(float, places(part))) for part in parts)
    at = tuple(part for part in at if part)
    return {"steps": sum(map(len, at)), "whole": len(knots), "at": at}


def _times(plan: Plan) -> np.ndarray:
    """The times of the steps, as means over frames, `[N]`; NaN for a step that renoises."""
    times = np.asarray(plan.t, np.float64)
    return np.where(plan.renoise, np.nan, times.reshape(len(times), -1).mean(axis=1))
