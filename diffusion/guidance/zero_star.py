"""CFG-Zero*: classifier-free guidance of flows with an optimised scale of the unconditional velocity."""

import jax.numpy as jnp

from diffusion import parameterizations
from diffusion.arrays.parameters import traced
from diffusion.guidance.branches import Branches, evaluate
from diffusion.guidance.prediction_changes import inner, slide
from diffusion.guidance.strength import Interval, Scale, check_interval, strength
from diffusion.parameterizations import Denoiser, finite_derivatives
from diffusion.parameterizations.sampled_process import belonging_to, check_process
from diffusion.schedules import NoiseSchedule, left_broadcast


def zero_star(
    branches: Branches,
    schedule: NoiseSchedule,
    scale: Scale,
    zero_above: float | None = None,
    interval: Interval = None,
) -> Denoiser:
    """CFG-Zero*: classifier-free guidance whose unconditional velocity is scaled to fit the conditional one.

        s = <u_c, u_u> / |u_u|^2,    u = s u_u + w (u_c - s u_u),    u = 0 at the first steps,

    where u = alpha' x0 + sigma' eps is a velocity.

    The authors' code sets the velocity of the first step to zero. With zero_above = plan.s[k - 1], the velocity is zero
    in the first k steps of a plan.

    Facts:
        nfe: 2 branches per call
        neutral: w = 1 without zero_above, the conditional denoiser exactly
        paper: Fan et al. 2025, "CFG-Zero*: Improved Classifier-Free Guidance for Flow Matching Models", algorithm 1

    Args:
        branches: evaluates (condition, null or negative condition).
        schedule: the process, with a velocity at t_max.
        scale: guidance scale w: a number, `[B]` or a function of t.
        zero_above: time above which the velocity is zero; None to use no zero velocity.
        interval: (t_low, t_high) outside which w = 1; None for all times.

    Raises:
        ValueError: if the schedule has no finite velocity at t_max, zero_above is negative or the interval is empty;
            when called, if there are not two branches.
    """
    check_process(branches, schedule)
    check_interval(interval, schedule)
    if zero_above is not None and not traced(zero_above) and not zero_above >= 0:
        raise ValueError(f"zero_star: zero_above = {zero_above} must be a time, at least 0, or None")
    parameterizations.check(parameterizations.velocity(), schedule)

    def denoise(x_t, t):
        cond, uncond = evaluate(branches, x_t, t, (2,), "(condition, null condition)")
        alpha_dot, sigma_dot, w, _ = finite_derivatives(schedule, t, x_t)  # a common factor cancels
        u_c, u_u = (alpha_dot * p.x0 + sigma_dot * p.eps for p in (cond, uncond))
        s = inner(u_c, u_u) / (inner(u_u, u_u) + 1e-8)  # constant of the authors' code
        change = strength(scale, 1, interval, t, x_t) * (u_c - s * u_u)
        if zero_above is not None:
            early = jnp.asarray(t) > jnp.asarray(zero_above, x_t.dtype)  # in the precision of the plan's times
            change = jnp.where(left_broadcast(early, x_t), -u_c, change)
        return slide(cond, schedule, t, change / w)

    return belonging_to(schedule, denoise)
