"""Rewards of samples, and advantages within groups of samples with one condition."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from diffusion.arrays.arguments import require_shape
from diffusion.arrays.not_a_number import nan_unless
from diffusion.arrays.parameters import is_number
from diffusion.arrays.promotion import promoted
from diffusion.objectives.inputs import in_blocks

Reward = Callable[[Array, Any], Array]
"""(x_0 `[B, ...]`, condition) -> rewards `[B]`, where reward b depends only on example b."""
Metadata = Callable[[str], Mapping[str, Any]]
"""caption -> {name: number or array}, with the same names, shapes and types for all captions, also the empty one."""


class CaptionReward(NamedTuple):
    """A reward that depends on facts in a sample's caption, such as a number of objects.

    A run computes the metadata once for each distinct caption before training, without a text encoder.

    Attributes:
        reward: (x_0 `[B, ...]`, condition, metadata {name: `[B, ...]`}) -> rewards `[B]`, where reward b depends only
            on example b.
        metadata: caption -> {name: number or array}, the facts of the caption that the reward reads, with the same
            names, shapes and types for all captions, also the empty one.
    """

    reward: Callable[[Array, Any, Mapping[str, Array]], Array]
    metadata: Metadata


def metadata_of(reward: "Reward | CaptionReward") -> Metadata | None:
    """The function from a caption to the metadata that a reward reads; None for a reward without metadata."""
    return reward.metadata if isinstance(reward, CaptionReward) else None


def near_value(value: float | Sequence[float]) -> Reward:
    """The negative squared distance of a sample from one value: r(x_0) = -mean (x_0 - value)^2.

    Args:
        value: the value, or one for each channel, such as a colour in [-1, 1].
    """

    def reward(x_0: Array, condition: Any) -> Array:
        return -jnp.mean((x_0 - jnp.asarray(value, x_0.dtype)) ** 2, axis=tuple(range(1, x_0.ndim)))

    return reward


def reward_of_pictures(
    reward: Reward | CaptionReward, networks: Mapping[str, Any], metadata: Mapping[str, Array] | None = None
) -> Reward:
    """The reward of the pictures that latents decode to, or, without a decoder, of the samples themselves.

        r(x_0) = reward(D(x_0), condition)    or, of a `CaptionReward`, reward(D(x_0), condition, metadata)

    Args:
        reward: (pictures `[B, H, W, C]` in [-1, 1], condition) -> rewards `[B]`, or a reward of captions.
        networks: the networks of an objective; its "pictures" is the decoder D.
        metadata: the batch's "metadata", {name: `[B, ...]`}, the facts of each sample's caption.

    Raises:
        ValueError: if the reward is a `CaptionReward` and there is no metadata.
    """
    decode = networks.get("pictures", lambda x_0: x_0)
    if not isinstance(reward, CaptionReward):
        return lambda x_0, condition: reward(decode(x_0), condition)
    if metadata is None:
        raise ValueError('the reward reads captions, whose facts the batch lacks. Valid: "metadata", {name: [B, ...]}')
    return lambda x_0, condition: reward.reward(decode(x_0), condition, metadata)


def rewarded(reward: Reward, x_0: Array, condition: Any) -> Array:
    """The rewards `[B]` of samples.

    Raises:
        ValueError: if the rewards have another shape; outside of `jit` also if one is not finite, with a message that
            names its example. A compiled step receives NaN instead of such a reward, so that the example's loss is not
            finite, and `diffusion reproduce` names the example.
    """
    rewards = reward(x_0, condition)
    require_shape(rewards, x_0.shape[:1], "the rewards, one number for each example,")
    if not isinstance(rewards, Tracer) and not np.isfinite(rewards).all():
        worst = int(np.argmin(np.isfinite(rewards)))
        raise ValueError(f"the reward of example {worst} is {float(rewards[worst])}. Valid: finite rewards")
    rewards = rewards.astype(promoted(rewards.dtype))
    return nan_unless(jnp.isfinite(rewards), rewards)  # exp(-inf) or a clipped advantage would hide it


def check_compared(name: str, group: int, anchor: str, weight: Any, teacher: Any) -> bool:
    """Whether an objective that compares samples within groups reads a reference model, whose weight is `anchor`.

    Raises:
        ValueError: for a group below 2, or a weight without a parameterization `teacher` of the reference.
    """
    if group < 2:
        raise ValueError(f"{name}: group = {group} must be at least 2, because samples are compared within a group")
    anchored = not is_number(weight, 0)
    if anchored and teacher is None:
        raise ValueError(
            f"{name}: {anchor} = {weight} needs a reference model, the teacher. Valid: a teacher, or {anchor} = 0"
        )
    return anchored


def repeat_in_groups(condition: Any, group: int) -> Any:
    """Gives all examples of a group, `group` consecutive examples, the condition of the first one."""
    return jax.tree.map(lambda leaf: jnp.repeat(in_blocks(leaf, group)[:, 0], group, axis=0), condition)


def advantages(rewards: Array, group: int, deviation: bool = True) -> Array:
    """A = (r - mean r) / std r, `[B]`, over each group of consecutive examples, without a gradient.

    A reward that is not finite is left out of its group's statistics, so that the other advantages remain finite.

    Args:
        rewards: rewards `[B]`.
        group: number of examples in a group, at least 2.
        deviation: whether to divide by the standard deviation.

    Reference: Shao et al. 2024, "DeepSeekMath", eq. 3; Liu et al. 2025, "Understanding R1-Zero-Like Training", for the
    advantage without the deviation.

    Raises:
        ValueError: if group does not divide the batch.
    """
    grouped = in_blocks(jax.lax.stop_gradient(rewards), group)
    finite = jnp.isfinite(grouped)
    centred = grouped - jnp.mean(grouped, axis=1, keepdims=True, where=finite)
    scale = jnp.std(grouped, axis=1, keepdims=True, where=finite) + 1e-4 if deviation else 1.0
    return (centred / scale).ravel()
