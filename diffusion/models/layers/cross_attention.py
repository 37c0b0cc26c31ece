"""Attention of tokens to themselves or to a context, with the projections of most published checkpoints."""

__all__ = ["CrossAttention"]

import flax.linen as nn
import jax

from diffusion.models.layers import layout
from diffusion.models.layers.attention import attention

xavier = nn.initializers.xavier_uniform()


class CrossAttention(nn.Module):
    """Multi-head attention of tokens [B, N, D] to a context [B, M, E], or to themselves without one.

    Attributes:
        heads: number of heads.
        head_size: features of a head.
        bias: of the projections to queries, keys and values; the output always has one.
        zero: whether the output starts at zero.
        attention: implementation, see `diffusion.models.layers.attention`.
        dtype: compute type.
    """

    heads: int
    head_size: int
    bias: bool = False
    zero: bool = False
    attention: str = "auto"
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        context: jax.Array | None = None,
        bias: jax.Array | None = None,
        extra: tuple[jax.Array, jax.Array] | None = None,
    ) -> jax.Array:
        """Args:
            x: tokens [B, N, D].
            context: [B, M, E]; None: x.
            bias: added to the scores, see `attention` and `mask_bias`.
            extra: keys and values [B, K, heads * head_size] of further tokens, with an attention of their own that is
                added (Ye et al., "IP-Adapter", 2023, equation 5). The adapter has projected and scaled them.

        Returns:
            [B, N, D].
        """
        context = x if context is None else context

        def project(source: jax.Array, name: str) -> jax.Array:
            dense = nn.DenseGeneral(
                (self.heads, self.head_size), use_bias=self.bias, dtype=self.dtype, kernel_init=xavier, name=name
            )
            out = layout.split(dense(source), "batch", "tokens", "heads", None)
            return layout.split(out, "batch", None, "attended heads", None)

        q = project(x, "query")
        k = project(context, "key")
        v = project(context, "value")
        out = attention(q, k, v, self.attention, bias)
        if extra is not None:
            split = lambda a: a.reshape(*a.shape[:2], self.heads, self.head_size).astype(q.dtype)
            out = out + attention(q, split(extra[0]), split(extra[1]), self.attention)
        out = layout.split(out, "batch", "tokens", "heads", None)
        start = nn.initializers.zeros_init() if self.zero else xavier
        out = nn.DenseGeneral(x.shape[-1], axis=(-2, -1), dtype=self.dtype, kernel_init=start, name="out")(out)
        return layout.split(out, "batch", "tokens", None)
