"""Dropout with one key for each example, so that batch size, devices and micro-batches do not change the draws."""

import jax
import jax.numpy as jnp


def keys_of(keys: jax.Array | None, number: int) -> jax.Array | None:
    """The keys `[B]` of the block with a number, derived from the keys `[B]` of the network; None for None."""
    return None if keys is None else jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def dropped(h: jax.Array, keys: jax.Array | None, rate: float) -> jax.Array:
    """Features with a random share set to zero, and the others scaled so that the mean stays.

        y = m h / (1 - rate),    m = 1 with probability 1 - rate, else 0

    Args:
        h: features `[B, ...]`, float32 or bfloat16.
        keys: one key for each example, `[B]`; None: nothing is dropped.
        rate: share of the features that is dropped, in [0, 1).

    Returns:
        Features of the shape and the type of `h`.

    Reference: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", 2014.
    """
    if keys is None or rate == 0:
        return h
    stays = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, h.shape[1:]))(keys)
    return jnp.where(stays, h / (1 - rate), jnp.zeros((), h.dtype))
