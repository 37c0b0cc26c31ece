"""Products of matrices that keep all digits."""

import jax
import jax.numpy as jnp
from jax import Array


def matmul(a: Array, b: Array) -> Array:
    """The matrix product `[..., L, N]` of `[..., L, M]` and `[..., M, N]` in full precision on every device.

    By default accelerators round the factors, some to bfloat16.
    """
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
