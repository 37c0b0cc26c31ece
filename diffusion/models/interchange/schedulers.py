"""diffusers' scheduler_config.json as what it says here: a process, what the network predicts, and grids of times.

    process = schedulers.read(config)
    walk = schedulers.walk(process, "dpmpp_2m", steps=30)
    samplers.sample(walk.sampler, denoise, process.schedule, walk.start * noise, walk.plan, keys)

One scheduler there is three things: the process that the network was trained with, a solver, and where its steps lie.
The process is read once; a solver is asked for by name, and steps where diffusers' scheduler of that name would with
this config: a spacing or an offset that the config sets holds for all of them, and each has its own default where the
config is silent. What differs:

- Steps end where the next one begins. (There DDIM, PLMS and DDPM step by T // steps whatever the grid, which is the
  same with spacing "leading".)
- A step from the first time of the process to itself is left out.
- Times between two of the process's are where its log alpha is linear, there sigma / alpha is: the network is told
  times that differ by less than 0.01 of a training step.
- With Karras' steps DPM-Solver++ there tells the network whole times, here those that belong to its noise.
- PNDM's Runge-Kutta steps there have whole half steps, (T // steps) // 2.
- "euler", "heun" and their kin integrate in sigma / alpha, as everywhere in this field; `samplers.euler` is in t.
- LCM's boundary, whose weight is 7e-6 at the smallest of its times, is left out.

One scheduler is ours, with no counterpart there: OURS, of few-step students of flows, see `experiments.text.model`.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from diffusion import flow_maps, parameterizations, samplers, schedules, timesteps
from diffusion.guidance.prediction_changes import replace_x0
from diffusion.io import limits, schema
from diffusion.models.interchange.family import Fields, Refusal
from diffusion.models.layers.choices import look_up
from diffusion.parameterizations import Parameterization
from diffusion.samplers import Sampler
from diffusion.schedules import NoiseSchedule
from diffusion.timesteps import Plan

PREDICTIONS = {
    "epsilon": parameterizations.epsilon,
    "v_prediction": parameterizations.v,
    "sample": parameterizations.x0,
    "flow_prediction": parameterizations.velocity,
}
SPACINGS = ("leading", "linspace", "trailing")


Options = Mapping[str, Any]
"""What a config sets beside the process, by its fields; a field that it leaves out, or sets to null, is None."""


class Solver(NamedTuple):
    """A sampler and what its scheduler of diffusers does where a config is silent.

    Attributes:
        scheduler: the class there.
        make: (options, steps) -> sampler; a `Refusal` for options that ours has not.
        spacing: of the steps; "lcm", which no config can change, takes them from those of its training.
        own_spacing: whether the class has no `timestep_spacing`, so that a config cannot change it.
        beyond: whether the grid is laid for one step more, whose first is left out.
        exploding: whether x / alpha is what is walked there, which starts at sigma(t) noise if the grid reaches T.
        to_zero: whether it ends at alpha = 1, or else at the first time of the process.
        ends: the field of the config that says so otherwise; "" for none.
        levels: whether the class has Karras' steps and its relatives.
        clips: the class's own `clip_sample`; None where it has none.
        betas: the class's own beta_schedule, beta_start and beta_end.
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


def _plain(make: Callable[[], Sampler]) -> Callable[[Options, int], Sampler]:
    """Of a scheduler whose solver has no options."""
    return lambda options, steps: make()


def _lowers(options: Options, steps: int) -> bool:
    """Whether the last steps are of lower order: there, only where they are few."""
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
    # There the last step is lowered where their number is odd, or the end is at zero.
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
    """A scheduler that walks x / alpha as k-diffusion does."""
    return Solver(scheduler, _plain(make), exploding=True, **{"ends": "", **how})


