"""From data to the noise that generates them: DDIM inversion, and two samplers with an exact inverse at any step size.

With an increasing plan, `ddim`, `heun` and other deterministic samplers also invert, up to their accuracy.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from diffusion.parameterizations import Denoiser
from diffusion.samplers.sample import Sampler, State, start
from diffusion.schedules import NoiseSchedule, check_schedule
from diffusion.schedules.noise_schedule import as_float
from diffusion.timesteps import Plan
from diffusion.timesteps.plans import require_plan


def ddim_inversion(iterations: int = 1, clip: float | None = None) -> Sampler:
    """x_s = (alpha_s / alpha_t) x_t + (sigma_s - alpha_s sigma_t / alpha_t) eps(x_t, s) for s > t: DDIM's step back.

    The network is evaluated at the end time s, as in the step of `ddim` from s to t, but at the sample x_t. Each
    further iteration evaluates it at the last x_s. The fixed point is the exact inverse of the `ddim` step; the
    iterations converge if the step is not too long.

    To invert a clipped `ddim` whose eps is recomputed from the clipped x0, use `clipped(ddim_inversion(iterations),
    largest, keeps_eps=False)`. If eps remains as predicted, as in diffusers, `clip` gives the inversion of diffusers;
    no inversion recovers what such a step cuts off.

    Facts:
        kind: deterministic
        order: 1 in sigma / alpha; the exact inverse of ddim as the iterations grow
        nfe: steps * iterations
        accepts: any schedule; plans that go up, from t = 0 or above it, to a time with alpha > 0
        paper: Mokady et al. 2023, "Null-text Inversion", its code (one iteration); Pan et al. 2023, "Effective Real
            Image Editing with Accelerated Iterative Diffusion Inversion" (more)

    Args:
        iterations: number of evaluations per step, >= 1.
        clip: bound of the data estimate, > 0, in x_s = alpha_s clip(x0, -clip, clip) + sigma_s eps, for a `ddim` that
            also clips; None for no bound.

    Raises:
        ValueError: if iterations < 1 or clip is not positive; when sampling, if the plan goes down, reaches alpha = 0
            or has a time for each frame.
    """
    if iterations < 1:
        raise ValueError(f"ddim_inversion: iterations = {iterations} must be at least 1")
    if clip is not None and not clip > 0:
        raise ValueError(f"ddim_inversion: clip = {clip} must be positive (1 for pictures), or None for no bound")

    def init(x, schedule, plan):
        if np.ndim(plan.s) == 2:
            raise ValueError(
                "ddim_inversion evaluates the network at the end of each step, and per_frame at its start. Valid: "
                "per_frame(ddim()) along the increasing plan"
            )
        if not isinstance(plan.s, Tracer):
            if not np.all(np.asarray(plan.s) > np.asarray(plan.t)):
                raise ValueError(
                    "ddim_inversion goes from data to noise, so it needs a plan with increasing times, such as "
                    "timesteps.plan(grid[::-1])"
                )
            _check_alpha("ddim_inversion", schedule, plan.s)
        return start(x, schedule, plan)

    def step(state, denoise, schedule, plan, i, noise):
        t = plan.t[i]
        s = plan.s[i]
        ratio = schedule.alpha(s) / schedule.alpha(t)

        def data(eps):
            x0 = (state.x - schedule.sigma(t) * eps) / schedule.alpha(t)
            return x0 if clip is None else jnp.clip(x0, -clip, clip)

        def towards(eps):
            if clip is None:
                return ratio * state.x + (schedule.sigma(s) - ratio * schedule.sigma(t)) * eps
            return schedule.alpha(s) * data(eps) + schedule.sigma(s) * eps

        eps = denoise(state.x, s).eps
        if iterations > 1:
            eps = jax.lax.fori_loop(1, iterations, lambda _, eps: denoise(towards(eps), s).eps, eps)
        return State(towards(eps), data(eps))

    return Sampler(init, step, draws=0, nfe=lambda steps: steps * iterations)


def edict(
    denoise: Denoiser, schedule: NoiseSchedule, pair: tuple[Array, Array], plan: Plan, mix: float = 0.93
) -> tuple[Array, Array]:
    """Two coupled DDIM chains x and y: each moves by the noise predicted from the other.

        x' = a x_t + b eps(y_t, t),    y' = a y_t + b eps(x', t),    a = alpha_s / alpha_t,    b = sigma_s - a sigma_t,
        x_s = p x' + (1 - p) y',       y_s = p y' + (1 - p) x_s

    Each equation can be solved for the chain that it changes, so the reversed plan undoes a plan up to rounding errors,
    which grow by at most p^-2 per step. The start is (x, x). As in the authors' code, y moves first in every second
    step from the noise.

    Facts:
        kind: deterministic, invertible
        order: 1 in sigma / alpha
        nfe: 2 steps
        accepts: any schedule; plans that go down or up, between t = 0 and a time with alpha > 0
        paper: Wallace et al. 2023, "EDICT: Exact Diffusion Inversion via Coupled Transformations", section 4

    Args:
        denoise: (x_t, t) -> Prediction.
        schedule: the process.
        pair: chains (x `[B, ...]`, y `[B, ...]`) at plan.t[0]; (x, x) at the start.
        plan: the steps; an increasing plan inverts.
        mix: mixing weight p in (0, 1]; with 1 the chains do not mix, and drift apart.

    Returns:
        (x, y) at plan.s[-1].

    Raises:
        ValueError: if mix is not in (0, 1], a time has alpha = 0, or the plan changes direction, as plans that renoise.
    """
    require_plan(plan)
    check_schedule(schedule)
    if not 0 < mix <= 1:
        raise ValueError(f"edict: mix = {mix} must be in (0, 1] (0.93 in the paper)")
    ups = np.asarray(plan.s) > np.asarray(plan.t)
    if ups.any() and not ups.all():
        raise ValueError(
            f"edict: the plan changes direction, at times {plan.grid}. Valid: all decreasing or increasing"
        )
    _check_alpha("edict", schedule, plan.t)
    _check_alpha("edict", schedule, plan.s)
    up = bool(ups.all())
    x, y = (as_float(a) for a in pair)

    def step(pair, at):
        x, y = pair
        clean, noisy, odd = at
        a = schedule.alpha(clean) / schedule.alpha(noisy)
        b = schedule.sigma(clean) - a * schedule.sigma(noisy)
        eps = lambda x: denoise(x, noisy).eps
        in_turn = lambda x, y: (jnp.where(odd, y, x), jnp.where(odd, x, y))
        if up:
            y = (y - (1 - mix) * x) / mix
            x = (x - (1 - mix) * y) / mix
            first, second = in_turn(x, y)
            second = (second - b * eps(first)) / a
            first = (first - b * eps(second)) / a
            x, y = in_turn(first, second)
        else:
            first, second = in_turn(x, y)
            first = a * first + b * eps(second)
            second = a * second + b * eps(first)
            x, y = in_turn(first, second)
            x = mix * x + (1 - mix) * y
            y = mix * y + (1 - mix) * x
        return (x, y), None

    t, s = (jnp.asarray(times, x.dtype) for times in (plan.t, plan.s))
    odd = jnp.arange(len(t)) % 2 == 1
    return jax.lax.scan(step, (x, y), (t, s, odd[::-1]) if up else (s, t, odd))[0]


def bdia(
    denoise: Denoiser, schedule: NoiseSchedule, pair: tuple[Array, Array], grid: ArrayLike, gamma: float = 1.0
) -> tuple[Array, Array]:
    """Bi-directional integration: the next sample from the last two, by DDIM steps Phi in both directions.

        x_{i+1} = gamma (x_{i-1} - Phi(x_i; t_i -> t_{i-1})) + Phi(x_i; t_i -> t_{i+1}),
        Phi(x; t -> s) = alpha_s x0(x, t) + sigma_s eps(x, t)

    Solved for x_{i-1}, this is the same formula with 1 / gamma, so the reversed grid undoes it up to rounding errors
    for any network. The formula does not divide by alpha or sigma. The second of the two initial samples comes from
    `ddim`:

        second = samplers.sample(samplers.ddim(), denoise, schedule, x, timesteps.plan(grid[:2]), keys)
        last = samplers.bdia(denoise, schedule, (x, second), grid)         # the samples at grid[-2] and grid[-1]
        again = samplers.bdia(denoise, schedule, last[::-1], grid[::-1])   # (second, x)

    Facts:
        kind: deterministic, multistep, invertible
        order: 2 in sigma / alpha on a uniform grid at gamma = 1, else 1
        nfe: steps - 1, plus the first step's
        accepts: any schedule; grids that go down or up; the network must be defined at all times between the ends
        paper: Zhang et al. 2023, "Exact Diffusion Inversion via Bi-directional Integration Approximation"

    Args:
        denoise: (x_t, t) -> Prediction.
        schedule: the process.
        pair: (x `[B, ...]` at grid[0], x `[B, ...]` at grid[1]).
        grid: `[N + 1]` times, N >= 2, strictly decreasing or increasing; increasing inverts.
        gamma: share of the last step that is taken back, in (0, 1]; the same for both directions.

    Returns:
        (x at grid[-2], x at grid[-1]).

    Raises:
        ValueError: if gamma is not in (0, 1], or the grid is not monotone with at least three times.
    """
    check_schedule(schedule)
    if not 0 < gamma <= 1:
        raise ValueError(f"bdia: gamma = {gamma} must be in (0, 1]")
    grid = np.asarray(grid)
    ways = np.sign(np.diff(grid))
    if grid.ndim != 1 or grid.size < 3 or not (ways == ways[0]).all() or ways[0] == 0:
        raise ValueError(f"bdia: the grid must have at least three times, all decreasing or all increasing; got {grid}")
    back = gamma if ways[0] < 0 else 1 / gamma
    first, second = (as_float(a) for a in pair)

    def step(pair, times):
        before, x = pair
        last, t, s = times
        x0, eps = denoise(x, t)[:2]
        phi = lambda s: schedule.alpha(s) * x0 + schedule.sigma(s) * eps
        return (x, back * (before - phi(last)) + phi(s)), None

    times = jnp.asarray(np.stack([grid[:-2], grid[1:-1], grid[2:]], axis=1), first.dtype)
    return jax.lax.scan(step, (first, second), times)[0]


def _check_alpha(name: str, schedule: NoiseSchedule, times: ArrayLike) -> None:
    if isinstance(times, Tracer):
        return
    with jax.ensure_compile_time_eval():
        vanishes = np.asarray(schedule.alpha(jnp.asarray(times)) <= 0)
    if vanishes.any():
        t = np.asarray(times)[vanishes][0]
        raise ValueError(
            f"{name} divides by alpha, which is 0 at t = {t:g} of this schedule. Use a plan that ends below this time"
        )
