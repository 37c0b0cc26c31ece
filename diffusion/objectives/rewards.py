"""Rewards: differentiable functions of samples, which `reward_backpropagation` raises."""

__all__ = ["Reward", "near_value"]

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

Reward = Callable[[Array, Any], Array]
"""(x_0 `[B, ...]`, condition) -> rewards `[B]`, of which number b depends on example b alone."""


def near_value(value: float | Sequence[float]) -> Reward:
    """How near a sample is to one value: r(x_0) = -mean (x_0 - value)^2.

    Args:
        value: the value, or one for each channel, such as a colour in [-1, 1].
    """

    def reward(x_0: Array, condition: Any) -> Array:
        return -jnp.mean((x_0 - jnp.asarray(value, x_0.dtype)) ** 2, axis=tuple(range(1, x_0.ndim)))

    return reward
