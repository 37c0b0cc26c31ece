"""Times: densities to train on, grids and plans to sample on."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusion.schedules import NoiseSchedule


class Density(NamedTuple):
    """A distribution of training times.

    Attributes:
      init: () -> state; a pytree, empty unless the density adapts.
      sample: (state, keys `[B]`, index `[B]`) -> (t `[B]`, importance `[B]`): a time for each example, from its own
        key and its global index alone, and the weight that its loss gets where the density stands in for another.
      update: (state, t `[B]`, losses `[B]`) -> state.
    """

    init: Callable[[], Any]
    sample: Callable[[Any, Array, Array], tuple[Array, Array]]
    update: Callable[[Any, Array, Array], Any]


def from_quantile(quantile: Callable[[Array], Array], strata: int | None = None) -> Density:
    """The density of quantile(u) for uniform u, optionally stratified.

        u_i = ((index_i mod strata) + r_i) / strata,    r_i uniform in (0, 1)

    Any `strata` consecutive examples then cover (0, 1) evenly, which lowers the variance of the loss as the common
    offset of Kingma et al. 2021 (appendix I.1, "low-discrepancy sampler") does, while each example's time depends on
    nothing but its own key and index.

    Args:
      quantile: increasing function of u in (0, 1) to t, elementwise.
      strata: number of strata, usually the batch size; None draws u independently.

    Raises:
      ValueError: if strata is not positive.
    """
    if strata is not None and strata < 1:
        raise ValueError(f"strata = {strata} must be at least 1 (usually the batch size), or None for none")

    def sample(state, keys, index):
        u = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))(keys)
        u = u + 2.0**-24  # the middle of the cells of 2^-23 that float32 draws have: neither 0 nor 1
        if strata is not None:
            u = (index % strata + u) / strata
            u = jnp.minimum(u, 1 - 2.0**-24)
        t = quantile(u)
        return t, jnp.ones_like(t)

    return Density(init=tuple, sample=sample, update=lambda state, t, losses: state)


def uniform_density(schedule: NoiseSchedule, strata: int | None = None) -> Density:
    """t uniform in (t_min, t_max).

    Args:
      schedule: gives the range.
      strata: see `from_quantile`.
    """
    span = schedule.t_max - schedule.t_min
    return from_quantile(lambda u: schedule.t_min + span * u, strata)


def discrete_density(schedule: NoiseSchedule, T: int = 1000, strata: int | None = None) -> Density:
    """t = (i + 1) / T with i uniform in 0 .. T - 1, the times of a discrete process. Ho et al. 2020, algorithm 1.

    Args:
      schedule: the discrete process; its t_max must be 1.
      T: number of its steps.
      strata: see `from_quantile`.

    Raises:
      ValueError: if T < 1 or the schedule does not hold all these times.
    """
    if T < 1 or schedule.t_max < 1 or schedule.t_min > 1 / T * (1 + 1e-6):
        raise ValueError(f"discrete_density: T = {T} needs T >= 1 and times 1 / T .. 1 within the schedule's "
                         f"[{schedule.t_min:g}, {schedule.t_max:g}]")
    return from_quantile(lambda u: (jnp.floor(u * T) + 1) / T, strata)


def logit_normal(
    schedule: NoiseSchedule, mean: float = 0.0, std: float = 1.0, strata: int | None = None
) -> Density:
    """logit((t - t_min) / (t_max - t_min)) ~ N(mean, std^2).

    Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", eq. 19, with noise
    at t = 1: a positive mean leans to the noise.

    Args:
      schedule: gives the range.
      mean: location, on the scale of logits.
      std: scale, > 0.
      strata: see `from_quantile`.
    """
    _check_positive("logit_normal", "std", std)
    span = schedule.t_max - schedule.t_min
    return from_quantile(
        # Far out in its tail the sigmoid rounds to 0 or 1, where a schedule may be singular.
        lambda u: schedule.t_min
        + span * jnp.clip(jax.nn.sigmoid(mean + std * jax.scipy.special.ndtri(u)), 2.0**-24, 1 - 2.0**-24),
        strata,
    )


def log_normal(
    schedule: NoiseSchedule, mean: float = -1.2, std: float = 1.2, strata: int | None = None
) -> Density:
    """ln(sigma / alpha) ~ N(mean, std^2), truncated to the schedule's range. Karras et al. 2022, table 1.

    Args:
      schedule: gives the range and turns sigma / alpha into t.
      mean: P_mean of the paper.
      std: P_std of the paper, > 0.
      strata: see `from_quantile`.
    """
    _check_positive("log_normal", "std", std)
    ends = np.array([schedule.t_min, schedule.t_max])
    low, high = (-np.asarray(schedule.log_snr(ends), np.float64) / 2 - mean) / std
    cdf_low, cdf_high = _normal_cdf(low), _normal_cdf(high)

    def quantile(u):
        z = jax.scipy.special.ndtri(cdf_low + (cdf_high - cdf_low) * u)
        z = jnp.clip(z, max(low, -1e4), min(high, 1e4))
        return jnp.clip(schedule.inverse_log_snr(-2 * (mean + std * z)), schedule.t_min, schedule.t_max)

    return from_quantile(quantile, strata)


class Plan(NamedTuple):
    """The steps of a sampler, as pairs of times.

    Attributes:
      t: `[N]` time at which step i starts.
      s: `[N]` time at which it ends.
      renoise: `[N]` Bool; where True, s > t and the step draws q(x_s | x_t) instead of asking the network.
    """

    t: Array
    s: Array
    renoise: Array


def plan(grid: ArrayLike, renoise: ArrayLike | None = None) -> Plan:
    """The plan that walks along a grid of times.

    Args:
      grid: `[N + 1]` times, strictly decreasing for sampling or strictly increasing for inversion; with `renoise`,
        in any order without repetition.
      renoise: `[N]` Bool, the steps that add noise; they must go up. None for no such step.

    Raises:
      ValueError: if a time is repeated, not finite or negative, or the grid turns where it must not.
    """
    grid = np.asarray(grid)
    if grid.ndim != 1 or grid.size < 2:
        raise ValueError(f"a plan needs a vector of at least two times (one step); got shape {grid.shape}")
    if not np.all(np.isfinite(grid)) or np.any(grid < 0):
        raise ValueError(f"the times of a plan must be finite and not negative; got {grid}")
    ups = np.diff(grid) > 0
    if np.any(np.diff(grid) == 0):
        i = int(np.argmax(np.diff(grid) == 0))
        raise ValueError(f"step {i} of the plan goes nowhere: times {i} and {i + 1} are both {grid[i]:g}")
    if renoise is None:
        renoise = np.zeros(ups.shape, bool)
        if ups.any() and not ups.all():
            i = int(np.argmax(ups != ups[0]))
            raise ValueError(f"the times of a plan must all decrease (sampling) or all increase (inversion); "
                             f"{grid[i]:g} -> {grid[i + 1]:g} turns round. Mark steps that add noise with renoise=")
    renoise = np.asarray(renoise, bool)
    if renoise.shape != ups.shape:
        raise ValueError(f"renoise has shape {renoise.shape}; a grid of {grid.size} times has {ups.size} steps")
    if np.any(renoise & ~ups):
        i = int(np.argmax(renoise & ~ups))
        raise ValueError(f"step {i} adds noise but goes down, {grid[i]:g} -> {grid[i + 1]:g}")
    return Plan(grid[:-1], grid[1:], renoise)


def uniform(schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """`[steps + 1]` times uniform in t, from t_max to 0."""
    return np.linspace(schedule.t_max, 0.0, _at_least_one(steps) + 1)


def uniform_log_snr(schedule: NoiseSchedule, steps: int, sigma_min: float, sigma_max: float) -> np.ndarray:
    """`[steps + 1]` times: `steps` values of sigma / alpha in geometric progression, then 0.

    Lu et al. 2022, "DPM-Solver", section 3.3, with the last step to the clean sample.

    Args:
      schedule: turns sigma / alpha into t.
      steps: number of solver steps, >= 1.
      sigma_min: smallest sigma / alpha before the end.
      sigma_max: where to start; at most sigma / alpha at t_max.
    """
    _check_sigmas(schedule, sigma_min, sigma_max)
    return _ending_at_zero(schedule, np.geomspace(sigma_max, sigma_min, _at_least_one(steps)))


def karras(
    schedule: NoiseSchedule, steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> np.ndarray:
    """`[steps + 1]` times at which sigma / alpha takes EDM's values, then 0.

        sigma_i = (sigma_max^(1/rho) + i / (N - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho,    sigma_N = 0

    Karras et al. 2022, eq. 5.

    Args:
      schedule: turns sigma / alpha into t.
      steps: number of solver steps N, >= 1.
      sigma_min: smallest sigma / alpha before the end.
      sigma_max: where to start; at most sigma / alpha at t_max.
      rho: > 0; larger values put more steps near the data.
    """
    _check_sigmas(schedule, sigma_min, sigma_max)
    _check_positive("karras", "rho", rho)
    roots = np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), _at_least_one(steps))
    return _ending_at_zero(schedule, roots**rho)


def leading(schedule: NoiseSchedule, steps: int, T: int = 1000, offset: int = 0) -> np.ndarray:
    """`[steps + 1]` times at the indices i (T // steps) + offset of a discrete process, from high to low, then 0.

    DDIM's spacing (Song et al. 2021, appendix D.2); it never reaches the last time (Lin et al. 2024, table 2).

    Args:
      schedule: the discrete process.
      steps: number of solver steps, in [1, T].
      T: number of steps of the process.
      offset: added to every index (1 in Stable Diffusion).
    """
    _check_discrete(schedule, steps, T)
    return _discrete(np.arange(steps)[::-1] * (T // steps) + offset, T)


def trailing(schedule: NoiseSchedule, steps: int, T: int = 1000) -> np.ndarray:
    """`[steps + 1]` times at the indices round(T - i T / steps) - 1 of a discrete process, then 0.

    Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed", table 2.

    Args:
      schedule: the discrete process.
      steps: number of solver steps, in [1, T].
      T: number of steps of the process.
    """
    _check_discrete(schedule, steps, T)
    return _discrete(np.round(T - np.arange(steps) * T / steps).astype(int) - 1, T)


def linspace(schedule: NoiseSchedule, steps: int, T: int = 1000) -> np.ndarray:
    """`[steps + 1]` times at `steps` indices of a discrete process from T - 1 to 0, evenly and rounded, then 0.

    Nichol and Dhariwal 2021; named so by Lin et al. 2024, table 2. Indices count from 0 when they are rounded.

    Args:
      schedule: the discrete process.
      steps: number of solver steps, in [1, T].
      T: number of steps of the process.
    """
    _check_discrete(schedule, steps, T)
    return _discrete(np.round(np.linspace(T - 1, 0, steps)).astype(int), T)


def shift(schedule: NoiseSchedule, grid: ArrayLike, factor: float) -> np.ndarray:
    """Moves a grid to the times whose log-SNR is smaller by 2 ln(factor).

    For the rectified flow this is t' = a t / (1 + (a - 1) t). Esser et al. 2024, eq. 23; Hoogeboom et al. 2023,
    "simple diffusion", eq. 4.

    Args:
      schedule: the process.
      grid: `[N + 1]` times.
      factor: a > 0; above 1 for pictures larger than those that the schedule was made for.

    Raises:
      ValueError: if a time would leave the schedule's range, or two would coincide at its end.
    """
    _check_positive("shift", "factor", factor)
    grid = np.asarray(grid)
    if factor == 1:
        return grid
    moved = np.asarray(schedule.inverse_log_snr(schedule.log_snr(grid) - 2 * math.log(factor)), grid.dtype)
    outside = ~((moved >= 0) & (moved <= schedule.t_max * (1 + 1e-6)))
    if outside.any() or np.any(np.sign(np.diff(moved)) != np.sign(np.diff(grid))):
        raise ValueError(
            f"shift: a factor of {factor:g} moves these times out of the schedule's range [0, {schedule.t_max:g}], "
            "because its noise ends there; build the grid from another sigma_max instead (karras, uniform_log_snr), "
            "or shift a schedule that reaches alpha = 0"
        )
    return moved


def _at_least_one(steps: int) -> int:
    if int(steps) != steps or steps < 1:
        raise ValueError(f"steps = {steps}: a sampler takes a whole number of steps, at least 1")
    return int(steps)


def _check_positive(function: str, name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{function}: {name} = {value} must be positive")


def _check_sigmas(schedule: NoiseSchedule, sigma_min: float, sigma_max: float) -> None:
    highest = math.exp(-float(schedule.log_snr(schedule.t_max)) / 2)
    if not 0 < sigma_min < sigma_max <= highest * (1 + 1e-5):
        raise ValueError(f"this grid needs 0 < sigma_min < sigma_max <= {highest:g}, the schedule's sigma / alpha at "
                         f"t_max; got sigma_min = {sigma_min}, sigma_max = {sigma_max}")


def _check_discrete(schedule: NoiseSchedule, steps: int, T: int) -> None:
    if _at_least_one(steps) > T:
        raise ValueError(f"steps = {steps} is more than the T = {T} steps of the discrete process")
    if schedule.t_max < 1:
        raise ValueError(f"discrete grids start at t = 1, beyond this schedule's t_max = {schedule.t_max:g}")


def _ending_at_zero(schedule: NoiseSchedule, sigmas: np.ndarray) -> np.ndarray:
    times = np.asarray(schedule.inverse_log_snr(-2 * np.log(sigmas)))
    return np.append(np.minimum(times, schedule.t_max), 0).astype(times.dtype)


def _discrete(indices: np.ndarray, T: int) -> np.ndarray:
    if indices.max() >= T:
        raise ValueError(f"index {indices.max()} is beyond the last step, {T - 1}, of the process; lower the offset")
    return np.append((indices + 1) / T, 0)


def _normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))
