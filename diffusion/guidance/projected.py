"""Adaptive projected guidance."""

import jax.numpy as jnp

from diffusion.arrays.parameters import is_number, traced
from diffusion.arrays.square_roots import root
from diffusion.guidance.branches import Branches, evaluate
from diffusion.guidance.memory import Memory
from diffusion.guidance.prediction_changes import inner, replace_x0
from diffusion.guidance.strength import Interval, Scale, check_interval, strength
from diffusion.parameterizations import Denoiser
from diffusion.parameterizations.sampled_process import belonging_to, check_process
from diffusion.schedules import NoiseSchedule


def adaptive_projected(
    branches: Branches,
    schedule: NoiseSchedule,
    scale: Scale,
    eta: float = 0.0,
    norm_threshold: float | None = None,
    momentum: float = -0.5,
    interval: Interval = None,
) -> Denoiser | Memory:
    """APG: classifier-free guidance of x0 without the component of the update that oversaturates.

        d = x0_c - x0_u + beta (last d),    d <- d min(1, r / |d|),
        x0 = x0_c + (w - 1) (d_orthogonal + eta d_parallel),

    where d_parallel and d_orthogonal are the components parallel and orthogonal to x0_c, taken over a whole example;
    eps follows from x0. The memory holds d before its norm is limited, as in the authors' code.

    Facts:
        nfe: 2 branches per call
        neutral: w = 1, the conditional denoiser exactly; eta = 1 without threshold and momentum is classifier-free
        paper: Sadat et al. 2024, "Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion
            Models", algorithm 1

    Args:
        branches: evaluates (condition, null or negative condition).
        schedule: the process.
        scale: guidance scale w: a number, `[B]` or a function of t.
        eta: factor of the parallel component; 0 in the paper.
        norm_threshold: largest norm r of d, > 0; 2.5 to 15 in the paper; None for no limit.
        momentum: momentum beta in (-1, 1); -0.75 to 0 in the paper; 0 for none.
        interval: (t_low, t_high) outside which w = 1; None for all times.

    Returns:
        A guidance with memory, which `samplers.sample` carries; with momentum = 0, a plain denoiser.

    Raises:
        ValueError: if the threshold is not positive, momentum is not in (-1, 1) or the interval is empty; when called,
            if there are not two branches.
    """
    check_process(branches, schedule)
    check_interval(interval, schedule)
    if norm_threshold is not None and not traced(norm_threshold) and not norm_threshold > 0:
        raise ValueError(f"adaptive_projected: norm_threshold = {norm_threshold} must be positive, or None")
    if not traced(momentum) and not -1 < momentum < 1:
        raise ValueError(f"adaptive_projected: momentum = {momentum} must be in (-1, 1); the paper's is negative")

    def apply(average, x_t, t):
        cond, uncond = evaluate(branches, x_t, t, (2,), "(condition, null condition)")
        average = cond.x0 - uncond.x0 + momentum * average
        d = average
        if norm_threshold is not None:
            d = d * jnp.minimum(1, norm_threshold / _positive(root(inner(d, d))))
        parallel = inner(d, cond.x0) / _positive(inner(cond.x0, cond.x0)) * cond.x0
        x0 = cond.x0 + strength(scale, 1, interval, t, x_t) * (d - (1 - eta) * parallel)
        return replace_x0(cond, schedule, t, x0), average

    if is_number(momentum, 0):
        return belonging_to(schedule, lambda x_t, t: apply(0.0, x_t, t)[0])
    return Memory(jnp.zeros_like, belonging_to(schedule, apply))


def _positive(a):
    """a, or 1 where a is 0, where the dividend is 0 too."""
    return jnp.where(a > 0, a, 1)
