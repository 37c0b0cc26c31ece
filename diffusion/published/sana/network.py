"""SANA: a diffusion transformer whose attention is linear and whose MLP sees the neighbours of a token.

    text [B, M, E] -- dense, gelu, dense, norm   x [B, H, W, C]
                              |                     |
                              |             patches, dense
                              |                     |
    t -----------------+--> [ linear attention, shifted, scaled and gated by table + c         ]
        |              |    [ attention to the text                                            ]  x depth
    dense: c [6, D] ---+    [ gated convolution, shifted, scaled and gated by table + c        ]
        |                                           |
        +----- table + t: shift, scale ------ norm, dense, unpatchify
                                                    |
                                               [B, H, W, C]

Latents of a deep-compression autoencoder have few pixels, so that each pixel can be a token. The network learns where a
token is through the convolutions; the networks for pictures of 2048 pixels and more also add a table of positions.
Pictures and features are channels last.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays.boxes import patchify
from diffusion.models.layers import layer_masks, layout, network_checks
from diffusion.models.layers.attention import mask_bias
from diffusion.models.layers.blocks import xavier
from diffusion.models.layers.conditions import EMBEDDINGS, entries
from diffusion.models.layers.convolutions import gated_convolution
from diffusion.models.layers.cross_attention import CrossAttention
from diffusion.models.layers.embeddings import TimestepEmbedding, sincos_positions
from diffusion.models.layers.heads import Heads, norm_over_heads
from diffusion.models.layers.joint_conditions import check_strength, check_text
from diffusion.models.layers.linear_attention import linear_attention
from diffusion.models.layers.network_bases import Backbone, Entries, Numbers, Through
from diffusion.models.layers.norms import layer_norm
from diffusion.models.layers.patches import picture_output
from diffusion.models.layers.pixart_block import embedded_text, shared_vectors, table_vectors
from diffusion.models.layers.stacks import Layered, single_stack


class LinearSelfAttention(nn.Module):
    """Linear attention of tokens to each other, [B, N, D] -> [B, N, D]; its fields are those of `Sana`."""

    heads: int
    qk_norm: bool
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, identity: jax.Array | None = None) -> jax.Array:
        """The output [B, N, D] for tokens x [B, N, D].

        Args:
            x: tokens [B, N, D].
            identity: Bool [B], True for examples in which each token attends only to itself; None for no example.
        """
        q, k, v = Heads(self.heads, x.shape[-1] // self.heads, self.dtype, bias=False, name="qkv")(x)
        if self.qk_norm:
            q, k = norm_over_heads(q, "query_norm", self.dtype), norm_over_heads(k, "key_norm", self.dtype)
        out = layout.attended(linear_attention(q, k, v).astype(v.dtype))
        if identity is not None:
            out = jnp.where(identity[:, None, None, None], v, out)
        out = layout.split(out, "batch", "tokens", "heads", None)
        out = nn.DenseGeneral(x.shape[-1], (-2, -1), dtype=self.dtype, kernel_init=xavier, name="out")(out)
        return layout.split(out, "batch", "tokens", None)


class MixFfn(nn.Module):
    """The gated convolution of a picture's tokens, [B, N, D] -> [B, N, D].

    Attributes:
        rows, columns: numbers of rows and columns of the tokens, N = rows x columns.
        hidden: number of hidden channels, see `gated_convolution`.
        dtype: compute type.
    """

    rows: int
    columns: int
    hidden: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        grid = layout.split(x.reshape(x.shape[0], self.rows, self.columns, -1), "batch", None, None, None)
        return gated_convolution(grid, self.hidden, self.dtype).reshape(x.shape)


class SanaBlock(nn.Module):
    """A layer of linear attention, attention to the text and a gated convolution, conditioned by table + c.

        x <- x + gate * f((1 + scale) * norm(x) + shift),     f = linear attention
        x <- x + attention(x, text)
        x <- x + gate * f((1 + scale) * norm(x) + shift),     f = gated convolution

    Attributes:
        rows, columns: numbers of rows and columns of the tokens.
        heads, text_heads: numbers of heads of the two attentions.
        mlp_ratio: number of hidden channels of the gated convolution, divided by D.
        qk_norm: whether the queries and keys of both attentions are normalised, see `norm_over_heads`.
        attention: implementation of the attention to the text.
        dtype: compute type.
    """

    rows: int
    columns: int
    heads: int
    text_heads: int
    mlp_ratio: float
    qk_norm: bool
    attention: str
    dtype: str

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        c: jax.Array,
        text: jax.Array,
        bias: jax.Array | None,
        masks: dict[str, jax.Array],
        entering: bool = False,
    ) -> tuple[jax.Array, None]:
        """Args:
            x: tokens [B, N, D].
            c: six vectors [B, 6, D] computed from the time, which all layers share.
            text: tokens of the text [B, M, D].
            bias: bias of the scores of the text's tokens, as `mask_bias` returns it; None for no bias.
            masks: this layer's masks: "identity" Bool [B], or no entry.
            entering: whether to return only the input of the linear attention.

        Returns:
            (x, None), as a scan expects; with `entering`, (the input [B, N, D], None).
        """
        width = x.shape[-1]
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = table_vectors(self, c, x)
        read = layer_norm(x) * (1 + scale_a) + shift_a
        if entering:
            return read, None
        attention = LinearSelfAttention(self.heads, self.qk_norm, self.dtype, name="attention")
        x = x + gate_a * attention(read, masks.get("identity"))
        options = (self.text_heads, width // self.text_heads, True, True, self.attention, self.dtype, self.qk_norm)
        x = x + CrossAttention(*options, name="cross_attention")(x, text, bias)
        mlp = MixFfn(self.rows, self.columns, int(self.mlp_ratio * width), self.dtype, name="mlp")
        x = x + gate_m * mlp(layer_norm(x) * (1 + scale_m) + shift_m)
        return layout.split(x, "batch", "tokens", None), None


class Sana(Layered, Backbone):
    """The transformer of SANA, SANA 1.5 and SANA-Sprint: `apply(variables, x, t, condition)` is a `Network`.

    Attributes:
        side: side of the latents in training; other sides that `patch` divides are valid too.
        channels: number of channels C of the latents.
        patch: side of a patch in pixels of the latents.
        width: number of features of a token, a multiple of `heads` and of `text_heads`, and with `span` also of 4.
        depth: number of layers.
        heads: number of heads of the linear attention.
        text_heads: number of heads of the attention to the text.
        text_width: number E of features of the text's tokens.
        mlp_ratio: number of hidden channels of the gated convolution, divided by `width`.
        qk_norm: whether queries and keys of both attentions are RMS-normalised over all heads together (SANA 1.5).
        strength: whether the network receives the scale of the guidance with which it was distilled (SANA-Sprint).
        strength_scale: factor by which this scale is multiplied before it is embedded.
        span: range of the positions of patches along each side, which lie in [0, span) for a picture of any size; 0 for
            a network without positions.
        attention: implementation of the attention to the text, see `diffusion.models.layers.attention`.

    Reference: Xie et al., "SANA: Efficient High-Resolution Image Synthesis with Linear Diffusion Transformers", 2024;
    Xie et al., "SANA 1.5: Efficient Scaling of Training-Time and Inference-Time Compute in Linear Diffusion
    Transformer", 2025; Chen et al., "SANA-Sprint: One-Step Diffusion with Continuous-Time Consistency Distillation",
    2025.
    """

    side: int = 32
    channels: int = 32
    patch: int = 1
    width: int = 2240
    depth: int = 20
    heads: int = 70
    text_heads: int = 20
    text_width: int = 2304
    mlp_ratio: float = 2.5
    qk_norm: bool = False
    strength: bool = False
    strength_scale: float = 0.1
    span: float = 0.0
    text_inputs = EMBEDDINGS
    ranks = (3,)
    reuses = ("blocks",)
    positive = ("side", "channels", "patch", "width", "depth", "heads", "text_heads", "text_width", "mlp_ratio",
                "strength_scale")  # fmt: skip

    def check_fields(self) -> None:
        for field in ("heads", "text_heads"):
            if self.width % getattr(self, field):
                raise ValueError(f"{field}={getattr(self, field)} does not divide width={self.width}")
        if self.span < 0 or (self.span and self.width % 4):
            raise ValueError(
                f"span={self.span} must be 0, or positive together with a width that is a multiple of 4; got "
                f"width={self.width}"
            )

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, condition: Entries, features: Numbers = None, through: Through = None
    ) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: noised latents [B, H, W, C].
            t: the network's clock, [B] or [], float32 or wider; in [0, 1000] for the published weights, but in [0, 1]
                for those of SANA-Sprint.
            condition: inputs by name, see `diffusion.models.layers.conditions`:
                "text": [B, M, text_width]. "text_mask": Bool [B, M]. "strength": [B], required with `strength`.
                "identity": Bool [B, depth], see `diffusion.models.layers.layer_masks`.
            features, through: the options of every backbone, see `network_bases.Backbone`.

        Returns:
            The prediction [B, H, W, C].
        """
        inputs = entries(condition, ("text", *("strength",) * self.strength), ("text_mask", "identity"))
        network_checks.latents(self, x, t, self.channels)
        check_text(x.shape[0], self.text_width, inputs)
        check_strength(x.shape[0], inputs)
        batch, height, width, _ = x.shape
        rows, columns = height // self.patch, width // self.patch
        dense = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name="patch_embedding")
        tokens = dense(patchify(x, self.patch))
        if self.span:
            tokens = tokens + jnp.asarray(sincos_positions(rows, columns, self.width, self.span), tokens.dtype)
        tokens = layout.split(tokens, "batch", "tokens", None)
        text = nn.RMSNorm(1e-5, dtype=self.dtype, name="text_norm")(embedded_text(self, inputs["text"]))
        bias = None if inputs["text_mask"] is None else mask_bias(inputs["text_mask"])
        embedding = TimestepEmbedding(self.width, self.dtype, name="timestep_embedding")(jnp.broadcast_to(t, (batch,)))
        if self.strength:
            strength = TimestepEmbedding(self.width, self.dtype, name="strength_embedding")
            embedding = embedding + strength(self.strength_scale * inputs["strength"])

        masks = {} if inputs["identity"] is None else {"identity": inputs["identity"]}
        masks = layer_masks.parted(masks, batch, self.depth)[1]
        axes = (nn.broadcast, nn.broadcast, nn.broadcast, 0)
        fields = (rows, columns, self.heads, self.text_heads, self.mlp_ratio, self.qk_norm, self.attention, self.dtype)
        arguments = (shared_vectors(self, embedding), text, bias, masks)

        def output(tokens: jax.Array) -> jax.Array:
            vectors = table_vectors(self, embedding[:, None], tokens, 2, "final_table")
            return picture_output(tokens, embedding, layer_norm, self.patch, x.shape, self.dtype, vectors=vectors)

        return single_stack(self, SanaBlock, fields, tokens, arguments, axes, output, features, through)


MODELS = {"sana": Sana}  # by its name in configs
