"""Classifier-free guidance of symbols, which combines several predictions of one state."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.arguments import require_function, require_network, require_shape
from diffusion.arrays.broadcasting import left_broadcast
from diffusion.arrays.parameters import is_number
from diffusion.discrete.metric_paths import AnyPath, check_path
from diffusion.discrete.predictions import Predictor, Reading
from diffusion.guidance.branch_conditions import check_rows, joined

PredictionBranches = Callable[[Array, Array], tuple[Array, ...]]
"""(x_t int `[B, ...]`, t `[B]`) -> log p(x_0 | x_t, c) `[B, ..., K]` for each condition c, the main condition first."""


def together(
    network: Callable[[Array, Array, Any], Array], process: AnyPath, read: Reading, conditions: tuple[Any, ...]
) -> PredictionBranches:
    """The predictions of a network under several conditions, in one call on a joint batch.

    Args:
        network: (x_t, t, condition) -> output `[B, ..., K]`.
        process: the process.
        read: meaning of the output, such as `from_logits` or `from_ratios`.
        conditions: conditions with the same structure, each with rows `[B, ...]`: the main condition first, then the
            null condition.

    Returns:
        A function (x_t, t) -> log p(x_0 | x_t, c) for each condition.
    """

    require_network(network, "a function (x, t, condition) -> output")
    check_path(process)
    condition = joined(conditions)
    number = len(conditions)

    def branches(x_t: Array, t: Array) -> tuple[Array, ...]:
        check_rows(condition, number, x_t)
        t = jnp.broadcast_to(t, x_t.shape[:1]) if jnp.ndim(t) == 0 else t
        x, times = jnp.concatenate([x_t] * number), jnp.concatenate([t] * number)
        output = network(x, times, condition)
        require_shape(output, (*x.shape, process.size), "the output of the network, a number for each symbol,")
        return tuple(jnp.split(read(process, output, x, times), number))

    return branches


def separately(*predictors: Predictor) -> PredictionBranches:
    """The predictions of several predictors, for example of two networks, with one call each."""
    return lambda x_t, t: tuple(predict(x_t, t) for predict in predictors)


def classifier_free(branches: PredictionBranches, scale: ArrayLike) -> Predictor:
    """The conditional prediction, extrapolated away from the unconditional one.

        log p = cond + (scale - 1) (cond - uncond) - log of its sum

    At scale 1 it is exactly cond. A symbol that cond excludes remains impossible. Every step unmasks as many symbols as
    without guidance, since the probabilities at each position sum to 1.

    Args:
        branches: two branches, the conditional one first, by `together(...)` or `separately(...)`.
        scale: guidance scale, a number or one for each example `[B]`, which may be traced; 1 is no guidance, and 0 is
            the unconditional prediction if cond excludes no symbol.

    Returns:
        (x_t, t) -> log p(x_0 | x_t). It raises a ValueError if there are not two branches.

    The papers: Nie et al. 2025, "Large Language Diffusion Models": the formula of its code, whose scale is smaller by
    1; Schiff et al. 2024, "Simple Guidance Mechanisms for Discrete Diffusion Models".
    """

    require_function(branches, "branches", "discrete.together(...) or discrete.separately(predictor, predictor)")

    def predict(x_t: Array, t: Array) -> Array:
        predictions = branches(x_t, t)
        if len(predictions) != 2:
            raise ValueError(
                f"classifier_free takes two branches, one with the condition and one without; got {len(predictions)}. "
                "Valid: together(network, process, read, (condition, null))"
            )
        cond, uncond = predictions
        comparable = (cond > -jnp.inf) & (uncond > -jnp.inf)
        difference = jnp.where(comparable, jnp.where(comparable, cond, 0.0) - jnp.where(comparable, uncond, 0.0), 0.0)
        neutral = is_number(scale, 1)
        return cond if neutral else jax.nn.log_softmax(cond + (left_broadcast(scale, cond) - 1) * difference)

    return predict
