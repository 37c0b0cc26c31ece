"""Grids: the `steps + 1` decreasing times between which a sampler steps, for any schedule; the last time is 0."""

import itertools

import jax
import numpy as np

from diffusion.schedules import NoiseSchedule, check_schedule
from diffusion.schedules.discrete import MOST_STEPS
from diffusion.timesteps.valid_ranges import (
    at_least_one,
    check_known,
    check_one_schedule,
    check_positive,
    check_rho,
    check_sigmas,
)


def uniform(schedule: NoiseSchedule, steps: int, last: float | None = None) -> np.ndarray:
    """`[steps + 1]` times uniform in t, from t_max to 0.

    Facts:
        paper: Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations", appendix
            D.4

    Args:
        schedule: the process, which defines t_max.
        steps: number of solver steps, >= 1.
        last: length of the last step, in (0, t_max), 0.04 in SiT's stochastic sampler; the other steps are equal. If
            None, all steps are equal.

    Raises:
        ValueError: if the last step is out of range.
    """
    check_schedule(schedule)
    if last is None or at_least_one(steps) == 1:
        return np.linspace(schedule.t_max, 0.0, at_least_one(steps) + 1)
    check_known("uniform", last=last)
    if not 0 < last < schedule.t_max:
        raise ValueError(f"uniform: last = {last}, the length of the last step, must be in (0, {schedule.t_max:g})")
    return np.append(np.linspace(schedule.t_max, last, steps), 0.0)


def polynomial(schedule: NoiseSchedule, steps: int, rho: float = 2.0) -> np.ndarray:
    """`[steps + 1]` times t_i = t_max (1 - i / N)^rho, uniform in t^(1/rho).

    Facts:
        paper: Song et al. 2021, "Denoising Diffusion Implicit Models", appendix D.2, "quadratic" (rho = 2, rounded to a
            discrete process); Lu et al. 2022, "DPM-Solver", appendix, "time_quadratic" of the authors' code

    Args:
        schedule: the process, which defines t_max.
        steps: number of solver steps N, >= 1.
        rho: exponent, > 0; 1 is uniform, larger values put more steps near the data.

    Raises:
        ValueError: if steps is not an integer of at least 1, or rho is not positive.
    """
    check_schedule(schedule)
    check_positive("polynomial", "rho", rho)
    return schedule.t_max * np.linspace(1.0, 0.0, at_least_one(steps) + 1) ** rho


def beta(schedule: NoiseSchedule, steps: int, a: float = 0.6, b: float = 0.6) -> np.ndarray:
    """`[steps + 1]` times t_i = t_max Q(1 - i / N), with Q the quantile function of Beta(a, b).

    With a and b below 1, there are more steps at both ends. The quantiles are times, as in ComfyUI; in diffusers they
    are values of sigma, which is the same for a rectified flow.

    Facts:
        paper: Lee et al. 2024, "Beta Sampling is All You Need"

    Args:
        schedule: the process, which defines t_max.
        steps: number of solver steps N, >= 1.
        a: first parameter of Beta(a, b), > 0; smaller values put more steps near the data.
        b: second parameter of Beta(a, b), > 0; smaller values put more steps near the noise.

    Raises:
        ValueError: if steps is not an integer of at least 1, or a or b is not positive.
    """
    check_schedule(schedule)
    check_positive("beta", "a", a)
    check_positive("beta", "b", b)
    import scipy.special  # imported here: it takes as long as a third of the library

    return schedule.t_max * scipy.special.betaincinv(a, b, np.linspace(1.0, 0.0, at_least_one(steps) + 1))


