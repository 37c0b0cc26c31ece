"""Records of attention for a caller, and inputs from one: collections of variables beside the parameters.

    output, seen = network.apply({"params": params}, x, t, condition, mutable=[MAPS])
    maps = records(seen)                                     # probabilities [B, heads, N, M] of each cross-attention

    _, states = network.apply({"params": params}, reference, t, condition, mutable=[STATES])
    output = network.apply({"params": params, **states}, x, t, condition)

A layer writes a collection only where the caller makes it mutable, so that a program without a request has no trace of
it. KEYS_VALUES are self-attention's keys and values, for `models.frame_memory`. With the STATES of another picture,
self-attention has the tokens of both as keys and values. A scan stacks what its layers show along a first axis. A layer
of yours takes part by the same two functions.
"""

__all__ = ["beside", "records", "show", "shows"]

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.package import public

MAPS = "attention_maps"
STATES = "attention_states"
KEYS_VALUES = "attention_keys_values"
LEAF = "seen"


def shows(module: nn.Module, collection: str) -> bool:
    """Whether the caller asks for a collection."""
    return module.is_mutable_collection(collection) and not module.is_initializing()


def show(module: nn.Module, collection: str, value: Any) -> None:
    """Shows a value to a caller who asks for the collection."""
    if shows(module, collection):
        module.put_variable(collection, LEAF, value)


def beside(module: nn.Module, tokens: jax.Array) -> jax.Array:
    """The tokens [B, N, D] of a self-attention, followed by the tokens of the caller's reference if there are any."""
    if module.is_mutable_collection(STATES) or not module.has_variable(STATES, LEAF):
        return tokens
    return jnp.concatenate([tokens, module.get_variable(STATES, LEAF).astype(tokens.dtype)], axis=1)


def records(seen: Any) -> tuple[jax.Array, ...]:
    """The layers' records, [B, ...] each, with the layers of a scan one by one, in the order of their names.

    Args:
        seen: the second output of `apply`, with one collection of values of the rank 4.
    """
    leaves = jax.tree.leaves(seen)
    return tuple(layer for leaf in leaves for layer in (leaf if leaf.ndim > 4 else (leaf,)))


public.declare(__name__, renamed={"of_layers": "records"})
