"""Attention whose cost grows linearly with the number of tokens."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays.promotion import promoted


def linear_attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Attention with ReLU features, for each example and head; the sum over m is computed once for all n.

        out_n = sum_m (relu(q_n) . relu(k_m)) v_m / (sum_m relu(q_n) . relu(k_m) + 1e-15)

    Args:
        q: queries [B, N, H, D].
        k: keys [B, M, H, D].
        v: values [B, M, H, D].

    Returns:
        The outputs [B, N, H, D], float32 or wider.

    Reference: Katharopoulos et al., "Transformers are RNNs", 2020, equations 4 and 5; Cai et al., "EfficientViT:
    Multi-Scale Linear Attention for High-Resolution Dense Prediction", 2023, for the ReLU.
    """
    wide = lambda x: x.astype(promoted(x.dtype))
    q, k, v = nn.relu(wide(q)), nn.relu(wide(k)), wide(v)
    summed = jnp.einsum("bmhd,bmhe->bhde", k, v)
    weight = jnp.einsum("bnhd,bhd->bnh", q, k.sum(1))
    return jnp.einsum("bnhd,bhde->bnhe", q, summed) / (weight[..., None] + 1e-15)
