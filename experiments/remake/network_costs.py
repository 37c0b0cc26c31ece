"""What a network costs: the multiply-adds of one forward pass, and its parameters; no array is made."""

from typing import Any

import jax
import jax.numpy as jnp

from diffusion.models.budget.counted_flops import counted_flops


def network_cost(network: Any, shape: tuple[int, ...]) -> tuple[float, float]:
    """Counts one example's forward pass of a class-conditional network.

    Args:
        network: the module, called as (x, clock, labels).
        shape: the shape of one example.

    Returns:
        (10^9 multiply-adds of products and convolutions, 10^6 parameters).
    """
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    clock = jax.ShapeDtypeStruct((1,), jnp.float32)
    labels = jax.ShapeDtypeStruct((1,), jnp.int32)
    variables = jax.eval_shape(network.init, jax.random.key(0), x, clock, labels)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return counted_flops(network.apply, variables, x, clock, labels) / 2e9, parameters / 1e6
