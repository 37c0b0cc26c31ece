"""The loop of all samplers of symbols: a scan over the steps of a plan."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from diffusion.arrays.arguments import require, require_keys, require_shape
from diffusion.arrays.broadcasting import flattened
from diffusion.discrete.categorical import draw
from diffusion.discrete.metric_paths import AnyPath, MetricPath, check_path
from diffusion.discrete.predictions import Predictor, only_normalised
from diffusion.discrete.processes import check_symbols
from diffusion.objectives.objective import Restores
from diffusion.schedules import left_broadcast
from diffusion.timesteps import Plan


class SymbolSampler(NamedTuple):
    """A sampler of symbols.

    Attributes:
        init: (x int32 `[B, ...]`, process, plan) -> state, a NamedTuple or tuple whose first element is the current
            sample.
        step: (state, predict, process, plan, i, keys `[B]`) -> the state after the step from plan.t[i] to plan.s[i].
        nfe: number of steps -> number of evaluations of the network.
        masked: whether the sampler is only for processes with a mask.
        rates: whether the sampler uses jump rates, which are infinite at t = 1 for a process without a mask.
        by_distances: whether the sampler is for a `MetricPath` instead of a process.
        takes: kinds of networks whose predictions the sampler takes, for `objectives.Objective.check_sampler`.
    """

    init: Callable[[Array, Any, Plan], Any]
    step: Callable[[Any, Predictor, Any, Plan, ArrayLike, Array], Any]
    nfe: Callable[[int], int]
    masked: bool = False
    rates: bool = False
    by_distances: bool = False
    takes: tuple[Any, ...] = (Restores,)


def require_symbol_sampler(sampler: Any) -> None:
    """Refuses a value that is not a sampler of symbols, such as a function of `discrete` that was not called.

    Raises:
        TypeError: if the value is not a sampler; the message names the value.
    """
    require(sampler, SymbolSampler, "sampler", "a sampler of symbols such as discrete.ancestral()")


def prior(process: AnyPath, keys: Array, shape: tuple[int, ...]) -> Array:
    """Symbols at t = 1, drawn for each example from its own key.

    Args:
        process: the process, or a metric path.
        keys: `[B]` typed random keys, different from the keys that `sample` receives.
        shape: shape of one example.

    Returns:
        int32 `[B, *shape]`, in [0, K) for a process of K symbols.
    """
    check_path(process)
    require_keys(keys, max(jnp.size(keys), 1), "the prior needs one key for each sample")
    return draw(keys, jnp.broadcast_to(jnp.asarray(process.prior), (len(keys), *shape, process.size)))


def sample(sampler: SymbolSampler, predict: Predictor, process: AnyPath, x: Array, plan: Plan, keys: Array) -> Array:
    """Runs a sampler from x along the steps of a plan, towards t = 0.

    Args:
        sampler: the sampler, for example `discrete.ancestral()`.
        predict: (x_t int `[B, ...]`, t `[B]`) -> log p(x_0 | x_t) `[B, ..., K]` for K symbols.
        process: the process, or a metric path for `discrete.metric_flow()`.
        x: int `[B, ...]` symbols in [0, K) at the time plan.t[0], for example from `prior`.
        plan: the steps, with decreasing times in [0, 1].
        keys: `[B]` typed random keys. Sample i depends only on x[i] and keys[i].

    Returns:
        int32 `[B, ...]` symbols at the time plan.s[-1]. An example is -1 throughout if the prediction of one of its
        symbols was NaN, or had probabilities that do not sum to 1, as logits have.

    Raises:
        TypeError: if an argument has a wrong type.
        ValueError: if symbols are out of range, the plan goes up or leaves [0, 1], the sampler does not fit the
            process, or the prediction has a wrong number of symbols.
    """
    require_symbol_sampler(sampler)
    check_path(process)
    require_keys(keys, len(x), "a sampler of symbols needs one key for each sample")
    check_symbols(process, x, "x")
    check_steps(sampler, process, plan)
    plan = Plan(*map(jnp.asarray, plan))

    def predict_checked(x_t: Array, t: Array) -> Array:
        log_p = predict(x_t, t)
        require_shape(log_p, (*x_t.shape, process.size), "the prediction, a number for each symbol of the process,")
        return only_normalised(log_p)

    def step(carry: tuple[Any, Array], i: Array) -> tuple[tuple[Any, Array], None]:
        state, lost = carry
        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, i))(keys)
        state = sampler.step(state, predict_checked, process, plan, i, step_keys)
        return (state, lost | not_predicted(state[0])), None  # kept, because a later step may draw over the -1

    begin = sampler.init(x.astype(jnp.int32), process, plan), jnp.zeros(len(x), bool)
    (state, lost), _ = jax.lax.scan(step, begin, jnp.arange(len(plan.t)))
    return jnp.where(left_broadcast(lost, state[0]), -1, state[0])


def not_predicted(x: Array) -> Array:
    """Bool `[B]`: whether an example of int `[B, ...]` has a symbol -1, for which a network returned NaN."""
    return jnp.any(flattened(x) < 0, -1)


def check_steps(sampler: SymbolSampler, process: AnyPath, plan: Plan) -> None:
    """Refuses a sampler that does not fit the process, and a plan that does not fit both.

    Raises:
        ValueError: if the plan goes up or leaves [0, 1], the sampler fills in masks but the process has none, only one
            of sampler and process belongs to metric paths, or the rates that the sampler uses are infinite at t = 1.
    """
    if sampler.by_distances != isinstance(process, MetricPath):
        raise ValueError(
            "discrete.metric_flow and a path of discrete.metric_path go together: neither works without the other"
        )
    if sampler.masked and process.mask is None:
        raise ValueError("this sampler fills in masks, but the process has none. Valid: discrete.absorbing")
    if not isinstance(plan.t, Tracer):
        t, s = np.asarray(plan.t), np.asarray(plan.s)
        if np.any(s > t) or t.max() > 1 or s.min() < 0:
            raise ValueError(f"the plan runs from time {t[0]:g} to {s[-1]:g}. Valid: decreasing times in [0, 1]")
        if sampler.rates and process.mask is None and t.max() == 1:
            raise ValueError(
                "the rates of this process are infinite at t = 1. Valid: a plan that starts below 1, or ancestral()"
            )
