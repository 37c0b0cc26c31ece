"""scheduler_config.json as the process that a network was trained with, and what the config says of its sampling."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from diffusion import parameterizations, schedules
from diffusion.flows import flow_maps
from diffusion.io import limits, schema
from diffusion.models.interchange.family import Fields, Refusal
from diffusion.models.interchange.schedulers.solvers import SD_BETAS, SOLVERS, SPACINGS, lcm_indices
from diffusion.models.layers.choices import look_up
from diffusion.parameterizations import Parameterization
from diffusion.schedules import NoiseSchedule

PREDICTIONS = {
    "epsilon": parameterizations.epsilon,
    "v_prediction": parameterizations.v,
    "sample": parameterizations.x0,
    "flow_prediction": parameterizations.velocity,
}
"""Parameterizations by the prediction_type of a scheduler's config."""
OURS = "FlowConsistencyScheduler"
"""The class that our own scheduler has in a scheduler's config."""
FLOW_LCM = "FlowMatchLCMScheduler"
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", FLOW_LCM)
COSINE = "DDPMWuerstchenScheduler"
SIGNALS = (1e-4, 0.9999)  # least and largest alpha^2 of that scheduler, which clips it
EDMS = {"EDMEulerScheduler": "euler", "EDMDPMSolverMultistepScheduler": "dpmpp_2m"}
COGVIDEOX = {"CogVideoXDDIMScheduler": "ddim", "CogVideoXDPMScheduler": "dpmpp_2m_sde"}
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
"""Options of tables of betas and their known values.

The first value holds where a config is silent; None there means that each solver has its own.
"""
LEVELS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
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
    "scale_factors": (None,),
}
"""Fields of which only these values are supported."""
WITHOUT_EFFECT: Mapping[str, str] = {
    "dynamic_thresholding_ratio": "of thresholding, which is refused",
    "sample_max_value": "of thresholding, which is refused",
    "noise_sampler_seed": "every sample has its own key",
    "flow_shift": "of use_flow_sigmas, which reads it",
    "skip_prk_steps": "of PNDM, which reads it",
    "upscale_mode": "of scale_factors, which is refused",
}
"""Fields that are read without effect, and why."""


LONGEST = 10**5  # steps of a process; published ones have 1,000
KINDS = {  # what the fields of a config may hold
    "num_train_timesteps": schema.integer(1, LONGEST),
    "original_inference_steps": schema.integer(0, LONGEST),
    "steps_offset": schema.integer(0, LONGEST),
    "snr_shift_scale": schema.number(1e-3, 1e3),
    "beta_start": schema.number(0, 1),
    "beta_end": schema.number(0, 1),
    "trained_betas": schema.optional(schema.several(schema.number(0, 1), 1, LONGEST)),
    "shift": schema.number(1e-3, 1e3),
    "flow_shift": schema.number(1e-3, 1e3),
    "base_shift": schema.number(-50, 50),
    "max_shift": schema.number(-50, 50),
    "shift_terminal": schema.optional(schema.number(0, 1)),
    "base_image_seq_len": schema.integer(1),
    "max_image_seq_len": schema.integer(1),
    "boundary_scaling": schema.optional(schema.number()),
    "solver_order": schema.integer(1, 10),
    "clip_sample_range": schema.number(1e-3, 1e3),
    "sigma_min": schema.number(1e-9, 1e9),
    "sigma_max": schema.number(1e-9, 1e9),
    "sigma_data": schema.number(1e-9, 1e9),
    "rho": schema.number(1e-3, 1e3),
}


