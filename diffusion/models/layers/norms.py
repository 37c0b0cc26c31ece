"""Normalisations over the features of a token, without learned parameters: the condition scales and shifts instead."""

import jax
import jax.numpy as jnp

from diffusion.arrays.promotion import promoted


def layer_norm(x: jax.Array, epsilon: float = 1e-6) -> jax.Array:
    """Centres and scales the last axis.

        out = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon)

    Args:
        x: [..., D]; the statistics are computed in float32 or wider.
        epsilon: positive.

    Returns:
        [..., D], of the dtype of x.

    Reference: Ba et al., "Layer Normalization", 2016, equation 3.
    """
    wide = _wide(x)
    wide = wide - _mean(wide)
    return (wide * jax.lax.rsqrt(_mean(wide * wide) + epsilon)).astype(x.dtype)


def rms_norm(x: jax.Array, epsilon: float = 1e-6) -> jax.Array:
    """Scales the last axis to a root mean square of one.

        out = x / sqrt(mean(x^2) + epsilon)

    Args:
        x: [..., D]; the mean is computed in float32 or wider.
        epsilon: positive.

    Returns:
        [..., D], of the dtype of x.

    Reference: Zhang & Sennrich, "Root Mean Square Layer Normalization", 2019, equation 4.
    """
    wide = _wide(x)
    return (wide * jax.lax.rsqrt(_mean(wide * wide) + epsilon)).astype(x.dtype)


NORMS = {"layernorm": layer_norm, "rmsnorm": rms_norm}


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(promoted(x.dtype))


def _mean(x: jax.Array) -> jax.Array:
    """Mean over the last axis, which stays with length 1."""
    if jax.default_backend() != "cpu":
        return x.mean(-1, keepdims=True)
    # On CPU XLA's reductions along the last axis are scalar loops, but a product with a constant vector is not. That
    # saves a tenth of a small DiT's train step.
    width = x.shape[-1]
    return jnp.matmul(x, jnp.full((width, 1), 1 / width, x.dtype), precision=jax.lax.Precision.HIGHEST)
