"""Broadcasting of times, whose shape is a prefix of the samples' shape, and samples as flat vectors."""

__all__ = ["flattened", "left_broadcast"]

import math

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.promotion import promoted
from diffusion.package import public


def left_broadcast(t: ArrayLike, x: Array) -> Array:
    """Returns t with trailing axes of length one, so that it multiplies x example by example.

    Args:
        t: array whose shape is a prefix of x's: `[]`, `[B]`, `[B, F]`. Floating-point numbers in a narrower type than
            x's are widened to it, since training times are float32 also for x in float64.
        x: array of any rank, `[B, ...]`.

    Raises:
        ValueError: if t's shape is not a prefix of x's.
    """
    t = jnp.asarray(t)
    if t.shape != x.shape[: t.ndim]:
        raise ValueError(
            f"the shape of t, {t.shape}, is not a prefix of the shape of x, {x.shape}. Pass one time for all ([]), "
            "for each example ([B]) or for each frame ([B, F])"
        )
    floats = jnp.issubdtype(t.dtype, jnp.floating) and jnp.issubdtype(x.dtype, jnp.floating)
    if floats and t.dtype != x.dtype and promoted(t.dtype, x.dtype) == x.dtype:
        t = t.astype(x.dtype)
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


def flattened(x: Array) -> Array:
    """x `[B, ...]` with each example as a vector, `[B, D]`; B may be 0."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


public.declare(__name__)
