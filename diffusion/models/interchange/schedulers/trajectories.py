"""A solver by name for a process, and its steps."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import samplers, timesteps
from diffusion.models.interchange.schedulers.process import LEVELS, Process
from diffusion.models.interchange.schedulers.solvers import SOLVERS, Solver, lcm_indices, spaced_indices
from diffusion.models.layers.choices import look_up
from diffusion.parameterizations import Parameterization
from diffusion.samplers import Sampler
from diffusion.timesteps import Plan
from diffusion.timesteps.shifts import log_shift_of_tokens

NEAR = 1e-6  # distance from t = 1
MOST = 2.0**12  # sigma / alpha of a process that ends without signal, where steps are spread by it; as in diffusers
BASE_TOKENS = 256  # tokens of a picture of 256 x 256 pixels, for which Qwen-Image-Layered's log shift is 1


class Trajectory(NamedTuple):
    """A sampler with its plan and its start.

    Attributes:
        sampler: a sampler of this library.
        plan: its steps.
        start: factor of N(0, I) for the sample at the first time.
        network_times: `[M, 2]` pairs of a time of the plan and the time that the network receives there, where the
            scheduler has only whole steps; None where they are equal.
    """

    sampler: Sampler
    plan: Plan
    start: float
    network_times: np.ndarray | None = None

    def clocked(self, parameterization: Parameterization) -> Parameterization:
        """A parameterization whose network receives `network_times`."""
        if self.network_times is None:
            return parameterization
        times, received = jnp.asarray(self.network_times).T
        nearest = lambda t: jnp.argmin(jnp.abs(jnp.asarray(t)[..., None] - times), axis=-1)
        clock = parameterization.clock
        return parameterization._replace(clock=lambda schedule, t: clock(schedule, received[nearest(t)]))


def trajectory(process: Process, sampler: str, steps: int, tokens: int = 0, share: float = 1.0) -> Trajectory:
    """A solver by name, and its steps.

    Args:
        process: the result of `read`.
        sampler: a name in SOLVERS; "" for the config's own.
        steps: number of solver steps, at least 1.
        tokens: number of a picture's tokens in the network, for flows whose shift grows with it; 0 elsewhere.
        share: share of the distillation's steps, the last ones, over which all `steps` go, for "lcm" and "tcd"; the
            others ignore it.

    Raises:
        ValueError: for an unknown sampler (names the nearest), or more steps than the process has.
    """
    name = sampler or process.sampler
    if process.planned is not None:
        return process.planned(process, name, steps)
    solver = look_up(SOLVERS, name, "sampler")
    if not 1 <= steps <= process.T:
        raise ValueError(f"steps = {steps} must be in 1 .. {process.T}, the steps of the process")
    if "shift" in process.fields:
        return _of_flow(process, name, solver, steps, tokens)
    if "sigma_schedule" in process.fields:
        return _of_edm(process, solver, steps)
    if "first_and_last" in process.fields:
        return _of_cosine(process, name, solver, steps)
    return _of_table(process, name, solver, steps, share)


def later_steps(plan: Plan, sampler: str, first: int) -> Plan:
    """The steps of a trajectory from one of them on, where diffusers' pipelines begin at a picture with noise.

    A pipeline cuts the first entries from its scheduler's list of times. The list of PNDM for "plms" is
    t_0, t_1, t_1, t_2, ..., since both evaluations of the first step t_0 -> t_1 have an entry. Without its first k
    entries, k >= 2, it is t_{k-1}, t_k, t_{k+1}, ...: two evaluations of the step t_{k-1} -> t_k, and then one at
    t_{k+1} of the sample at t_k. So the trajectory begins one step earlier, and leaves out the step t_k -> t_{k+1}.

    Args:
        plan: the steps of `trajectory`.
        sampler: the name of the sampler, in SOLVERS.
        first: index of the first step, 0 .. N - 1. (At 1, where PNDM moves the sample at t_1 from t_0 to t_1, the steps
            are those from t_1 on; that is not diffusers' way.)
    """
    listed_twice = look_up(SOLVERS, sampler, "sampler").listed_twice
    included = np.arange(len(plan.t)) >= first
    if listed_twice and first >= 2:
        included[first - 1 : first + 1] = True, False
    return Plan(*(np.asarray(part)[included] for part in plan))


def _of_flow(process: Process, name: str, solver: Solver, steps: int, tokens: int) -> Trajectory:
    if process.fields.get("jumps") and name != "euler":
        raise ValueError(f"sampler = {name!r}: the network jumps from the begin of a step to its end. Valid: 'euler'")
    in_t = {"euler": samplers.flow_map if process.fields.get("jumps") else samplers.euler, "heun": samplers.heun}
    sampler = in_t[name]() if name in in_t else solver.make(process.fields, steps)
    grid = _flow_grid(process, steps, tokens)
    if level := next((level for level in LEVELS if process.fields[level]), None):
        grid = np.append(levels_between(level.split("_")[1], steps, grid[0], grid[-2]), 0.0)
    cut_times = np.floor(grid * process.T) / process.T
    cut = process.fields.get("cut") and (solver.beyond or name == process.sampler)
    return Trajectory(sampler, timesteps.plan(grid), 1.0, np.stack([grid, cut_times], axis=1) if cut else None)


def _of_edm(process: Process, solver: Solver, steps: int) -> Trajectory:
    fields = process.fields
    ends = fields["sigma_max"], fields["sigma_min"]
    grid = _spread(process, fields["sigma_schedule"], steps, *ends, fields["rho"])
    end = grid[-1] if fields["final_sigmas_type"] == "sigma_min" else 0.0
    plan = _ending(grid, end, solver.beyond)
    return Trajectory(solver.make(fields, steps), plan, math.hypot(ends[0], 1))


def _of_cosine(process: Process, name: str, solver: Solver, steps: int) -> Trajectory:
    """The trajectory of a cosine process whose even times are cut where diffusers clips its levels of noise.

    The network receives the times before they are cut. Steps between two times with one level are left out.
    """
    received = np.linspace(1, 0, steps + 1)
    first, last = process.fields["first_and_last"]
    grid = np.clip(received, last, first)
    moving = np.append(np.diff(grid) != 0, True)
    sampler = solver.make(process.fields, steps)
    sampler = _noiseless_at_the_end(sampler) if name == "ddpm" else sampler
    return Trajectory(sampler, timesteps.plan(grid[moving]), 1.0, np.stack([grid, received], axis=1)[moving])


def _noiseless_at_the_end(sampler: Sampler) -> Sampler:
    """A stochastic sampler whose last step draws nothing, though the process still has noise at its end."""

    def step(state, denoise, schedule, plan, i, noise):
        noise = jax.tree.map(lambda leaf: jnp.where(i + 1 < len(plan.t), leaf, 0), noise)
        return sampler.step(state, denoise, schedule, plan, i, noise)

    return sampler._replace(step=step)


def _of_table(process: Process, name: str, solver: Solver, steps: int, share: float = 1.0) -> Trajectory:
    """The trajectory of a process whose steps are a table of betas."""
    fields = process.fields
    sampler = solver.make(fields, steps)
    if solver.spacing == "lcm":
        spacing = "lcm"
        indices = lcm_indices(steps, fields["original_inference_steps"], process.T, share)
    else:
        spacing = solver.spacing if solver.own_spacing else fields["timestep_spacing"] or solver.spacing
        indices = spaced_indices(spacing, steps, process.T, fields["steps_offset"], solver.beyond)
    if not solver.exploding:
        indices = np.round(indices)
    grid = _times(process, indices)
    several = steps > 1 or solver.beyond  # one step has one level, with nothing to spread
    spread = next((level for level in LEVELS if fields[level]), None) if solver.levels and several else None
    if spread:
        ends = _times(process, np.array([process.T - 1, 0])) if solver.beyond else grid[[0, -1]]
        sigma_max, sigma_min = np.exp(_log_ratio(process, ends))
        grid = _spread(process, spread.split("_")[1], steps, sigma_max, sigma_min)
        grid[-1] = ends[1]  # without the rounding of the way there and back
        grid[0] = ends[0]
    rounds = solver.beyond and spread in ("use_karras_sigmas", "use_lu_lambdas")
    network_times = np.stack([grid, _whole_times(process, grid)], axis=1) if rounds else None
    stated = fields[solver.ends] if solver.ends else None
    end = 0.0 if (solver.to_zero if stated is None else stated in (True, "zero")) else 1 / process.T
    scaled = solver.exploding and spacing != "leading"
    start = float(process.schedule.sigma(grid[0])) if scaled else 1.0
    # A scheduler's own default holds where the config names it, not where it stands in for the one that is named.
    clips_by_default = SOLVERS[process.sampler].scheduler == solver.scheduler and solver.clips
    if solver.clips is not None and (clips_by_default if fields["clip_sample"] is None else fields["clip_sample"]):
        # Only Heun's method recomputes eps from the clipped x0.
        sampler = samplers.clipped(sampler, fields["clip_sample_range"], keeps_eps=name != "heun")
    return Trajectory(sampler, _ending(grid, end, solver.beyond), start, network_times)


def _ending(grid: np.ndarray, end: float, beyond: bool) -> Plan:
    """The plan of a grid and its end; a step that goes nowhere is kept for solvers that count it among their last."""
    if grid[-1] == end and beyond:
        return Plan(grid, np.append(grid[1:], end), np.zeros(len(grid), bool))
    return timesteps.plan(np.append(grid, end) if grid[-1] > end else grid)


def _spread(
    process: Process, kind: str, steps: int, sigma_max: float, sigma_min: float, rho: float = 7.0
) -> np.ndarray:
    """`[steps]` times between two values of sigma / alpha, with both."""
    if kind == "karras":
        return timesteps.karras(process.schedule, steps, sigma_min, sigma_max, rho)[:-1]
    if kind == "beta":
        ratios = levels_between(kind, steps, sigma_max, sigma_min)
        return np.array(process.schedule.inverse_log_snr(-2 * np.log(ratios)), np.float64)
    return timesteps.uniform_log_snr(process.schedule, steps, sigma_min, sigma_max)[:-1]  # "exponential" and "lu"


def levels_between(kind: str, steps: int, largest: float, least: float) -> np.ndarray:
    """`[steps]` levels of noise between two, with both.

    Args:
        kind: "karras", whose 7th roots are evenly spaced; "exponential", whose logarithms are; or "beta", quantiles of
            the distribution Beta(0.6, 0.6), which is dense at both ends (Lee et al. 2024).
        steps: number of levels.
        largest, least: the first level and the last.
    """
    if kind == "karras":
        return np.linspace(largest ** (1 / 7), least ** (1 / 7), steps) ** 7
    if kind == "exponential":
        return np.exp(np.linspace(np.log(largest), np.log(least), steps))
    import scipy.stats

    return least + scipy.stats.beta.ppf(np.linspace(1, 0, steps), 0.6, 0.6) * (largest - least)


def _times(process: Process, indices: np.ndarray) -> np.ndarray:
    """The times of indices; between two whole ones sigma / alpha is linear."""
    lower = np.floor(indices)
    ratio = lambda index: np.exp(-np.asarray(process.schedule.log_snr((index + 1) / process.T), np.float64) / 2)
    if (lower == indices).all():
        return (indices + 1) / process.T
    low = ratio(lower)
    high = ratio(np.minimum(lower + 1, process.T - 1))
    between = low + (indices - lower) * (high - low)
    times = np.asarray(process.schedule.inverse_log_snr(-2 * np.log(between)), np.float64)
    return np.where(lower == indices, (indices + 1) / process.T, times)


def _whole_times(process: Process, times: np.ndarray) -> np.ndarray:
    """The times of the whole indices that are nearest; between two of them, log(sigma / alpha) is linear."""
    indices = np.arange(process.T)
    nearest = np.round(np.interp(_log_ratio(process, times), _log_ratio(process, (indices + 1) / process.T), indices))
    return (nearest + 1) / process.T


def _log_ratio(process: Process, times: np.ndarray) -> np.ndarray:
    """The logarithm of sigma / alpha, that of `MOST` where alpha is 0."""
    ratio = -np.asarray(process.schedule.log_snr(times), np.float64) / 2
    return np.where(np.isposinf(ratio), math.log(MOST), ratio)


def _flow_grid(process: Process, steps: int, tokens: int) -> np.ndarray:
    """t = sigma from 1 to 0, as FlowMatchEulerDiscreteScheduler has it, or as Flux's pipeline sets it.

    In a trigonometric process s falls evenly from pi / 2; with two steps it passes 1.3, as in SANA-Sprint's pipeline.
    """
    fields = process.fields
    if fields.get("trigonometric"):
        angles = np.array([np.pi / 2, 1.3, 0.0]) if steps == 2 else np.linspace(np.pi / 2, 0, steps + 1)
        return np.sin(angles) / (np.cos(angles) + np.sin(angles))
    shift = process.fields["shift"]
    moved = lambda t: shift * t / (1 + (shift - 1) * t)
    if fields.get("bent"):
        return _stretched(moved(_bent(steps)), fields["terminal"])
    if fields["dynamic"]:
        last = 1 / steps if fields["even"] else 1 / process.T
        grid = np.append(np.linspace(1.0, last, steps), 0.0)
        if fields["by_steps"]:
            mu = _log_shift(tokens, steps)
        elif fields["by_root"]:
            mu = math.sqrt(tokens / BASE_TOKENS)
        else:
            mu = log_shift_of_tokens(tokens, fields["base"], fields["largest"])
        shifted = timesteps.shift(process.schedule, grid, mu if fields.get("linear") else math.exp(mu))
        return _stretched(shifted, fields["terminal"])
    if fields.get("even"):
        return _stretched(moved(np.append(np.linspace(1.0, 1 / steps, steps), 0.0)), fields["terminal"])
    if "last" in fields:  # the noise after the last step; at t = 1 UniPC would take the logarithm of no signal
        grid = moved(np.linspace(1.0, fields["last"], steps + 1)[:-1])
        return np.append(np.minimum(grid, 1 - NEAR), 0.0)
    if "first_alpha" in fields:
        return moved(1 - np.flip(np.linspace(1.0, fields["first_alpha"], steps + 1)))
    # diffusers shifts the smallest time where it builds the scheduler, and again with all others; pictures show it.
    grid = np.append(moved(np.linspace(1.0, moved(1 / process.T), steps)), 0.0)
    return _stretched(grid, fields.get("terminal", 0.0))


def _bent(steps: int) -> np.ndarray:
    """Times of N steps; the first H = N // 2 go only from 1 to 0.975.

        t_i = 1 - 0.025 i / H - (1 - 0.025 N / H) (max(i - H, 0) / (N - H))^2

    Reference: Polyak et al., "Movie Gen: A Cast of Media Foundation Models", 2024, on the linear-quadratic schedule; as
    in LTX-Video's code.
    """
    half = steps // 2
    if not half:
        return np.array([1.0, 0.0])
    i = np.arange(steps + 1)
    return 1 - 0.025 * i / half - (1 - 0.025 * steps / half) * (np.maximum(i - half, 0) / (steps - half)) ** 2


def _log_shift(tokens: int, steps: int) -> float:
    """The logarithm of FLUX.2's shift: up to 4300 tokens, linear in the steps between its values at 10 and at 200."""
    at_200_steps = 0.00016927 * tokens + 0.45666666
    at_10_steps = 8.73809524e-05 * tokens + 1.89833333
    return at_200_steps if tokens > 4300 else at_200_steps + (at_200_steps - at_10_steps) / 190 * (steps - 200)


def _stretched(grid: np.ndarray, terminal: float) -> np.ndarray:
    """The grid with 1 - t scaled so that the last time before 0 is `terminal`; unchanged if `terminal` is 0."""
    last = grid[-2]
    if not terminal or last == 1:
        return grid
    return np.append(1 - (1 - grid[:-1]) * (1 - terminal) / (1 - last), 0.0)
