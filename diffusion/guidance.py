"""Guidance turns denoisers into a denoiser.

`together` and `separately` evaluate the branches that a guidance combines; the guidance itself is a function of their
predictions, so any of them combines with any way of evaluating.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.parameterizations import Denoiser, Network, Parameterization, Prediction, check, predict
from diffusion.schedules import NoiseSchedule, left_broadcast

Branches = Callable[[Array, ArrayLike], tuple[Prediction, ...]]


def together(
    network: Network, schedule: NoiseSchedule, parameterization: Parameterization, conditions: tuple[Any, ...]
) -> Branches:
    """Evaluates K conditions in one call of the network on a batch of K B.

    Args:
      network: (x `[K B, ...]`, clock `[K B]`, condition) -> output.
      schedule: the process.
      parameterization: what the output means.
      conditions: K pytrees of one structure, with leading axis B; none of them may be None (pass the null class).

    Returns:
      (x_t, t) -> K predictions.

    Raises:
      ValueError: if fewer than two conditions are given, one is None, or the parameterization is not defined at t_max.
    """
    if len(conditions) < 2:
        raise ValueError(f"guidance.together needs at least two conditions; got {len(conditions)}")
    if any(c is None for c in conditions):
        raise ValueError("guidance.together: a condition is None. Guidance needs an explicit null condition, such as "
                         "the label num_classes for every example")
    check(parameterization, schedule, schedule.t_max)
    K = len(conditions)
    condition = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *conditions)

    def branches(x_t, t):
        t = jnp.asarray(t)
        if t.ndim == 0:
            t = jnp.broadcast_to(t, x_t.shape[:1])
        repeat = lambda a: jnp.concatenate([a] * K)
        prediction = predict(network, schedule, parameterization, repeat(x_t), repeat(t), condition)
        parts = jax.tree.map(lambda a: jnp.split(a, K), prediction, is_leaf=lambda a: isinstance(a, Array))
        return tuple(Prediction(*(None if p is None else p[k] for p in parts)) for k in range(K))

    return branches


def separately(*denoisers: Denoiser) -> Branches:
    """Evaluates denoisers one after the other; they may be different networks.

    Args:
      *denoisers: functions (x_t, t) -> Prediction.
    """
    return lambda x_t, t: tuple(denoise(x_t, t) for denoise in denoisers)


def classifier_free(
    branches: Branches, scale: ArrayLike, interval: tuple[float, float] | None = None
) -> Denoiser:
    """Classifier-free guidance: cond + (w - 1) (cond - uncond), for x0 and eps alike.

    w = 1 is the conditional denoiser exactly, w = 0 the second branch. With a negative condition in place of the null
    one, the sample is pushed away from it. Ho and Salimans 2022, "Classifier-Free Diffusion Guidance", eq. 6, whose w
    is ours minus one; intervals: Kynkaanniemi et al. 2024, "Applying Guidance in a Limited Interval".

    Args:
      branches: evaluates (condition, null or negative condition).
      scale: w, a number or `[B]`, one a sample.
      interval: (t_low, t_high), both included, outside which w = 1; None for all times.

    Returns:
      A denoiser. The variance, where the network predicts one, is the conditional branch's.

    Raises:
      ValueError: if the interval is empty; when called, if there are not two branches.
    """
    if interval is not None and not interval[0] <= interval[1]:
        raise ValueError(f"guidance interval {interval} is empty; give (t_low, t_high) with t_low <= t_high, t = 0 "
                         "being the data")

    def denoise(x_t, t):
        predictions = branches(x_t, t)
        if len(predictions) != 2:
            raise ValueError(f"classifier_free combines a condition and a null condition; got {len(predictions)} "
                             "branches")
        cond, uncond = predictions
        extra = left_broadcast(jnp.asarray(scale, jnp.promote_types(x_t.dtype, jnp.float32)) - 1, x_t)
        if interval is not None:
            inside = left_broadcast((interval[0] <= jnp.asarray(t)) & (jnp.asarray(t) <= interval[1]), x_t)
            extra = jnp.where(inside, extra, 0)
        guide = lambda c, u: c + extra * (c - u)
        return Prediction(guide(cond.x0, uncond.x0), guide(cond.eps, uncond.eps), cond.variance)

    return denoise
