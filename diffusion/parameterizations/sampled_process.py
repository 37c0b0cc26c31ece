"""The process that a denoiser belongs to, so that no other process is sampled with it."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from diffusion.arrays.equal_programs import same_program
from diffusion.arrays.parameters import traced
from diffusion.schedules import NoiseSchedule, check_schedule

Function = TypeVar("Function", bound=Callable[..., Any])


def belonging_to(schedule: NoiseSchedule | None, function: Function) -> Function:
    """The function itself, which states that it predicts under this process.

    Args:
        schedule: the process; None where it is not known.
        function: a denoiser or branches.
    """
    function.schedule = schedule  # type: ignore[attr-defined]
    return function


def process_of(*functions: Any) -> NoiseSchedule | None:
    """The process that the first of the functions states; None where none states one."""
    stated = (getattr(function, "schedule", None) for function in functions)
    return next((schedule for schedule in stated if isinstance(schedule, NoiseSchedule)), None)


def check_process(denoise: Any, schedule: NoiseSchedule) -> None:
    """Refuses a denoiser of another process than the sampled one, whose estimates would not match x_t.

    Two schedules are one process if their alpha and sigma agree at seven times that both have. Denoisers that state no
    process pass, and so do traced schedules and those of leaves.

    Args:
        denoise: the denoiser.
        schedule: the process that is sampled.

    Raises:
        ValueError: if the processes differ; the message names the first time at which they do.
    """
    check_schedule(schedule)
    stated = process_of(denoise)
    if stated is None or stated is schedule or stated.leaves or schedule.leaves:
        return
    ends = (stated.t_min, schedule.t_min, stated.t_max, schedule.t_max)
    if traced(*ends):
        return
    times = np.linspace(max(ends[:2]), min(ends[2:]), 9, dtype=np.float32)[1:-1]
    functions = [lambda t, one=one: jnp.stack([one.alpha(t), one.sigma(t)]) for one in (stated, schedule)]
    with jax.ensure_compile_time_eval():  # a sampler may be compiled
        if same_program(*functions, times):
            return  # one schedule, made twice: nothing needs to be compiled
        values = [jax.jit(function)(times) for function in functions]
    if any(isinstance(value, Tracer) for value in values):
        return
    differ = ~np.isclose(*map(np.asarray, values), rtol=1e-3, atol=1e-4).all(axis=0)
    if differ.any():
        i = int(np.argmax(differ))
        (alpha, sigma), (sampled_alpha, sampled_sigma) = (np.asarray(value)[:, i] for value in values)
        raise ValueError(
            f"the denoiser belongs to another process: at t = {times[i]:g} its schedule has alpha = {alpha:.4g} and "
            f"sigma = {sigma:.4g}, and the sampled one alpha = {sampled_alpha:.4g} and sigma = {sampled_sigma:.4g}. "
            "Valid: one schedule for both, or parameterizations.denoiser_under(denoise, trained, sampled)"
        )
