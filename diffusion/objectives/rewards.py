"""Rewards of samples, and the advantages that they are within groups of samples of one condition."""

__all__ = ["Reward", "advantages", "near_value", "repeat_in_groups", "reward_of_pictures", "rewarded"]

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from diffusion.arguments import require_shape
from diffusion.objectives.inputs import in_blocks

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


def reward_of_pictures(reward: Reward, networks: Mapping[str, Any]) -> Reward:
    """The reward of samples that are latents, by their pictures; the reward itself where there is no decoder.

        r(x_0) = reward(D(x_0), condition)

    Args:
        reward: (pictures `[B, H, W, C]` in [-1, 1], condition) -> rewards `[B]`.
        networks: the networks of an objective; its "pictures" is the decoder D.
    """
    decode = networks.get("pictures")
    return reward if decode is None else lambda x_0, condition: reward(decode(x_0), condition)


def rewarded(reward: Reward, x_0: Array, condition: Any) -> Array:
    """The rewards `[B]` of samples.

    Raises:
        ValueError: for rewards of another shape; outside of `jit`, for one that is not finite, whose example is named.
            A compiled step has a loss there that is not finite, and `diffusion reproduce` names the example.
    """
    rewards = reward(x_0, condition)
    require_shape(rewards, x_0.shape[:1], "the rewards, one number an example,")
    if not isinstance(rewards, Tracer) and not np.isfinite(rewards).all():
        worst = int(np.argmin(np.isfinite(rewards)))
        raise ValueError(f"the reward of example {worst} is {float(rewards[worst])}. Valid: finite rewards")
    return rewards.astype(jnp.promote_types(rewards.dtype, jnp.float32))


def repeat_in_groups(condition: Any, group: int) -> Any:
    """Gives all examples of a group the condition of its first one; a group is `group` consecutive examples."""
    return jax.tree.map(lambda leaf: jnp.repeat(in_blocks(leaf, group)[:, 0], group, axis=0), condition)


def advantages(rewards: Array, group: int, deviation: bool = True) -> Array:
    """A = (r - mean r) / std r, `[B]`, over each group of consecutive examples, without a gradient.

    A reward that is not finite has no part in the statistics of its group, and leaves the others' advantages finite.

    Args:
        rewards: rewards `[B]`.
        group: number of examples of a group, at least 2.
        deviation: whether to divide by the standard deviation.

    Reference: Shao et al. 2024, "DeepSeekMath", eq. 3; Liu et al. 2025, "Understanding R1-Zero-Like Training", for the
    advantage without the deviation.

    Raises:
        ValueError: if the groups do not divide the batch.
    """
    grouped = in_blocks(jax.lax.stop_gradient(rewards), group)
    finite = jnp.isfinite(grouped)
    centred = grouped - jnp.mean(grouped, axis=1, keepdims=True, where=finite)
    scale = jnp.std(grouped, axis=1, keepdims=True, where=finite) + 1e-4 if deviation else 1.0
    return (centred / scale).ravel()
