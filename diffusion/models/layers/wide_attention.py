"""Attention whose queries and keys are normalised over all heads at once, with rotary positions by choice."""

import flax.linen as nn
import jax

from diffusion.models.layers import layout
from diffusion.models.layers.attention import attention
from diffusion.models.layers.rotary import turn

xavier = nn.initializers.xavier_uniform()


class WideAttention(nn.Module):
    """Multi-head attention of tokens [B, N, D] to a context [B, M, E], or to themselves without one.

        q = turn(norm(x W_q)),   k = turn(norm(y W_k)),   v = y W_v,   out = attention(q, k, v) W_o

    The norm is RMSNorm over all D features of a token, with a learned scale of each.

    Attributes:
        heads: number of heads, which divides D.
        epsilon: epsilon of the norms, > 0.
        attention: implementation, see `diffusion.models.layers.attention`.
        dtype: compute type.

    Reference: the norms as in Dehghani et al., "Scaling Vision Transformers to 22 Billion Parameters", 2023, section 2,
    over all heads as in the code of LTX-Video (Lightricks, 2024).
    """

    heads: int
    epsilon: float = 1e-6
    attention: str = "auto"
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        context: jax.Array | None = None,
        bias: jax.Array | None = None,
        angles: jax.Array | None = None,
    ) -> jax.Array:
        """Args:
            x: tokens [B, N, D].
            context: [B, M, E]; None: x.
            bias: added to the scores, see `attention` and `mask_bias`.
            angles: angles of the pairs of neighbouring features, see `rotary.turn`: [N, D / 2] or [B, N, D / 2], or
                half a head's width where they are the same for all heads. None: no positions.

        Returns:
            [B, N, D].
        """
        heads = (self.heads, x.shape[-1] // self.heads)
        context = x if context is None else context

        def project(source: jax.Array, name: str) -> jax.Array:
            dense = nn.DenseGeneral(heads, dtype=self.dtype, kernel_init=xavier, name=name)
            return layout.split(dense(source), "batch", "tokens", "heads", None)

        def normal(source: jax.Array, name: str) -> jax.Array:
            both = (-2, -1)
            out = nn.RMSNorm(
                self.epsilon, dtype=self.dtype, reduction_axes=both, feature_axes=both, name=f"{name}_norm"
            )(project(source, name))
            if angles is None:
                return out
            sharing = out.reshape(*out.shape[:2], -1, 2 * angles.shape[-1])  # heads that have the same angles
            return turn(sharing, angles).reshape(out.shape)

        q, k = layout.attended(normal(x, "query")), layout.attended(normal(context, "key"))
        out = layout.attended(attention(q, k, layout.attended(project(context, "value")), self.attention, bias))
        out = layout.split(out, "batch", "tokens", "heads", None)
        out = nn.DenseGeneral(x.shape[-1], axis=(-2, -1), dtype=self.dtype, kernel_init=xavier, name="out")(out)
        return layout.split(out, "batch", "tokens", None)
