"""The solvers of diffusers' schedulers, by the names that people know, and the indices at which their steps lie."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from diffusion import samplers
from diffusion.models.interchange.family import Refusal
from diffusion.samplers import Sampler

SPACINGS = ("leading", "linspace", "trailing")
Options = Mapping[str, Any]
"""Options of a config beside the process, by its fields; a field that it leaves out, or sets to null, is None."""


class Solver(NamedTuple):
    """A sampler and what its scheduler of diffusers does where a config is silent.

    Attributes:
        scheduler: its class in diffusers.
        make: (options, steps) -> sampler; a `Refusal` for options that ours does not have.
        spacing: spacing of the steps; "lcm", which no config can change, takes them from the steps of its training.
        own_spacing: whether the class has no `timestep_spacing`, so that a config cannot change it.
        beyond: whether the grid has one step more, whose first is left out.
        exploding: whether the class integrates x / alpha, which starts at sigma(t) noise if the grid reaches T.
        to_zero: whether it ends at alpha = 1; otherwise it ends at the first time of the process.
        ends: the field of the config that changes `to_zero`; "" for none.
        levels: whether the class has Karras' steps and its relatives.
        clips: the class's own `clip_sample`; None for a class without it.
        betas: the class's own beta_schedule, beta_start and beta_end.
        listed_twice: whether the class lists the end of its first step twice, for both evaluations of that step.
    """

    scheduler: str
    make: Callable[[Options, int], Sampler]
    spacing: str = "linspace"
    own_spacing: bool = False
    beyond: bool = False
    exploding: bool = False
    to_zero: bool = True
    ends: str = "final_sigmas_type"
    levels: bool = True
    clips: bool | None = None
    betas: tuple[str, float, float] = ("linear", 1e-4, 0.02)
    listed_twice: bool = False


def _plain(make: Callable[[], Sampler]) -> Callable[[Options, int], Sampler]:
    """The `make` of a scheduler whose solver has no options."""
    return lambda options, steps: make()


def _lowers(options: Options, steps: int) -> bool:
    """Whether the last steps are of lower order; in diffusers only trajectories of few steps have such steps."""
    return bool(options["euler_at_final"]) or (options["lower_order_final"] is not False and steps < 15)


def _order(options: Options, scheduler: str, *valid: int) -> int:
    order = options["solver_order"] or 2
    if order not in valid:
        raise Refusal(
            f"{scheduler}: solver_order = {order} is not supported; supported: "
            f"{', '.join(map(str, valid))}."
            + (
                " diffusers' third order leaves out half of the second difference; set solver_order to 2, or "
                "leave it and sample with 'dpmpp_3m', which has all of it."
                if order == 3
                else ""
            )
        )
    return order


def _dpmpp_2m(options: Options, steps: int, stochastic: bool = False) -> Sampler:
    order = _order(options, "DPMSolverMultistepScheduler", 1, 2)
    if order == 1:
        return samplers.ddim(1.0 if stochastic else 0.0)
    if stochastic or options["solver_type"] == "heun":
        solver = "heun" if options["solver_type"] == "heun" else "midpoint"
        return samplers.dpmpp_2m_sde(float(stochastic), solver=solver, lower_order_final=_lowers(options, steps))
    return samplers.dpmpp_2m(_lowers(options, steps))


def _dpmpp_2s(options: Options, steps: int) -> Sampler:
    if _order(options, "DPMSolverSinglestepScheduler", 1, 2) == 1:
        return samplers.ddim()
    if options["solver_type"] == "heun":
        raise Refusal("DPMSolverSinglestepScheduler: solver_type = 'heun' is not supported; supported: 'midpoint'.")
    # diffusers lowers the order of the last step where the number of steps is odd, or the end is at zero.
    lowered = options["lower_order_final"] or steps % 2 == 1 or options["final_sigmas_type"] != "sigma_min"
    return samplers.dpmpp_2s("grid", lowered)


def _deis(options: Options, steps: int) -> Sampler:
    return samplers.deis(_order(options, "DEISMultistepScheduler", 1, 2, 3), "log-SNR", _lowers(options, steps))


def _unipc(options: Options, steps: int) -> Sampler:
    variant = "bh1" if options["solver_type"] == "bh1" else "bh2"
    order = _order(options, "UniPCMultistepScheduler", 1, 2, 3)
    return samplers.unipc(order, variant, options["lower_order_final"] is not False)


def _ddpm(options: Options, steps: int) -> Sampler:
    kinds = {
        None: "small",
        "fixed_small": "small",
        "fixed_small_log": "small",
        "fixed_large": "large",
        "learned_range": "learned",
    }
    if options["variance_type"] not in kinds:
        raise Refusal(
            f"DDPMScheduler: variance_type = {options['variance_type']!r} is not supported; supported: "
            f"{', '.join(repr(kind) for kind in kinds if kind)}. Sample with another solver, such as 'ddim'."
        )
    return samplers.ddpm(kinds[options["variance_type"]])


def _karras_kin(scheduler: str, make: Callable[[], Sampler], **how: Any) -> Solver:
    """A scheduler that integrates x / alpha as k-diffusion does."""
    return Solver(scheduler, _plain(make), exploding=True, **{"ends": "", **how})


SD_BETAS, KDPM_BETAS = ("scaled_linear", 0.00085, 0.012), ("linear", 0.00085, 0.012)
SOLVERS = {
    "ddim": Solver(
        "DDIMScheduler", _plain(samplers.ddim), "leading", ends="set_alpha_to_one", levels=False, clips=True
    ),
    "ddpm": Solver("DDPMScheduler", _ddpm, "leading", ends="", levels=False, clips=True),
    "plms": Solver(
        "PNDMScheduler",
        _plain(samplers.plms),
        "leading",
        to_zero=False,
        ends="set_alpha_to_one",
        levels=False,
        listed_twice=True,
    ),
    "pndm": Solver(
        "PNDMScheduler", _plain(samplers.pndm), "leading", to_zero=False, ends="set_alpha_to_one", levels=False
    ),
    "euler": _karras_kin("EulerDiscreteScheduler", samplers.ddim, ends="final_sigmas_type"),
    "euler_ancestral": _karras_kin("EulerAncestralDiscreteScheduler", samplers.euler_ancestral, levels=False),
    "heun": _karras_kin("HeunDiscreteScheduler", samplers.edm, clips=False, betas=KDPM_BETAS),
    "dpm_2": _karras_kin("KDPM2DiscreteScheduler", samplers.dpm_2, betas=KDPM_BETAS),
    "dpm_2_ancestral": _karras_kin("KDPM2AncestralDiscreteScheduler", samplers.dpm_2_ancestral, betas=KDPM_BETAS),
    "lms": _karras_kin("LMSDiscreteScheduler", samplers.lms),
    "dpmpp_2m": Solver("DPMSolverMultistepScheduler", _dpmpp_2m, beyond=True),
    "dpmpp_2m_sde": Solver("DPMSolverMultistepScheduler", functools.partial(_dpmpp_2m, stochastic=True), beyond=True),
    "dpmpp_3m": Solver(
        "DPMSolverMultistepScheduler", lambda options, steps: samplers.dpmpp_3m(_lowers(options, steps)), beyond=True
    ),
    "dpmpp_2s": Solver("DPMSolverSinglestepScheduler", _dpmpp_2s, own_spacing=True, beyond=True),
    "dpmpp_sde": _karras_kin("DPMSolverSDEScheduler", samplers.dpmpp_sde, betas=KDPM_BETAS),
    "deis": Solver("DEISMultistepScheduler", _deis, beyond=True, to_zero=False, ends=""),
    "unipc": Solver("UniPCMultistepScheduler", _unipc, beyond=True),
    "lcm": Solver(
        "LCMScheduler",
        _plain(samplers.consistency),
        "lcm",
        own_spacing=True,
        ends="",
        levels=False,
        clips=False,
        betas=SD_BETAS,
    ),
    # (Its pipelines in diffusers set gamma = 0 where the caller says nothing.)
    "tcd": Solver(
        "TCDScheduler",
        _plain(samplers.flow_map),
        "lcm",
        own_spacing=True,
        to_zero=False,
        ends="",
        levels=False,
        betas=SD_BETAS,
    ),
}
"""Solvers by the names of our samplers."""


def spaced_indices(spacing: str, steps: int, T: int, offset: int, beyond: bool) -> np.ndarray:
    """`[steps]` decreasing indices in 0 .. T - 1; all are whole numbers except with the spacing "linspace".

    Raises:
        ValueError: for an offset that leads beyond the steps of the process.
    """
    if spacing == "trailing":
        return np.round(np.arange(T, 0, -T / steps))[:steps] - 1  # with the rounding errors that diffusers has
    count = steps + beyond
    if spacing == "linspace":
        return np.linspace(0, T - 1, count)[::-1][:steps]
    indices = np.arange(count)[::-1][:steps] * (T // count) + offset
    if indices.max() >= T:
        raise ValueError(f"{steps} steps with an offset of {offset} go beyond the {T} steps of the process")
    return indices.astype(np.float64)


def lcm_indices(steps: int, original: int, T: int, share: float = 1.0) -> np.ndarray:
    """`[steps]` indices, evenly spaced among the `original` ones that the student learned from.

    With a share below 1, they are spaced among the last ones, which are this share of the `original` ones.

    Raises:
        ValueError: for a number of steps out of range, or more of them than the share leaves.
    """
    if not 1 <= original <= T:
        raise ValueError(f"original_inference_steps = {original!r} must be in 1 .. {T}, the steps of the process")
    included = int(original * share)
    if steps > original:
        raise ValueError(f"steps = {steps} must be in 1 .. {original}, the number of steps in the distillation")
    if steps > included:
        raise ValueError(
            f"steps = {steps}: strength = {share:g} leaves {included} of the {original} steps in the distillation. "
            f"Valid: a strength of at least {steps / original:g} for this number of steps"
        )
    return (included - np.arange(steps) * included // steps) * (T // original) - 1
