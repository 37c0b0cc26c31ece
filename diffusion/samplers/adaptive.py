"""An alternative to `sample` with adaptive steps."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from diffusion.arrays.arguments import require_floats
from diffusion.flows import ode, probability_flow
from diffusion.parameterizations import Denoiser
from diffusion.schedules import NoiseSchedule, check_schedule
from diffusion.schedules.noise_schedule import as_float


class AdaptiveStats(NamedTuple):
    """The cost of an adaptive solve.

    Attributes:
        nfe: `[B]` number of network evaluations of each sample, rejected steps included.
        evaluations: `[]` number of network calls on the whole batch, which the slowest sample determines.
    """

    nfe: Array
    evaluations: Array


def adaptive(
    denoise: Denoiser,
    schedule: NoiseSchedule,
    x: Array,
    rtol: ArrayLike = 1e-3,
    atol: ArrayLike = 1e-3,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    most: int = 1000,
) -> tuple[Array, AdaptiveStats]:
    """Solves the probability flow with adaptive steps, chosen for each sample independently of the others.

        du/dtheta = cos(theta) eps(x, t) - sin(theta) x0(x, t),    theta = atan2(sigma, alpha),
        u = x / sqrt(alpha^2 + sigma^2),

    by Dormand and Prince's method (see `ode.dormand_prince` for the step size control).

    Facts:
        kind: deterministic, adaptive
        order: 5 in atan2(sigma, alpha), both ends included
        nfe: 1 + 6 attempts, counted for each sample; the tolerance determines the attempts
        accepts: any schedule; t_start < t_end inverts
        paper: Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations", section
            4.3 (RK45, with rtol = atol = 1e-5), here with separate steps for each sample

    Args:
        denoise: (x_t, t) -> Prediction; called with t `[B]`.
        schedule: the process.
        x: `[B, ...]` samples at t_start.
        rtol: relative tolerance of a step, > 0.
        atol: absolute tolerance of a step on the scale of u, which has about the variance of the data, > 0.
        t_start: time of x; schedule.t_max if None.
        t_end: time of the result; schedule.t_min if None. For a network that cannot be evaluated at sigma = 0, use a
            slightly later time, such as 1e-5 with a continuous schedule.
        most: largest number of attempted steps, >= 1; a sample that does not reach t_end within them is NaN.

    Returns:
        (x at t_end `[B, ...]`, `AdaptiveStats`).

    Raises:
        ValueError: if the times are outside the schedule or equal, a tolerance is not positive, or most is below 1.
    """
    check_schedule(schedule)
    require_floats(x, "x")
    t_start = schedule.t_max if t_start is None else t_start
    t_end = schedule.t_min if t_end is None else t_end
    for name, t in (("t_start", t_start), ("t_end", t_end)):
        if not schedule.t_min <= t <= schedule.t_max:
            raise ValueError(
                f"adaptive: {name} = {t} must be in [{schedule.t_min:g}, {schedule.t_max:g}], the times of the schedule"
            )
    if t_start == t_end:
        raise ValueError(f"adaptive: t_start and t_end are both {t_end}; they must differ")
    concrete = [tolerance for tolerance in (rtol, atol) if not isinstance(tolerance, Tracer)]
    if not (all(np.all(np.asarray(tolerance) > 0) for tolerance in concrete) and most >= 1):
        raise ValueError(f"adaptive: rtol = {rtol}, atol = {atol}, most = {most}. Valid: rtol > 0, atol > 0, most >= 1")
    x = as_float(x)
    start = jnp.asarray(t_start, x.dtype)
    end = jnp.asarray(t_end, x.dtype)
    velocity = probability_flow.velocity(denoise, schedule)
    sign = 1 if t_end > t_start else -1
    flow = lambda s, u: sign * velocity(sign * s, u)  # the solver's variable s = sign theta increases
    first = sign * probability_flow.angle(schedule, start)
    last = sign * probability_flow.angle(schedule, end)
    u = x / probability_flow.radius(schedule, start)
    u, attempts = ode.dormand_prince_between(flow, first, last, u, rtol, atol, most)
    nfe = 1 + 6 * attempts
    return u * probability_flow.radius(schedule, end), AdaptiveStats(nfe, nfe.max(initial=0))
