"""ComfyUI's samplers and schedulers for Stable Diffusion 1, 2, 3 and 3.5, SDXL and FLUX.1.

    process = comfyui_steps.stepping(model.process, "karras")    # and its sampler by the name in SAMPLERS
    flow = comfyui_steps.levels_of_flow("FluxPipeline", distilled=True)
    process = comfyui_steps.stepping(model.process, "simple", flow)

ComfyUI selects the steps from a table of noise levels. For Stable Diffusion 1 and 2 and SDXL, the table contains sigma
/ alpha of the T training timesteps; sampling starts from noise of variance 1, and the network receives the integer
timestep of the nearest level. For a flow, the table contains

    sigma(t) = r t / (1 + (r - 1) t)

at t = 1/T, 2/T, .. 1: T = 10,000 and log r = 1.15 for FLUX.1 with distilled guidance, T = 1000 and r = 1 for FLUX.1
without, T = 1000 and r = 3 for Stable Diffusion 3. Its "normal" and "sgm_uniform" apply this function to evenly spaced
values between the ends of the table, to which it has already been applied. A sampler is listed here if this library's
sampler takes the same steps.

Reference: the code of ComfyUI, `comfy/samplers.py`, `comfy/model_sampling.py` and `comfy/supported_models.py`.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from diffusion import samplers, timesteps
from diffusion.models.interchange.schedulers import Process, Trajectory
from diffusion.models.interchange.schedulers.trajectories import levels_between
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
FLOW_SAMPLERS: Mapping[str, Callable[[], Sampler]] = {
    "euler": samplers.euler,
    "ddim": samplers.euler,
    "heun": samplers.heun,
}
"""The same for flows: Euler's and Heun's method in t = sigma. (Its dpmpp_2m extrapolates in log sigma there.)"""
FLUX = ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline", "FluxFillPipeline", "FluxControlNetPipeline",
        "FluxControlNetImg2ImgPipeline", "FluxControlNetInpaintPipeline")  # fmt: skip
SD_3 = ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline",
        "StableDiffusion3ControlNetPipeline", "StableDiffusion3ControlNetInpaintingPipeline",
        "StableDiffusion3PAGPipeline", "StableDiffusion3PAGImg2ImgPipeline")  # fmt: skip
FLOWS = {**dict.fromkeys(FLUX, "ModelSamplingFlux"), **dict.fromkeys(SD_3, "ModelSamplingSD3")}
"""The pipelines of flows that are read, and ComfyUI's node that shifts their levels."""


class Shift(NamedTuple):
    """What a node does to the levels of a flow: its class, a value of FLOWS, and r, above 0."""

    node: str
    ratio: float


class Levels(NamedTuple):
    """ComfyUI's levels of noise of a model.

    Attributes:
        table: the levels, growing, [T]: sigma / alpha, or sigma of a flow.
        at: ComfyUI's times -> the levels there.
        ends: its times of the first step and of the last, between which "normal" spreads the steps.
    """

    table: np.ndarray
    at: Callable[[np.ndarray], np.ndarray]
    ends: tuple[float, float]


def _simple(levels: Levels, steps: int) -> np.ndarray:
    table = levels.table
    return np.array([table[-(1 + int(k * len(table) / steps))] for k in range(steps)])


def _beta(levels: Levels, steps: int) -> np.ndarray:
    """The nearest levels at quantiles of the distribution Beta(0.6, 0.6), each level once (Lee et al. 2024)."""
    import scipy.stats

    quantiles = scipy.stats.beta.ppf(1 - np.arange(steps) / steps, 0.6, 0.6)
    return levels.table[np.unique(np.rint(quantiles * (len(levels.table) - 1)).astype(int))[::-1]]


