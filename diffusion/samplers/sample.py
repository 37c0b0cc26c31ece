"""The one loop of every sampler: a scan over the steps of a plan."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.parameterizations import Denoiser
from diffusion.samplers.posterior import forward
from diffusion.schedules import NoiseSchedule
from diffusion.timesteps import Plan


class State(NamedTuple):
    """The least that a sampler carries.

    Attributes:
      x: `[B, ...]` current sample.
      x0: `[B, ...]` the latest estimate of the clean sample.
    """

    x: Array
    x0: Array


class Sampler(NamedTuple):
    """A sampler.

    Attributes:
      init: (x, schedule, plan) -> state, a NamedTuple with at least the fields of `State`; history lives in it.
      step: (state, denoise, schedule, plan, i, noise) -> state, from plan.t[i] to plan.s[i].
      draws: number of noise arrays of x's shape that a step uses, `noise` `[draws, B, ...]`; 0 if deterministic.
      nfe: steps -> number of network evaluations of a plan of so many steps that ends at t = 0.
    """

    init: Callable[[Array, NoiseSchedule, Plan], Any]
    step: Callable[[Any, Denoiser, NoiseSchedule, Plan, Array, Array], Any]
    draws: int
    nfe: Callable[[int], int]


class Trajectory(NamedTuple):
    """What a sampler saw on its way.

    Attributes:
      x: `[N + 1, B, ...]` the samples, from the start to the end.
      x0: `[N, B, ...]` the estimate of the clean sample at each step.
    """

    x: Array
    x0: Array


def start(x: Array, schedule: NoiseSchedule, plan: Plan) -> State:
    """The state of a sampler without history."""
    return State(x, jnp.zeros_like(x))


def prior(schedule: NoiseSchedule, keys: Array, shape: tuple[int, ...]) -> Array:
    """`[B, *shape]` samples to start from, each from its own key.

    Args:
      schedule: gives the distribution at t_max.
      keys: `[B]` random keys; not those given to `sample`.
      shape: of one sample.
    """
    return jax.vmap(lambda key: schedule.prior(key, shape))(keys)


def sample(
    sampler: Sampler,
    denoise: Denoiser,
    schedule: NoiseSchedule,
    x: Array,
    plan: Plan,
    keys: Array,
    *,
    trajectory: bool = False,
    after_step: Callable[[Array, Array, Array, Array], Array] | None = None,
) -> Array | tuple[Array, Trajectory]:
    """Walks x along a plan.

    The program holds a constant number of copies of the network, whatever the number of steps. Sample i depends on
    x[i] and keys[i] alone.

    Args:
      sampler: for example `samplers.heun()`.
      denoise: (x_t, t) -> Prediction.
      schedule: the process.
      x: `[B, ...]` sample at plan.t[0]; from `prior` for a plan that starts at t_max.
      plan: the steps.
      keys: `[B]` random keys, one a sample; a deterministic sampler needs them only where the plan renoises.
      trajectory: whether to return the way as well.
      after_step: (x, s, i, keys) -> x, applied after each step to the sample at time s = plan.s[i], with keys `[B]`
        that no other draw of this step uses.

    Returns:
      x at plan.s[-1], `[B, ...]`; with `trajectory`, also a `Trajectory`.

    Raises:
      ValueError: if keys do not match the batch, or a stochastic sampler is given steps that go up.
    """
    if keys.shape != x.shape[:1]:
        raise ValueError(f"sampling needs one key for each of the {x.shape[0]} samples; got keys of shape "
                         f"{keys.shape}. Make them with jax.random.split(key, {x.shape[0]})")
    concrete = not isinstance(plan.renoise, jax.core.Tracer)
    renoises = not concrete or bool(np.any(plan.renoise))
    if concrete and not isinstance(plan.t, jax.core.Tracer) and sampler.draws:
        if np.any((np.asarray(plan.s) > np.asarray(plan.t)) & ~np.asarray(plan.renoise)):
            raise ValueError("a stochastic sampler cannot invert: this plan has steps that go up without renoise; "
                             "use a deterministic sampler such as ddim()")
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    plan = Plan(jnp.asarray(plan.t, x.dtype), jnp.asarray(plan.s, x.dtype), jnp.asarray(plan.renoise))

    def advance(state, i):
        step_keys, renoise_keys, hook_keys = jax.vmap(
            lambda key: jax.random.split(jax.random.fold_in(key, i), 3), out_axes=1
        )(keys)

        def solve(state):
            return sampler.step(state, denoise, schedule, plan, i, _normal(step_keys, sampler.draws, x))

        def renoise(state):
            noise = _normal(renoise_keys, 1, x)[0]
            return sampler.init(forward(schedule, plan.t[i], plan.s[i], state.x, noise), schedule, plan)

        new = jax.lax.cond(plan.renoise[i], renoise, solve, state) if renoises else solve(state)
        if after_step is not None:
            new = new._replace(x=after_step(new.x, plan.s[i], i, hook_keys))
        return new, (new.x, new.x0) if trajectory else None

    state = sampler.init(x, schedule, plan)
    state, way = jax.lax.scan(advance, state, jnp.arange(plan.t.shape[0]))
    if not trajectory:
        return state.x
    return state.x, Trajectory(jnp.concatenate([x[None], way[0]]), way[1])


def _normal(keys: Array, draws: int, x: Array) -> Array:
    """`[draws, B, ...]` standard normal noise, each sample's from its own key."""
    draw = lambda key: jax.random.normal(key, (draws, *x.shape[1:]), x.dtype)
    return jax.vmap(draw, out_axes=1)(keys)
