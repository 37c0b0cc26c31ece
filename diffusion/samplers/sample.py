"""The loop of every sampler: a scan over the steps of a plan, or the same steps one by one."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from diffusion.arrays.arguments import described, fits, require, require_function, require_keys
from diffusion.arrays.parameters import traced
from diffusion.flows.flow_maps import FlowMap, TangentField
from diffusion.guidance.memory import Memory, Unpaired, within_step
from diffusion.parameterizations import Denoiser
from diffusion.parameterizations.sampled_process import check_process
from diffusion.samplers.leaves import over_leaves
from diffusion.samplers.padded import over_real
from diffusion.samplers.posterior import forward
from diffusion.samplers.sample_checks import check_moves, check_plan, check_same_form, check_start, check_taken, checker
from diffusion.schedules import NoiseSchedule, at_each, check_schedule
from diffusion.schedules.noise_schedule import as_float, check_times, leaf_schedules
from diffusion.timesteps import Plan
from diffusion.timesteps.plans import require_plan


class State(NamedTuple):
    """The fields that the state of every sampler has.

    Attributes:
        x: `[B, ...]` current sample.
        x0: `[B, ...]` the latest estimate of the clean sample.
    """

    x: Array
    x0: Array


class Clip(NamedTuple):
    """How a sampler keeps its estimates of the data within a range, see `samplers.clipped`.

    Attributes:
        largest: largest absolute value of an estimate, > 0.
        keeps_eps: whether eps remains as predicted; otherwise it is recomputed from the clipped estimate, so that alpha
            x0 + sigma eps = x_t holds, and a deterministic step can be inverted.
    """

    largest: float
    keeps_eps: bool


class Sampler(NamedTuple):
    """A sampler.

    Attributes:
        init: (x, schedule, plan) -> state, a NamedTuple with at least the fields of `State`, and with a history if the
            sampler needs one.
        step: (state, denoise, schedule, plan, i, noise) -> state, from plan.t[i] to plan.s[i]; the type of `denoise` is
            one of `takes`.
        draws: number of noise arrays of x's shape that a step uses, `noise` `[draws, B, ...]`; 0 if deterministic.
        nfe: steps -> number of network evaluations for a plan with this number of steps that ends at t = 0.
        takes: the types that `denoise` may have. `Denoiser` stands for any function (x_t, t) -> Prediction, and
            `guidance.Memory` for a denoiser whose memory `sample` carries. A sampler takes `guidance.Unpaired` if its
            step inserts x0 and eps unchanged into x_s = alpha_s x0 + c eps + ... A sampler of flow maps takes only
            `flow_maps.FlowMap`, and calls it as (x_t, t, s) -> x_s.
        frames: whether each frame of a sample has its own times, and plans have t and s `[N, F]`.
        reads_variance: whether a step reads `Prediction.variance`, which a network with learned variance predicts.
        real: mask of the samples, False on padding, see `samplers.padded`; None for no padding.
        clip: how the estimates of the data are clipped; None for no clipping.
    """

    init: Callable[[Array, NoiseSchedule, Plan], Any]
    step: Callable[[Any, Any, NoiseSchedule, Plan, ArrayLike, Array], Any]
    draws: int
    nfe: Callable[[int], int]
    takes: tuple[Any, ...] = (Denoiser, Memory)
    reads_variance: bool = False
    frames: bool = False
    real: Array | None = None
    clip: Clip | None = None


class Trajectory(NamedTuple):
    """The samples and the estimates of the clean sample after each step.

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
    """`[B, *shape]` samples of the prior, from which sampling starts, one for each key.

    Args:
        schedule: the process, whose distribution at t_max is sampled.
        keys: `[B]` random keys, different from the keys of `sample`.
        shape: shape of one sample.

    Raises:
        TypeError: if the schedule is not a `NoiseSchedule`.
        ValueError: if keys are raw keys, or a single key.
    """
    check_schedule(schedule)
    require_keys(keys, jnp.shape(keys)[0] if jnp.ndim(keys) else 1, "the prior needs one key for each sample")
    return jax.vmap(lambda key: schedule.prior(key, shape))(keys)


AfterStep = Callable[[Array, Array, Array, Array], Array]
"""(x, s, i, keys `[B]`) -> x, a function of the sample that is applied after each step."""


