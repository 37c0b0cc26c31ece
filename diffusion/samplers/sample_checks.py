"""Checks of the arguments of `samplers.sample`, and of what a network and a step return during it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.arrays.arguments import described, require_floats, require_keys, require_shape
from diffusion.arrays.parameters import traced
from diffusion.flows.flow_maps import FlowMap, TangentField
from diffusion.guidance.memory import Memory, Unpaired
from diffusion.parameterizations import Denoiser, checked
from diffusion.timesteps import Plan


def check_taken(sampler: Any, denoise: Any) -> None:
    """Refuses a `denoise` that the sampler does not take (`Sampler.takes`).

    Raises:
        TypeError: if it does not; the message names the types that the sampler takes, and the value.
    """
    if isinstance(denoise, tuple(kind for kind in sampler.takes if isinstance(kind, type))):
        return
    special = isinstance(denoise, FlowMap | Memory | TangentField | Unpaired)
    if Denoiser in sampler.takes and callable(denoise) and not special:
        return
    taken = " or ".join("a denoiser (x_t, t) -> Prediction" if k == Denoiser else k.__name__ for k in sampler.takes)
    if TangentField in sampler.takes:
        advice = "manifolds.TangentField(manifold, u) wraps a function u(x, t) -> dx/dt, tangent to the manifold"
    elif Denoiser not in sampler.takes:
        advice = (
            "flow_maps.consistency, mean_flow or shortcut makes a FlowMap of a network, flow_maps.from_denoiser of a "
            "denoiser, and flow_maps.FlowMap(f) of your own function f(x_t, t, s) -> x_s; a denoiser is sampled with "
            "ddim() or another sampler of denoisers"
        )
    elif isinstance(denoise, FlowMap):
        advice = "a FlowMap is sampled with flow_map(), consistency() or tcd()"
    elif isinstance(denoise, TangentField):
        advice = "a TangentField is sampled with manifolds.geodesic_heun() or another that stays on the manifold"
    elif isinstance(denoise, Unpaired):
        advice = (
            "this guidance (CFG++) breaks alpha x0 + sigma eps = x_t by design, and needs a sampler that takes "
            "Unpaired, such as ddim()"
        )
    else:
        advice = "a network becomes a denoiser by parameterizations.denoiser(network, schedule, parameterization)"
    name = getattr(denoise, "__name__", None)
    came = described(denoise) if name is None else f"the function {name}"
    raise TypeError(f"the sampler takes {taken}, but got {came}; {advice}")


def check_plan(sampler: Any, plan: Plan) -> None:
    """Refuses a plan with a time for each frame if the sampler has a single time, and the reverse."""
    if sampler.frames != (jnp.ndim(plan.t) == 2):
        raise ValueError(
            "the sampler needs a time for each frame, but the plan has one time for all. Valid: a plan with t and s "
            "[N, F], as staggered makes it"
            if sampler.frames
            else "the plan has a time for each frame, but the sampler takes one time for all. Valid: per_frame(sampler)"
        )


def check_moves(sampler: Any, plan: Plan, dtype: Any) -> None:
    """Refuses a step whose two times are the same number in the type of the samples, as close float64 times may be.

    A solver divides by the lengths of its steps before the current one, so that the last step may rest. A step that
    renoises is no step of a solver.
    """
    if sampler.frames or traced(plan.t, plan.s, plan.renoise):
        return
    still = np.asarray(plan.t[:-1], dtype) == np.asarray(plan.s[:-1], dtype)
    still &= ~np.asarray(plan.renoise[:-1])
    if still.any():
        i = int(np.argmax(still))
        raise ValueError(
            f"step {i} of the plan does not move: t = {float(plan.t[i])!r} and s = {float(plan.s[i])!r} are the same "
            f"number in {jnp.dtype(dtype).name}. Valid: fewer steps, or a grid whose times are further apart"
        )


def check_start(x: Array, keys: Array) -> None:
    """Refuses integer samples, and keys that do not match the number of samples."""
    require_floats(x, "x")
    require_keys(keys, x.shape[0], f"sampling needs one key for each of the {x.shape[0]} samples")


def checker(denoise: Any) -> Callable[[Any], Any]:
    """The check of the output of `denoise`: its shape for a tangent field, its shape and type otherwise."""
    if isinstance(denoise, TangentField):
        return checked_field
    if isinstance(denoise, FlowMap):
        return lambda flow_map: keeps_type(keeps_shape(flow_map, "the output of a flow map"))
    return lambda denoise: keeps_type(checked(denoise))


def keeps_type(denoise: Callable[..., Any]) -> Callable[..., Any]:
    """A denoiser or a flow map whose output has the type of x_t; a wider output raises a TypeError.

    A sample has one type along the plan: a scan could not carry a wider one, which would have to be rounded. A narrower
    one, such as bfloat16, loses nothing in the type of x_t.
    """

    def read(x_t, *times):
        output = denoise(x_t, *times)
        for part in jax.tree.leaves(output):
            if jnp.finfo(part.dtype).bits > jnp.finfo(x_t.dtype).bits:
                raise TypeError(
                    f"a network or denoiser returned {part.dtype} for x of {x_t.dtype}. Valid: sampling from "
                    f"x.astype(jnp.{part.dtype}), or an output of {x_t.dtype}; `samplers.prior` draws float32"
                )
        return jax.tree.map(lambda part: part.astype(x_t.dtype), output)

    return read


def keeps_shape(function: Callable[..., Array], what: str) -> Callable[..., Array]:
    """A function (x, *times) -> array that raises a ValueError, naming `what`, if its output lacks the shape of x."""

    def read(x, *times):
        output = function(x, *times)
        require_shape(output, x.shape, what)
        return output

    return read


def checked_field(field: TangentField) -> TangentField:
    """A tangent field that raises a ValueError if its velocity or score does not have the shape of x."""
    score = field.score and keeps_shape(field.score, "the score of a tangent field")
    return field._replace(velocity=keeps_shape(field.velocity, "the velocity of a tangent field"), score=score)


def check_same_form(after: Any, before: Any) -> None:
    """Refuses a state whose structure, shapes or type of samples differ from those of the state before the step.

    Raises:
        TypeError: if they differ; the message names both.
    """
    if jax.tree.structure(after) != jax.tree.structure(before) or jax.tree.map(jnp.shape, after) != jax.tree.map(
        jnp.shape, before
    ):
        one, other = (described_state(state) for state in (before, after))
        raise TypeError(
            f"the step of a sampler must return a state of the same form as init: it received {one}, and returned "
            f"{other}"
        )
    if after.x.dtype != before.x.dtype:
        raise TypeError(
            f"the step of a sampler returned {after.x.dtype} for samples of {before.x.dtype}. Valid: arguments that "
            f"are Python's numbers, or sampling from x.astype(jnp.{after.x.dtype})"
        )


def described_state(state: Any) -> str:
    """A state in words: its type, and the shape of each array."""
    shapes = jax.tree.map(jnp.shape, state)
    return str(shapes) if isinstance(state, tuple) else described(state)
