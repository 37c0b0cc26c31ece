"""Trajectories of diffusers' schedulers on an analytic model, for the samplers of this library to be compared with.

It runs in an environment of its own (tests/peers/requirements.txt), without this library:

    python -m tests.peers.diffusers_reference tests/fixtures/diffusers.safetensors

`make fixtures` does that; `make test-peers` writes the file anew and runs the comparison on it, test_diffusers.py. The
tables of sigmas and alphas are made float64 before sampling, as the samples are, so that a formula is compared and not
a rounding (EulerDiscreteScheduler casts its samples to float32 all the same). Two things are known to be different
conventions, and are left out of the trajectories by their settings: the lowering of a solver's order over the last
steps (`lower_order_final`), and the step onto sigma = 0 after it (`final_sigmas_type`).
"""

import inspect
import json
import pathlib
import sys
import warnings
from typing import NamedTuple

import diffusers
import numpy as np
import torch
from safetensors.numpy import save_file

from tests.peers.analytic import dummy, exact, ramp, starts

TABLE = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
INTERIOR = {"lower_order_final": False, "final_sigmas_type": "sigma_min"}
GEOMETRIC = {"use_exponential_sigmas": True, "final_sigmas_type": "sigma_min"}


class Trajectory(NamedTuple):
    """One scheduler with its settings.

    Attributes:
        scheduler: the class.
        settings: of the class, on top of TABLE.
        space: of its samples: "preserving" (alpha^2 + sigma^2 = 1), "exploding" (alpha = 1), "flow" (alpha = 1 -
            sigma).
        calls: network evaluations of each step, the last entry repeated.
        steps: requested number of steps.
        kept: how many of them are written, from the start.
        step: arguments of `scheduler.step`.
        solvers: the setting `solver_type` at each call of a step, where it is not one for all.
        even: whether the sigmas are those that Flux's pipeline lays before.
        mu: of a dynamic shift.
    """

    scheduler: str
    settings: dict
    space: str = "preserving"
    calls: tuple[int, ...] = (1,)
    steps: int = 10
    kept: int | None = None
    step: dict = {}  # noqa: RUF012
    solvers: tuple[str, ...] = ()
    even: bool = False
    mu: float | None = None