class AlongPlan(NamedTuple):
    """An `AfterStep` that reads the plan for which it was made, and no other.

    Attributes:
        change: (x, s, i, keys) -> x.
        plan: the plan that is sampled.
        times: whether it reads the times of the plan; otherwise it only reads which steps renoise.
    """

    change: AfterStep
    plan: Plan
    times: bool = True

    def __call__(self, x: Array, s: Array, i: Array, keys: Array) -> Array:
        return self.change(x, s, i, keys)

    def check(self, plan: Plan) -> None:
        """Refuses to be sampled along another plan; traced times pass.

        Raises:
            ValueError: for another plan; the message names the first step that differs.
        """
        if traced(*plan, *self.plan) or not (self.times or np.any(plan.renoise) or np.any(self.plan.renoise)):
            return
        steps, sampled = len(self.plan.renoise), len(plan.renoise)
        if steps != sampled:
            raise ValueError(
                f"after_step was made for a plan of {steps} steps, and the sampled plan has {sampled}. Valid: one plan "
                "for both"
            )
        differs = np.zeros(steps, bool)
        for one, other in zip(self.plan, plan) if self.times else [(self.plan.renoise, plan.renoise)]:
            one, other = (np.float32(part).reshape(steps, -1) for part in (one, other))
            differs |= (one != other).any(1) if one.shape == other.shape else True
        if differs.any():
            raise ValueError(
                f"after_step was made for a plan whose step {np.argmax(differs)} differs from that of the sampled "
                "plan. Valid: one plan for both"
            )


class Loop(NamedTuple):
    """The two functions of a trajectory, which `sample` scans and `stepwise` runs step by step.

    Attributes:
        init: x `[B, ...]` at plan.t[0] -> carry, a pair (state, memory of the guidance).
        step: (carry, i) -> carry, from plan.t[i] to plan.s[i].
    """

    init: Callable[[Array], tuple[Any, Any]]
    step: Callable[[tuple[Any, Any], ArrayLike], tuple[Any, Any]]


def loop(
    sampler: Sampler,
    denoise: Denoiser | Memory | Unpaired | FlowMap,
    schedule: NoiseSchedule,
    plan: Plan,
    keys: Array,
    after_step: AfterStep | None = None,
) -> Loop:
    """The functions of a trajectory; arguments and errors as in `sample`."""
    check_arguments(sampler, denoise, schedule, plan)
    if after_step is not None:
        require_function(after_step, "after_step", "a function (x, s, i, keys) -> x", takes=4)
    if isinstance(after_step, AlongPlan):
        after_step.check(plan)
    sampler = over_real(over_leaves(sampler, schedule))
    concrete = not isinstance(plan.renoise, Tracer)
    renoises = not concrete or bool(np.any(plan.renoise))
    if concrete and not isinstance(plan.t, Tracer) and sampler.draws:
        if np.any((np.asarray(plan.s) > np.asarray(plan.t))[~np.asarray(plan.renoise)]):
            raise ValueError(
                "a stochastic sampler cannot invert: this plan has steps that go up without renoise; "
                "use a deterministic sampler such as ddim()"
            )
    if isinstance(denoise, Unpaired):
        denoise = denoise.denoise
    read = checker(denoise)
    begin = denoise.init if isinstance(denoise, Memory) else lambda x: ()
    again = getattr(denoise, "again", None) or (lambda memory, x: begin(x))
    if isinstance(plan.t, Tracer):  # the times may be differentiated
        plan = plan._replace(t=held_at_ends(schedule, plan.t), s=held_at_ends(schedule, plan.s))
    typed = lambda x: Plan(jnp.asarray(plan.t, x.dtype), jnp.asarray(plan.s, x.dtype), jnp.asarray(plan.renoise))

    def init(x):
        check_start(x, keys)
        if isinstance(denoise, TangentField):
            denoise.manifold.check(x)
        x = as_float(x)
        check_moves(sampler, plan, x.dtype)
        state = sampler.init(x, schedule, typed(x))
        if getattr(getattr(state, "x", None), "shape", None) != x.shape:
            raise TypeError(
                f"the init of a sampler must return a NamedTuple whose field x is the samples {x.shape}, such as "
                f"samplers.State(x, x0); got {described(state)}"
            )
        return state, begin(x)

    def step(carry, i):
        x = carry[0].x
        plan = typed(carry[0].x)
        step_keys, renoise_keys, hook_keys = keys_of_step(keys, i)

        def solve(state, memory):
            guided, remembered = within_step(denoise, memory)
            after = sampler.step(state, read(guided), schedule, plan, i, normal(step_keys, sampler.draws, x))
            check_same_form(after, state)
            return after, remembered()

        def renoise(state, memory):
            noise = normal(renoise_keys, 1, x)[0]
            t, s = (at_each(schedule, time, x) for time in (plan.t[i], plan.s[i]))
            noised = forward(schedule, t, s, state.x, noise)
            begun = sampler.init(noised, schedule, plan)
            if hasattr(state, "x0"):  # the latest estimate is still that of the last step with the network
                begun = begun._replace(x0=state.x0)
            return begun, again(memory, noised)

        state, memory = jax.lax.cond(plan.renoise[i], renoise, solve, *carry) if renoises else solve(*carry)
        if after_step is not None:
            changed = after_step(state.x, jnp.asarray(plan.s)[i], i, hook_keys)
            if getattr(changed, "shape", None) != x.shape:
                raise ValueError(f"after_step must return the samples, of shape {x.shape}; got {described(changed)}")
            if changed.dtype != x.dtype:
                raise TypeError(f"after_step must return samples of {x.dtype}; got {described(changed)}")
            state = state._replace(x=changed)
        return state, memory

    return Loop(init, step)


