"""Checks of the arguments of grids and densities."""

import math

import jax
import numpy as np
from jax.typing import ArrayLike

from diffusion.arrays.parameters import traced
from diffusion.schedules import NoiseSchedule, check_schedule

LOGARITHM = 700  # the largest ln of a number of float64, rounded down


def at_least_one(steps: int) -> int:
    """`steps` as an int; refuses a value that is not an integer of at least 1, also True."""
    check_known("a grid", steps=steps)
    no_number = isinstance(steps, (bool, np.bool_, str)) or steps is None or np.ndim(steps)
    if no_number or not math.isfinite(steps) or int(steps) != steps or steps < 1:
        raise ValueError(f"steps = {steps!r}: a sampler takes an integer number of steps, at least 1")
    return int(steps)


def check_known(function: str, **values: ArrayLike | None) -> None:
    """Refuses a traced argument of what is computed when it is built; the message names the function and it."""
    for name, value in values.items():
        if traced(value):
            raise TypeError(
                f"{function}: {name} is traced by jit, grad or vmap, but this function computes with numbers. Valid: "
                "a number"
            )


def check_positive(function: str, name: str, value: float) -> None:
    """Refuses an argument that is not positive; the message names the function and the argument."""
    check_known(function, **{name: value})
    if not value > 0:
        raise ValueError(f"{function}: {name} = {value} must be positive")


def check_one_schedule(function: str, schedule: NoiseSchedule) -> None:
    """Refuses a schedule of leaves, with several log-SNRs at one time, or none; the message names the function."""
    check_schedule(schedule)
    if schedule.leaves:
        raise ValueError(
            f"{function} chooses times by their log-SNR, but leaves with a schedule each have several. Valid: a "
            "choice by t alone, e.g. timesteps.uniform or timesteps.uniform_density"
        )


def check_rho(function: str, rho: float, *sigmas: float) -> None:
    """Refuses an exponent rho that is not positive, or so near 0 that float64 cannot hold sigma^(1 / rho)."""
    check_positive(function, "rho", rho)
    least = max(abs(math.log(sigma)) for sigma in sigmas) / LOGARITHM
    if rho < least:
        raise ValueError(f"{function}: rho = {rho}. Valid: at least {least:.3g}, so that float64 holds sigma^(1 / rho)")


def check_sigmas(schedule: NoiseSchedule, sigma_min: float, sigma_max: float) -> None:
    """Refuses a range of sigma / alpha that is empty or leaves the schedule."""
    check_one_schedule("a grid of sigma / alpha", schedule)
    check_known("a grid of sigma / alpha", sigma_min=sigma_min, sigma_max=sigma_max)
    with jax.ensure_compile_time_eval():
        highest = math.exp(-float(schedule.log_snr(schedule.t_max)) / 2)
    if not 0 < sigma_min < sigma_max <= highest * (1 + 1e-5):
        raise ValueError(
            f"sigma_min = {sigma_min}, sigma_max = {sigma_max}. Valid for this grid: 0 < sigma_min < sigma_max <= "
            f"{highest:g}, the schedule's sigma / alpha at t_max"
        )
