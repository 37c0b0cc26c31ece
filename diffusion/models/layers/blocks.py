"""The transformer layers of DiT, conditioned by adaptive layer norm."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.layers import attention_records, layout
from diffusion.models.layers.activations import gelu
from diffusion.models.layers.attention import attention
from diffusion.models.layers.embeddings import rotate
from diffusion.models.layers.heads import Heads
from diffusion.models.layers.norms import NORMS
from diffusion.models.layers.products import rows_first
from diffusion.models.layers.scan import keep_narrow

xavier = nn.initializers.xavier_uniform()
zeros = nn.initializers.zeros_init()
BLOCK_NORMS = (*NORMS, "scaled_rmsnorm", "scaled_layernorm")


def normalisation(kind: str, name: str, dtype: str) -> Callable[[jax.Array], jax.Array]:
    """The normalisation of a layer's input, [..., D] -> [..., D].

    Called inside a module's `__call__`, where "scaled_rmsnorm" and "scaled_layernorm" make a module with D learned
    scales.

    Args:
        kind: a name in `BLOCK_NORMS`.
        name: name of the module, if it is one.
        dtype: compute type.
    """
    if kind in NORMS:
        return NORMS[kind]
    if kind == "scaled_layernorm":
        return nn.LayerNorm(1e-5, dtype=dtype, use_bias=False, use_fast_variance=False, name=name)
    return nn.RMSNorm(dtype=dtype, name=name)


class Attention(nn.Module):
    """Multi-head self-attention, [B, N, D] -> [B, N, D]; rotary positions and normalised q and k by choice.

    The layer masks "identity" and "borrow" are `[B]`, see `diffusion.models.layers.layer_masks`; the bias of a call is
    added to its scores, see `attention`. Keys and values `before` [B, M, H, D] come before its own. The fields `bias`
    and `out_bias` are whether the layer of queries, keys and values has one, and whether the last layer has.
    """

    heads: int
    qk_norm: bool
    attention: str
    dtype: str
    bias: bool = True
    out_bias: bool = True

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        angles: jax.Array | None,
        masks: dict[str, jax.Array],
        bias: jax.Array | None = None,
        before: tuple[jax.Array, jax.Array] | None = None,
    ) -> jax.Array:
        head_size = x.shape[-1] // self.heads
        attention_records.show(self, attention_records.STATES, x)
        tokens = attention_records.beside(self, x)
        q, k, v = Heads(self.heads, head_size, self.dtype, self.bias, name="qkv")(tokens)
        if self.qk_norm:  # Henry et al., 2020; Dehghani et al., 2023: keeps the scores bounded
            q = nn.RMSNorm(dtype=self.dtype, name="query_norm")(q)
            k = nn.RMSNorm(dtype=self.dtype, name="key_norm")(k)
        if angles is not None:  # a reference has the positions of the picture
            angles = jnp.concatenate([angles] * (tokens.shape[1] // x.shape[1])) if tokens is not x else angles
            q = rotate(q, angles)
            k = rotate(k, angles)
        q = q if tokens is x else q[:, : x.shape[1]]
        if "borrow" in masks:  # the maps are softmax(q k^T)
            rows = jnp.arange(x.shape[0]) + masks["borrow"]
            q, k = (layout.attended(jnp.take(a, rows, axis=0)) for a in (q, k))
        attention_records.show(self, attention_records.KEYS_VALUES, (k, v))
        if before is not None:
            k, v = (
                jnp.concatenate([earlier.astype(current.dtype), current], axis=1)
                for earlier, current in zip(before, (k, v))
            )
        out = attention(q, k, v, self.attention, bias)
        if "identity" in masks:
            out = jnp.where(masks["identity"][:, None, None, None], v[:, : x.shape[1]], out)
        out = layout.attended(out)
        out = layout.split(out, "batch", "tokens", "heads", None)
        out = nn.DenseGeneral(
            x.shape[-1],
            axis=(-2, -1),
            use_bias=self.out_bias,
            dtype=self.dtype,
            kernel_init=xavier,
            dot_general=rows_first,
            name="out",
        )(out)
        return layout.split(keep_narrow(out), "batch", "tokens", None)


class Gelu(nn.Module):
    """out(gelu(hidden(x))), with the tanh form of GELU, as in DiT's code, or its exact form."""

    ratio: float
    dtype: str
    approximate: bool = True
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dense = functools.partial(
            nn.Dense, use_bias=self.bias, dtype=self.dtype, kernel_init=xavier, dot_general=rows_first
        )
        h = dense(int(self.ratio * x.shape[-1]), name="hidden")(x)
        h = layout.split(h, "batch", "tokens", "hidden")
        h = gelu(h) if self.approximate else nn.gelu(h, approximate=False)
        return keep_narrow(dense(x.shape[-1], name="out")(h))