def sample(
    sampler: Sampler,
    denoise: Denoiser | Memory | Unpaired | FlowMap,
    schedule: NoiseSchedule,
    x: Array,
    plan: Plan,
    keys: Array,
    *,
    after_step: AfterStep | None = None,
) -> Array:
    """Runs a sampler from x along the steps of a plan.

    The compiled program has a constant number of copies of the network, whatever the number of steps. Sample i depends
    only on x[i] and keys[i].

    Args:
        sampler: the sampler, for example `samplers.heun()`.
        denoise: a denoiser (x_t, t) -> Prediction, a guidance with memory or, for the samplers of flow maps, a
            `FlowMap`: one of the sampler's types (`Sampler.takes`).
        schedule: the process.
        x: `[B, ...]` sample at plan.t[0]; from `prior` for a plan that starts at t_max.
        plan: the steps.
        keys: `[B]` random keys, one for each sample; a deterministic sampler uses them only if the plan renoises.
        after_step: (x, s, i, keys) -> x, applied after each step to the sample at time s = plan.s[i], with keys `[B]`
            that no other draw of this step uses.

    Returns:
        x at plan.s[-1], `[B, ...]`.

    Raises:
        TypeError: if the sampler does not take `denoise`, or an argument has a wrong type, such as a grid in place of a
            plan.
        ValueError: if keys do not match the batch, x is off the manifold of a tangent field, the denoiser was made for
            another process, a prediction does not have the shape of x, after_step was made for another plan, a time of
            the plan lies outside of [0, schedule.t_max], two neighbouring times are the same number in the type of x,
            or the plan of a stochastic sampler has steps that go up without renoise.
    """
    return sample_with_memory(sampler, denoise, schedule, x, plan, keys, after_step=after_step)[0]


def sample_with_memory(
    sampler: Sampler,
    denoise: Denoiser | Memory | Unpaired | FlowMap,
    schedule: NoiseSchedule,
    x: Array,
    plan: Plan,
    keys: Array,
    *,
    after_step: AfterStep | None = None,
) -> tuple[Array, Any]:
    """The result of `sample`, and the memory of the guidance after the last step; arguments and errors as in `sample`.

    Returns:
        (x at plan.s[-1] `[B, ...]`, memory), where the memory is () for a denoiser without memory.
    """
    run = loop(sampler, denoise, schedule, plan, keys, after_step)
    carry, _ = jax.lax.scan(lambda carry, i: (run.step(carry, i), None), run.init(x), jnp.arange(plan.t.shape[0]))
    return carry[0].x, carry[1]


