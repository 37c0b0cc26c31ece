"""Keys and values of a causal attention that a network keeps of what came before, along one axis."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.arrays.not_a_number import table_rows
from diffusion.models.layers.attention import mask_bias
from diffusion.models.layers.attention_records import KEYS_VALUES, LEAF


class KeyValueMemory(NamedTuple):
    """Keys and values along the frames of a video or the positions of a text.

    Attributes:
        keys: `[layers, rows, M, heads, D]`, M the frames or positions for which there is room.
        values: values in the same form.
        length: int32 `[]`, how many frames or positions are kept.
    """

    keys: Array
    values: Array
    length: Array


def empty(network: Any, rows: int, room: int) -> KeyValueMemory:
    """The memory of nothing.

    Args:
        network: a network with `depth`, `heads`, `width`, and with a `causal` above 0.
        rows: sequences that attend by themselves.
        room: frames or positions M for which there is room.

    Raises:
        ValueError: for a network that is not causal.
    """
    if not network.causal:
        raise ValueError(
            f"causal={network.causal}: a memory needs a network in which nothing sees what comes later. Valid: e.g. "
            "causal=1"
        )
    zeros = jnp.zeros((network.depth, rows, room, network.heads, network.width // network.heads), network.dtype)
    return KeyValueMemory(zeros, zeros, jnp.zeros((), jnp.int32))


def reading(network: Any, variables: Any, memory: KeyValueMemory) -> Callable[[Array, Any, Any], Array]:
    """The network of frames or positions `[B, n, ...]` that follow a memory: (x, clock, condition) -> output.

    Args:
        network: a network with `causal`.
        variables: its variables.
        memory: memory of what came before, a multiple of `causal`.
    """
    return lambda x, clock, condition: network.apply(variables, x, clock, condition, memory=memory)


def extended(network: Any, memory: KeyValueMemory, shown: Any, attention: str, length: int) -> KeyValueMemory:
    """The memory extended by the keys and values that a call of the network has shown.

    Args:
        network: the network, with `causal`.
        memory: the memory before.
        shown: the second output of `apply` with `mutable=[KEYS_VALUES]`.
        attention: name of the causal attention in a block.
        length: frames or positions of the call, a multiple of `causal` for which there is room.

    Raises:
        ValueError: for a length that is no multiple, or more than there is room for at all. Where the memory is full
            already, what the network makes is NaN, by `following_positions`.
    """
    room = memory.keys.shape[2]
    if length % network.causal or length > room:
        raise ValueError(
            f"{length} frames or positions for a memory of {room} in chunks of causal={network.causal}. Valid: a "
            f"multiple of {network.causal} up to {room}"
        )

    def written(kept: Array, new: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(kept, new.astype(kept.dtype), memory.length, axis=2)

    keys, values = map(written, memory[:2], shown[KEYS_VALUES]["blocks"][attention][LEAF])
    return KeyValueMemory(keys, values, memory.length + length)


def following_positions(table: Array, length: int, memory: KeyValueMemory | None) -> Array:
    """The rows of a table of positions, such as rotary angles, for what follows a memory; NaN where it has no room.

    Args:
        table: `[M, ...]` for all frames or positions for which the memory has room; of the call without one.
        length: frames or positions of a call.
        memory: memory of M frames or positions; None for none.

    Returns:
        `[length, ...]`.
    """
    return table if memory is None else table_rows(table, memory.length + jnp.arange(length))


def causal_bias(length: int, chunk: int, memory: KeyValueMemory | None = None) -> Array:
    """The bias of causal attention: each frame or position sees its own chunk, earlier ones, and what is kept.

    Args:
        length: frames or positions n of a call.
        chunk: number of those that see each other.
        memory: memory of M frames or positions; None for none.

    Returns:
        [1, 1, n, n], or [1, 1, n, M + n], see `attention.mask_bias`.
    """
    chunks = np.arange(length) // chunk
    mask = jnp.asarray(chunks[:, None] >= chunks)
    if memory is not None:
        room = memory.keys.shape[2]
        remembered = jnp.broadcast_to(jnp.arange(room) < memory.length, (length, room))
        mask = jnp.concatenate([remembered, mask], axis=1)
    return mask_bias(mask[None])