SCHEDULERS: Mapping[str, Callable[[Levels, int], np.ndarray]] = {
    "normal": lambda levels, steps: levels.at(np.linspace(*levels.ends, steps)),
    "karras": lambda levels, steps: levels_between("karras", steps, levels.table[-1], levels.table[0]),
    "exponential": lambda levels, steps: levels_between("exponential", steps, levels.table[-1], levels.table[0]),
    "sgm_uniform": lambda levels, steps: levels.at(np.linspace(*levels.ends, steps + 1)[:-1]),
    "simple": _simple,
    "ddim_uniform": lambda levels, steps: levels.table[1 :: max(len(levels.table) // steps, 1)][::-1],
    "beta": _beta,
}
"""(levels of a model, number of steps) -> the levels at which the steps begin, by ComfyUI's names."""


def is_flux(pipeline: str) -> bool:
    """Whether the class of a pipeline is of FLUX.1, whose levels depend on the size of the picture."""
    return FLOWS.get(pipeline) == "ModelSamplingFlux"


def levels(process: Process) -> Levels:
    """The levels of a process with a table; between two of its T steps log(sigma / alpha) is linear.

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
    log_ratio = -log_snr / 2
    between = lambda indices: np.exp(np.interp(indices, np.arange(process.T), log_ratio))
    return Levels(np.exp(log_ratio), between, (process.T - 1, 0))


def levels_of_flow(pipeline: str, distilled: bool, shift: Shift | None = None) -> Levels:
    """The levels of a flow.

    Args:
        pipeline: the class of its pipeline, a key of FLOWS.
        distilled: whether its network reads the strength of the guidance.
        shift: the shift by a node of the workflow; None for the model's own in ComfyUI.

    Raises:
        ValueError: for another pipeline, or the node of another one.
    """
    if pipeline not in FLOWS:
        raise ValueError(
            f"ComfyUI's schedulers are not supported for a {pipeline}. Valid: {', '.join(FLOWS)}, the pipelines of "
            "Stable Diffusion 1 and 2 and SDXL, or the steps of the model's own folder (--own_steps)"
        )
    if shift is not None and shift.node != FLOWS[pipeline]:
        raise ValueError(f"a {shift.node} does not apply to a {pipeline}. Valid: {FLOWS[pipeline]}")
    flux = is_flux(pipeline)
    default = math.exp(1.15) if flux and distilled else 1.0 if flux else 3.0
    r, T = shift.ratio if shift else default, 10_000 if flux and (distilled or shift) else 1000
    shifted = lambda t: r * t / (1 + (r - 1) * t)
    table = shifted(np.arange(1, T + 1) / T)
    return Levels(table, shifted, (table[-1], table[0]))


def stepping(process: Process, scheduler: str, flow: Levels | None = None) -> Process:
    """A process whose samplers take ComfyUI's steps.

    Args:
        process: the model's.
        scheduler: a name in SCHEDULERS.
        flow: the levels, for a flow.

    Raises:
        ValueError: for an unknown scheduler (names the nearest), or as in `levels`.
    """
    spread = look_up(SCHEDULERS, scheduler, "scheduler")
    all_levels = flow or levels(process)

    def planned(process: Process, sampler: str, steps: int) -> Trajectory:
        make = look_up(FLOW_SAMPLERS if flow else SAMPLERS, sampler, "sampler")
        begins = spread(all_levels, steps)
        if len(begins) != steps:
            raise ValueError(
                f"the scheduler {scheduler} makes {len(begins)} steps instead of steps = {steps}. Valid: a number "
                f"that divides {len(all_levels.table)}, or fewer steps"
            )
        if flow:
            return Trajectory(make(), timesteps.plan(np.append(begins, 0.0)), float(begins[0]))
        times = np.asarray(process.schedule.inverse_log_snr(-2 * np.log(begins)), np.float64)
        nearest = np.abs(np.log(begins)[:, None] - np.log(all_levels.table)).argmin(1)
        network_times = np.stack([times, (nearest + 1) / process.T], axis=1)
        return Trajectory(make(), timesteps.plan(np.append(times, 0.0)), 1.0, network_times)

    return process._replace(planned=planned)
