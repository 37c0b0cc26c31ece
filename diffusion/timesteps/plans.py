"""Plans: the pairs of times between which a sampler steps."""

from typing import Any, NamedTuple

import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.arguments import described, require
from diffusion.timesteps.valid_ranges import check_known


class Plan(NamedTuple):
    """The steps of a sampler, as pairs of times.

    Attributes:
        t: times `[N]` at which the steps start; `[N, F]` if each of F frames has its own time.
        s: times at which the steps end, in the shape of t.
        renoise: Bool `[N]`, True for steps with s > t that draw from q(x_s | x_t) without the network.
    """

    t: Array | np.ndarray
    s: Array | np.ndarray
    renoise: Array | np.ndarray

    @property
    def grid(self) -> np.ndarray:
        """The times `[N + 1]` between which the plan steps, the largest over frames; they must not be traced."""
        times = np.concatenate([self.t, self.s[-1:]])
        return times if times.ndim == 1 else times.max(axis=1)

    @property
    def solved(self) -> int:
        """The number of steps that evaluate the network: all that do not renoise."""
        return int(np.sum(~np.asarray(self.renoise)))


def require_plan(plan: Any) -> None:
    """Refuses a value that is not a plan, such as a grid.

    Raises:
        TypeError: if the value is not a plan; the message describes the value.
    """
    require(plan, Plan, "plan", "a Plan, which timesteps.plan(grid) makes of a grid of times")


def times_of(grid: ArrayLike, user: str) -> np.ndarray:
    """The times of a grid as an array; refuses a plan, which holds pairs of times, and anything but a vector.

    Args:
        grid: `[N + 1]` times.
        user: the name of the function that needs the times, for the message.

    Raises:
        TypeError: if the grid is a plan, is traced, or does not consist of numbers.
        ValueError: if the times are not a vector.
    """
    if isinstance(grid, Plan):
        raise TypeError(f"{user} takes a grid, a vector of N + 1 times, but got a Plan. Valid: plan.grid, its times")
    check_known(user, grid=grid)
    if grid is None or isinstance(grid, str) or callable(grid) or hasattr(grid, "_fields"):
        raise TypeError(
            f"{user} takes a grid, a vector of N + 1 times, such as timesteps.uniform(schedule, 50); got "
            f"{described(grid)}"
        )
    times = np.asarray(grid)
    if times.ndim != 1:
        raise ValueError(f"{user} takes a grid, a vector of N + 1 times; got shape {times.shape}")
    return times


def plan(grid: ArrayLike, renoise: ArrayLike | None = None) -> Plan:
    """The plan that follows a grid of times.

    Args:
        grid: `[N + 1]` times, strictly decreasing for sampling or strictly increasing for inversion; with `renoise`, in
            any order without equal neighbours.
        renoise: `[N]` Bool, True for the steps that add noise, whose time must increase; None for no such step.

    Raises:
        TypeError: if the grid is a plan.
        ValueError: if there are fewer than two times, two neighbouring times are equal, a time is negative or not
            finite, the grid changes direction without `renoise`, or `renoise` does not fit the grid.
    """
    grid = times_of(grid, "plan")
    if grid.ndim != 1 or grid.size < 2:
        raise ValueError(f"a plan needs a vector of at least two times (one step); got shape {grid.shape}")
    if not np.all(np.isfinite(grid)) or np.any(grid < 0):
        raise ValueError(f"the times of a plan must be finite and not negative; got {grid}")
    ups = np.diff(grid) > 0
    if np.any(np.diff(grid) == 0):
        i = int(np.argmax(np.diff(grid) == 0))
        raise ValueError(f"step {i} of the plan does not move: times {i} and {i + 1} are both {grid[i]:g}")
    if renoise is None:
        renoise = np.zeros(ups.shape, bool)
        if ups.any() and not ups.all():
            i = int(np.argmax(ups != ups[0]))
            raise ValueError(
                f"the times of a plan must all decrease (sampling) or all increase (inversion), but {grid[i]:g} -> "
                f"{grid[i + 1]:g} changes direction. Mark steps that add noise with renoise="
            )
    renoise = np.asarray(renoise, bool)
    if renoise.shape != ups.shape:
        raise ValueError(
            f"renoise has the shape {renoise.shape}, but a grid of {grid.size} times has {ups.size} steps; give one "
            "entry for each step"
        )
    if np.any(renoise & ~ups):
        i = int(np.argmax(renoise & ~ups))
        raise ValueError(f"step {i} is marked to add noise, but its time decreases, {grid[i]:g} -> {grid[i + 1]:g}")
    return Plan(grid[:-1], grid[1:], renoise)
