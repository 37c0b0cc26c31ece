"""Editors of pictures with a trained denoiser: by exact or approximate inversion to noise, or from a noise level.

Each editor is a function from a `Task` to the edited x. If the edits have the same condition as the pictures, edict and
bdia return the pictures up to rounding. ddim and prompt_to_prompt return them approximately, and more closely with more
iterations. sdedit does not return them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion import samplers, timesteps
from diffusion.parameterizations import Denoiser
from diffusion.recipe import valid_results
from diffusion.samplers import Sampler
from diffusion.sampling import editing
from diffusion.schedules import NoiseSchedule


class Task(NamedTuple):
    """The inputs of an editor.

    Attributes:
        there: the denoiser under the conditions of the pictures.
        back: the denoiser under the conditions of the edits.
        beside: (until, layers) -> the denoiser of `[2 B, ...]`, the pictures and then their edits; in these layers, an
            edit uses the attention maps of its picture while t >= until. See `editing.prompt_to_prompt`.
        schedule: the noise schedule.
        sampler: the sampler of the run.
        x: the pictures, `[B, ...]`.
        grid: the decreasing times of the run's steps.
        keys: the random keys, `[B]`.
    """

    there: Denoiser
    back: Denoiser
    beside: Callable[[float, Sequence[int] | None], Denoiser]
    schedule: NoiseSchedule
    sampler: Sampler
    x: Array
    grid: np.ndarray
    keys: Array


Editor = Callable[[Task], Array]


def ddim(iterations: int = 1, t_0: float = 0.8) -> Editor:
    """DDIM's inversion up to t_0, and DDIM's steps down.

    Args:
        iterations: the fixed-point iterations of each step up, at least 1; see `samplers.ddim_inversion`.
        t_0: the time at which the direction changes; below 1, so that alpha > 0.
    """

    def edit(task):
        down = _until(task.grid, t_0)
        noise = _to_noise(task, down, iterations)
        return samplers.sample(samplers.ddim(), task.back, task.schedule, noise, timesteps.plan(down), task.keys)

    return edit


def edict(mix: float = 0.93, t_0: float = 0.8) -> Editor:
    """Coupled chains, whose way down undoes the way up; see `samplers.edict`.

    Args:
        mix: the weight p of EDICT's mixing.
        t_0: the time at which the direction changes; below 1, so that alpha > 0.
    """

    def edit(task):
        down = _until(task.grid, t_0)
        noise = samplers.edict(task.there, task.schedule, (task.x, task.x), timesteps.plan(down[::-1]), mix)
        return samplers.edict(task.back, task.schedule, noise, timesteps.plan(down), mix)[0]

    return edit


def bdia(gamma: float = 1.0, t_0: float = 0.8) -> Editor:
    """Bi-directional integration, whose way down undoes the way up; see `samplers.bdia`.

    Args:
        gamma: the parameter gamma of BDIA.
        t_0: the time at which the direction changes.
    """

    def edit(task):
        down = _until(task.grid, t_0)
        up = down[::-1]
        second = samplers.sample(samplers.ddim(), task.there, task.schedule, task.x, timesteps.plan(up[:2]), task.keys)
        before_last, last = samplers.bdia(task.there, task.schedule, (task.x, second), up, gamma)
        return samplers.bdia(task.back, task.schedule, (last, before_last), down, gamma)[1]

    return edit


def sdedit(t_0: float = 0.6) -> Editor:
    """Noise up to t_0, and the run's sampler from there; see `editing.sdedit`.

    Args:
        t_0: the time up to which noise is added: 0 keeps the picture, t_max replaces it.
    """

    def edit(task):
        return editing.sdedit(task.sampler, task.back, task.schedule, task.x, task.grid, t_0, task.keys)

    return edit


def prompt_to_prompt(
    until: float = 0.6, layers: Sequence[int] | None = None, iterations: int = 1, t_0: float = 0.8
) -> Editor:
    """DDIM's inversion up to t_0; then pictures and edits go down side by side, and edits keep the pictures' layout.

    Args:
        until: the time below which each edit has its own attention maps; a greater value changes more.
        layers: the layers in which an edit uses the maps of its picture, counted from 0; None for all.
        iterations: the fixed-point iterations of each step up, at least 1; see `samplers.ddim_inversion`.
        t_0: the time at which the direction changes; below 1, so that alpha > 0.
    """

    def edit(task):
        down = _until(task.grid, t_0)
        noise = _to_noise(task, down, iterations)
        both = jnp.concatenate([noise, noise])
        keys = jnp.concatenate([task.keys, task.keys])
        denoise = task.beside(until, layers)
        edits = samplers.sample(samplers.ddim(), denoise, task.schedule, both, timesteps.plan(down), keys)
        return edits[len(noise) :]

    return edit


RETURNED = valid_results.function("of an editors.Task that returns the edited examples")
EDITORS: dict[str, Callable[..., Editor]] = {
    "ddim": ddim,
    "edict": edict,
    "bdia": bdia,
    "sdedit": sdedit,
    "prompt_to_prompt": prompt_to_prompt,
}


def _to_noise(task: Task, down: np.ndarray, iterations: int) -> Array:
    """The pictures at the first of the decreasing times, by DDIM's inversion."""
    up = samplers.ddim_inversion(iterations)
    return samplers.sample(up, task.there, task.schedule, task.x, timesteps.plan(down[::-1]), task.keys)


def _until(grid: np.ndarray, t_0: float) -> np.ndarray:
    """The decreasing times of a grid from t_0 on.

    Raises:
        ValueError: if there are fewer than three, or t_0 lies above the grid.
    """
    if t_0 > grid[0]:
        raise ValueError(f"t_0 = {t_0} lies above the grid's first time, {grid[0]}")
    times = np.asarray(grid)[np.asarray(grid) <= t_0]
    if times.size < 3:
        raise ValueError(
            f"t_0 = {t_0} leaves only {times.size} times of the grid. Valid: at least three; use more steps"
        )
    return times