class Process(NamedTuple):
    """The process and the options of a config.

    Attributes:
        schedule: the process that the network was trained with.
        parameterization: the network's parameterization, and the clock that it receives, 0 .. T - 1 (0 .. T for a
            flow).
        prediction: its name in diffusers: "epsilon", "v_prediction", "sample" or "flow_prediction".
        sampler: the name of the solver that the config names.
        T: number of steps of the process.
        fields: further fields of the config (OPTIONS and a few numbers), or the shifts of a flow, or EDM's levels.
        named: the schedule of a table of betas as our configs name it, {"name": "linear_beta", ...}; {} for others.
        planned: (process, sampler, steps) -> `Trajectory`, in place of diffusers' steps; None: as diffusers has them.
    """

    schedule: NoiseSchedule
    parameterization: Parameterization
    prediction: str
    sampler: str
    T: int
    fields: Mapping[str, Any]
    named: Mapping[str, Any] = MappingProxyType({})
    planned: Callable[["Process", str, int], Any] | None = None


def read(
    config: Mapping[str, Any],
    prediction: str = "",
    even: bool = False,
    by_steps: bool = False,
    bent: bool = False,
    by_root: bool = False,
) -> Process:
    """The process of a scheduler's config.

    Args:
        config: scheduler_config.json.
        prediction: prediction that the caller expects of the network, a name in PREDICTIONS; "" as the config says.
        even: whether the pipeline lays the steps of a flow itself, evenly from 1 to 1 / steps before they are shifted,
            as Flux's does; otherwise its scheduler does.
        by_steps: whether a dynamic shift also depends on the number of the steps, and not on the config's numbers, as
            in FLUX.2's pipeline.
        bent: whether the pipeline lays the steps of a flow itself, first slowly and then fast, as the pipeline
            of LTX-Video 0.9.5 and later.
        by_root: whether a dynamic shift follows the root of the number of tokens, and not the config's numbers, as in
            Qwen-Image-Layered's pipeline.

    Raises:
        Refusal: for what is not supported, or a prediction that contradicts the config.
    """
    if not isinstance(config, Mapping):
        raise Refusal(f"a scheduler's config must be a table of fields; got {limits.short(config)}.")
    name = Fields("scheduler", config).take("_class_name", "")
    fields = Fields(name or "scheduler", config, tuple(WITHOUT_EFFECT), KINDS)
    T = fields.take("num_train_timesteps", 1000)
    if name in FLOWS or config.get("use_flow_sigmas"):
        process = _flow(fields, T, even, by_steps, bent, by_root)
    elif name == "SCMScheduler":
        process = _trigonometric(fields, T)
    elif name in EDMS:
        process = _edm(fields, name, T)
    elif name == COSINE:
        process = _cosine(fields, T)
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
            f"{process.prediction!r}; the pictures would be noise. Leave prediction out, or correct prediction_type "
            "in the config if that is wrong."
        )
    fields.end()
    SOLVERS[process.sampler].make(process.fields, 2)  # refuses now what it would refuse later
    return process


