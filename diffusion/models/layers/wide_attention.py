"""Attention whose queries and keys are normalised over all heads at once, with or without rotary positions."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.layers import layout
from diffusion.models.layers.attention import attention
from diffusion.models.layers.embeddings import rotate_halves
from diffusion.models.layers.heads import norm_over_heads
from diffusion.models.layers.rotary import turn

xavier = nn.initializers.xavier_uniform()


class WideAttention(nn.Module):
    """Multi-head attention of tokens [B, N, D] to a context [B, M, E], or to themselves without one.

        q = turn(norm(x W_q)),   k = turn(norm(y W_k)),   v = y W_v,   out = attention(q, k, v) W_o

    The norm is RMSNorm over the features of all heads of a token, with a learned scale of each. With pictures y',
    attention(q, norm(y' W_k'), y' W_v') is added before W_o. Optionally, a gate of each head, 2 sigmoid(x W_g),
    multiplies its output.

    Attributes:
        heads: number of heads.
        epsilon: epsilon of the norms, > 0.
        attention: implementation, see `diffusion.models.layers.attention`.
        dtype: compute type.
        size: number of features of a head; 0: D / heads.
        gated: whether the heads have gates.
        halves: whether the angles turn pairs of features half a head apart, other angles in each head; otherwise
            neighbouring features.

    Reference: the norms as in Dehghani et al., "Scaling Vision Transformers to 22 Billion Parameters", 2023, section 2,
    over all heads as in the code of LTX-Video (Lightricks, 2024).
    """

    heads: int
    epsilon: float = 1e-6
    attention: str = "auto"
    dtype: str = "float32"
    size: int = 0
    gated: bool = False
    halves: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        context: jax.Array | None = None,
        bias: jax.Array | None = None,
        angles: jax.Array | None = None,
        key_angles: jax.Array | None = None,
        identity: jax.Array | None = None,
        pictures: jax.Array | None = None,
    ) -> jax.Array:
        """Args:
            x: tokens [B, N, D].
            context: [B, M, E]; None: x.
            bias: added to the scores, see `attention` and `mask_bias`.
            angles: angles of the pairs of features, see `rotary.turn`: [N, heads size / 2] or [B, N, heads size / 2],
                or half a head's width where they are the same for all heads. None: no positions.
            key_angles: angles of the context's tokens, likewise; None: `angles`.
            identity: Bool [B], True for examples in which a token attends only to itself, see `layer_masks`; None for
                no such example.
            pictures: tokens of pictures [B, K, E'] with separate keys and values, as in Wan; None for none.

        Returns:
            [B, N, D].
        """
        heads = (self.heads, self.size or x.shape[-1] // self.heads)
        context = x if context is None else context

        def project(source: jax.Array, name: str) -> jax.Array:
            dense = nn.DenseGeneral(heads, dtype=self.dtype, kernel_init=xavier, name=name)
            return layout.split(dense(source), "batch", "tokens", "heads", None)

        def normal(source: jax.Array, name: str, norm: str, angles: jax.Array | None = None) -> jax.Array:
            out = norm_over_heads(project(source, name), norm, self.dtype, self.epsilon)
            if angles is None:
                return out
            if self.halves:  # a head of a token turns like a token of one head
                single = out.reshape(len(out), -1, 1, heads[1])
                return rotate_halves(single, angles.reshape(*angles.shape[:-2], -1, heads[1] // 2)).reshape(out.shape)
            sharing = out.reshape(*out.shape[:2], -1, 2 * angles.shape[-1])  # heads that have the same angles
            return turn(sharing, angles).reshape(out.shape)

        q = layout.attended(normal(x, "query", "query_norm", angles))
        k = layout.attended(normal(context, "key", "key_norm", angles if key_angles is None else key_angles))
        v = layout.attended(project(context, "value"))
        out = attention(q, k, v, self.attention, bias)
        if pictures is not None:
            k = layout.attended(normal(pictures, "picture_key", "picture_norm"))
            out = out + attention(q, k, layout.attended(project(pictures, "picture_value")), self.attention)
        if identity is not None:
            out = jnp.where(identity[:, None, None, None], v, out)
        out = layout.split(layout.attended(out), "batch", "tokens", "heads", None)
        if self.gated:
            gates = nn.Dense(self.heads, dtype=self.dtype, kernel_init=xavier, name="gate")(x)
            out = out * (2 * nn.sigmoid(gates))[..., None]
        out = nn.DenseGeneral(x.shape[-1], axis=(-2, -1), dtype=self.dtype, kernel_init=xavier, name="out")(out)
        return layout.split(out, "batch", "tokens", None)
