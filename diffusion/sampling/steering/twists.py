"""Twists: weights of particles at noisy times, which estimate the reward at the end."""

__all__ = ["LogReward", "Twist", "largest_so_far", "rewards", "sum_so_far", "tilt"]

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.arguments import require_shape
from diffusion.package import public

LogReward = Callable[[Array], Array]
"""x_0 `[B, ...]` -> log-reward `[B]`, where number b depends only on example b; reward / beta at temperature beta."""


class Twist(NamedTuple):
    """The functions psi_t that weigh particles at noisy times, for the target p(x_0) exp(log_reward(x_0)).

    A step multiplies a particle's weight by psi_s(x_s) / psi_t(x_t) (see `twisted`). The earlier twists cancel, so
    every twist has the right target; a good twist keeps the weights even.

    Attributes:
        init: x `[B, ...]` -> memory, a pytree whose leaves have leading axis B.
        apply: (memory, x_t, t, x0) -> (log psi_t `[B]`, memory), where x0 is the estimate of the data at x_t.
        log_reward: x_0 `[B, ...]` -> `[B]`, log psi at the end.
    """

    init: Callable[[Array], Any]
    apply: Callable[[Any, Array, ArrayLike, Array], tuple[Array, Any]]
    log_reward: LogReward


def tilt(log_reward: LogReward, strength: Callable[[ArrayLike], ArrayLike] = lambda t: 1.0) -> Twist:
    """log psi_t(x_t) = strength(t) log_reward(x0(x_t)): the reward of the posterior mean of the data.

    With p(y | x_0) in place of the reward this is the twist of the twisted diffusion sampler. The difference of two
    consecutive twists is the potential "difference" of Feynman-Kac steering. A strength that grows from 0 to 1 is the
    tempering of `das`, because the first estimates are uninformative.

    Args:
        log_reward: x_0 `[B, ...]` -> log-reward `[B]`.
        strength: t -> factor, in [0, 1], of the reward at time t.

    Reference: Wu et al. 2023, "Practical and Asymptotically Exact Conditional Sampling in Diffusion Models", eq. 9;
    Singhal et al. 2025, "A General Framework for Inference-time Scaling and Steering of Diffusion Models", section 3;
    Kim et al. 2025, "Test-time Alignment of Diffusion Models without Reward Over-optimization", section 4.
    """

    def apply(memory, x_t, t, x0):
        factor = jnp.asarray(strength(t))
        return jnp.where(factor > 0, factor * rewards(log_reward, x0), 0), memory  # 0 also for a reward of -inf

    return Twist(lambda x: (), apply, log_reward)


def largest_so_far(log_reward: LogReward) -> Twist:
    """log psi_t = sum over times up to t of the largest reward so far: the potential "max" of Feynman-Kac steering.

    Args:
        log_reward: x_0 `[B, ...]` -> log-reward `[B]`.

    Reference: Singhal et al. 2025, "A General Framework for Inference-time Scaling and Steering of Diffusion Models",
    section 3.
    """

    def apply(memory, x_t, t, x0):
        largest, total = memory
        largest = jnp.maximum(largest, rewards(log_reward, x0))
        return total + largest, (largest, total + largest)

    zeros = lambda x: jnp.zeros(x.shape[0], x.dtype)
    return Twist(lambda x: (zeros(x) - jnp.inf, zeros(x)), apply, log_reward)


def sum_so_far(log_reward: LogReward) -> Twist:
    """log psi_t = sum over times up to t of the sum of rewards so far: the potential "sum"; see `largest_so_far`.

    The reward at one time counts in each later weight: log G_t = sum_{s >= t} r(x0(x_s)), and psi_t is their product.

    Args:
        log_reward: x_0 `[B, ...]` -> log-reward `[B]`.
    """

    def apply(memory, x_t, t, x0):
        rewarded, total = memory
        rewarded = rewarded + rewards(log_reward, x0)
        return total + rewarded, (rewarded, total + rewarded)

    zeros = lambda x: jnp.zeros(x.shape[0], x.dtype)
    return Twist(lambda x: (zeros(x), zeros(x)), apply, log_reward)


def rewards(log_reward: LogReward, x: Array) -> Array:
    """The rewards `[B]` of samples, with a check of their shape."""
    values = log_reward(x)
    require_shape(values, x.shape[:1], "the rewards, one number for each sample,")
    return values.astype(x.dtype)


public.declare(__name__)
