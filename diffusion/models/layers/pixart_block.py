"""The layer of PixArt's transformer, and the Gaussian table that its vectors begin from."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.layers import layout
from diffusion.models.layers.blocks import Attention, Gelu
from diffusion.models.layers.cross_attention import CrossAttention
from diffusion.models.layers.norms import layer_norm

small = nn.initializers.normal(0.02)


def table(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Gaussian vectors whose expected squared length is one."""
    return jax.random.normal(key, shape) / shape[-1] ** 0.5


class PixArtBlock(nn.Module):
    """Attention, attention to the text, MLP; the first and the last as in DiT's block, conditioned by table + c.

    Arguments of the call: tokens x [B, N, D]; c [B, 6, D], the same for all layers; the text [B, M, D]; what is added
    to the scores of its tokens, or None; this layer's entries of the condition. Returns (x, None), as a scan
    expects; with `entering` (what its attention reads, None).
    """

    heads: int
    mlp_ratio: float
    attention: str
    dtype: str

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        c: jax.Array,
        text: jax.Array,
        bias: jax.Array | None,
        per_layer: dict[str, Any],
        entering: bool = False,
    ) -> tuple[jax.Array, None]:
        before = x
        width = x.shape[-1]
        vectors = c + self.param("table", table, (6, width)).astype(c.dtype)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (vectors[:, i, None] for i in range(6))
        attend = Attention(self.heads, False, self.attention, self.dtype, name="attention")
        read = layer_norm(x) * (1 + scale_a) + shift_a
        if entering:
            return read, None
        mixed = attend(read, None, per_layer)
        x = x + gate_a * mixed
        x = x + CrossAttention(
            self.heads, width // self.heads, True, True, self.attention, self.dtype, name="cross_attention"
        )(x, text, bias, per_layer.get("extra"))
        mlp = Gelu(self.mlp_ratio, self.dtype, name="mlp")
        x = x + gate_m * mlp(layer_norm(x) * (1 + scale_m) + shift_m)
        if "residual" in per_layer:
            x = x + per_layer["residual"].astype(x.dtype)
        if "skip" in per_layer:
            x = jnp.where(per_layer["skip"][:, None, None], before, x)
        return layout.split(x, "batch", "tokens", None), None
