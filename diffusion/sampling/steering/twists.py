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
"""x_0 `[B, ...]` -> log-reward `[B]`, whose number b depends only on example b.

For a reward r and a temperature beta the log-reward is r / beta.
"""


class Twist(NamedTuple):
    """The functions psi_t that weigh particles at noisy times, for the target p(x_0) exp(log_reward(x_0)).

    A step multiplies a particle's weight by psi_s(x_s) / psi_t(x_t) (see `twisted`). In the product over all steps the
    earlier twists cancel, so every twist leads to the same target; a good twist keeps the weights even.

    Attributes:
        init: x `[B, ...]` -> memory, a pytree whose leaves have leading axis B.
        apply: (memory, x_t, t, x0) -> (log psi_t `[B]`, memory), where x0 is the estimate of the data at x_t.
        log_reward: x_0 `[B, ...]` -> log-reward `[B]`, which is log psi at the end.
    """

    init: Callable[[Array], Any]
    apply: Callable[[Any, Array, ArrayLike, Array], tuple[Array, Any]]
    log_reward: LogReward


def tilt(log_reward: LogReward, strength: Callable[[ArrayLike], ArrayLike] = lambda t: 1.0) -> Twist:
    """log psi_t(x_t) = strength(t) log_reward(x0(x_t)): the reward of the posterior mean of the data.

    With log p(y | x_0) as the log-reward this is the twist of the twisted diffusion sampler. The difference of two
    consecutive values of log psi is the logarithm of the potential "difference" of Feynman-Kac steering. A strength
    that grows from 0 to 1 during sampling is the tempering of `das`; it gives less weight to the first estimates of the
    data, which are uninformative.

    Args:
        log_reward: x_0 `[B, ...]` -> log-reward `[B]`.
        strength: t -> factor of the log-reward at time t, in [0, 1].

    Reference: Wu et al. 2023, "Practical and Asymptotically Exact Conditional Sampling in Diffusion Models", eq. 9;
    Singhal et al. 2025, "A General Framework for Inference-time Scaling and Steering of Diffusion Models", section 3;
    Kim et al. 2025, "Test-time Alignment of Diffusion Models without Reward Over-optimization", section 4.
    """

    def apply(memory, x_t, t, x0):
        factor = jnp.asarray(strength(t))
        return jnp.where(factor > 0, factor * rewards(log_reward, x0), 0), memory  # 0 also for a reward of -inf

    return Twist(lambda x: (), apply, log_reward)


def largest_so_far(log_reward: LogReward) -> Twist:
    """The twist of the potential "max" of Feynman-Kac steering, in which each time counts the largest reward so far.

        log psi_t = sum_{s >= t} max_{u >= s} r(x0(x_u)),    r = log_reward,    s and u among the times of the steps

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
    """The twist of the potential "sum" of Feynman-Kac steering, in which each time counts all rewards so far.

        log psi_t = sum_{s >= t} sum_{u >= s} r(x0(x_u)),    r = log_reward,    s and u among the times of the steps

    Args:
        log_reward: x_0 `[B, ...]` -> log-reward `[B]`.

    Reference: as for `largest_so_far`.
    """

    def apply(memory, x_t, t, x0):
        rewarded, total = memory
        rewarded = rewarded + rewards(log_reward, x0)
        return total + rewarded, (rewarded, total + rewarded)

    zeros = lambda x: jnp.zeros(x.shape[0], x.dtype)
    return Twist(lambda x: (zeros(x), zeros(x)), apply, log_reward)


def rewards(log_reward: LogReward, x: Array) -> Array:
    """The log-rewards `[B]` of samples x `[B, ...]`, in the dtype of x, after a check of their shape."""
    values = log_reward(x)
    require_shape(values, x.shape[:1], "the rewards, one number for each sample,")
    return values.astype(x.dtype)


public.declare(__name__)
