"""T5's encoder: bidirectional attention with only relative positions.

    ids [B, N] -> tokens -> depth x layer -> norm -> [B, N, D]

    layer:  x = x + out(softmax(q k^T + b[j - i]) v);  x = x + out(gelu(gate(norm(x))) * linear(norm(x)))

    q, k, v of norm(x);  norm(x) = scale * x / rms(x);  no bias anywhere
    b one table for all layers, or one of each layer (umT5)

Tokens are the second axis, features the last.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.layers import layout, network_checks
from diffusion.models.layers.attention import attention, mask_bias
from diffusion.models.layers.network_bases import Backbone
from diffusion.models.layers.scan import scanned
from diffusion.models.text_encoders.clip import Encoded
from diffusion.models.text_encoders.decoder import RmsNorm

MLPS = ("gated-gelu", "relu")  # the MLP of version 1.1, and of the first version
EPSILON = 1e-6
init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


def buckets(length: int, count: int, farthest: int) -> np.ndarray:
    """The row of the table of positions for each query i and key j, int32 [length, length].

        d = |j - i|, h = count / 2, e = h / 2
        row = [j > i] h + (d if d < e else min(e + floor(ln(d / e) / ln(farthest / e) (h - e)), h - 1))

    Args:
        length: N tokens.
        count: rows of the table, even.
        farthest: distance from which on all distances share a row.

    Reference: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
    2020, section 2.1; the logarithm is their code's.
    """
    difference = np.arange(length)[None] - np.arange(length)[:, None]
    distance = np.abs(difference)
    half = count // 2
    exact = half // 2
    # In float32, as in the authors' code: rounding decides at the edges of the buckets.
    wide = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    ratio = wide / np.float32(math.log(farthest / exact))
    far = np.minimum(exact + (ratio * np.float32(half - exact)).astype(np.int32), half - 1)
    return ((difference > 0) * half + np.where(distance < exact, distance, far)).astype(np.int32)


class Attention(nn.Module):
    """Self-attention without biases of the projections and without the scale 1 / sqrt(d): [B, N, D] -> [B, N, D]."""

    heads: int
    head_size: int
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array | None) -> jax.Array:
        shape = (3, self.heads, self.head_size)
        qkv = nn.DenseGeneral(shape, use_bias=False, dtype=self.dtype, kernel_init=init, name="qkv")(x)
        qkv = layout.split(qkv, "batch", "tokens", None, "heads", None)
        q, k, v = jnp.moveaxis(layout.attended(qkv), 2, 0)
        out = attention(q * self.head_size**0.5, k, v, self.attention, bias)  # `attention` divides by it
        out = layout.split(out, "batch", "tokens", "heads", None)
        return nn.DenseGeneral(
            x.shape[-1], axis=(-2, -1), use_bias=False, dtype=self.dtype, kernel_init=init, name="out"
        )(out)


class Mlp(nn.Module):
    """out(gelu(gate(x)) * linear(x)), [gate, linear] = hidden(x), or out(relu(hidden(x))) in the first version."""

    hidden: int
    mlp: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dense = lambda features, name: nn.DenseGeneral(
            features, use_bias=False, dtype=self.dtype, kernel_init=init, name=name
        )
        if self.mlp == "relu":
            h = nn.relu(layout.split(dense(self.hidden, "hidden")(x), "batch", "tokens", "hidden"))
        else:
            both = layout.split(dense((2, self.hidden), "hidden")(x), "batch", "tokens", None, "hidden")
            gate, linear = jnp.moveaxis(both, -2, 0)
            h = nn.gelu(gate, approximate=True) * linear
        return dense(x.shape[-1], "out")(h)


class Layer(nn.Module):
    """x = x + attention(norm(x)); x = x + mlp(norm(x)).

    The sum stays float32 whatever the compute type: T5's states grow so large that bfloat16 would lose the summands.
    With `buckets`, the size of its own table of positions, `bias` [B, 1, 1, N] comes only from the mask, or is None,
    and `rows` [N, N] are rows of the table; otherwise `bias` is the scores' bias, and there are no rows.
    """

    heads: int
    head_size: int
    hidden: int
    mlp: str
    attention: str
    dtype: str
    buckets: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array | None, rows: jax.Array | None) -> tuple[jax.Array, None]:
        if self.buckets:
            bias = _of_positions(self, self.buckets, self.heads, rows, bias)
        attended = Attention(self.heads, self.head_size, self.attention, self.dtype, name="attention")
        norm = lambda name: RmsNorm(EPSILON, False, self.dtype, name=name)
        x = x + attended(norm("norm_1")(x), bias)
        x = x + Mlp(self.hidden, self.mlp, self.dtype, name="mlp")(norm("norm_2")(x))
        return layout.split(x, "batch", "tokens", None), None


def _of_positions(module: nn.Module, count: int, heads: int, rows: Any, mask: jax.Array | None) -> jax.Array:
    """The bias [B or 1, H, N, N] of a table of positions, a parameter of the module, and of the mask."""
    table = module.param("positions", nn.initializers.normal(0.1), (count, heads))
    bias = table[rows].transpose(2, 0, 1)[None]
    return bias if mask is None else bias + mask


class T5Encoder(Backbone):
    """The encoder of T5 and umT5: ids [B, N] -> tokens [B, N, width].

    Attributes:
        vocabulary: number of token ids.
        width: number of features of a token.
        depth: number of layers.
        heads: number of attention heads.
        head_size: number of features of a head; heads * head_size need not be the width.
        hidden: number of features inside the MLP.
        mlp: "gated-gelu" (version 1.1) or "relu" (the first).
        buckets: rows of the table of positions.
        farthest: distance of tokens from which on all distances share a row.
        own_positions: whether each layer has its own table of positions (umT5).

    Reference: Raffel et al., 2020, section 2.1; Shazeer, "GLU Variants Improve Transformer", 2020, for version 1.1;
    Chung et al., "UniMax: Fairer and More Effective Language Sampling for Large-Scale Multilingual Pretraining", 2023,
    for umT5.
    """

    vocabulary: int
    width: int
    depth: int
    heads: int
    head_size: int
    hidden: int
    mlp: str = "gated-gelu"
    buckets: int = 32
    farthest: int = 128
    own_positions: bool = False
    positive = ("vocabulary", "width", "depth", "heads", "head_size", "hidden")
    choices = Backbone.choices | {"mlp": MLPS}

    def check_fields(self) -> None:
        if self.buckets % 4 or not 0 < self.buckets // 4 < self.farthest:
            raise ValueError(
                f"buckets={self.buckets} must be a multiple of 4, and a quarter of it must be below "
                f"farthest={self.farthest}"
            )

    @nn.compact
    def __call__(self, ids: jax.Array, mask: jax.Array | None = None) -> Encoded:
        """Args:
            ids: integers [B, N], 0 .. vocabulary - 1; any N.
            mask: Bool [B, N], True where other tokens may attend to a token; None, as in SD 3 and Flux: to all.

        Returns:
            `Encoded`: tokens [B, N, width]; pooled is None.

        Raises:
            ValueError: for shapes that do not fit.
        """
        network_checks.ids(ids, mask)
        embedding = nn.Embed(self.vocabulary, self.width, embedding_init=nn.initializers.normal(1.0), name="tokens")
        x = layout.split(embedding(ids).astype(jnp.float32), "batch", "tokens", None)
        rows = jnp.asarray(buckets(ids.shape[1], self.buckets, self.farthest))
        bias = None if mask is None else mask_bias(mask)
        own_buckets = self.buckets if self.own_positions else 0
        if not own_buckets:
            bias = _of_positions(self, self.buckets, self.heads, rows, bias)

        layers = scanned(Layer, self.depth, self.remat, self.is_initializing(), (nn.broadcast,) * 2)(
            self.heads, self.head_size, self.hidden, self.mlp, self.attention, self.dtype, own_buckets, name="layers"
        )
        x, _ = layers(x, bias, rows if own_buckets else None)
        return Encoded(RmsNorm(EPSILON, False, "float32", name="final_norm")(x), None)
