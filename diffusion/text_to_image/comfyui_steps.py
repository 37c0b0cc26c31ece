"""ComfyUI's samplers and schedulers of models with a table of noise levels (Stable Diffusion 1 and 2, SDXL).

    process = comfyui_steps.stepping(model.process, "karras")    # and its sampler by the name in SAMPLERS

ComfyUI lays the steps over sigma / alpha of the table's T steps, starts at noise of variance 1, and its network
receives the whole step of the nearest level. A name stands here where this library's sampler takes the same steps.

Reference: the code of ComfyUI, `comfy/samplers.py` and `comfy/model_sampling.py`.
"""

__all__ = ["SAMPLERS", "SCHEDULERS", "levels", "stepping"]

from collections.abc import Callable, Mapping

import numpy as np

from diffusion import samplers, timesteps
from diffusion.models.interchange.schedulers import Process, Trajectory
from diffusion.models.layers.choices import look_up
from diffusion.samplers import Sampler

SAMPLERS: Mapping[str, Callable[[], Sampler]] = {
    "euler": samplers.ddim,  # Euler's method in sigma / alpha
    "ddim": samplers.ddim,
    "euler_ancestral": samplers.euler_ancestral,
    "heun": samplers.edm,
    "dpmpp_2m": samplers.dpmpp_2m,
}
"""ComfyUI's samplers that are one of ours, by its names, which are also names of requests."""
RHO = 7.0


def _between(table: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The levels at indices; between two of the table log(sigma / alpha) is linear."""
    return np.exp(np.interp(indices, np.arange(len(table)), np.log(table)))


def _normal(table: np.ndarray, steps: int) -> np.ndarray:
    return _between(table, np.linspace(len(table) - 1, 0, steps))


def _sgm_uniform(table: np.ndarray, steps: int) -> np.ndarray:
    return _between(table, np.linspace(len(table) - 1, 0, steps + 1)[:-1])


def _karras(table: np.ndarray, steps: int) -> np.ndarray:
    high, low = table[-1] ** (1 / RHO), table[0] ** (1 / RHO)
    return np.linspace(high, low, steps) ** RHO


def _exponential(table: np.ndarray, steps: int) -> np.ndarray:
    return np.exp(np.linspace(np.log(table[-1]), np.log(table[0]), steps))


def _simple(table: np.ndarray, steps: int) -> np.ndarray:
    return np.array([table[-(1 + int(k * len(table) / steps))] for k in range(steps)])


def _ddim_uniform(table: np.ndarray, steps: int) -> np.ndarray:
    return table[1 :: max(len(table) // steps, 1)][::-1]


SCHEDULERS: Mapping[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "normal": _normal,
    "karras": _karras,
    "exponential": _exponential,
    "sgm_uniform": _sgm_uniform,
    "simple": _simple,
    "ddim_uniform": _ddim_uniform,
}
"""(sigma / alpha of the table, growing; number of steps) -> the levels at which the steps begin, by ComfyUI's names."""


def levels(process: Process) -> np.ndarray:
    """sigma / alpha of each step of a process, growing, [T].

    Raises:
        ValueError: for a process without a table, or one that ends at pure noise.
    """
    if not process.named:
        raise ValueError(
            "ComfyUI's schedulers apply only to models with a table of noise levels (Stable Diffusion 1 and 2, SDXL), "
            "and this model has none. Valid: the steps of the model's own folder (--own_steps)"
        )
    log_snr = np.asarray(process.schedule.log_snr(np.arange(1, process.T + 1) / process.T), np.float64)
    if not np.isfinite(log_snr).all():
        raise ValueError(
            "ComfyUI's schedulers need a finite noise level at the start, but this model's process ends at pure "
            "noise. Valid: the steps of the model's own folder (--own_steps)"
        )
    return np.exp(-log_snr / 2)


def stepping(process: Process, scheduler: str) -> Process:
    """A process whose samplers take ComfyUI's steps.

    Args:
        process: the model's.
        scheduler: a name in SCHEDULERS.

    Raises:
        ValueError: for an unknown scheduler (names the nearest), or as in `levels`.
    """
    spread = look_up(SCHEDULERS, scheduler, "scheduler")
    table = levels(process)

    def planned(process: Process, sampler: str, steps: int) -> Trajectory:
        make = look_up(SAMPLERS, sampler, "sampler")
        ratios = spread(table, steps)
        if len(ratios) != steps:
            raise ValueError(
                f"the scheduler {scheduler} makes {len(ratios)} steps instead of steps = {steps}. Valid: a number "
                f"that divides {process.T}"
            )
        times = np.asarray(process.schedule.inverse_log_snr(-2 * np.log(ratios)), np.float64)
        nearest = np.abs(np.log(ratios)[:, None] - np.log(table)).argmin(1)
        network_times = np.stack([times, (nearest + 1) / process.T], axis=1)
        return Trajectory(make(), timesteps.plan(np.append(times, 0.0)), 1.0, network_times)

    return process._replace(planned=planned)
