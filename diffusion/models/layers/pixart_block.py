"""The layer of PixArt's transformer, and what it shares with SANA's, Wan's, LTX's and Krea's: vectors by a table."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.layers import layout
from diffusion.models.layers.activations import gelu
from diffusion.models.layers.blocks import Attention, Gelu
from diffusion.models.layers.cross_attention import CrossAttention
from diffusion.models.layers.norms import layer_norm

small = nn.initializers.normal(0.02)


def table(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Gaussian vectors whose expected squared length is one."""
    return jax.random.normal(key, shape) / shape[-1] ** 0.5


def for_tokens(vectors: jax.Array, x: jax.Array) -> jax.Array:
    """Vectors of the frames [B, F or 1, D] for each of their tokens x [B, N, D]: [B, N or 1, D]."""
    frames = vectors.shape[1]
    return vectors if frames == 1 else jnp.repeat(vectors, x.shape[1] // frames, axis=1)


def shared_vectors(network: Any, embedding: jax.Array) -> jax.Array:
    """The six vectors of a time that all layers share, [..., 6, D], of its embedding [..., D].

    Called inside the network's `__call__`, whose dense layer "modulation" makes them of silu(embedding).
    """
    dense = nn.DenseGeneral((6, network.width), dtype=network.dtype, kernel_init=small, name="modulation")
    return dense(nn.silu(embedding))


def table_vectors(
    module: nn.Module, c: jax.Array, x: jax.Array, count: int = 6, name: str = "table"
) -> list[jax.Array]:
    """The vectors of a layer for its tokens, table + c: `count` of [B, N or 1, D].

    Called inside the module's `__call__`, whose parameter `name` the table [count, D] is.

    Args:
        module: the layer, or the network for the vectors of its output.
        c: the part that depends on the time, [B, count or 1, D], or [B, F, count or 1, D] for F frames.
        x: the tokens [B, N, D], frame by frame.
        count: number of vectors: shift, scale and gate of the attention, and of the MLP.
        name: name of the table.
    """
    c = c if c.ndim == 4 else c[:, None]
    vectors = c + module.param(name, table, (count, c.shape[-1])).astype(c.dtype)
    return [for_tokens(vectors[:, :, i], x) for i in range(count)]


def embedded_text(network: Any, text: jax.Array) -> jax.Array:
    """The text as the layers attend to it, [B, M, E] -> [B, M, width].

    Called inside the network's `__call__`, whose dense layers "text_hidden" and "text_out" have GELU between them.
    """
    dense = lambda name: nn.Dense(network.width, dtype=network.dtype, kernel_init=small, name=name)
    return dense("text_out")(gelu(dense("text_hidden")(text)))


class PixArtBlock(nn.Module):
    """Attention, attention to the text, MLP; the first and the last as in DiT's block, conditioned by table + c."""

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
        """Args:
            x: tokens [B, N, D].
            c: the time's vectors [B, 6, D], which all layers share.
            text: tokens of the text [B, M, E].
            bias: bias of the scores of the text's tokens; None for none.
            per_layer: this layer's entries of the condition: the masks of `Attention`, "skip" Bool [B], "extra" (image
                prompts, see `CrossAttention`) and "residual" [B, N, D], which is added after the layer, even if it is
                skipped.
            entering: whether to return only the attention's input.

        Returns:
            (x, None), as a scan expects; with `entering`, (the input [B, N, D], None).
        """
        before = x
        width = x.shape[-1]
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = table_vectors(self, c, x)
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
        if "skip" in per_layer:
            x = jnp.where(per_layer["skip"][:, None, None], before, x)
        if "residual" in per_layer:
            x = x + per_layer["residual"].astype(x.dtype)
        return layout.split(x, "batch", "tokens", None), None
