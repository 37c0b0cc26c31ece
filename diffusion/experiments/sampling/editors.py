"""From pictures to pictures by a trained denoiser: to noise and back, exactly or not, or from some noise on.

Each editor is (there, back, schedule, sampler, x, grid, keys) -> the edited x: `there` is the denoiser of what the
pictures show, `back` that of what they are to show. With one denoiser for both the first three give back what they
received: ddim nearly, as the iterations grow, edict and bdia to rounding.
"""

from collections.abc import Callable

import numpy as np
from jax import Array

from diffusion import editing, samplers, timesteps
from diffusion.parameterizations import Denoiser
from diffusion.samplers import Sampler
from diffusion.schedules import NoiseSchedule

Editor = Callable[[Denoiser, Denoiser, NoiseSchedule, Sampler, Array, np.ndarray, Array], Array]


def ddim(iterations: int = 1, t_0: float = 0.8) -> Editor:
    """DDIM's inversion up to t_0, and DDIM's steps down.

    Args:
        iterations: see `samplers.ddim_inversion`.
        t_0: where it turns; below 1, so that alpha > 0.
    """
    up = samplers.ddim_inversion(iterations)

    def edit(there, back, schedule, sampler, x, grid, keys):
        down = _until(grid, t_0)
        noise = samplers.sample(up, there, schedule, x, timesteps.plan(down[::-1]), keys)
        return samplers.sample(samplers.ddim(), back, schedule, noise, timesteps.plan(down), keys)

    return edit


def edict(mix: float = 0.93, t_0: float = 0.8) -> Editor:
    """Coupled chains, whose way down undoes the way up; see `samplers.edict`.

    Args:
        mix: see there.
        t_0: where it turns; below 1, so that alpha > 0.
    """

    def edit(there, back, schedule, sampler, x, grid, keys):
        down = _until(grid, t_0)
        noise = samplers.edict(there, schedule, (x, x), timesteps.plan(down[::-1]), mix)
        return samplers.edict(back, schedule, noise, timesteps.plan(down), mix)[0]

    return edit


def bdia(gamma: float = 1.0, t_0: float = 0.8) -> Editor:
    """Bi-directional integration, whose way down undoes the way up; see `samplers.bdia`.

    Args:
        gamma: see there.
        t_0: where it turns.
    """

    def edit(there, back, schedule, sampler, x, grid, keys):
        down = _until(grid, t_0)
        up = down[::-1]
        second = samplers.sample(samplers.ddim(), there, schedule, x, timesteps.plan(up[:2]), keys)
        last = samplers.bdia(there, schedule, (x, second), up, gamma)
        return samplers.bdia(back, schedule, last[::-1], down, gamma)[1]

    return edit


def sdedit(t_0: float = 0.6) -> Editor:
    """Noise up to t_0, and the run's sampler from there; see `editing.sdedit`.

    Args:
        t_0: how much is made anew: 0 nothing, t_max all.
    """

    def edit(there, back, schedule, sampler, x, grid, keys):
        return editing.sdedit(sampler, back, schedule, x, grid, t_0, keys)

    return edit


EDITORS: dict[str, Callable[..., Editor]] = {"ddim": ddim, "edict": edict, "bdia": bdia, "sdedit": sdedit}


def _until(grid: np.ndarray, t_0: float) -> np.ndarray:
    """The decreasing times of a grid from t_0 on.

    Raises:
        ValueError: if there are fewer than three.
    """
    times = np.asarray(grid)[np.asarray(grid) <= t_0]
    if times.size < 3:
        raise ValueError(f"t_0 = {t_0} leaves {times.size} times of the grid. Valid: three or more, by more steps")
    return times