def _tabulated(fields: Fields, name: str, T: int) -> Process:
    known = {solver.scheduler: sampler for sampler, solver in reversed(SOLVERS.items())}
    sampler = COGVIDEOX.get(name) or look_up(known, name, "scheduler")
    usual = SD_BETAS if name in COGVIDEOX else SOLVERS[sampler].betas
    kind = fields.only("beta_schedule", *dict.fromkeys((usual[0], "linear", "scaled_linear", "squaredcos_cap_v2")))
    ends = fields.take("beta_start", usual[1]), fields.take("beta_end", usual[2])
    betas = fields.take("trained_betas")
    if betas is not None and len(betas) != T:
        raise Refusal(f"{name}: {len(betas)} trained_betas and num_train_timesteps = {T} contradict each other.")
    try:
        if betas is None and kind == "squaredcos_cap_v2":
            bar = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
            betas = tuple(np.minimum(1 - bar[1:] / bar[:-1], 0.999).tolist())
        if betas is not None:
            schedule = schedules.from_betas(np.asarray(betas))
            named = {"name": "from_betas", "betas": betas}
        else:
            schedule = (schedules.linear_beta if kind == "linear" else schedules.scaled_linear)(*ends, T)
            betas_named = "linear_beta" if kind == "linear" else "scaled_linear"
            named = {"name": betas_named, "beta_start": ends[0], "beta_end": ends[1], "T": T}
        if name in COGVIDEOX:  # these classes divide the signal-to-noise ratio
            factor = math.sqrt(fields.take("snr_shift_scale", 3.0))
            schedule = schedules.shifted(schedule, factor)
            named = {"name": "shifted", "schedule": named, "factor": factor}
        if fields.take("rescale_betas_zero_snr", False):
            schedule = schedules.zero_terminal_snr(schedule)
            named = {"name": "zero_terminal_snr", "schedule": named}
    except ValueError as error:
        raise Refusal(f"{name}: its betas define no valid process: {limits.reason(error)}") from error
    predicts = fields.only("prediction_type", "epsilon", "v_prediction", "sample")
    if fields.only("algorithm_type", "dpmsolver++", "sde-dpmsolver++", "deis") == "sde-dpmsolver++":
        sampler = "dpmpp_2m_sde"
    if name == "PNDMScheduler" and not fields.take("skip_prk_steps", False):
        sampler = "pndm"
    options = _options(fields)
    if name in COGVIDEOX:  # these classes clip nothing, do not name the spacing, and end with a first-order step
        options |= {"clip_sample": False, "timestep_spacing": options["timestep_spacing"] or "leading"}
        options["euler_at_final"] = True
    options["original_inference_steps"] = fields.take("original_inference_steps", 50)
    if SOLVERS[sampler].spacing == "lcm":  # the others do not read it
        try:
            lcm_indices(1, options["original_inference_steps"], T)
        except ValueError as error:
            raise Refusal(f"{name}: {error}.") from error
    _only_one_level(name, options)
    parameterization = PREDICTIONS[predicts](parameterizations.steps(T))
    return Process(schedule, parameterization, predicts, sampler, T, options, named)


def _only_one_level(name: str, options: Mapping[str, Any]) -> None:
    if sum(bool(options[level]) for level in LEVELS) > 1:
        raise Refusal(f"{name}: only one of {', '.join(LEVELS)} may be set.")


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
    if predicts == "v_prediction":  # our velocity with the other sign
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


def _cosine(fields: Fields, T: int) -> Process:
    """The cosine process in continuous time, between two levels of noise, as Stable Cascade is sampled."""
    fields.only("scaler", 1.0)
    s = fields.take("s", 0.008, schema.number(1e-6, 1))
    at = lambda signal: math.acos(math.sqrt(signal) * math.cos(math.pi / 2 * s / (1 + s))) / (math.pi / 2) * (1 + s) - s
    first, last = map(at, SIGNALS)
    schedule = schedules.ending_at(schedules.cosine(s), first)._replace(t_min=last)
    epsilon = parameterizations.epsilon(parameterizations.time())
    named = {"name": "cosine", "s": s}
    ends = {"first_and_last": (first, last)}
    return Process(schedule, epsilon, "epsilon", "ddpm", T, _options(fields) | ends, named)


def _negated(parameterization: Parameterization) -> Parameterization:
    """A network whose output has the other sign."""
    read, target = parameterization.to_prediction, parameterization.target
    return parameterization._replace(
        to_prediction=lambda schedule, t, x_t, output: read(schedule, t, x_t, -output),
        target=lambda schedule, t, x0, eps: -target(schedule, t, x0, eps),
    )


def _trigonometric(fields: Fields, T: int) -> Process:
    """A consistency model in x = cos(s) x0 + sin(s) eps, as SANA-Sprint is sampled, in the time of a flow.

    x / (cos(s) + sin(s)) is the flow's x_t at t = sin(s) / (cos(s) + sin(s)), where the network predicts a velocity.
    """
    fields.only("prediction_type", "trigflow")
    for level in LEVELS:
        fields.only(level, False, None)
    fields.take("sigma_data", 0.5)  # a scale of data and noise, which the pipeline takes out again
    return _flow_process("lcm", T, _options(fields) | {"shift": 1.0, "dynamic": False, "trigonometric": True})


