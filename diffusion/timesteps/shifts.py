"""Shifts: a grid moved to noisier or cleaner times."""

import math

import jax
import numpy as np
from jax.typing import ArrayLike

from diffusion.schedules import NoiseSchedule, check_schedule
from diffusion.schedules.noise_schedule import check_times
from diffusion.timesteps.plans import times_of
from diffusion.timesteps.valid_ranges import check_one_schedule, check_positive


def shift(schedule: NoiseSchedule, grid: ArrayLike, factor: float) -> np.ndarray:
    """Moves a grid to the times whose log-SNR is smaller by 2 ln(factor).

    For the rectified flow this is t' = a t / (1 + (a - 1) t).

    Facts:
        paper: Esser et al. 2024, "Scaling Rectified Flow Transformers", eq. 23 (SD3: a = 3 at 1024^2 pixels); Hoogeboom
            et al. 2023, "simple diffusion", eq. 4

    Args:
        schedule: the process.
        grid: `[N + 1]` times.
        factor: shift a > 0; above 1 for pictures larger than those that the schedule was made for.

    Raises:
        ValueError: if a time would leave the schedule's range, or two would coincide at its end.
    """
    check_positive("shift", "factor", factor)
    grid = times_of(grid, "shift")
    check_schedule(schedule)
    check_times(schedule, grid)
    if factor == 1:
        return grid
    check_one_schedule("shift", schedule)
    with jax.ensure_compile_time_eval():  # the grid is a concrete value, also inside a compiled function
        log_snr = schedule.log_snr(grid) - 2 * math.log(factor)
        moved = np.asarray(schedule.inverse_log_snr(log_snr), np.result_type(grid.dtype, np.float32))
        noisier = np.asarray(log_snr < schedule.log_snr(schedule.t_max) - 1e-4)  # some inverses return t_max here
    outside = noisier | ~((moved >= 0) & (moved <= schedule.t_max * (1 + 1e-6)))
    if outside.any() or np.any(np.sign(np.diff(moved)) != np.sign(np.diff(grid))):
        raise ValueError(
            f"shift: a factor of {factor:g} moves these times out of the schedule's range [0, {schedule.t_max:g}], "
            "because its noise ends there. Build the grid from another sigma_max (karras, uniform_log_snr), or shift "
            "a schedule that reaches alpha = 0"
        )
    return moved


def dimension_shift(dimension: int | None, base: int = 4096) -> float:
    """The factor of `shift` for data of another dimension than the schedule was made for: sqrt(dimension / base).

    Facts:
        paper: Zheng et al. 2025, "Diffusion Transformers with Representation Autoencoders", section 4.2: the shift of
            Esser et al. 2024, by the dimension of a latent instead of its resolution

    Args:
        dimension: how many numbers an example has, m >= 1: height x width x channels of a latent.
        base: dimension n >= 1 for which the schedule was made; 4096 in the paper.

    Raises:
        ValueError: if dimension or base is not positive, or dimension is None.
    """
    if dimension is None:
        raise ValueError(
            "dimension_shift needs the shape of the data, which is not known. Valid: a config that states data.shape"
        )
    check_positive("dimension_shift", "dimension", dimension)
    check_positive("dimension_shift", "base", base)
    return math.sqrt(dimension / base)


def dimension_shifted(schedule: NoiseSchedule, grid: ArrayLike, dimension: int | None, base: int = 4096) -> np.ndarray:
    """A grid shifted for the dimension of the data, by the factor of `dimension_shift`.

    Facts:
        paper: Zheng et al. 2025, "Diffusion Transformers with Representation Autoencoders", section 4.2

    Args:
        schedule: the process.
        grid: `[N + 1]` times.
        dimension: how many numbers an example has, >= 1; a config sets it from data.shape.
        base: dimension for which the schedule was made, see `dimension_shift`.

    Raises:
        ValueError: under the conditions of `dimension_shift` and `shift`.
    """
    return shift(schedule, grid, dimension_shift(dimension, base))


def log_shift_of_tokens(
    tokens: int, base: tuple[int, float] = (256, 0.5), largest: tuple[int, float] = (4096, 1.15)
) -> float:
    """mu of `flux_shift`, linear in the number of tokens.

    Args:
        tokens: number of patches that the transformer reads, >= 1.
        base: (n_1, mu_1).
        largest: (n_2, mu_2).

    Raises:
        ValueError: if tokens is not positive.
    """
    check_positive("flux_shift", "tokens", tokens)
    (n_1, mu_1), (n_2, mu_2) = base, largest
    return mu_1 + (tokens - n_1) * (mu_2 - mu_1) / (n_2 - n_1)


def flux_shift(
    schedule: NoiseSchedule,
    grid: ArrayLike,
    tokens: int,
    base: tuple[int, float] = (256, 0.5),
    largest: tuple[int, float] = (4096, 1.15),
) -> np.ndarray:
    """Shifts a grid by a factor e^mu that grows with the number of tokens.

        mu = mu_1 + (tokens - n_1) (mu_2 - mu_1) / (n_2 - n_1),    t' = e^mu / (e^mu + 1 / t - 1)

    The formula of t' holds for the rectified flow. For every schedule the log-SNR falls by 2 mu.

    Facts:
        paper: none; the code of FLUX.1 (Black Forest Labs 2024), `get_schedule`

    Args:
        schedule: the process.
        grid: `[N + 1]` times.
        tokens: number of patches that the transformer reads, >= 1: height x width / 16^2 for FLUX.1.
        base: (n_1, mu_1).
        largest: (n_2, mu_2).

    Raises:
        ValueError: if tokens is not positive, or the shift leaves the schedule (see `shift`).
    """
    return shift(schedule, grid, math.exp(log_shift_of_tokens(tokens, base, largest)))