def sample_trajectory(
    sampler: Sampler,
    denoise: Denoiser | Memory | Unpaired | FlowMap,
    schedule: NoiseSchedule,
    x: Array,
    plan: Plan,
    keys: Array,
    *,
    after_step: AfterStep | None = None,
) -> tuple[Array, Trajectory]:
    """The samples of `sample` and the trajectory that leads to them; arguments and errors as in `sample`.

    Returns:
        (x at plan.s[-1] `[B, ...]`, its `Trajectory`).
    """
    run = loop(sampler, denoise, schedule, plan, keys, after_step)

    def advance(carry, i):
        state, memory = run.step(carry, i)
        return (state, memory), (state.x, state.x0)

    begin = run.init(x)
    (state, _), (steps, estimates) = jax.lax.scan(advance, begin, jnp.arange(plan.t.shape[0]))
    return state.x, Trajectory(jnp.concatenate([begin[0].x[None], steps]), estimates)


def held_at_ends(schedule: NoiseSchedule, times: ArrayLike) -> Array:
    """The times, without a gradient for times at a singular end of the process (alpha = 0 or sigma = 0).

    The coefficients may have infinite slopes there. The ends of a learned grid therefore do not move.
    """
    leaves = leaf_schedules(schedule)
    inside = jnp.stack([(leaf.alpha(times) > 0) & (leaf.sigma(times) > 0) for leaf in leaves]).all(axis=0)
    return jnp.where(inside, times, jax.lax.stop_gradient(times))


def stepwise(make: Callable[..., Loop]) -> Callable[..., Iterator[State]]:
    """A trajectory whose compiled steps run one by one, so that a caller can watch and stop it.

    Advancing the generator computes a step; closing it ends the trajectory. The samples equal those of `sample` up to
    rounding, because the programs differ.

        run = samplers.stepwise(lambda params, keys: samplers.loop(sampler, denoiser(params), schedule, plan, keys))
        for state in run(x, 20, params, keys): show(state.x0)

    Args:
        make: (*arguments) -> `Loop`, by `loop`; the arguments are pytrees of arrays.

    Returns:
        A generator function (x, steps, *arguments) -> the state after each step. It compiles once for each shape of x
        and of the arguments.
    """
    begin = jax.jit(lambda x, *arguments: make(*arguments).init(x))
    advance = jax.jit(lambda carry, i, *arguments: make(*arguments).step(carry, i))

    def run(x: Array, steps: int, *arguments: Any) -> Iterator[State]:
        carry = begin(x, *arguments)
        for i in range(steps):
            carry = advance(carry, i, *arguments)
            yield carry[0]

    return run


def check_sampler(sampler: Any) -> None:
    """Refuses a value that is not a sampler, such as a function of `samplers` that was not called.

    Raises:
        TypeError: if the value is not a sampler; the message names it.
    """
    require(sampler, Sampler, "sampler", "a Sampler, such as samplers.heun()")


def check_arguments(sampler: Sampler, denoise: Any, schedule: NoiseSchedule, plan: Plan) -> None:
    """Refuses arguments of a wrong type; errors as in `sample`."""
    check_sampler(sampler)
    if not fits(sampler.draws, int) or sampler.draws < 0:
        raise ValueError(f"draws = {sampler.draws!r} of the sampler. Valid: how many noises a step uses, 0 or more")
    check_schedule(schedule)
    require_plan(plan)
    check_plan(sampler, plan)
    for times in (plan.t, plan.s):
        check_times(schedule, times)
    check_taken(sampler, denoise)
    check_process(denoise, schedule)
    if schedule.leaves and (sampler.frames or isinstance(denoise, Memory)):
        raise ValueError(
            "leaves with a schedule each take one time for all frames, and no guidance with memory. Valid: a sampler "
            "without per_frame, and e.g. adaptive_projected(momentum=0)"
        )


def keys_of_step(keys: Array, i: ArrayLike) -> Array:
    """`[3, B]` keys of step i: for the sampler's noise, for renoising, and for `after_step`."""
    return jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, i), 3), out_axes=1)(keys)


def normal(keys: Array, draws: int, x: Array) -> Array:
    """`[draws, B, ...]` standard normal noise, drawn for each sample from its key."""
    draw = lambda key: jax.random.normal(key, (draws, *x.shape[1:]), x.dtype)
    return jax.vmap(draw, out_axes=1)(keys)
