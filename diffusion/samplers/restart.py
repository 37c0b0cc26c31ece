"""Restart: plans that repeatedly add noise and denoise again over the same interval."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from diffusion.schedules import NoiseSchedule, check_schedule
from diffusion.timesteps.plans import Plan, plan, times_of
from diffusion.timesteps.valid_ranges import check_positive, check_rho


class Restart(NamedTuple):
    """A restart: its interval of noise levels, its number of steps and its number of repetitions.

    Attributes:
        steps: number of solver steps from sigma_max back down, >= 1; the authors' N_Restart counts times and is larger
            by one.
        repeats: number of repetitions K, >= 1.
        sigma_min: sigma / alpha before the noise is added; the nearest value on the main grid is used.
        sigma_max: sigma / alpha after the noise is added.
    """

    steps: int
    repeats: int
    sigma_min: float
    sigma_max: float


def restart_plan(schedule: NoiseSchedule, grid: ArrayLike, restarts: Sequence[Restart], rho: float = 7.0) -> Plan:
    """The plan that goes down a grid and, at each restart, goes up and down again `repeats` times:

        x at sigma_max ~ q(x | x at sigma_min), then `steps` steps back, with sigma / alpha spaced as in `karras`.

    It works with any sampler of the probability flow; `edm()` gives the published method. The steps up need no
    evaluation: a plan with N steps down costs `sampler.nfe(N)`, or more if the sampler has a warm-up.

    Facts:
        paper: Xu et al. 2023, "Restart Sampling for Improving Generative Processes", section 3, as in the authors' code

    Args:
        schedule: the process, which turns sigma / alpha into t.
        grid: `[N + 1]` decreasing times of the main trajectory.
        restarts: the restarts, in any order, also as tuples (steps, repeats, sigma_min, sigma_max).
        rho: spacing of the steps within a restart, > 0, as in `karras`.

    Returns:
        A `Plan`, whose steps that add noise reset a sampler's history.

    Raises:
        ValueError: if 0 < sigma_min < sigma_max does not hold within the schedule, a restart has no steps or repeats,
            two restarts fall on the same time, the grid has no time between its ends, or rho is not positive
            or so near 0 that float64 cannot hold sigma^(1 / rho).
    """
    check_schedule(schedule)
    grid = times_of(grid, "restart_plan")
    with jax.ensure_compile_time_eval():
        ratios = np.asarray(np.exp(-np.asarray(schedule.log_snr(grid), np.float64) / 2))
        highest = float(np.exp(-np.float64(schedule.log_snr(schedule.t_max)) / 2))
    check_positive("restart_plan", "rho", rho)
    if grid.size < 3:
        raise ValueError("restart_plan: the grid has no time between its ends to restart from. Use at least two steps")
    at = {}
    for restart in (Restart(*values) for values in restarts):
        if not 0 < restart.sigma_min < restart.sigma_max <= highest * (1 + 1e-5):
            raise ValueError(
                f"restart_plan: {restart} must satisfy 0 < sigma_min < sigma_max <= {highest:g}, the schedule's sigma "
                "/ alpha at t_max"
            )
        if restart.steps < 1 or restart.repeats < 1:
            raise ValueError(f"restart_plan: {restart} needs at least one step and one repeat")
        j = 1 + int(np.argmin(np.abs(ratios[1:-1] - restart.sigma_min)))
        if j in at or not ratios[j] < restart.sigma_max:
            raise ValueError(
                f"restart_plan: {restart} falls on the grid's time with sigma / alpha = {ratios[j]:g}, which another "
                "restart already uses, or which is not below its own sigma_max. Use a finer grid"
            )
        at[j] = restart

    times = [grid[0]]
    renoise = []
    for j, time in enumerate(grid[1:], start=1):
        times.append(time)
        renoise.append(False)
        if j not in at:
            continue
        steps, repeats, _, sigma_max = at[j]
        check_rho("restart_plan", rho, sigma_max, float(ratios[j]))
        sigmas = np.linspace(sigma_max ** (1 / rho), ratios[j] ** (1 / rho), steps + 1) ** rho
        with jax.ensure_compile_time_eval():
            way = np.minimum(np.asarray(schedule.inverse_log_snr(-2 * np.log(sigmas))), schedule.t_max)
        for _ in range(repeats):
            times += [*way[:-1], time]
            renoise += [True] + [False] * steps
    return plan(np.asarray(times, grid.dtype), np.asarray(renoise))