_leading = {"timestep_spacing": "leading", "set_alpha_to_one": True}
_plus = {"algorithm_type": "dpmsolver++", **INTERIOR}
TRAJECTORIES = {
    "ddim": Trajectory("DDIMScheduler", {**_leading, "clip_sample": False}),
    "ddim, eta 0.5": Trajectory("DDIMScheduler", {**_leading, "clip_sample": False}, step={"eta": 0.5}),
    "plms": Trajectory("PNDMScheduler", {**_leading, "skip_prk_steps": True}, calls=(2, 1)),
    "pndm": Trajectory("PNDMScheduler", {**_leading, "skip_prk_steps": False}, calls=(4, 4, 4, 1)),
    "euler": Trajectory("EulerDiscreteScheduler", {}, "exploding"),
    "euler, Karras": Trajectory("EulerDiscreteScheduler", {"use_karras_sigmas": True}, "exploding"),
    "heun": Trajectory("HeunDiscreteScheduler", {}, "exploding", calls=(2,)),
    "dpm_2": Trajectory("KDPM2DiscreteScheduler", {}, "exploding", calls=(2,)),
    "lms": Trajectory("LMSDiscreteScheduler", {}, "exploding"),
    "dpmpp_2m": Trajectory("DPMSolverMultistepScheduler", {**_plus, "solver_order": 2}),
    "dpmpp_2m, to zero": Trajectory("DPMSolverMultistepScheduler", {"solver_order": 2, "final_sigmas_type": "zero"}),
    "dpmpp_3m": Trajectory("DPMSolverMultistepScheduler", {**_plus, "solver_order": 3, "solver_type": "heun"}),
    "dpmpp_2s": Trajectory(
        "DPMSolverSinglestepScheduler", {**GEOMETRIC, "solver_order": 2}, calls=(2,), steps=12, kept=5
    ),
    "dpm_solver_2": Trajectory(
        "DPMSolverSinglestepScheduler",
        {**GEOMETRIC, "algorithm_type": "dpmsolver", "solver_order": 2},
        calls=(2,),
        steps=12,
        kept=5,
    ),
    "dpm_solver_3": Trajectory(
        "DPMSolverSinglestepScheduler",
        {**GEOMETRIC, "algorithm_type": "dpmsolver", "solver_order": 3},
        calls=(3,),
        steps=15,
        kept=4,
        solvers=("midpoint", "heun", "midpoint"),
    ),  # the paper's inner step is what is called "heun" here
    **{
        f"deis {order}": Trajectory("DEISMultistepScheduler", {"solver_order": order, "lower_order_final": False})
        for order in (2, 3)
    },
    **{
        f"unipc {order}, {solver}": Trajectory(
            "UniPCMultistepScheduler", {**INTERIOR, "solver_order": order, "solver_type": solver}
        )
        for order in (1, 2, 3)
        for solver in ("bh1", "bh2")
    },
    "flow, euler": Trajectory("FlowMatchEulerDiscreteScheduler", {}, "flow"),
    "flow, euler, shift 3": Trajectory("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, "flow"),
    "flow, heun": Trajectory("FlowMatchHeunDiscreteScheduler", {}, "flow", calls=(2,)),
    **{
        f"ddpm, {variance}": Trajectory("DDPMScheduler", {"variance_type": variance, "clip_sample": False})
        for variance in ("fixed_small", "fixed_large", "learned_range")
    },
    "euler_ancestral": Trajectory("EulerAncestralDiscreteScheduler", {}, "exploding"),
    "dpm_2_ancestral": Trajectory("KDPM2AncestralDiscreteScheduler", {}, "exploding", calls=(2,)),
    "dpmpp_2m_sde": Trajectory(
        "DPMSolverMultistepScheduler", {**INTERIOR, "algorithm_type": "sde-dpmsolver++", "solver_order": 2}
    ),
}

# The trajectories of diffusers' own tests (tests/schedulers of the repository), on their dummy model: only the settings
# are here, the published sums are in test_diffusers.py.
_long = {**TABLE, "num_train_timesteps": 1100}
PUBLISHED = {
    "ddim": Trajectory("DDIMScheduler", {"clip_sample": True}),
    "euler": Trajectory("EulerDiscreteScheduler", _long, "exploding"),
    "euler, Karras": Trajectory("EulerDiscreteScheduler", {**_long, "use_karras_sigmas": True}, "exploding"),
    "heun": Trajectory("HeunDiscreteScheduler", _long, "exploding", calls=(2,)),
    "dpm_2": Trajectory("KDPM2DiscreteScheduler", _long, "exploding", calls=(2,)),
    "pndm": Trajectory("PNDMScheduler", {}, calls=(4, 4, 4, 1)),
    "lms": Trajectory("LMSDiscreteScheduler", _long, "exploding"),
    "lms, Karras": Trajectory("LMSDiscreteScheduler", {**_long, "use_karras_sigmas": True}, "exploding"),
    "dpmpp_2m": Trajectory("DPMSolverMultistepScheduler", {"solver_order": 2, **INTERIOR}),
    "unipc": Trajectory("UniPCMultistepScheduler", {"solver_order": 2, "final_sigmas_type": "sigma_min"}),
    "deis": Trajectory("DEISMultistepScheduler", {"solver_order": 2}),
}

# What a config alone must make: our process, sampler and plan are read from the settings, with nothing set by hand.
_least, _karras = {"final_sigmas_type": "sigma_min"}, {"use_karras_sigmas": True}
_playground = {"sigma_max": 80.0, "sigma_min": 0.002, "sigma_data": 0.5}
_dynamic = {"shift": 3.0, "use_dynamic_shifting": True}
READ = {
    "unipc": Trajectory("UniPCMultistepScheduler", {}),
    "unipc, sigma_min": Trajectory("UniPCMultistepScheduler", _least),
    "unipc 3, bh1, sigma_min": Trajectory(
        "UniPCMultistepScheduler", {**_least, "solver_order": 3, "solver_type": "bh1"}
    ),
    "unipc, never lowered": Trajectory("UniPCMultistepScheduler", {**_least, "lower_order_final": False}),
    "unipc, karras, sigma_min": Trajectory("UniPCMultistepScheduler", {**_least, **_karras}, steps=6),
    "deis": Trajectory("DEISMultistepScheduler", {}),
    "deis 3": Trajectory("DEISMultistepScheduler", {"solver_order": 3}),
    "deis, karras": Trajectory("DEISMultistepScheduler", _karras, steps=6),
    "deis, 20 steps": Trajectory("DEISMultistepScheduler", {}, steps=20),
    "tcd": Trajectory("TCDScheduler", {}, steps=4, step={"eta": 0.0}),
    "ddim, clipped": Trajectory("DDIMScheduler", {"clip_sample_range": 0.7}),
    "ddpm, large": Trajectory("DDPMScheduler", {"variance_type": "fixed_large", "clip_sample": False}),
    "heun, clipped": Trajectory(
        "HeunDiscreteScheduler", {"clip_sample": True, "clip_sample_range": 0.7}, "exploding", calls=(2,)
    ),
    "heun": Trajectory("HeunDiscreteScheduler", _karras, "exploding", calls=(2,)),
    "euler, exponential": Trajectory("EulerDiscreteScheduler", {"use_exponential_sigmas": True}, "exploding"),
    "lms, beta": Trajectory("LMSDiscreteScheduler", {"use_beta_sigmas": True}, "exploding"),
    "dpmpp_2m, sigma_min": Trajectory("DPMSolverMultistepScheduler", _least),
    "dpmpp_2m, heun": Trajectory(
        "DPMSolverMultistepScheduler", {"solver_type": "heun", "lower_order_final": False, **_least}
    ),
    "dpmpp_2m, Euler at last": Trajectory("DPMSolverMultistepScheduler", {"euler_at_final": True, **_least}, steps=20),
    "dpmpp_2m, lu": Trajectory("DPMSolverMultistepScheduler", {"use_lu_lambdas": True}),
    "dpmpp_2m, first order": Trajectory("DPMSolverMultistepScheduler", {"solver_order": 1}),
    "dpmpp_2m_sde": Trajectory(
        "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}
    ),
    "dpmpp_2s": Trajectory("DPMSolverSinglestepScheduler", {}),
    "dpmpp_2s, 9 steps": Trajectory("DPMSolverSinglestepScheduler", _least, steps=9),
    "dpmpp_2s, sigma_min": Trajectory("DPMSolverSinglestepScheduler", {**_least, "timestep_spacing": "trailing"}),
    "edm, euler": Trajectory("EDMEulerScheduler", _playground, "exploding"),
    "edm, dpmpp_2m": Trajectory("EDMDPMSolverMultistepScheduler", {**_playground, "rho": 5.0}, "exploding"),
    "edm, v": Trajectory(
        "EDMDPMSolverMultistepScheduler",
        {**_playground, **_least, "sigma_schedule": "exponential", "prediction_type": "v_prediction"},
        "exploding",
    ),
    "flow": Trajectory("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, "flow", steps=4),
    "flow, even": Trajectory("FlowMatchEulerDiscreteScheduler", {}, "flow", steps=4, even=True),
    "flow, even, shift 3": Trajectory("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, "flow", steps=4, even=True),
    "flow, dynamic": Trajectory("FlowMatchEulerDiscreteScheduler", _dynamic, "flow", steps=4, mu=0.5),
    "flow, dynamic, even": Trajectory("FlowMatchEulerDiscreteScheduler", _dynamic, "flow", steps=4, even=True, mu=0.5),
    "flow, dynamic, linear": Trajectory(
        "FlowMatchEulerDiscreteScheduler", {**_dynamic, "time_shift_type": "linear"}, "flow", steps=4, even=True, mu=0.5
    ),
    "flow, stochastic": Trajectory(
        "FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "stochastic_sampling": True}, "flow", steps=4
    ),
    "flow, stochastic, beta": Trajectory(
        "FlowMatchEulerDiscreteScheduler",
        {**_dynamic, "shift_terminal": 0.1, "stochastic_sampling": True, "use_beta_sigmas": True},
        "flow",
        steps=5,
        even=True,
        mu=0.5,
    ),
}


def prepared(trajectory: Trajectory, table: dict = TABLE):
    """The scheduler, with its steps set and its tables in float64."""
    settings = table | trajectory.settings if trajectory.space != "flow" else trajectory.settings
    scheduler = getattr(diffusers, trajectory.scheduler).from_config(settings)
    more = {} if trajectory.mu is None else {"mu": trajectory.mu}
    if trajectory.even:
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / trajectory.steps, trajectory.steps), **more)
    else:
        scheduler.set_timesteps(trajectory.steps, **more)
    scheduler.is_scale_input_called = True  # the model here takes the sample as it is
    for table in (
        "sigmas",
        "sigmas_interpol",
        "sigmas_up",
        "sigmas_down",
        "alphas_cumprod",
        "one",
        "final_alpha_cumprod",
    ):
        if isinstance(getattr(scheduler, table, None), torch.Tensor):
            setattr(scheduler, table, getattr(scheduler, table).double())
    return scheduler


def level(scheduler, t) -> float:
    """sigma / alpha at the coming call of the network; sigma itself for flows."""
    if getattr(scheduler, "sigmas", None) is None:
        alpha_squared = scheduler.alphas_cumprod[int(t)]
        return float(torch.sqrt((1 - alpha_squared) / alpha_squared))
    index = scheduler.step_index or 0
    if hasattr(scheduler, "sigmas_interpol") and not scheduler.state_in_first_order:
        return float(scheduler.sigmas_interpol[index - hasattr(scheduler, "sigmas_up")])
    return float(scheduler.sigmas[index])


def ends_at(scheduler) -> float:
    """sigma / alpha at the end of the last step."""
    if getattr(scheduler, "sigmas", None) is not None:
        return float(scheduler.sigmas[-1])
    alpha_squared = getattr(scheduler, "final_alpha_cumprod", 1.0)
    if isinstance(scheduler, diffusers.TCDScheduler):
        alpha_squared = scheduler.alphas_cumprod[0]
    return float((1 - alpha_squared) / alpha_squared) ** 0.5


def coefficients(space: str, level: float) -> tuple[float, float]:
    """(alpha, sigma) of a level."""
    if space == "flow":
        return 1 - level, level
    alpha = 1.0 if space == "exploding" else (1 + level**2) ** -0.5
    return alpha, level * alpha


def output_of(scheduler, space: str, x: np.ndarray, x0: np.ndarray, eps: np.ndarray, sigma: float) -> torch.Tensor:
    """What a network that knows x0 and eps puts out."""
    if space == "flow":
        return torch.from_numpy(eps - x0)
    if "sigma_data" in scheduler.config:  # EDM's preconditioning
        data = scheduler.config.sigma_data
        sign = -1 if scheduler.config.prediction_type == "v_prediction" else 1
        scale = sign * sigma * data / (sigma**2 + data**2) ** 0.5
        return torch.from_numpy((x0 - data**2 / (sigma**2 + data**2) * x) / scale)
    return torch.from_numpy(eps)


def follow(trajectory: Trajectory, table: dict = TABLE) -> dict[str, np.ndarray]:
    """x `[N + 1, B, D]` at the ends of the steps, level `[N + 1]`, and the noise `[N, B, D]` where there is some."""
    scheduler = prepared(trajectory, table)
    levels = [level(scheduler, scheduler.timesteps[0])]
    x = torch.from_numpy(starts(*coefficients(trajectory.space, levels[0])))
    arguments = dict(trajectory.step)
    if "generator" in inspect.signature(scheduler.step).parameters:
        arguments["generator"] = torch.Generator().manual_seed(0)
    ways = [x.numpy()]
    noises = []
    times = list(scheduler.timesteps)
    for i in range(trajectory.kept or trajectory.steps):
        before = arguments["generator"].get_state() if "generator" in arguments else None
        for call in range(trajectory.calls[min(i, len(trajectory.calls) - 1)]):
            if not times:
                break  # the step onto sigma = 0 is a single call
            if trajectory.solvers:
                scheduler.register_to_config(solver_type=trajectory.solvers[call])
            t = times.pop(0)
            alpha, sigma = coefficients(trajectory.space, level(scheduler, t))
            x0, eps = exact(x.numpy(), alpha, sigma)
            output = output_of(scheduler, trajectory.space, x.numpy(), x0, eps, sigma)
            if trajectory.settings.get("variance_type") == "learned_range":
                output = torch.cat([output, torch.full_like(output, -0.4)], dim=1)  # the fraction (1 - 0.4) / 2
            x = scheduler.step(output, t, x, **arguments).prev_sample.double()
        ways.append(x.numpy())
        levels.append(level(scheduler, times[0]) if times else ends_at(scheduler))
        if before is not None and not torch.equal(before, arguments["generator"].get_state()):
            again = torch.Generator()
            again.set_state(before)
            drawn_as = torch.float32 if trajectory.space == "flow" else torch.float64  # that scheduler casts samples
            noises.append(torch.randn(x.shape, generator=again, dtype=drawn_as).double().numpy())
        else:
            noises.append(np.zeros_like(ways[0]))
    found = {"x": np.stack(ways), "level": np.array(levels)}
    return found | ({"noise": np.stack(noises)} if np.any(noises) else {})


def inverted(clip: float) -> dict[str, np.ndarray]:
    """x `[N + 1, B, D]` and level `[N + 1]` of DDIM's inversion with clipped data, from the data up."""
    scheduler = diffusers.DDIMInverseScheduler(**TABLE, clip_sample=True, clip_sample_range=clip)
    scheduler.set_timesteps(10)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    x = torch.from_numpy(starts(1.0, 0.0))
    ways = [x.numpy()]
    levels = [0.0]
    for t in scheduler.timesteps[1:]:  # the first goes from the data to themselves
        levels.append(level(scheduler, t))
        eps = exact(x.numpy(), *coefficients("preserving", levels[-1]))[1]
        x = scheduler.step(torch.from_numpy(eps), int(t), x).prev_sample
        ways.append(x.numpy())
    return {"x": np.stack(ways), "level": np.array(levels)}


def times_of(trajectory: Trajectory) -> dict[str, np.ndarray]:
    """The times of the published trajectories.

    level `[N + 1]` where the steps start and end (a last step that goes nowhere left out), seen `[calls, 2]` the level
    and the scheduler's time of each call of the network, first the factor of the initial sample, found the sum and mean
    at the end.
    """
    scheduler = prepared(trajectory)
    first = float(scheduler.init_noise_sigma)
    seen = []
    x = torch.from_numpy(ramp()) * first
    for t in scheduler.timesteps:
        seen.append((level(scheduler, t), float(t)))
        if trajectory.space == "exploding":
            x = scheduler.scale_model_input(x, t)
        x = scheduler.step(dummy(x, float(t)), t, x).prev_sample.double()
    calls = [*trajectory.calls, *[trajectory.calls[-1]] * len(seen)]
    starts = [sum(calls[:i]) for i in range(len(seen)) if sum(calls[:i]) < len(seen)]
    levels = [*(seen[i][0] for i in starts), ends_at(scheduler)]
    return {
        "level": np.array(levels[:-1] if levels[-1] == levels[-2] else levels),
        "seen": np.array(seen),
        "first": np.array(first),
        "found": np.array([x.abs().sum(), x.abs().mean()]),
    }


def write(path: str, made: dict[str, np.ndarray], name: str, about: dict) -> None:
    """Writes one file, with what is in it in its metadata."""
    save_file(
        {name: np.ascontiguousarray(value) for name, value in made.items()},
        path,
        {
            "diffusers": diffusers.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "command": f"python -m tests.peers.diffusers_reference tests/fixtures/{pathlib.Path(path).name}",
            name: json.dumps(about, sort_keys=True),
        },
    )
    pathlib.Path(path).chmod(0o644)


def main(path: str) -> None:
    """Writes the file, and schedulers.safetensors beside it: what a config alone makes."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)  # of the algorithm "dpmsolver", which is wanted here
    made = {
        f"{name}/{part}": value
        for name, trajectory in TRAJECTORIES.items()
        for part, value in follow(trajectory).items()
    }
    made |= {
        f"published/{name}/{part}": value
        for name, trajectory in PUBLISHED.items()
        for part, value in times_of(trajectory).items()
    }
    found = {"inverted": inverted(0.7)}
    for name, trajectory in READ.items():
        first = getattr(prepared(trajectory, {}), "init_noise_sigma", 1.0)
        found[name] = follow(trajectory, {}) | {"first": np.array(float(first))}
    read = {
        name: {
            "config": {"_class_name": trajectory.scheduler, **trajectory.settings},
            "steps": trajectory.steps,
            "even": trajectory.even,
            "space": trajectory.space,
        }
        for name, trajectory in READ.items()
    }
    about = {
        name: {
            "scheduler": trajectory.scheduler,
            "settings": trajectory.settings,
            "space": trajectory.space,
            "steps": trajectory.steps,
        }
        for name, trajectory in TRAJECTORIES.items()
    }
    write(path, made, "walks", about)
    made = {f"{name}/{part}": value for name, parts in found.items() for part, value in parts.items()}
    write(str(pathlib.Path(path).with_name("schedulers.safetensors")), made, "read", read)
    print(
        f"{len(TRAJECTORIES)} trajectories, {len(PUBLISHED)} published ones and {len(READ)} of configs of diffusers "
        f"{diffusers.__version__} in {path}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