def sigmoid(schedule: NoiseSchedule, steps: int, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> np.ndarray:
    """`[steps + 1]` times spaced by a sigmoid from `start` to `end`, which puts more steps at both ends.

        t_i = t_max (S(1 - i / N) - S(0)) / (S(1) - S(0)),    S(u) = sigmoid((start + u (end - start)) / tau)

    Facts:
        paper: Jabri et al. 2022, "Scalable Adaptive Computation for Iterative Generation"; Chen 2023, "On the
            Importance of Noise Scheduling for Diffusion Models", algorithm 1: their function of time, as a spacing of
            the steps

    Args:
        schedule: the process, which defines t_max.
        steps: number of solver steps N, >= 1.
        start: argument of the sigmoid at the data.
        end: argument of the sigmoid at the noise, > start.
        tau: temperature, > 0; a large tau gives a nearly uniform grid.

    Raises:
        ValueError: if steps is not an integer of at least 1, start is not below end, or tau is not positive.
    """
    check_schedule(schedule)
    check_known("sigmoid", start=start, end=end)
    if not start < end:
        raise ValueError(f"sigmoid: start = {start} must be below end = {end}")
    check_positive("sigmoid", "tau", tau)
    u = np.linspace(1.0, 0.0, at_least_one(steps) + 1)
    width = (end - start) / tau
    # (S(u) - S(0)) / (S(1) - S(0)) without cancellation; logaddexp(0, -x) is -ln sigmoid(x).
    tails = np.logaddexp(0.0, -end / tau) - np.logaddexp(0.0, -(start / tau + width * u))
    return schedule.t_max * np.expm1(-width * u) / np.expm1(-width) * np.exp(tails)


def uniform_log_snr(schedule: NoiseSchedule, steps: int, sigma_min: float, sigma_max: float) -> np.ndarray:
    """`[steps + 1]` times: `steps` values of sigma / alpha in geometric progression, then 0.

    Facts:
        paper: Lu et al. 2022, "DPM-Solver", section 3.3, with a last step to the clean sample

    Args:
        schedule: the process, which turns sigma / alpha into t.
        steps: number of solver steps, >= 1.
        sigma_min: smallest sigma / alpha before the end.
        sigma_max: sigma / alpha at the start, at most its value at t_max.
    """
    return exponential(schedule, steps, sigma_min, sigma_max)


def exponential(
    schedule: NoiseSchedule, steps: int, sigma_min: float, sigma_max: float, rho: float = 1.0
) -> np.ndarray:
    """`[steps + 1]` times at which ln(sigma / alpha) is a power function of the step index, then 0.

        ln sigma_i = ln sigma_min + (1 - i / (N - 1))^rho ln(sigma_max / sigma_min),    sigma_N = 0

    At rho = 1 it is `uniform_log_snr`.

    Facts:
        paper: none; k-diffusion's `get_sigmas_exponential`, and with rho `get_sigmas_polyexponential`

    Args:
        schedule: the process, which turns sigma / alpha into t.
        steps: number of solver steps N, >= 1.
        sigma_min: smallest sigma / alpha before the end.
        sigma_max: sigma / alpha at the start, at most its value at t_max.
        rho: exponent, > 0; larger values put more steps near the data.

    Raises:
        ValueError: if steps is not an integer of at least 1, rho is not positive, 0 < sigma_min < sigma_max does not
            hold within the schedule, or the leaves have a schedule each.
    """
    check_sigmas(schedule, sigma_min, sigma_max)
    check_positive("exponential", "rho", rho)
    ramp = np.linspace(1.0, 0.0, at_least_one(steps)) ** rho
    return ending_at_zero(schedule, np.exp(np.log(sigma_min) + ramp * np.log(sigma_max / sigma_min)))


def karras(
    schedule: NoiseSchedule, steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> np.ndarray:
    """`[steps + 1]` times at which sigma / alpha takes EDM's values, then 0.

        sigma_i = (sigma_max^(1/rho) + i / (N - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho,    sigma_N = 0

    Facts:
        paper: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", eq. 5

    Args:
        schedule: the process, which turns sigma / alpha into t.
        steps: number of solver steps N, >= 1.
        sigma_min: smallest sigma / alpha before the end.
        sigma_max: sigma / alpha at the start, at most its value at t_max.
        rho: exponent, > 0; larger values put more steps near the data.

    Raises:
        ValueError: if steps is not an integer of at least 1, rho is not positive or so near 0 that float64 cannot hold
            sigma^(1 / rho), 0 < sigma_min < sigma_max does not hold within the schedule, or the leaves have a schedule
            each.
    """
    check_sigmas(schedule, sigma_min, sigma_max)
    check_rho("karras", rho, sigma_min, sigma_max)
    roots = np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), at_least_one(steps))
    return ending_at_zero(schedule, roots**rho)


