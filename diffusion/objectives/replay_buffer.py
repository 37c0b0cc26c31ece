"""A replay buffer: the newest samples of a training, which serve several of its steps."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.objectives.objective_facts import Buffer


def replay_buffer(example: Any, size: int, every: int) -> Buffer:
    """A buffer of the `size` newest examples, to which the steps 0, every, 2 every, ... add a batch.

    Args:
        example: one example, a pytree whose leaves have a shape and a dtype.
        size: number of examples in the full buffer, at least 1.
        every: number of training steps from one new batch to the next, at least 1.

    Returns:
        A buffer whose state is {"examples": leaves `[size, ...]`, the newest first, "number": the number of examples in
        the buffer}.

    Raises:
        ValueError: if size or every is below 1.
    """
    if size < 1 or every < 1:
        raise ValueError(f"replay_buffer: size = {size} and every = {every} must be at least 1")

    def init():
        empty = jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape), leaf.dtype), example)
        return {"examples": empty, "number": jnp.zeros([], jnp.int32)}

    def update(state, batch, step):
        rows = jax.tree.leaves(batch)[0].shape[0]
        longer = jax.tree.map(
            lambda new, old: jnp.concatenate([new.astype(old.dtype), old])[:size], batch, state["examples"]
        )
        added = {"examples": longer, "number": jnp.minimum(state["number"] + rows, size)}
        return jax.tree.map(lambda new, old: jnp.where(step % every == 0, new, old), added, state)

    return Buffer(init, update)


def draw(state: Any, keys: Array) -> Any:
    """An example `[B, ...]` for each key `[B]`, drawn uniformly from the filled part of the buffer."""
    rows = jax.vmap(lambda key: jax.random.randint(key, (), 0, state["number"]))(keys)
    return jax.tree.map(lambda leaf: leaf[rows], state["examples"])
