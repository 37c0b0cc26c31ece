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

One scheduler is ours, with no counterpart there: OURS, of few-step students of flows, see `experiments.text_model`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from diffusion import flow_maps, limits, parameterizations, samplers, schedules, schema, timesteps
from diffusion.models.interchange.family import Fields, Refusal
from diffusion.models.names import look_up
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


class Solver(NamedTuple):
    """A sampler and what its scheduler of diffusers does where a config is silent.

    Attributes:
      scheduler: the class there.
      make: () -> sampler, for a process with a table of betas.
      spacing: of the steps; "lcm", which no config can change, takes them from those of its training.
      beyond: whether the grid is laid for one step more, whose first is left out.
      exploding: whether x / alpha is what is walked there, which starts at sigma(t) noise if the grid reaches T.
      to_zero: whether it ends at alpha = 1, or else at the first time of the process.
      ends: the field of the config that says so otherwise; "" for none.
    """

    scheduler: str
    make: Callable[[], Sampler]
    spacing: str = "linspace"
    beyond: bool = False
    exploding: bool = False
    to_zero: bool = True
    ends: str = "final_sigmas_type"


SOLVERS = {
    "ddim": Solver("DDIMScheduler", samplers.ddim, "leading", ends="set_alpha_to_one"),
    "ddpm": Solver("DDPMScheduler", samplers.ddpm, "leading", ends=""),
    "plms": Solver("PNDMScheduler", samplers.plms, "leading", to_zero=False, ends="set_alpha_to_one"),
    "pndm": Solver("PNDMScheduler", samplers.pndm, "leading", to_zero=False, ends="set_alpha_to_one"),
    "euler": Solver("EulerDiscreteScheduler", samplers.ddim, exploding=True),
    "euler_ancestral": Solver("EulerAncestralDiscreteScheduler", samplers.euler_ancestral, exploding=True, ends=""),
    "heun": Solver("HeunDiscreteScheduler", samplers.edm, exploding=True, ends=""),
    "dpm_2": Solver("KDPM2DiscreteScheduler", samplers.dpm_2, exploding=True, ends=""),
    "dpm_2_ancestral": Solver("KDPM2AncestralDiscreteScheduler", samplers.dpm_2_ancestral, exploding=True, ends=""),
    "lms": Solver("LMSDiscreteScheduler", samplers.lms, exploding=True, ends=""),
    "dpmpp_2m": Solver("DPMSolverMultistepScheduler", samplers.dpmpp_2m, beyond=True),
    "dpmpp_2m_sde": Solver("DPMSolverMultistepScheduler", samplers.dpmpp_2m_sde, beyond=True),
    "dpmpp_3m": Solver("DPMSolverMultistepScheduler", samplers.dpmpp_3m, beyond=True),
    "dpmpp_2s": Solver("DPMSolverSinglestepScheduler", samplers.dpmpp_2s, beyond=True),
    "dpmpp_sde": Solver("DPMSolverSDEScheduler", samplers.dpmpp_sde, exploding=True, ends=""),
    "deis": Solver("DEISMultistepScheduler", samplers.deis, beyond=True),
    "unipc": Solver("UniPCMultistepScheduler", samplers.unipc, beyond=True),
    "lcm": Solver("LCMScheduler", samplers.consistency, "lcm", ends=""),
}
OURS = "FlowConsistencyScheduler"
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
# Of solvers and of pixels: a solver is asked for by name here, and latents are neither clipped nor thresholded.
WITHOUT_EFFECT = (
    "clip_sample", "clip_sample_range", "sample_max_value", "dynamic_thresholding_ratio", "solver_order", "solver_type",
    "lower_order_final", "euler_at_final", "predict_x0", "disable_corrector", "solver_p", "lambda_min_clipped",
    "interpolation_type", "eta", "s_noise", "sigma_min", "sigma_max", "timestep_type", "invert_sigmas",
    "time_shift_type", "stochastic_sampling", "skip_prk_steps", "flow_shift", "timestep_scaling",
)  # fmt: skip


LONGEST = 10**5  # steps of a process; published ones have 1,000
KINDS = {  # what the fields of a config may hold
    "num_train_timesteps": schema.whole(1, LONGEST), "original_inference_steps": schema.whole(0, LONGEST),
    "steps_offset": schema.whole(0, LONGEST), "beta_start": schema.number(0, 1), "beta_end": schema.number(0, 1),
    "trained_betas": schema.optional(schema.several(schema.number(0, 1), 1, LONGEST)),
    "shift": schema.number(1e-3, 1e3), "flow_shift": schema.number(1e-3, 1e3),
    "base_shift": schema.number(-50, 50), "max_shift": schema.number(-50, 50),
    "base_image_seq_len": schema.whole(1), "max_image_seq_len": schema.whole(1),
    "boundary_scaling": schema.optional(schema.number()), "solver_order": schema.whole(1, 10),
}  # fmt: skip


