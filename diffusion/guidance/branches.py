"""Branches: the predictions that a guidance combines, and ways to evaluate them."""

__all__ = ["Branches", "class_conditions", "evaluate", "separately", "together", "with_conditions"]

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.arguments import described, require, require_function
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


def joined(conditions: tuple[Any, ...]) -> Any:
    """The rows of K conditions below each other, a pytree of arrays `[K B, ...]`; errors as in `together`."""
    require(conditions, (tuple, list), "conditions", "a tuple such as (labels, null_labels)")
    if len(conditions) < 2:
        raise ValueError(f"guidance.together needs at least two conditions; got {len(conditions)}")
    if any(c is None for c in conditions):
        raise ValueError(
            "guidance.together: a condition is None. Guidance needs an explicit null condition, such as "
            "the label num_classes for every example"
        )
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(conditions)}
    if len(sizes) > 1 or () in sizes:
        shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(condition)] for condition in conditions]
        raise ValueError(
            f"guidance.together: the arrays of the {len(conditions)} conditions have the shapes {shapes}. Each needs "
            "the same batch axis, such as jnp.full(B, num_classes) for the null class of B examples"
        )
    first, *others = (jax.tree.structure(condition) for condition in conditions)
    for other in others:
        if other != first:
            raise ValueError(
                f"guidance.together: the conditions differ in structure, {first} and {other}. Valid: the same for all"
            )
    return jax.tree.map(_rows_below, *conditions)


def _rows_below(*leaves: Array) -> Array:
    """The concatenation of arrays of one shape, all of whole numbers or none."""
    leaves = tuple(map(jnp.asarray, leaves))
    integers = {jnp.issubdtype(leaf.dtype, jnp.integer) for leaf in leaves}
    if len({leaf.shape for leaf in leaves}) > 1 or len(integers) > 1:
        arrays = " and ".join(described(leaf) for leaf in leaves)
        raise ValueError(f"guidance.together: the conditions have {arrays}. Valid: one shape, and one type of numbers")
    return jnp.concatenate(leaves)


def check_rows(condition: Any, number: int, x_t: Array) -> None:
    """Refuses samples of another number than the rows of each of `number` conditions that are `joined`."""
    for leaf in jax.tree.leaves(condition):
        if len(leaf) != number * len(x_t):
            raise ValueError(
                f"guidance.together: x_t has {len(x_t)} examples, but the conditions have {len(leaf) // number}"
            )


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
