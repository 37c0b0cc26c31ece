"""GELU with a derivative that the backward pass computes only from its input."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

CUBE = 0.044715
ROOT = math.sqrt(2 / math.pi)


def gelu(x: jax.Array) -> jax.Array:
    """The tanh form of GELU; in bfloat16 with a derivative written for it.

        gelu(x) = x (1 + tanh(u)) / 2 = x s,     u = sqrt(2 / pi) (x + 0.044715 x^3),     s = 1 / (1 + exp(-2 u))
        gelu'(x) = s + 2 x s (1 - s) du/dx

    JAX's derivative keeps six arrays of x's size and rounds each to bfloat16. This one is computed in float32 and
    rounded once. The function has tanh and the derivative has s: XLA would write a tanh that both share to memory, and
    read it twice; with one each, both are computed in one pass over x.

    Args:
        x: any shape, floating point.

    Returns:
        The shape and dtype of x.

    Reference: Hendrycks & Gimpel, "Gaussian Error Linear Units", 2016.
    """
    return _gelu(x) if x.dtype == jnp.bfloat16 else nn.gelu(x, approximate=True)


@jax.custom_jvp
def _gelu(x: jax.Array) -> jax.Array:
    return nn.gelu(x.astype(jnp.float32), approximate=True).astype(x.dtype)


@_gelu.defjvp
def _gelu_tangent(primals, tangents):
    (x,), (dx,) = primals, tangents
    wide = x.astype(jnp.float32)
    s = jax.nn.sigmoid(2 * ROOT * (wide + CUBE * wide**3))
    slope = s + 2 * wide * s * (1 - s) * ROOT * (1 + 3 * CUBE * wide**2)
    return _gelu(x), slope.astype(x.dtype) * dx