class Process(NamedTuple):
    """What a config says.

    Attributes:
      schedule: the process that the network was trained with.
      parameterization: what it predicts, and the clock that it is told, 0 .. T - 1 (0 .. T for a flow).
      prediction: its name there: "epsilon", "v_prediction", "sample" or "flow_prediction".
      sampler: the name of the solver that the config asks for.
      T: steps of the process.
      fields: what the config sets of spacing, offset, ends and Karras' steps, or of the shifts of a flow.
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


def read(config: Mapping[str, Any], prediction: str = "") -> Process:
    """The process of a scheduler's config.

    Args:
      config: scheduler_config.json.
      prediction: what the network is thought to predict, a name in PREDICTIONS; "" as the config says.

    Raises:
      Refusal: for what is not supported, or a prediction that contradicts the config.
    """
    if not isinstance(config, Mapping):
        raise Refusal(f"a scheduler's config is a table of fields, not {limits.short(config)}.")
    name = Fields("scheduler", config).take("_class_name", "")
    fields = Fields(name or "scheduler", config, WITHOUT_EFFECT, KINDS)
    fields.only("thresholding", False)
    T = fields.take("num_train_timesteps", 1000)
    if name in FLOWS or config.get("use_flow_sigmas"):
        process = _flow(fields, T)
    else:
        process = _tabulated(fields, name, T)
    if prediction:
        look_up(PREDICTIONS, prediction, "prediction")
    if prediction not in ("", process.prediction):
        raise Refusal(f"{name}: prediction = {prediction!r} contradicts the config beside the checkpoint, which says "
                      f"{process.prediction!r}: the pictures would be noise. Leave it out, or mend the config's "
                      "prediction_type if it is that which is wrong.")
    fields.end()
    return process


def _tabulated(fields: Fields, name: str, T: int) -> Process:
    kind = fields.only("beta_schedule", "linear", "scaled_linear", "squaredcos_cap_v2")
    ends = fields.take("beta_start", 1e-4), fields.take("beta_end", 0.02)
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
    known = {solver.scheduler: sampler for sampler, solver in reversed(SOLVERS.items())}
    sampler = look_up(known, name, "scheduler")
    if fields.only("algorithm_type", "dpmsolver++", "sde-dpmsolver++", "deis") == "sde-dpmsolver++":
        sampler = "dpmpp_2m_sde"
    if name == "PNDMScheduler" and not fields.take("skip_prk_steps", False):
        sampler = "pndm"
    # Of DDPM; a network that learns its variance says so by its channels.
    fields.only("variance_type", "fixed_small", "fixed_large", "fixed_small_log", "learned", "learned_range", None)
    told = {"timestep_spacing": fields.only("timestep_spacing", None, *SPACINGS),
            "steps_offset": fields.take("steps_offset", 0), "karras": bool(fields.take("use_karras_sigmas", False)),
            "set_alpha_to_one": fields.only("set_alpha_to_one", None, True, False),
            "final_sigmas_type": fields.only("final_sigmas_type", None, "zero", "sigma_min"),
            "original_inference_steps": fields.take("original_inference_steps", 50)}  # fmt: skip
    original = told["original_inference_steps"]
    if type(original) is not int or not 1 <= original <= T:
        raise Refusal(f"{name}: original_inference_steps = {original!r} is no number of the process's {T} steps.")
    parameterization = PREDICTIONS[predicts](parameterizations.steps(T))
    return Process(schedule, parameterization, predicts, sampler, T, told)


def _flow(fields: Fields, T: int) -> Process:
    if fields.take("use_flow_sigmas", False):
        return _tabulated_flow(fields, T)
    told = {"shift": float(fields.take("shift", 1.0)), "dynamic": bool(fields.take("use_dynamic_shifting", False)),
            "base": (fields.take("base_image_seq_len", 256), fields.take("base_shift", 0.5)),
            "largest": (fields.take("max_image_seq_len", 4096), fields.take("max_shift", 1.15))}  # fmt: skip
    fields.only("shift_terminal", None)
    for other in ("karras", "exponential", "beta"):
        fields.only(f"use_{other}_sigmas", False)
    sampler = "heun" if "Heun" in fields.name else "euler"
    return _flow_process(sampler, T, told)


def _tabulated_flow(fields: Fields, T: int) -> Process:
    """A flow by a scheduler that was made for tables of betas, which it then does not use."""
    for field in ("beta_schedule", "beta_start", "beta_end", "trained_betas", "timestep_spacing", "steps_offset",
                  "variance_type"):  # fmt: skip
        fields.take(field)
    name = fields.only("_class_name", "DPMSolverMultistepScheduler", OURS)
    predicts = fields.only("prediction_type", "flow_prediction", "sample")
    fields.only("algorithm_type", "dpmsolver++")
    fields.only("final_sigmas_type", "zero")
    for other in ("rescale_betas_zero_snr", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas",
                  "use_dynamic_shifting", "use_lu_lambdas"):  # fmt: skip
        fields.only(other, False)
    shift = float(fields.take("flow_shift", 1.0))
    if name == OURS:
        process = _flow_process("lcm", T, {"shift": shift, "dynamic": False, "first": 1.0}, predicts)
        scaling = fields.take("boundary_scaling")
        if scaling is not None:
            if not isinstance(scaling, (int, float)) or not scaling > 0:
                raise Refusal(f"{name}: boundary_scaling = {scaling!r} must be a positive number.")
            bounded = flow_maps.latent_consistency(process.parameterization, scaling=scaling, T=T)
            process = process._replace(parameterization=bounded)
        return process
    sampler = "ddim" if fields.take("solver_order", 2) == 1 else "dpmpp_2m"
    return _flow_process(sampler, T, {"shift": shift, "dynamic": False, "first": 1 - 1 / T}, predicts)


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
    if "shift" in process.fields:  # a flow
        make = {"euler": samplers.euler, "heun": samplers.heun}.get(name, solver.make)
        return Walk(make(), timesteps.plan(_flow_grid(process, steps, tokens)), 1.0)
    if solver.spacing == "lcm":
        spacing, indices = "lcm", _indices_of_lcm(steps, process.fields["original_inference_steps"], process.T)
    else:
        spacing = process.fields["timestep_spacing"] or solver.spacing
        indices = _indices(spacing, steps, process.T, process.fields["steps_offset"], solver.beyond)
    if not solver.exploding:
        indices = np.round(indices)
    grid = _times(process, indices)
    if process.fields["karras"]:
        ends = _times(process, np.array([process.T - 1, 0])) if solver.beyond else grid[[0, -1]]
        sigma_max, sigma_min = np.exp(-np.asarray(process.schedule.log_snr(ends), np.float64) / 2)
        grid = timesteps.karras(process.schedule, steps, sigma_min, sigma_max)[:-1]
    told = process.fields.get(solver.ends)
    end = 0.0 if (solver.to_zero if told is None else told in (True, "zero")) else 1 / process.T
    grid = np.append(grid, end) if grid[-1] > end else grid
    scaled = solver.exploding and spacing != "leading"
    start = float(process.schedule.sigma(grid[0])) if scaled else 1.0
    return Walk(solver.make(), timesteps.plan(grid), start)


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
    if steps > original:
        raise ValueError(f"steps = {steps} must be in 1 .. {original}, the steps that the model was distilled with")
    return (original - np.arange(steps) * original // steps) * (T // original) - 1


def _times(process: Process, indices: np.ndarray) -> np.ndarray:
    """The times of indices; between two whole ones sigma / alpha is linear."""
    whole = np.floor(indices)
    ratio = lambda index: np.exp(-np.asarray(process.schedule.log_snr((index + 1) / process.T), np.float64) / 2)
    if (whole == indices).all():
        return (indices + 1) / process.T
    low, high = ratio(whole), ratio(np.minimum(whole + 1, process.T - 1))
    between = low + (indices - whole) * (high - low)
    times = np.asarray(process.schedule.inverse_log_snr(-2 * np.log(between)), np.float64)
    return np.where(whole == indices, (indices + 1) / process.T, times)


def _flow_grid(process: Process, steps: int, tokens: int) -> np.ndarray:
    """t = sigma from 1 to 0, as FlowMatchEulerDiscreteScheduler has it; with a dynamic shift, as Flux's pipeline."""
    fields, shift = process.fields, process.fields["shift"]
    if fields["dynamic"]:
        grid = np.append(np.linspace(1.0, 1 / steps, steps), 0.0)
        return timesteps.flux_shift(process.schedule, grid, tokens, fields["base"], fields["largest"])
    moved = lambda t: shift * t / (1 + (shift - 1) * t)
    if "first" in fields:
        return moved(fields["first"] * np.linspace(1.0, 0.0, steps + 1))
    # Its smallest time is shifted when it is built, and with all the others again: so the published pictures are made.
    return np.append(moved(np.linspace(1.0, moved(1 / process.T), steps)), 0.0)