def karras_levels(
    schedule: NoiseSchedule,
    steps: int,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    levels: int = 40,
    chosen: tuple[int, ...] = (),
) -> np.ndarray:
    """`[steps + 1]` times: `steps` of the N noise levels of `karras` with N steps, then 0.

    The levels have the indices i (N // steps) for i = 0, 1, .., or those in `chosen`, which is (0, 22) of 40 in the
    authors' two-step sampling of ImageNet 64.

    Facts:
        paper: Song et al. 2023, "Consistency Models", section 4 and the authors' code

    Args:
        schedule: the process, which turns sigma / alpha into t.
        steps: number of solver steps, in [1, levels].
        sigma_min: smallest sigma / alpha of the levels.
        sigma_max: largest sigma / alpha, where sampling starts; at most its value at t_max.
        rho: exponent, > 0; larger values put more levels near the data.
        levels: number N of noise levels in training, up to 10^6.
        chosen: `steps` increasing indices of levels, the first of them 0; () for evenly spaced ones.

    Raises:
        ValueError: if there are more steps than levels, too many levels, or `chosen` is invalid.
    """
    if at_least_one(steps) > levels:
        raise ValueError(f"karras_levels: steps = {steps} exceeds the number of levels, {levels}")
    if levels > MOST_STEPS:
        raise ValueError(f"karras_levels: levels = {levels}. Valid: at most {MOST_STEPS}")
    indices = tuple(chosen) or tuple(range(0, steps * (levels // steps), levels // steps))
    if len(indices) != steps or indices[0] != 0 or not all(a < b < levels for a, b in itertools.pairwise(indices)):
        raise ValueError(
            f"karras_levels: chosen = {tuple(chosen)} must be {steps} increasing indices from 0, below {levels}"
        )
    return np.append(karras(schedule, levels, sigma_min, sigma_max, rho)[list(indices)], 0.0)


def kl_optimal(
    schedule: NoiseSchedule, steps: int, sigma_min: float, sigma_max: float, sigma_data: float = 1.0
) -> np.ndarray:
    """`[steps + 1]` times: `steps` values of sigma / alpha uniform in the angle arctan(sigma / sigma_data), then 0.

    Apart from the last step, this grid minimizes a bound on the Kullback-Leibler divergence of samples from the data
    N(0, sigma_data^2 I).

    Facts:
        paper: Sabour et al. 2024, "Align Your Steps", theorem 3.1

    Args:
        schedule: the process, which turns sigma / alpha into t.
        steps: number of solver steps, >= 1.
        sigma_min: smallest sigma / alpha before the end.
        sigma_max: sigma / alpha at the start, at most its value at t_max.
        sigma_data: standard deviation of the data, > 0.

    Raises:
        ValueError: if steps is not an integer of at least 1, sigma_data is not positive, 0 < sigma_min < sigma_max does
            not hold within the schedule, or the leaves have a schedule each.
    """
    check_sigmas(schedule, sigma_min, sigma_max)
    check_positive("kl_optimal", "sigma_data", sigma_data)
    angles = np.linspace(np.arctan(sigma_max / sigma_data), np.arctan(sigma_min / sigma_data), at_least_one(steps))
    return ending_at_zero(schedule, sigma_data * np.tan(angles))


def ending_at_zero(schedule: NoiseSchedule, sigmas: np.ndarray) -> np.ndarray:
    """`[N + 1]` times at which sigma / alpha takes N decreasing values, then 0."""
    check_one_schedule("a grid of sigma / alpha", schedule)
    with jax.ensure_compile_time_eval():  # a grid may be made inside a compiled function
        times = np.asarray(schedule.inverse_log_snr(-2 * np.log(sigmas)))
    return np.append(np.minimum(times, schedule.t_max), 0).astype(times.dtype)
