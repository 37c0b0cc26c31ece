"""Pairs of neighbouring times s < t for consistency objectives, whose gap shrinks during training.

    pairs(schedule, t, step) -> (t, s)

takes a time from any density and the training step, and returns the pair of times for training.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.parameters import traced
from diffusion.schedules import NoiseSchedule
from diffusion.timesteps import Density, from_quantile
from diffusion.timesteps.valid_ranges import check_one_schedule, check_positive

Pairs = Callable[[NoiseSchedule, Array, ArrayLike], tuple[Array, Array]]
"""A function (schedule, t, step) -> (t, s), the pair of times for training."""
Curriculum = Callable[[ArrayLike], Array]
"""A function from the training step to the number of times."""


def constant_curriculum(N: int) -> Curriculum:
    """N times throughout training, as in distillation.

    Facts:
        paper: Song et al. 2023, "Consistency Models", algorithm 2

    Args:
        N: number of times, >= 2; 18 with Heun's method in the paper.

    Raises:
        ValueError: if N < 2.
    """
    if N < 2:
        raise ValueError(f"constant_curriculum: N = {N}; a pair of times needs at least 2 (18 in the paper)")
    return lambda step: jnp.asarray(N)


def square_root_curriculum(total: int, first: int = 2, last: int = 150) -> Curriculum:
    """N(k) = ceil(sqrt(k / K ((last + 1)^2 - first^2) + first^2) - 1) + 1 times at step k of K, and at least 2.

    Facts:
        paper: Song et al. 2023, "Consistency Models", appendix C

    Args:
        total: number K of training steps, >= 1.
        first: s_0, >= 1; 2 in the paper.
        last: s_1, >= first; 150 in the paper.

    Raises:
        ValueError: if total or first is below 1, or last below first.
    """
    _check_growth("square_root_curriculum", total, first, last)

    def curriculum(step):
        done = jnp.clip(jnp.asarray(step, jnp.float32) / total, 0, 1)
        intervals = jnp.ceil(jnp.sqrt(done * ((last + 1) ** 2 - first**2) + first**2) - 1)
        return jnp.maximum(intervals, 1) + 1

    return curriculum


def doubling_curriculum(total: int, first: int = 10, last: int = 1280) -> Curriculum:
    """N(k) = min(first 2^floor(k / K'), last) + 1 times, with K' = floor(K / (log2(floor(last / first)) + 1)).

    K' is at least 1.

    Facts:
        paper: Song and Dhariwal 2023, "Improved Techniques for Training Consistency Models", eq. 11

    Args:
        total: number K of training steps, >= 1.
        first: s_0, >= 1; 10 in the paper.
        last: s_1, >= first; 1280 in the paper.

    Raises:
        ValueError: if total or first is below 1, or last below first.
    """
    _check_growth("doubling_curriculum", total, first, last)
    stage = max(math.floor(total / (math.log2(last // first) + 1)), 1)
    return lambda step: jnp.minimum(first * 2.0 ** jnp.floor(jnp.asarray(step, jnp.float32) / stage), last) + 1


def _check_growth(function: str, total: int, first: int, last: int) -> None:
    if not (total >= 1 and 1 <= first <= last):
        raise ValueError(
            f"{function}: total = {total}, first = {first}, last = {last}. Valid: total >= 1 and 1 <= first <= last"
        )


def discretised(curriculum: Curriculum, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Pairs:
    """The two neighbours of t among Karras's N(k) values of sigma / alpha.

    The probability of a pair is the mass of the density of t between its two times. With `log_normal` these are the
    probabilities of iCT; with `ramp_density` all pairs are equally likely, as in CT. A time beyond the range gets the
    first or the last pair; `ict` draws no such times.

    Facts:
        paper: Song et al. 2023, "Consistency Models", appendix C; Song and Dhariwal 2023, eq. 10

    Args:
        curriculum: a function from the step to the number N of times; `constant_curriculum(N)` for a fixed number.
        sigma_min: smallest sigma / alpha, >= 0; raised to the schedule's smallest value.
        sigma_max: largest sigma / alpha, > sigma_min; lowered to the schedule's largest value.
        rho: spacing of the times, > 0, as in `timesteps.karras`.

    Raises:
        ValueError: if the range is empty, or rho is not positive.
    """
    _check_ramp("discretised", sigma_min, sigma_max, rho)

    def pairs(schedule, t, step):
        check_one_schedule("discretised", schedule)
        low, high = _ramp(schedule, sigma_min, sigma_max, rho)
        intervals = jnp.asarray(curriculum(step), t.dtype) - 1
        position = (jnp.exp(-schedule.log_snr(t) / (2 * rho)) - low) / (high - low) * intervals
        i = jnp.clip(jnp.floor(position), 0, intervals - 1)
        time = lambda i: schedule.inverse_log_snr(-2 * rho * jnp.log(low + i / intervals * (high - low)))
        return time(i + 1), time(i)

    return pairs


def ramp_density(
    schedule: NoiseSchedule,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    strata: int | None = None,
) -> Density:
    """Times with uniform (sigma / alpha)^(1/rho), so that all pairs of `discretised` are equally likely.

    Facts:
        paper: Song et al. 2023, "Consistency Models", algorithm 3 (n uniform)

    Args:
        schedule: the process, which turns sigma / alpha into t.
        sigma_min: smallest sigma / alpha, as in `discretised`.
        sigma_max: largest sigma / alpha, as in `discretised`.
        rho: spacing of the times, as in `discretised`.
        strata: number of strata or None, see `timesteps.from_quantile`.

    Raises:
        ValueError: under the conditions of `discretised`.
    """
    _check_ramp("ramp_density", sigma_min, sigma_max, rho)
    check_one_schedule("ramp_density", schedule)
    low, high = _ramp(schedule, sigma_min, sigma_max, rho)
    return from_quantile(lambda u: schedule.inverse_log_snr(-2 * rho * jnp.log(low + u * (high - low))), strata)


def shrinking(stage: int, q: float = 4.0, k: float = 8.0, b: float = 1.0) -> Pairs:
    """r_s = r_t (1 - n(r_t) / q^a), n(r) = 1 + k sigmoid(-b r), in r = sigma / alpha; a = 1 + floor(step / stage).

    If this is not positive, s = 0, the data, and the pair has the loss of a diffusion model. With the default values
    this happens only in the first stage, a = 1, for r_t <= ln(5 / 3) = 0.51.

    Facts:
        paper: Geng et al. 2024, "Consistency Models Made Easy", eq. 16 and 18, with the values of the authors' code

    Args:
        stage: training steps of one stage.
        q: factor by which the relative gap shrinks from stage to stage, > 1; 4 for ImageNet and 256 for CIFAR-10 in the
            paper.
        k: factor by which the gap widens near the data.
        b: rate at which this widening decays with r.

    Raises:
        ValueError: if stage < 1 or q <= 1.
    """
    if stage < 1 or not (traced(q) or q > 1):
        raise ValueError(f"shrinking: stage = {stage} must be at least one step, and q = {q} must be above 1")

    def pairs(schedule, t, step):
        check_one_schedule("shrinking", schedule)
        r = jnp.exp(-schedule.log_snr(t) / 2)
        gap = (1 + k * jax.nn.sigmoid(-b * r)) / q ** (1 + jnp.asarray(step, t.dtype) // stage)
        r_s = r * (1 - gap)
        s = schedule.inverse_log_snr(-2 * jnp.log(jnp.where(r_s > 0, r_s, 1)))
        return t, jnp.where(r_s > 0, s, 0)

    return pairs


def _check_ramp(function: str, sigma_min: float, sigma_max: float, rho: float) -> None:
    if not traced(sigma_min, sigma_max) and not 0 <= sigma_min < sigma_max:
        raise ValueError(
            f"{function}: sigma_min = {sigma_min}, sigma_max = {sigma_max}. Valid: 0 <= sigma_min < sigma_max"
        )
    if not traced(rho):
        check_positive(function, "rho", rho)


def _ramp(schedule: NoiseSchedule, sigma_min: float, sigma_max: float, rho: float) -> tuple[Array, Array]:
    """The ends of the range, to the power 1 / rho."""
    least, largest = (jnp.exp(-schedule.log_snr(t) / 2) for t in (schedule.t_min, schedule.t_max))
    return jnp.maximum(sigma_min, least) ** (1 / rho), jnp.minimum(sigma_max, largest) ** (1 / rho)
