"""The best grid for a trained network and a fixed number of steps."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusion.parameterizations import Denoiser, checked
from diffusion.schedules import NoiseSchedule, check_schedule
from diffusion.timesteps.plans import times_of
from diffusion.timesteps.valid_ranges import at_least_one


def optimal(denoise: Denoiser, schedule: NoiseSchedule, grid: ArrayLike, x: Array, steps: int) -> np.ndarray:
    """The `steps + 1` times of a fine grid on which `ddim` stays closest to accurately solved trajectories.

    A DDIM step from t_i to t_j, starting at the trajectory's x_i, misses x_j by

        e_ij = |alpha_j x0(x_i, t_i) + sigma_j eps(x_i, t_i) - x_j| / std(x_j)    (root mean squares over the batch),

    and dynamic programming finds the path of `steps` steps from the first time to the last with the least sum of
    errors. Dividing by the spread of the x_j converts errors at all times to the error that they cause in the data,
    exactly so for Gaussian data. The search costs one evaluation of the network on the whole batch for each time of the
    fine grid except the last. The criterion is made for solvers of order 1 (`ddim`, and `euler` where the paths are
    straight); a solver of higher order may do better on another grid.

        _, trajectory = samplers.sample_trajectory(samplers.heun(), denoise, schedule, x, timesteps.plan(fine), keys)
        grid = timesteps.optimal(denoise, schedule, fine, trajectory.x, steps=8)

    Facts:
        paper: Chen et al. 2024, "On the Trajectory Regularity of ODE-based Diffusion Sampling" (GITS), section 4;
            Watson et al. 2021, "Learning to Efficiently Sample from Diffusion Probabilistic Models", for the dynamic
            programming

    Args:
        denoise: (x_t, t) -> Prediction; called with every time of the grid but the last.
        schedule: the process.
        grid: `[M + 1]` decreasing times to choose from; 50 to 100 are usual.
        x: `[M + 1, B, ...]` trajectories on this grid, by any solver of the flow, B >= 2; a few dozen suffice.
        steps: number of steps N of the new grid, in [1, M].

    Returns:
        `[N + 1]` times, with the first and last time of the fine grid.

    Raises:
        ValueError: if the trajectories do not belong to the grid, or there are fewer times than `steps + 1`.
    """
    check_schedule(schedule)
    grid = times_of(grid, "optimal")
    if grid.ndim != 1 or len(x) != grid.size or not np.all(np.diff(grid) < 0) or x.shape[1] < 2:
        raise ValueError(
            f"optimal: the grid has the shape {grid.shape} and the trajectories {x.shape}. Valid: a decreasing grid of "
            "M + 1 times, and at least two trajectories [M + 1, B, ...] on it"
        )
    if at_least_one(steps) >= grid.size:
        raise ValueError(f"optimal: steps = {steps} exceeds the {grid.size - 1} steps of the fine grid")
    path = _shortest_path(_errors(denoise, schedule, jnp.asarray(grid, x.dtype), jnp.asarray(x)), int(steps))
    return grid[path]


def _errors(denoise: Denoiser, schedule: NoiseSchedule, grid: Array, x: Array) -> np.ndarray:
    """`[M + 1, M + 1]` e_ij of a step from time i to time j; infinite unless j comes after i."""
    spread = jax.vmap(lambda x: jnp.sqrt(jnp.mean((x - x.mean(axis=0)) ** 2)))(x)

    def misses(t, x_t):
        x0, eps = checked(denoise)(x_t, t)[:2]
        arrive = lambda s, x_s: jnp.sqrt(jnp.mean((schedule.alpha(s) * x0 + schedule.sigma(s) * eps - x_s) ** 2))
        return jax.lax.map(lambda to: arrive(*to), (grid, x))

    missed = jax.lax.map(lambda at: misses(*at), (grid[:-1], x[:-1])) / spread
    errors = np.full((grid.size, grid.size), np.inf)
    errors[:-1] = missed
    errors[np.tril_indices(grid.size)] = np.inf
    return errors


def _shortest_path(errors: np.ndarray, steps: int) -> np.ndarray:
    """The `[steps + 1]` indices, from the first to the last, of the path with the least sum of errors."""
    best = errors[0]  # best[j]: the least sum of errors from 0 to j in the steps so far
    before = []
    for _ in range(steps - 1):
        through = best[:, None] + errors
        before.append(through.argmin(axis=0))
        best = through.min(axis=0)
    path = [len(errors) - 1]
    for previous in reversed(before):
        path.append(previous[path[-1]])
    return np.array([0, *path[::-1]])
