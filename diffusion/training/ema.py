"""Exponential moving average of parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion.arrays.arguments import require_shape
from diffusion.arrays.promotion import promoted


class ExponentialMovingAverage(NamedTuple):
    """A named pair of pure functions, as an optimizer is in optax.

    Attributes:
        init: a function params -> average; a float32 copy of the parameters (never zeros, so no debiasing is needed).
        update: a function (average, params, step) -> average, where `step` counts the updates made before this one.
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, Any, jax.Array], Any]


def _wide(leaf):
    """float32 or wider, because bfloat16 would round an update of (1 - decay) times a difference away."""
    leaf = jnp.asarray(leaf)
    return leaf.astype(promoted(leaf.dtype)) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def rate(step: jax.Array, decay: float, warmup: bool) -> jax.Array:
    """Returns the decay in use at a step: `min(decay, (1 + step) / (10 + step))` with warm-up, else `decay`.

    Args:
        step: the number of updates made before this one, int [], >= 0.
        decay: the largest decay, in [0, 1).
        warmup: whether the average forgets its start: at step k it then looks back over about k / 9 steps at most.

    Returns:
        float32 [].
    """
    step = jnp.asarray(step, jnp.float32)
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step)) if warmup else jnp.full([], decay, jnp.float32)


def init(params: Any) -> Any:
    """Returns the average before the first step: a float32 copy of the parameters."""
    # A copy, never the same buffer: the train step donates both.
    return jax.tree.map(lambda leaf: jnp.array(_wide(leaf), copy=True), params)


def moved(average: Any, params: Any, share: jax.Array) -> Any:
    """Returns the average `a + share (params - a)`; leaves that are not floating point are copied.

    Args:
        average: the average, a pytree, float32 or wider.
        params: the parameters, a pytree of the same structure.
        share: the share of the parameters in the new average, float32 [].

    Raises:
        ValueError: if a parameter has another shape than its average.
    """

    def leaf(path, a, p):
        p = _wide(p)
        require_shape(p, a.shape, f"the parameter {jax.tree_util.keystr(path)} of an average")
        return a + share.astype(a.dtype) * (p - a) if jnp.issubdtype(a.dtype, jnp.floating) else p

    return jax.tree_util.tree_map_with_path(leaf, average, params)


def exponential_moving_average(decay: float = 0.9999, warmup: bool = True) -> ExponentialMovingAverage:
    """Returns the moving average `a <- d a + (1 - d) params`, with d = `rate(step, decay, warmup)`.

    Args:
        decay: the decay d, in [0, 1). The average looks back over about 1 / (1 - decay) steps.
        warmup: whether it looks back over fewer steps at the start of a run (see `rate`).

    Returns:
        ExponentialMovingAverage; its state is float32 whatever the type of the parameters. It copies leaves that are
        not floating point.

    Raises:
        ValueError: if `decay` is outside [0, 1).
    """
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"ema.decay = {decay} must be in [0, 1), for example 0.9999 (0 averages nothing).")

    return ExponentialMovingAverage(
        init, lambda average, params, step: moved(average, params, 1.0 - rate(step, decay, warmup))
    )
