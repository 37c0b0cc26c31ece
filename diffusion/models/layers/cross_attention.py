"""Attention of tokens to themselves or to a context, with the projections of most published checkpoints."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.layers import attention_records, extra_attention, layout
from diffusion.models.layers.attention import attention, probabilities
from diffusion.models.layers.heads import norm_over_heads

xavier = nn.initializers.xavier_uniform()


class CrossAttention(nn.Module):
    """Multi-head attention of tokens [B, N, D] to a context [B, M, E], or to themselves without one.

    Attributes:
        heads: number of heads.
        head_size: number of features of a head.
        bias: whether the projections to queries, keys and values have a bias; the output always has one.
        zero: whether the output starts at zero.
        attention: implementation, see `diffusion.models.layers.attention`.
        dtype: compute type.
        qk_norm: whether queries and keys are RMS-normalised over all heads together, with a learned scale.
    """

    heads: int
    head_size: int
    bias: bool = False
    zero: bool = False
    attention: str = "auto"
    dtype: str = "float32"
    qk_norm: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        context: jax.Array | None = None,
        bias: jax.Array | None = None,
        extra: tuple | None = None,
        identity: jax.Array | None = None,
    ) -> jax.Array:
        """Args:
            x: tokens [B, N, D].
            context: [B, M, E]; None: x.
            bias: added to the scores, see `attention` and `mask_bias`.
            extra: image prompts, each (keys, values) or (keys, values, weight) of tokens with a separate attention,
                which is added, see `extra_attention`. An adapter has projected the keys and values.
            identity: Bool [B], True for examples in which a token attends only to itself (`layers.layer_masks`); None
                for no such example.

        Returns:
            [B, N, D].
        """
        cross = context is not None
        if context is None:
            attention_records.show(self, attention_records.STATES, x)
            context = attention_records.beside(self, x)

        def project(source: jax.Array, name: str) -> jax.Array:
            dense = nn.DenseGeneral(
                (self.heads, self.head_size), use_bias=self.bias, dtype=self.dtype, kernel_init=xavier, name=name
            )
            out = layout.split(dense(source), "batch", "tokens", "heads", None)
            return layout.attended(out)

        q = project(x, "query")
        k = project(context, "key")
        v = project(context, "value")
        if self.qk_norm:
            q, k = norm_over_heads(q, "query_norm", self.dtype), norm_over_heads(k, "key_norm", self.dtype)
        out = attention(q, k, v, self.attention, bias)
        if cross and attention_records.shows(self, attention_records.MAPS):
            attention_records.show(self, attention_records.MAPS, probabilities(q, k, bias))
        if identity is not None:
            out = jnp.where(identity[:, None, None, None], v[:, : x.shape[1]], out)
        out = extra_attention.added(out, q, extra or (), self.attention)
        out = layout.split(out, "batch", "tokens", "heads", None)
        start = nn.initializers.zeros_init() if self.zero else xavier
        out = nn.DenseGeneral(x.shape[-1], axis=(-2, -1), dtype=self.dtype, kernel_init=start, name="out")(out)
        return layout.split(out, "batch", "tokens", None)
