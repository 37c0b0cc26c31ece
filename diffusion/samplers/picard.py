"""An alternative to `sample` that computes many steps of a trajectory in parallel and iterates to convergence."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from diffusion.arrays.broadcasting import flattened
from diffusion.flows import probability_flow
from diffusion.flows.flow_maps import FlowMap
from diffusion.parameterizations import Denoiser
from diffusion.samplers.leaves import over_leaves
from diffusion.samplers.padded import over_real
from diffusion.samplers.sample import Sampler, check_arguments, keys_of_step, normal
from diffusion.samplers.sample_checks import check_moves, check_start, checker
from diffusion.schedules import NoiseSchedule, left_broadcast
from diffusion.schedules.noise_schedule import as_float, leaf_schedules
from diffusion.timesteps import Plan


class PicardStats(NamedTuple):
    """The cost of a parallel trajectory.

    Attributes:
        sweeps: `[]` number of sequential sweeps, each over a window of steps in parallel; `sample` needs one sequential
            evaluation for each step.
        steps: `[]` total number of computed steps, sweeps * window.
    """

    sweeps: Array
    steps: Array


def picard(
    sampler: Sampler,
    denoise: Denoiser | FlowMap,
    schedule: NoiseSchedule,
    x: Array,
    plan: Plan,
    keys: Array,
    *,
    window: int | None = None,
    tolerance: ArrayLike = 1e-3,
) -> tuple[Array, PicardStats]:
    """Carries x along a plan as `sample` does, with the same noise, but with a window of steps in parallel.

    Let y_0 = x be the given sample and y_j the sample after j steps. Initially all samples in the window are guesses,
    and only y_0 is final. A sweep computes all steps in parallel and sums the changes,

        y_{j+1} <- y_0 + sum_{i <= j} (step_i(y_i) - y_i),

    while the rest of a sampler's state (the history of a multistep method) comes from the previous step. Every sweep
    makes at least one more sample final, so N sweeps give the result of `sample` up to rounding. The window advances
    past the samples that a sweep changes by no more than the tolerance. The slowest sample determines the pace of the
    batch; the other samples are then more accurate than required, and depend on the rest of the batch by less than the
    tolerance.

    Facts:
        kind: the sampler's, with the same noise
        order: the sampler's, to the tolerance
        nfe: sweeps * window times the evaluations of a step
        accepts: any sampler and plan without renoise; flow-map samplers too
        paper: Shih et al. 2023, "Parallel Sampling of Diffusion Models" (ParaDiGMS), algorithm 1

    Args:
        sampler: sampler with any number of evaluations per step; its noise is drawn as in `sample`.
        denoise: (x_t, t) -> Prediction, or a flow map for a sampler of flow maps; mapped over the window by `jax.vmap`.
        schedule: the process.
        x: `[B, ...]` sample at plan.t[0].
        plan: the steps; no step may renoise.
        keys: `[B]` random keys, one for each sample.
        window: number of steps that are computed in parallel; all of them if None. The memory grows with
            it: a sweep evaluates the network on the whole window.
        tolerance: largest change of a final sample in a sweep, >= 0, as a root mean square in units of sqrt(alpha^2 +
            sigma^2). With 0 the sweeps end when nothing changes, after at most N sweeps.

    Returns:
        (x at plan.s[-1] `[B, ...]`, `PicardStats`).

    Raises:
        ValueError: if the plan renoises or has a step that does not move, the window is not in [1, N], or the tolerance
            is negative.
    """
    check_arguments(sampler, denoise, schedule, plan)
    sampler = over_real(over_leaves(sampler, schedule))
    check_start(x, keys)
    denoise = checker(denoise)(denoise)
    N = len(plan.t)
    window = N if window is None else window
    if not 1 <= window <= N:
        raise ValueError(f"picard: window = {window} must be in [1, {N}], the number of steps of the plan")
    if not isinstance(tolerance, Tracer) and not np.all(np.asarray(tolerance) >= 0):
        raise ValueError(f"picard: tolerance = {tolerance} must not be negative")
    if not isinstance(plan.renoise, Tracer) and np.any(plan.renoise):
        raise ValueError("picard: this plan adds noise during the trajectory (renoise), which only `sample` supports")
    x = as_float(x)
    check_moves(sampler, plan, x.dtype)
    plan = Plan(jnp.asarray(plan.t, x.dtype), jnp.asarray(plan.s, x.dtype), jnp.asarray(plan.renoise))
    radii = jnp.stack([probability_flow.radius(leaf, plan.s) for leaf in leaf_schedules(schedule)]).min(axis=0)

    def step(state, i):
        noise = normal(keys_of_step(keys, i)[0], sampler.draws, x)
        return sampler.step(state, denoise, schedule, plan, i, noise)

    def sweep(carry):
        states, begin, sweeps = carry  # states[j] is the state before step j; those up to `begin` are final
        begin = jnp.minimum(begin, N - window)
        windowed = lambda shift: jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, begin + shift, window), states)
        before = windowed(0)
        guess = windowed(1)
        after = jax.vmap(step)(before, begin + jnp.arange(window))
        after = after._replace(x=before.x[:1] + jnp.cumsum(after.x - before.x, axis=0))
        change = jax.vmap(flattened)(after.x - guess.x)
        change = jnp.sqrt(jnp.mean(change**2, axis=2)).max(axis=1, initial=0.0)
        moving = ~(change <= tolerance * jax.lax.dynamic_slice_in_dim(radii, begin, window))
        final = jnp.where(moving.any(), jnp.argmax(moving) + 1, window)
        return jax.tree.map(lambda a, new: _put(a, new, begin + 1), states, after), begin + final, sweeps + 1

    states = jax.tree.map(lambda a: jnp.broadcast_to(a, (N + 1, *jnp.shape(a))), sampler.init(x, schedule, plan))
    going = lambda carry: carry[1] < N
    states, _, sweeps = jax.lax.while_loop(going, sweep, (states, jnp.asarray(0), jnp.asarray(0)))
    return states.x[-1], PicardStats(sweeps, sweeps * window)


def _put(states: Array, new: Array, at: Array) -> Array:
    """`[N + 1, ...]` states with `new` from index `at` on, and the last new state as the guess of all later ones."""
    states = jax.lax.dynamic_update_slice_in_dim(states, new, at, axis=0)
    later = left_broadcast(jnp.arange(len(states)) >= at + len(new), states)
    return jnp.where(later, new[-1], states)