def _flow(fields: Fields, T: int, even: bool, by_steps: bool, bent: bool, by_root: bool) -> Process:
    if fields.take("use_flow_sigmas", False):
        return _tabulated_flow(fields, T)
    shifts = {
        "shift": float(fields.take("shift", 1.0)),
        "even": even,
        "by_steps": by_steps,
        "bent": bent,
        "by_root": by_root,
        "dynamic": bool(fields.take("use_dynamic_shifting", False)),
        "base": (fields.take("base_image_seq_len", 256), fields.take("base_shift", 0.5)),
        "terminal": fields.take("shift_terminal") or 0.0,
        "largest": (fields.take("max_image_seq_len", 4096), fields.take("max_shift", 1.15)),
    }
    if bent and shifts["dynamic"]:
        raise Refusal(
            f"{fields.name}: use_dynamic_shifting = True is not supported for a pipeline that sets its times itself; "
            "valid: False."
        )
    options = _options(fields)
    heun = "Heun" in fields.name
    for level in LEVELS if heun else ("use_lu_lambdas",):  # the class does not have them
        fields.only(level, False, None)
    _only_one_level(fields.name, options)
    if heun:
        return _flow_process("heun", T, options | shifts)
    shifts["linear"] = fields.only("time_shift_type", "exponential", "linear") == "linear"
    always = fields.name == FLOW_LCM  # the class has no such field
    shifts["stochastic"] = always or bool(fields.only("stochastic_sampling", False, True, None))
    return _flow_process("lcm" if shifts["stochastic"] else "euler", T, options | shifts)


def _tabulated_flow(fields: Fields, T: int) -> Process:
    """A flow by a scheduler that was made for tables of betas, which it then does not use."""
    for field in ("beta_schedule", "beta_start", "beta_end", "trained_betas"):
        fields.take(field)
    name = fields.take("_class_name")
    if name not in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", OURS):
        raise Refusal(
            f"{name}: use_flow_sigmas = True is not supported for this class. Supported: DPMSolverMultistepScheduler, "
            f"UniPCMultistepScheduler and {OURS}."
        )
    predicts = fields.only("prediction_type", "flow_prediction", "sample")
    fields.only("algorithm_type", "dpmsolver++")
    fields.only("final_sigmas_type", "zero")
    for other in ("rescale_betas_zero_snr", "use_dynamic_shifting", *LEVELS):
        fields.only(other, False)
    shifts = {"shift": float(fields.take("flow_shift", 1.0)), "dynamic": False}
    if name == OURS:
        process = _flow_process("lcm", T, _options(fields) | shifts | {"first_alpha": 0.0}, predicts)
        scaling = fields.take("boundary_scaling")
        if scaling is not None:
            if not isinstance(scaling, (int, float)) or not scaling > 0:
                raise Refusal(f"{name}: boundary_scaling = {scaling!r} must be a positive number.")
            bounded = flow_maps.latent_consistency(process.parameterization, scaling=scaling, T=T)
            process = process._replace(parameterization=bounded)
        return process
    if name == "UniPCMultistepScheduler":
        options = _options(fields)
        return _flow_process("unipc", T, options | shifts | {"last": 1 / T, "cut": True}, predicts)
    sampler = "ddim" if fields.take("solver_order", 2) == 1 else "dpmpp_2m"
    return _flow_process(sampler, T, _options(fields) | shifts | {"first_alpha": 1 / T, "cut": True}, predicts)


def _flow_process(sampler: str, T: int, shifts: dict[str, Any], predicts: str = "flow_prediction") -> Process:
    parameterization = PREDICTIONS[predicts](parameterizations.time(T))
    return Process(schedules.rectified_flow(), parameterization, predicts, sampler, T, shifts)
