"""Joint layers of two streams, and then single layers of both in one: the stacks of Flux and its relatives."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.models.layers.block_reuse import Blocks
from diffusion.models.layers.joint_blocks import JointBlock, SingleBlock
from diffusion.models.layers.stacks import Stack, several_stacks


def joint_then_single(
    network: Any,
    streams: tuple[jax.Array, jax.Array],
    joint: tuple[tuple, tuple],
    single: tuple[tuple, tuple],
    number: int,
    output: Callable[[jax.Array], jax.Array],
    features: Sequence[int] | None,
    through: Callable[[Blocks], tuple[jax.Array, Any]] | None = None,
) -> Any:
    """Runs `depth` joint layers, "blocks" among the parameters, then `singles` single layers, "single_blocks".

    Args:
        network: module with `depth`, `singles` and `remat`, in whose compact call this runs.
        streams: tokens of the picture [B, N, D], and of the text [B, M, D].
        joint: (fields of a `JointBlock`, arguments of each of them: c, angles, the layer's entries).
        single: the same for a `SingleBlock`, whose tokens are the text's and then the picture's.
        number: number of the picture's first tokens, from which the output is computed.
        output: function from these [B, number, D] to the network's output; may make parameters.
        features: indices of layers whose picture's tokens the call returns too, see `several_stacks`.
        through: evaluates the layers in the network's place, see `several_stacks`.

    Returns:
        As `several_stacks`.
    """
    words = streams[1].shape[1]
    stacks = (
        Stack("blocks", network.depth, JointBlock, *joint, picture=lambda streams: streams[0][:, :number]),
        Stack(
            "single_blocks",
            network.singles,
            SingleBlock,
            *single,
            enter=lambda streams: jnp.concatenate(streams[::-1], axis=1),
            picture=lambda tokens: tokens[:, words : words + number],
        ),
    )
    picture = lambda carry: carry[0] if isinstance(carry, tuple) else carry[:, words:]
    cropped = lambda tokens: output(tokens[:, :number])
    return several_stacks(network, stacks, streams, cropped, features, through, picture)
