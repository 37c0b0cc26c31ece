"""Types of numbers that are promoted explicitly, so that they are the same under strict promotion."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def promoted(dtype: DTypeLike, other: DTypeLike = jnp.float32) -> jnp.dtype:
    """The type that JAX's standard promotion gives two types, also under `jax_numpy_dtype_promotion="strict"`.

    Strict promotion refuses float32 with bfloat16 and with float64.

    Args:
        dtype: the type of an array.
        other: the narrowest type of the result.
    """
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(dtype, other)
