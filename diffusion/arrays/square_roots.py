"""The square root with a finite derivative at 0."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def root(x: ArrayLike) -> Array:
    """sqrt(max(x, 0)), with derivative 0 where x <= 0 instead of infinity; NaN stays NaN.

    The length of a vector that is 0, and a step that adds no noise, thus have finite gradients, where infinity times
    zero would be NaN.

    Args:
        x: float of any shape.
    """
    x = jnp.asarray(x)
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), jnp.where(jnp.isnan(x), x, 0))
