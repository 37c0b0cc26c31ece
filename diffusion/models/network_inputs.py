"""The inputs of a network for one example, from which its parameters are drawn and its operations are counted."""

from typing import Any

import jax
import jax.numpy as jnp

from diffusion.models import facts
from diffusion.models.layers import conditions


def inputs(module: Any, shape: tuple[int, ...], null: Any) -> tuple[Any, Any, Any]:
    """The inputs of a module for one example: (zeros [1, ...], its clock, the null condition of one example).

    Args:
        module: the module of the network.
        shape: the shape of an example.
        null: the null condition, without the batch; None for none.
    """
    nothing = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], null)
    times = getattr(module, "times", 1)
    clock = jnp.zeros([1]) if times == 1 else (jnp.zeros([1]),) * times
    strength = getattr(module, "strength", False)
    interval = jnp.array([[0.0, 1.0]]) if getattr(module, "interval", False) else None
    condition = conditions.with_strength(nothing, jnp.ones([1]), interval) if strength else nothing
    return jnp.zeros((1, *shape), jnp.int32 if facts.takes_symbols(module) else None), clock, condition