SD_BETAS, KDPM_BETAS = ("scaled_linear", 0.00085, 0.012), ("linear", 0.00085, 0.012)
SOLVERS = {
    "ddim": Solver(
        "DDIMScheduler", _plain(samplers.ddim), "leading", ends="set_alpha_to_one", levels=False, clips=True
    ),
    "ddpm": Solver("DDPMScheduler", _ddpm, "leading", ends="", levels=False, clips=True),
    "plms": Solver(
        "PNDMScheduler", _plain(samplers.plms), "leading", to_zero=False, ends="set_alpha_to_one", levels=False
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
    # (Its pipelines there ask for gamma = 0 where the caller says nothing.)
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
OURS = "FlowConsistencyScheduler"
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
EDMS = {"EDMEulerScheduler": "euler", "EDMDPMSolverMultistepScheduler": "dpmpp_2m"}
# Of tables of betas: the options and the values that are known, first the one where a config is silent. None says that
# each solver has its own.
OPTIONS: Mapping[str, tuple] = {
    "timestep_spacing": (None, *SPACINGS),
    "set_alpha_to_one": (None, True, False),
    "final_sigmas_type": (None, "zero", "sigma_min"),
    "lower_order_final": (None, True, False),
    "euler_at_final": (False, True),
    "solver_type": (None, "midpoint", "heun", "logrho", "bh1", "bh2"),
    "clip_sample": (None, True, False),
    "variance_type": (None, "fixed_small", "fixed_large", "fixed_small_log", "learned", "learned_range"),
    "use_karras_sigmas": (False, True, None),
    "use_exponential_sigmas": (False, True, None),
    "use_beta_sigmas": (False, True, None),
    "use_lu_lambdas": (False, True, None),
}
LEVELS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
# What only one value is known of, by the value.
ONLY: Mapping[str, tuple] = {
    "thresholding": (False, None),
    "predict_x0": (True,),
    "disable_corrector": ((), None),
    "solver_p": (None,),
    "lambda_min_clipped": (-math.inf, None),
    "interpolation_type": ("linear",),
    "sigma_min": (None,),
    "sigma_max": (None,),
    "timestep_type": ("discrete",),
    "timestep_scaling": (10.0,),
    "invert_sigmas": (False, None),
    "stochastic_sampling": (False, None),
    "time_shift_type": ("exponential",),
    "shift_terminal": (None,),
    "use_dynamic_shifting": (False, None),
}
# What is read for nothing, and why.
WITHOUT_EFFECT: Mapping[str, str] = {
    "dynamic_thresholding_ratio": "of thresholding, which is refused",
    "sample_max_value": "of thresholding, which is refused",
    "noise_sampler_seed": "every sample has its own key",
    "flow_shift": "of use_flow_sigmas, which reads it",
    "skip_prk_steps": "of PNDM, which reads it",
}


LONGEST = 10**5  # steps of a process; published ones have 1,000
KINDS = {  # what the fields of a config may hold
    "num_train_timesteps": schema.whole(1, LONGEST),
    "original_inference_steps": schema.whole(0, LONGEST),
    "steps_offset": schema.whole(0, LONGEST),
    "beta_start": schema.number(0, 1),
    "beta_end": schema.number(0, 1),
    "trained_betas": schema.optional(schema.several(schema.number(0, 1), 1, LONGEST)),
    "shift": schema.number(1e-3, 1e3),
    "flow_shift": schema.number(1e-3, 1e3),
    "base_shift": schema.number(-50, 50),
    "max_shift": schema.number(-50, 50),
    "base_image_seq_len": schema.whole(1),
    "max_image_seq_len": schema.whole(1),
    "boundary_scaling": schema.optional(schema.number()),
    "solver_order": schema.whole(1, 10),
    "clip_sample_range": schema.number(1e-3, 1e3),
    "sigma_min": schema.number(1e-9, 1e9),
    "sigma_max": schema.number(1e-9, 1e9),
    "sigma_data": schema.number(1e-9, 1e9),
    "rho": schema.number(1e-3, 1e3),
}


class Process(NamedTuple):
    """What a config says.

    Attributes:
        schedule: the process that the network was trained with.
        parameterization: what it predicts, and the clock that it is told, 0 .. T - 1 (0 .. T for a flow).
        prediction: its name there: "epsilon", "v_prediction", "sample" or "flow_prediction".
        sampler: the name of the solver that the config asks for.
        T: steps of the process.
        fields: what the config sets beside (OPTIONS and a few numbers), or the shifts of a flow, or EDM's levels.
    """

    schedule: NoiseSchedule
    parameterization: Parameterization
    prediction: str
    sampler: str
    T: int
    fields: Mapping[str, Any]


class Walk(NamedTuple):
    """How to sample.

    Attributes:
        sampler: of the library.
        plan: its steps.
        start: factor of N(0, I) for the sample at the first time.
    """

    sampler: Sampler
    plan: Plan
    start: float


def read(config: Mapping[str, Any], prediction: str = "", even: bool = False) -> Process:
    """The process of a scheduler's config.

    Args:
        config: scheduler_config.json.
        prediction: what the network is thought to predict, a name in PREDICTIONS; "" as the config says.
        even: whether the pipeline lays the steps of a flow itself, evenly from 1 to 1 / steps before they are shifted,
            as Flux's does; its scheduler else does.

    Raises:
        Refusal: for what is not supported, or a prediction that contradicts the config.
    """
    if not isinstance(config, Mapping):
        raise Refusal(f"a scheduler's config is a table of fields, not {limits.short(config)}.")
    name = Fields("scheduler", config).take("_class_name", "")
    fields = Fields(name or "scheduler", config, tuple(WITHOUT_EFFECT), KINDS)
    T = fields.take("num_train_timesteps", 1000)
    if name in FLOWS or config.get("use_flow_sigmas"):
        process = _flow(fields, T, even)
    elif name in EDMS:
        process = _edm(fields, name, T)
    else:
        process = _tabulated(fields, name, T)
    for field, valid in ONLY.items():
        if field not in fields.read:
            fields.only(field, *valid)
    if prediction:
        look_up(PREDICTIONS, prediction, "prediction")
    if prediction not in ("", process.prediction):
        raise Refusal(
            f"{name}: prediction = {prediction!r} contradicts the config beside the checkpoint, which says "
            f"{process.prediction!r}: the pictures would be noise. Leave it out, or mend the config's "
            "prediction_type if it is that which is wrong."
        )
    fields.end()
    SOLVERS[process.sampler].make(process.fields, 2)  # what it refuses, now
    return process


def _tabulated(fields: Fields, name: str, T: int) -> Process:
    known = {solver.scheduler: sampler for sampler, solver in reversed(SOLVERS.items())}
    sampler = look_up(known, name, "scheduler")
    usual = SOLVERS[sampler].betas
    kind = fields.only("beta_schedule", *dict.fromkeys((usual[0], "linear", "scaled_linear", "squaredcos_cap_v2")))
    ends = fields.take("beta_start", usual[1]), fields.take("beta_end", usual[2])
    betas = fields.take("trained_betas")
    if betas is not None and len(betas) != T:
        raise Refusal(f"{name}: {len(betas)} trained_betas and num_train_timesteps = {T} contradict each other.")
    try:
        if betas is not None:
            schedule = schedules.from_betas(np.asarray(betas))
        elif kind == "squaredcos_cap_v2":
            bar = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
            schedule = schedules.from_betas(np.minimum(1 - bar[1:] / bar[:-1], 0.999))
        else:
            schedule = (schedules.linear_beta if kind == "linear" else schedules.scaled_linear)(*ends, T)
        if fields.take("rescale_betas_zero_snr", False):
            schedule = schedules.zero_terminal_snr(schedule)
    except ValueError as error:
        raise Refusal(f"{name}: its betas are those of no process: {limits.reason(error)}") from error
    predicts = fields.only("prediction_type", "epsilon", "v_prediction", "sample")
    if fields.only("algorithm_type", "dpmsolver++", "sde-dpmsolver++", "deis") == "sde-dpmsolver++":
        sampler = "dpmpp_2m_sde"
    if name == "PNDMScheduler" and not fields.take("skip_prk_steps", False):
        sampler = "pndm"
    options = _options(fields)
    options["original_inference_steps"] = fields.take("original_inference_steps", 50)
    if SOLVERS[sampler].spacing == "lcm":  # the others do not read it
        try:
            _indices_of_lcm(1, options["original_inference_steps"], T)
        except ValueError as error:
            raise Refusal(f"{name}: {error}.") from error
    if sum(bool(options[level]) for level in LEVELS) > 1:
        raise Refusal(f"{name}: more than one of {', '.join(LEVELS)} is set; choose one.")
    parameterization = PREDICTIONS[predicts](parameterizations.steps(T))
    return Process(schedule, parameterization, predicts, sampler, T, options)


def _options(fields: Fields) -> dict[str, Any]:
    options = {field: fields.only(field, *valid) for field, valid in OPTIONS.items()}
    return options | {
        "solver_order": fields.take("solver_order"),
        "steps_offset": fields.take("steps_offset", 0),
        "clip_sample_range": fields.take("clip_sample_range", 1.0),
    }


def _edm(fields: Fields, name: str, T: int) -> Process:
    """EDM's process and preconditioning, as Playground 2.5 is published."""
    low = fields.take("sigma_min", 0.002)
    high = fields.take("sigma_max", 80.0)
    predicts = fields.only("prediction_type", "epsilon", "v_prediction")
    if not low < high:
        raise Refusal(f"{name}: sigma_min = {low} must be below sigma_max = {high}.")
    parameterization = parameterizations.edm(fields.take("sigma_data", 0.5))
    if predicts == "v_prediction":  # the same with the other sign
        parameterization = _negated(parameterization)
    sampler = EDMS[name]
    if fields.only("algorithm_type", "dpmsolver++", "sde-dpmsolver++", "deis") == "sde-dpmsolver++":
        sampler = "dpmpp_2m_sde"
    levels = {
        "sigma_min": low,
        "sigma_max": high,
        "rho": fields.take("rho", 7.0),
        "sigma_schedule": fields.only("sigma_schedule", "karras", "exponential"),
    }
    return Process(schedules.edm(low, high), parameterization, predicts, sampler, T, _options(fields) | levels)


def _negated(parameterization: Parameterization) -> Parameterization:
    """A network whose output has the other sign."""
    read, target = parameterization.to_prediction, parameterization.target
    return parameterization._replace(
        to_prediction=lambda schedule, t, x_t, output: read(schedule, t, x_t, -output),
        target=lambda schedule, t, x0, eps: -target(schedule, t, x0, eps),
    )


def _flow(fields: Fields, T: int, even: bool) -> Process:
    if fields.take("use_flow_sigmas", False):
        return _tabulated_flow(fields, T)
    told = {
        "shift": float(fields.take("shift", 1.0)),
        "even": even,
        "dynamic": bool(fields.take("use_dynamic_shifting", False)),
        "base": (fields.take("base_image_seq_len", 256), fields.take("base_shift", 0.5)),
        "largest": (fields.take("max_image_seq_len", 4096), fields.take("max_shift", 1.15)),
    }
    for other in ("karras", "exponential", "beta"):
        fields.only(f"use_{other}_sigmas", False)
    sampler = "heun" if "Heun" in fields.name else "euler"
    return _flow_process(sampler, T, _options(fields) | told)


def _tabulated_flow(fields: Fields, T: int) -> Process:
    """A flow by a scheduler that was made for tables of betas, which it then does not use."""
    for field in ("beta_schedule", "beta_start", "beta_end", "trained_betas"):
        fields.take(field)
    name = fields.take("_class_name")
    if name not in ("DPMSolverMultistepScheduler", OURS):
        raise Refusal(
            f"{name}: use_flow_sigmas = True is not supported of this class; it is of "
            f"DPMSolverMultistepScheduler and {OURS}."
        )
    predicts = fields.only("prediction_type", "flow_prediction", "sample")
    fields.only("algorithm_type", "dpmsolver++")
    fields.only("final_sigmas_type", "zero")
    for other in (
        "rescale_betas_zero_snr",
        "use_karras_sigmas",
        "use_exponential_sigmas",
        "use_beta_sigmas",
        "use_dynamic_shifting",
        "use_lu_lambdas",
    ):
        fields.only(other, False)
    told = {"shift": float(fields.take("flow_shift", 1.0)), "dynamic": False}
    if name == OURS:
        process = _flow_process("lcm", T, _options(fields) | told | {"first": 1.0}, predicts)
        scaling = fields.take("boundary_scaling")
        if scaling is not None:
            if not isinstance(scaling, (int, float)) or not scaling > 0:
                raise Refusal(f"{name}: boundary_scaling = {scaling!r} must be a positive number.")
            bounded = flow_maps.latent_consistency(process.parameterization, scaling=scaling, T=T)
            process = process._replace(parameterization=bounded)
        return process
    sampler = "ddim" if fields.take("solver_order", 2) == 1 else "dpmpp_2m"
    return _flow_process(sampler, T, _options(fields) | told | {"first": 1 - 1 / T}, predicts)


def _flow_process(sampler: str, T: int, told: dict[str, Any], predicts: str = "flow_prediction") -> Process:
    parameterization = PREDICTIONS[predicts](parameterizations.time(T))
    return Process(schedules.rectified_flow(), parameterization, predicts, sampler, T, told)


def walk(process: Process, sampler: str, steps: int, tokens: int = 0) -> Walk:
    """A solver by name, and its steps.

    Args:
        process: from `read`.
        sampler: a name in SOLVERS; "" for the config's own.
        steps: how many.
        tokens: of a picture in the network, for flows whose shift grows with them; 0 elsewhere.

    Raises:
        ValueError: for an unknown sampler (names the nearest), or more steps than the process has.
    """
    name = sampler or process.sampler
    solver = look_up(SOLVERS, name, "sampler")
    if not 1 <= steps <= process.T:
        raise ValueError(f"steps = {steps} must be in 1 .. {process.T}, the steps of the process")
    fields = process.fields
    if "shift" in fields:  # a flow
        in_t = {"euler": samplers.euler, "heun": samplers.heun}
        made = in_t[name]() if name in in_t else solver.make(fields, steps)
        return Walk(made, timesteps.plan(_flow_grid(process, steps, tokens)), 1.0)
    made = solver.make(fields, steps)
    if "sigma_schedule" in fields:  # EDM
        ends = fields["sigma_max"], fields["sigma_min"]
        grid = _spread(process, fields["sigma_schedule"], steps, *ends, fields["rho"])
        end = grid[-1] if fields["final_sigmas_type"] == "sigma_min" else 0.0
        return Walk(made, _ending(grid, end, solver.beyond), math.hypot(ends[0], 1))
    if solver.spacing == "lcm":
        spacing = "lcm"
        indices = _indices_of_lcm(steps, fields["original_inference_steps"], process.T)
    else:
        spacing = solver.spacing if solver.own_spacing else fields["timestep_spacing"] or solver.spacing
        indices = _indices(spacing, steps, process.T, fields["steps_offset"], solver.beyond)
    if not solver.exploding:
        indices = np.round(indices)
    grid = _times(process, indices)
    spread = next((level for level in LEVELS if fields[level]), None) if solver.levels else None
    if spread:
        ends = _times(process, np.array([process.T - 1, 0])) if solver.beyond else grid[[0, -1]]
        sigma_max, sigma_min = np.exp(-np.asarray(process.schedule.log_snr(ends), np.float64) / 2)
        grid = _spread(process, spread.split("_")[1], steps, sigma_max, sigma_min)
        grid[-1] = ends[1]  # without the rounding of the way there and back
        grid[0] = ends[0]
    told = fields[solver.ends] if solver.ends else None
    end = 0.0 if (solver.to_zero if told is None else told in (True, "zero")) else 1 / process.T
    scaled = solver.exploding and spacing != "leading"
    start = float(process.schedule.sigma(grid[0])) if scaled else 1.0
    # (Its own default is a scheduler's that a config names, not that of one in its place.)
    own = SOLVERS[process.sampler].scheduler == solver.scheduler and solver.clips
    if solver.clips is not None and (own if fields["clip_sample"] is None else fields["clip_sample"]):
        made = _clipping(made, name, fields["clip_sample_range"])
    return Walk(made, _ending(grid, end, solver.beyond), start)


def _ending(grid: np.ndarray, end: float, beyond: bool) -> Plan:
    """The plan of a grid and its end; a step that goes nowhere is kept for solvers that count it among their last."""
    if grid[-1] == end and beyond:
        return Plan(grid, np.append(grid[1:], end), np.zeros(len(grid), bool))
    return timesteps.plan(np.append(grid, end) if grid[-1] > end else grid)


def _clipping(sampler: Sampler, name: str, largest: float) -> Sampler:
    """A sampler of whose estimates of the data none is larger; Heun's eps is then another, the others keep it."""

    def step(state, denoise, schedule, plan, i, noise):
        def clipped(x, t, *s) -> Any:
            found = denoise(x, t, *s)
            if sampler.of_flow_maps:
                return jnp.clip(found, -largest, largest)
            x0 = jnp.clip(found.x0, -largest, largest)
            return replace_x0(found, schedule, t, x0) if name == "heun" else found._replace(x0=x0)

        return sampler.step(state, clipped, schedule, plan, i, noise)

    return sampler._replace(step=step)


def _spread(
    process: Process, kind: str, steps: int, sigma_max: float, sigma_min: float, rho: float = 7.0
) -> np.ndarray:
    """`[steps]` times between two values of sigma / alpha, with both."""
    if kind == "karras":
        return timesteps.karras(process.schedule, steps, sigma_min, sigma_max, rho)[:-1]
    if kind == "beta":
        import scipy.stats

        ratios = sigma_min + scipy.stats.beta.ppf(np.linspace(1, 0, steps), 0.6, 0.6) * (sigma_max - sigma_min)
        return np.array(process.schedule.inverse_log_snr(-2 * np.log(ratios)), np.float64)
    return timesteps.uniform_log_snr(process.schedule, steps, sigma_min, sigma_max)[:-1]  # "exponential" and "lu"


def _indices(spacing: str, steps: int, T: int, offset: int, beyond: bool) -> np.ndarray:
    """`[steps]` decreasing indices 0 .. T - 1, whole but for "linspace"."""
    if spacing == "trailing":
        return np.round(T - np.arange(steps) * T / steps) - 1
    count = steps + beyond
    if spacing == "linspace":
        return np.linspace(0, T - 1, count)[::-1][:steps]
    found = np.arange(count)[::-1][:steps] * (T // count) + offset
    if found.max() >= T:
        raise ValueError(f"{steps} steps with an offset of {offset} leave the {T} steps of the process")
    return found.astype(np.float64)


def _indices_of_lcm(steps: int, original: int, T: int) -> np.ndarray:
    """`[steps]` of the `original` ones that the student learned from, evenly."""
    if not 1 <= original <= T:
        raise ValueError(f"original_inference_steps = {original!r} is no number of the process's {T} steps")
    if steps > original:
        raise ValueError(f"steps = {steps} must be in 1 .. {original}, the steps that the model was distilled with")
    return (original - np.arange(steps) * original // steps) * (T // original) - 1


def _times(process: Process, indices: np.ndarray) -> np.ndarray:
    """The times of indices; between two whole ones sigma / alpha is linear."""
    whole = np.floor(indices)
    ratio = lambda index: np.exp(-np.asarray(process.schedule.log_snr((index + 1) / process.T), np.float64) / 2)
    if (whole == indices).all():
        return (indices + 1) / process.T
    low = ratio(whole)
    high = ratio(np.minimum(whole + 1, process.T - 1))
    between = low + (indices - whole) * (high - low)
    times = np.asarray(process.schedule.inverse_log_snr(-2 * np.log(between)), np.float64)
    return np.where(whole == indices, (indices + 1) / process.T, times)


def _flow_grid(process: Process, steps: int, tokens: int) -> np.ndarray:
    """t = sigma from 1 to 0, as FlowMatchEulerDiscreteScheduler has it, or as Flux's pipeline lays it before."""
    fields = process.fields
    shift = process.fields["shift"]
    moved = lambda t: shift * t / (1 + (shift - 1) * t)
    if fields["dynamic"]:
        last = 1 / steps if fields["even"] else 1 / process.T
        grid = np.append(np.linspace(1.0, last, steps), 0.0)
        return timesteps.flux_shift(process.schedule, grid, tokens, fields["base"], fields["largest"])
    if fields.get("even"):
        return moved(np.append(np.linspace(1.0, 1 / steps, steps), 0.0))
    if "first" in fields:
        return moved(fields["first"] * np.linspace(1.0, 0.0, steps + 1))
    # Its smallest time is shifted when it is built, and with all the others again: so the published pictures are made.
    return np.append(moved(np.linspace(1.0, moved(1 / process.T), steps)), 0.0)
