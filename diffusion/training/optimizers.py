"""Optimizers by name. To add one: a function that returns an ``Optimizer``, and its line in ``OPTIMIZERS``."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax


class Optimizer(NamedTuple):
    """An optax transformation that also tells its learning rate.

    Attributes:
      init: params -> state.
      update: (gradients, state, params) -> (updates, state).
      learning_rate: step int [] -> float32 []; the rate used in that step.
    """

    init: Callable[[Any], Any]
    update: Callable[..., tuple[Any, Any]]
    learning_rate: optax.Schedule


def learning_rate_schedule(peak: float, warmup: int, decay: str, steps: int | None) -> optax.Schedule:
    """Returns the learning rate by step: linear from 0 during ``warmup`` steps, then constant or half a cosine to 0.

    Step k of the warm-up uses ``peak (k + 1) / warmup``, so that no step is spent at rate 0.

    Args:
      peak: the rate after the warm-up, > 0.
      warmup: number of steps, >= 0.
      decay: "constant" or "cosine".
      steps: the length of the run, at which the cosine reaches 0; needed for "cosine" alone.

    Returns:
      A function of the step (int []).

    Raises:
      ValueError: if a value is out of range.
    """
    if peak <= 0:
        raise ValueError(f"learning_rate = {peak}: must be > 0.")
    if warmup < 0:
        raise ValueError(f"warmup = {warmup}: must be a number of steps >= 0.")
    if decay not in ("constant", "cosine"):
        raise ValueError(f'decay = "{decay}": valid are "constant" and "cosine".')
    if decay == "cosine" and (steps is None or steps < 1):
        raise ValueError(f'decay = "cosine" ends at 0 after `steps` steps: it needs steps >= 1, not {steps}.')
    if decay == "constant" or steps is None:
        after = optax.constant_schedule(peak)
    else:  # a run that ends within its warm-up has no decay
        after = optax.cosine_decay_schedule(peak, max(steps - warmup, 1))
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1)), after], [warmup])


def adamw(
    learning_rate: float = 1e-4,
    warmup: int = 0,
    decay: str = "constant",
    steps: int | None = None,
    weight_decay: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    clip: float | None = None,
) -> Optimizer:
    """Returns AdamW (Loshchilov & Hutter, 2019, algorithm 2) behind a clipping of the gradient's global norm.

    Args:
      learning_rate: rate after the warm-up, > 0.
      warmup: steps of linear warm-up.
      decay: "constant" or "cosine" (to 0 at ``steps``).
      steps: the length of the run, for "cosine".
      weight_decay: decoupled, times the learning rate; >= 0.
      b1: decay of the first moment, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      clip: the largest global norm of the gradient; None does not clip.

    Returns:
      Optimizer.

    Raises:
      ValueError: if a value is out of range.
    """
    for name, value in (("b1", b1), ("b2", b2)):
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{name} = {value}: must be in [0, 1).")
    if weight_decay < 0:
        raise ValueError(f"weight_decay = {weight_decay}: must be >= 0.")
    if clip is not None and clip <= 0:
        raise ValueError(f"clip = {clip}: must be > 0, or None for no clipping.")
    rate = learning_rate_schedule(learning_rate, warmup, decay, steps)
    chain = optax.adamw(rate, b1=b1, b2=b2, weight_decay=weight_decay)
    if clip is not None:
        chain = optax.chain(optax.clip_by_global_norm(clip), chain)
    return Optimizer(chain.init, chain.update, rate)


OPTIMIZERS = {"adamw": adamw}