class SwiGlu(nn.Module):
    """out(silu(a) * b), [a, b] = hidden(x); two thirds of the hidden width keep the size equal (Shazeer, 2020).

    `hidden` is the width of a and of b; 0: two thirds of `ratio` times the width of x.
    """

    ratio: float
    dtype: str
    bias: bool = True
    hidden: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = self.hidden or int(2 * self.ratio * x.shape[-1] / 3)
        options: Any = {"use_bias": self.bias, "dtype": self.dtype, "kernel_init": xavier, "dot_general": rows_first}
        h = nn.DenseGeneral((2, hidden), **options, name="hidden")(x)
        a, b = jnp.moveaxis(layout.split(h, "batch", "tokens", None, "hidden"), -2, 0)
        return keep_narrow(nn.Dense(x.shape[-1], **options, name="out")(nn.silu(a) * b))


MLPS = {"gelu": Gelu, "swiglu": SwiGlu}


class Modulation(nn.Module):
    """`count` vectors of a layer, computed from the condition; all zero at the start.

    [B, D] -> count x [B, 1, width], the same for all tokens, or [B, N, D] -> count x [B, N, width]; a width of 0 is D.
    """

    count: int
    dtype: str
    width: int = 0
    bias: bool = True

    @nn.compact
    def __call__(self, c: jax.Array) -> list[jax.Array]:
        out = nn.DenseGeneral(
            (self.count, self.width or c.shape[-1]),
            use_bias=self.bias,
            dtype=self.dtype,
            kernel_init=zeros,
            bias_init=zeros,
            dot_general=rows_first,
            name="dense",
        )(c)
        tokens = ("tokens",) * (c.ndim - 2)
        out = layout.split(out, "batch", *tokens, None, "hidden")
        out = layout.split(out, "batch", *tokens, None, None)  # every device needs all features of its tokens
        return [out[:, i, None] if c.ndim == 2 else out[:, :, i] for i in range(self.count)]


def modulated_output(
    tokens: jax.Array,
    c: Any,
    norm: Callable[[jax.Array], jax.Array],
    outputs: int,
    dtype: str,
    vectors: Sequence[jax.Array] | None = None,
    bias: bool = True,
) -> jax.Array:
    """The last layers of a network: norm(x) (1 + scale) + shift, and a dense layer; zero at the start.

    Called inside the network's `__call__`, whose parameters "final_modulation" and "final" they are. The dense layer
    computes in float32, since bfloat16 would round the output to 8 bits.

    Args:
        tokens: [B, N, D].
        c: the condition, [B, D], or [B, N, D] for each token.
        norm: normalisation of the last axis.
        outputs: values of a token.
        dtype: compute type of the modulation.
        vectors: shift and scale, [B, 1, D] or [B, N, D], in place of those computed from c.
        bias: whether the two layers have one.

    Returns:
        [B, N, outputs], float32.
    """
    shift, scale = vectors or Modulation(2, dtype, tokens.shape[-1], bias, name="final_modulation")(c)
    tokens = norm(tokens) * (1 + scale) + shift
    return nn.Dense(outputs, use_bias=bias, dtype=jnp.float32, kernel_init=zeros, bias_init=zeros, name="final")(tokens)


class Block(nn.Module):
    """One adaLN-Zero layer: attention, then an MLP, each normalised, shifted and scaled, and gated by the condition.

        x <- x + gate * f((1 + scale) * norm(x) + shift),     f = attention, mlp

    The gates start at zero, so that the layer starts as the identity. Without the field `bias`, neither the layers of
    queries, keys and values nor the layers of the MLP have a bias.

    Reference: Peebles & Xie, 2023, figure 3.
    """

    heads: int
    mlp_ratio: float
    norm: str
    mlp: str
    qk_norm: bool
    attention: str
    dtype: str
    bias: bool = True

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        c: jax.Array,
        angles: jax.Array | None,
        masks: dict[str, jax.Array],
        bias: jax.Array | None = None,
        entering: bool = False,
    ) -> tuple[jax.Array, None]:
        """Args:
            x: tokens [B, N, D].
            c: condition after SiLU (time and class), [B, D], or [B, N, D] for each token.
            angles: rotary angles; None for no rotation.
            masks: this layer's masks, Bool [B] each, see `diffusion.models.layers.layer_masks`.
            bias: numbers that are added to the attention's scores, see `Attention`; None for none.
            entering: whether to return only the attention's input.

        Returns:
            (x, None), as a scan expects; with `entering`, (the input [B, N, D], None).
        """
        before = x = layout.row_major(x)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = Modulation(6, self.dtype, x.shape[-1], name="modulation")(
            c
        )
        attend = Attention(self.heads, self.qk_norm, self.attention, self.dtype, self.bias, name="attention")
        read = normalisation(self.norm, "attention_norm", self.dtype)(x) * (1 + scale_a) + shift_a
        if entering:
            return read, None
        mixed = attend(read, angles, masks, bias)
        x = x + gate_a * mixed
        mlp = MLPS[self.mlp](self.mlp_ratio, self.dtype, bias=self.bias, name="mlp")
        x = x + gate_m * mlp(normalisation(self.norm, "mlp_norm", self.dtype)(x) * (1 + scale_m) + shift_m)
        if "skip" in masks:
            x = jnp.where(masks["skip"][:, None, None], before, x)
        return layout.row_major(layout.split(x, "batch", "tokens", None)), None
