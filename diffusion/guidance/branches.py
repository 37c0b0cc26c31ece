"""Branches: the predictions that a guidance combines, and ways to evaluate them."""

__all__ = ["Branches", "class_conditions", "evaluate", "separately", "together", "with_conditions"]

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.arguments import require_function
from diffusion.guidance.branch_conditions import check_rows, joined
from diffusion.package import public
from diffusion.parameterizations import Denoiser, Network, Parameterization, Prediction, check_network, checked, predict
from diffusion.parameterizations.sampled_process import belonging_to, process_of
from diffusion.schedules import NoiseSchedule

Branches = Callable[[Array, ArrayLike], tuple[Prediction, ...]]
"""(x_t, t) -> the predictions that a guidance combines."""


def together(
    network: Network, schedule: NoiseSchedule, parameterization: Parameterization, conditions: tuple[Any, ...]
) -> Branches:
    """Evaluates K conditions in one call of the network, on a batch of K B.

    Args:
        network: (x `[K B, ...]`, clock `[K B]`, condition) -> output.
        schedule: the process.
        parameterization: meaning of the network's output.
        conditions: K pytrees with the same structure and leading axis B; none may be None (pass the null class).

    Returns:
        A function (x_t, t) -> K predictions.

    Raises:
        TypeError: under the conditions of `parameterizations.denoiser`, or if the conditions are no tuple.
        ValueError: if there are fewer than two conditions, one is None, they differ in structure, in shape or between
            whole numbers and others, an array of them has no batch axis, or the parameterization is not defined at
            t_max; when called, if x_t has another number of examples.
    """
    check_network(network, schedule, parameterization)
    condition = joined(conditions)
    K = len(conditions)

    def branches(x_t, t):
        check_rows(condition, K, x_t)
        t = jnp.asarray(t)
        if t.ndim == 0:
            t = jnp.broadcast_to(t, x_t.shape[:1])
        repeat = lambda a: jnp.concatenate([a] * K)
        prediction = predict(network, schedule, parameterization, repeat(x_t), repeat(t), condition)
        parts = [None if a is None else jnp.split(a, K) for a in prediction]
        return tuple(Prediction._make(None if p is None else p[k] for p in parts) for k in range(K))

    return belonging_to(schedule, branches)


def separately(*denoisers: Denoiser) -> Branches:
    """Evaluates denoisers one after the other; they may use different networks.

    Args:
        *denoisers: denoisers (x_t, t) -> Prediction.
    """
    process = process_of(*denoisers)
    denoisers = tuple(map(checked, denoisers))
    return belonging_to(process, lambda x_t, t: tuple(denoise(x_t, t) for denoise in denoisers))


def evaluate(branches: Branches, x_t: Array, t: ArrayLike, counts: tuple[int, ...], order: str) -> tuple:
    """The predictions of the branches, with a check of their number.

    Args:
        branches: (x_t, t) -> a tuple of predictions.
        x_t: noised data `[B, ...]`.
        t: times `[]` or `[B]`, or `[B, F]` with a time for each frame.
        counts: the valid numbers of branches.
        order: the names of the branches in their order, for messages.

    Raises:
        TypeError: if `branches` is no function, or a denoiser.
        ValueError: if the number of branches is not in `counts`.
    """
    require_function(branches, "branches", "guidance.together(...) or guidance.separately(denoiser, denoiser)")
    predictions = branches(x_t, t)
    if isinstance(predictions, Prediction):  # refused here, since a Prediction is a tuple too
        raise TypeError(
            f"this guidance combines the branches {order}, but got a denoiser, which returns one prediction. Valid: "
            "guidance.together(...) or guidance.separately(denoiser, denoiser)"
        )
    if len(predictions) not in counts:
        raise ValueError(f"this guidance combines the branches {order}, one each; got {len(predictions)} branches")
    return predictions


def with_conditions(conditions: Callable[..., tuple[Any, ...]]) -> Callable[[Callable], Callable]:
    """A decorator for guidances whose branches are not the conditional and the unconditional prediction.

    A config then states the arguments of both functions in one entry.

    Args:
        conditions: (condition `[B, ...]`, null, mask, further arguments) -> the conditions of the branches, where mask
            is a function layers -> Bool `[B, L]`, True at these layers of the network. It names the arguments
            that it needs.
    """

    def attach(guidance: Callable) -> Callable:
        guidance.conditions = conditions  # type: ignore[attr-defined]
        return guidance

    return attach


def class_conditions(condition: Array, null: Array, labels: Sequence[int] = ()) -> tuple[Array, ...]:
    """The conditions for several classes in a config: the sample's class, further classes, the null class.

    Args:
        condition: the classes of the samples, `[B]`.
        null: the null class, `[B]`.
        labels: the further classes, int; each applies to all samples.
    """
    return (condition, *(jnp.full_like(condition, label) for label in labels), null)


public.declare(__name__, renamed={"of_conditions": "with_conditions"})
