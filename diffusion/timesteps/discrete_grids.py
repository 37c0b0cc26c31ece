"""Grids on the times (i + 1) / T of a discrete process."""

import numpy as np

from diffusion.schedules import NoiseSchedule, check_schedule
from diffusion.timesteps.valid_ranges import at_least_one


def leading(schedule: NoiseSchedule, steps: int, T: int = 1000, offset: int = 0) -> np.ndarray:
    """`[steps + 1]` times at the indices i (T // steps) + offset of a discrete process, from high to low, then 0.

    With offset 0 and fewer than T steps, the grid starts below t = 1, the last time of the process.

    Facts:
        paper: Song et al. 2021, "Denoising Diffusion Implicit Models", appendix D.2; Lin et al. 2024, table 2

    Args:
        schedule: the discrete process.
        steps: number of solver steps, in [1, T].
        T: number of steps of the process.
        offset: added to every index (1 in Stable Diffusion).

    Raises:
        ValueError: if steps is not in [1, T], offset leads beyond the last step, or the schedule ends below t = 1.
    """
    _check_discrete(schedule, steps, T)
    return _discrete(np.arange(steps)[::-1] * (T // steps) + offset, T)


def trailing(schedule: NoiseSchedule, steps: int, T: int = 1000) -> np.ndarray:
    """`[steps + 1]` times at the indices round(T - i T / steps) - 1 of a discrete process, then 0.

    Facts:
        paper: Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed", table 2

    Args:
        schedule: the discrete process.
        steps: number of solver steps, in [1, T].
        T: number of steps of the process.

    Raises:
        ValueError: if steps is not in [1, T], or the schedule ends below t = 1.
    """
    _check_discrete(schedule, steps, T)
    return _discrete(np.round(T - np.arange(steps) * T / steps).astype(int) - 1, T)


def linspace(schedule: NoiseSchedule, steps: int, T: int = 1000) -> np.ndarray:
    """`[steps + 1]` times at `steps` evenly spaced, rounded indices of a discrete process from T - 1 to 0, then 0.

    Facts:
        paper: Nichol and Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models"; Lin et al. 2024, table 2

    Args:
        schedule: the discrete process.
        steps: number of solver steps, in [1, T].
        T: number of steps of the process.

    Raises:
        ValueError: if steps is not in [1, T], or the schedule ends below t = 1.
    """
    _check_discrete(schedule, steps, T)
    return _discrete(np.round(np.linspace(T - 1, 0, steps)).astype(int), T)


def _check_discrete(schedule: NoiseSchedule, steps: int, T: int) -> None:
    check_schedule(schedule)
    if at_least_one(steps) > T:
        raise ValueError(f"steps = {steps} exceeds T = {T}, the steps of the discrete process")
    if not schedule.t_max >= 1:
        raise ValueError(f"discrete grids start at t = 1, beyond this schedule's t_max = {schedule.t_max:g}")


def _discrete(indices: np.ndarray, T: int) -> np.ndarray:
    if indices.max() >= T:
        raise ValueError(f"index {indices.max()} lies beyond {T - 1}, the last step of the process; lower the offset")
    return np.append((indices + 1) / T, 0)
