"""U-ViT: a transformer whose tokens are time, class or text, and patches, with long skips as in a U-Net.

    class or text   time        x [B, H, W, C]
         |            |               |
     embedding    sinusoid      patches, dense
         +------------+---------------+------ + positions
                                      |
                          [ attention, MLP ] x depth / 2 ---- skips, the last first
                                      |                                |
                               attention, MLP                          |
                                      |                                |
               [ dense of tokens and skip, attention, MLP ] x depth / 2
                                      |
                    norm, dense, unpatchify, convolution
                                      |
                               [B, H, W, C]

Pictures and features are channels last.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays.boxes import unpatchify
from diffusion.models.layers import conditions, layer_masks, layout, network_checks
from diffusion.models.layers.block_features import Features
from diffusion.models.layers.blocks import Gelu
from diffusion.models.layers.convolutions import conv
from diffusion.models.layers.cross_attention import CrossAttention
from diffusion.models.layers.embeddings import LabelEmbedding, sinusoid
from diffusion.models.layers.network_bases import Backbone, Condition, Numbers
from diffusion.models.layers.patches import embedded_patches
from diffusion.models.layers.scan import scanned

small = nn.initializers.truncated_normal(0.02)
SIZES = {  # width, depth, heads: table 1 of the paper; its depth counts the layer in the middle too
    "S": (512, 12, 8),
    "S, deep": (512, 16, 8),
    "M": (768, 16, 12),
    "L": (1024, 20, 16),
    "H": (1152, 28, 16),
}


def _norm(dtype: str, name: str) -> nn.LayerNorm:
    # The variance of centred values, not a difference of two means: checkpoints are compared in the last digits.
    return nn.LayerNorm(1e-5, dtype, use_fast_variance=False, name=name)


class UViTBlock(nn.Module):
    """x <- x + f(norm(x)), f = attention, then the MLP; before them, x <- dense([x, skip]) if there is a skip."""

    heads: int
    mlp_ratio: float
    qkv_bias: bool
    attention: str
    dtype: str

    @nn.compact
    def __call__(
        self, x: jax.Array, skip: jax.Array | None, per_layer: dict[str, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        """Args:
            x: tokens [B, T, D].
            skip: tokens [B, T, D] of the skip connection; None for no skip.
            per_layer: this layer's entries of the condition: "skip" Bool [B], or "residual" [B, T, D], which is added
                after the layer, even if it is skipped; or none.

        Returns:
            (x, x), for a scan that stacks the tokens after each layer.
        """
        width = x.shape[-1]
        before = x
        if skip is not None:
            both = jnp.concatenate([x, skip], axis=-1)
            x = nn.Dense(width, dtype=self.dtype, kernel_init=small, name="skip")(both)
        mixed = CrossAttention(
            self.heads, width // self.heads, self.qkv_bias, attention=self.attention, dtype=self.dtype, name="attention"
        )
        x = x + mixed(_norm(self.dtype, "norm_1")(x))
        x = x + Gelu(self.mlp_ratio, self.dtype, False, name="mlp")(_norm(self.dtype, "norm_2")(x))
        if "skip" in per_layer:
            x = jnp.where(per_layer["skip"][:, None, None], before, x)
        if "residual" in per_layer:
            x = x + per_layer["residual"].astype(x.dtype)
        x = layout.split(x, "batch", "tokens", None)
        return x, x


class UViT(Backbone):
    """The U-ViT: `apply(variables, x, t, condition)` is a `Network`. Its images have one size.

    Attributes:
        shape: (H, W, C) of the images.
        patch: side of a patch in pixels; it divides H and W.
        width: number of features of a token, a multiple of `heads`.
        depth: number of layers beside the one in the middle; even.
        heads: number of attention heads.
        num_classes: number of classes, whose null class is label `num_classes`; 0 for a network without classes.
        text_width: number E of features of the text's tokens; 0 for a network without text.
        text_tokens: number M of the text's tokens.
        mlp_ratio: hidden features of the MLP over `width`.
        qkv_bias: whether the projections to queries, keys and values have a bias.
        time_mlp: whether there are two layers between the sinusoids of the time and its token.
        last_conv: whether there is a convolution of 3 x 3 pixels on the output.

    Reference: Bao et al., "All are Worth Words: A ViT Backbone for Diffusion Models", 2022.
    """

    shape: tuple[int, int, int]
    patch: int
    width: int
    depth: int
    heads: int
    num_classes: int = 0
    text_width: int = 0
    text_tokens: int = 77
    mlp_ratio: float = 4.0
    qkv_bias: bool = False
    time_mlp: bool = False
    last_conv: bool = True
    one_size = True  # a position is learned for each patch
    ranks = (3,)
    positive = ("patch", "width", "depth", "heads", "text_tokens", "mlp_ratio")

    def check_fields(self) -> None:
        network_checks.heads(self)
        if self.depth % 2:
            raise ValueError(
                f"depth={self.depth} must be even, because half of the layers keep tokens for the other half"
            )
        network_checks.whole_patches(self)
        if self.num_classes < 0 or self.text_width < 0 or (self.num_classes and self.text_width):
            raise ValueError(
                f"num_classes={self.num_classes}, text_width={self.text_width}: at most one of them may be set, for a "
                "class or for a text"
            )

    @property
    def feature_blocks(self) -> int:
        """Number of blocks whose features a call can return."""
        return self.depth + 1

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, condition: Condition = None, features: Numbers = None) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: images [B, H, W, C].
            t: the network's clock [B] or [], float32 or wider; 0 .. 999 for the published ones.
            condition: None, labels int [B] in 0 .. num_classes, or a dict, see `diffusion.models.layers.conditions`:
                "label": int [B], or "text": [B, text_tokens, text_width], whichever the network takes.
                "skip": Bool [B, depth + 1], see `diffusion.models.layers.layer_masks`.
                "residuals": tuple of depth + 1 arrays [B, T, width], added to the tokens after each layer; T counts
                the class or text, the time, and the patches, in this order but for the time before a text.
            features: numbers of blocks, from 1, whose features the call returns too, see `network_bases.Backbone`.

        Returns:
            [B, H, W, C].
        """
        inputs = self._inputs(x, t, condition)
        recorded = Features(features, self.feature_blocks)
        batch, height, width, channels = x.shape
        dense = lambda features, name: nn.Dense(features, dtype=self.dtype, kernel_init=small, name=name)

        time = sinusoid(jnp.broadcast_to(t, (batch,)), self.width)[:, None].astype(self.dtype)
        if self.time_mlp:
            time = dense(self.width, "time_out")(nn.silu(dense(4 * self.width, "time_hidden")(time)))
        tokens = [time, embedded_patches(x, self.patch, self.width, self.dtype, init=small)]
        if self.num_classes:
            label = LabelEmbedding(self.num_classes, self.width, self.dtype, name="label_embedding")(inputs["label"])
            tokens.insert(0, label[:, None])
        if self.text_width:
            tokens.insert(1, dense(self.width, "text_embedding")(inputs["text"]))
        tokens = jnp.concatenate(tokens, axis=1)
        tokens = tokens + self.param("positions", small, tokens.shape[1:]).astype(tokens.dtype)
        tokens = layout.split(tokens, "batch", "tokens", None)

        per_layer = self._per_layer(inputs, tokens)
        half = self.depth // 2
        part = lambda start, stop: jax.tree.map(lambda entry: entry[start:stop], per_layer)
        fields = (self.heads, self.mlp_ratio, self.qkv_bias, self.attention, self.dtype)
        tokens, skips = self._stack(nn.broadcast)(*fields, name="in_blocks")(tokens, None, part(0, half))
        middle = jax.tree.map(lambda entry: entry[half], per_layer)
        patches = lambda tokens: tokens[:, -(height // self.patch) * (width // self.patch) :]
        recorded.stack(half, [patches(skips[layer - 1]) for layer in recorded.among(half)])
        tokens, _ = UViTBlock(*fields, name="middle_block")(tokens, None, middle)
        recorded.block(patches(tokens))
        out_blocks = self._stack(0, recorded.among(half), patches)(*fields, name="out_blocks")
        tokens, states = out_blocks(tokens, skips[::-1], part(half + 1, None))
        recorded.stack(half, states if recorded.among(half) else ())

        tokens = _norm(self.dtype, "norm")(patches(tokens))
        # In float32: bfloat16 would round the output to 8 bits.
        last = nn.Dense(self.patch**2 * channels, dtype=jnp.float32, kernel_init=small, name="final")
        out = unpatchify(last(tokens), self.patch, height, width)
        return recorded.beside(conv(channels, name="final_conv")(out) if self.last_conv else out)

    def _stack(self, skips: Any, kept: Sequence[int] = (), pick: Any = None) -> Any:
        """Half of the layers as a scan; `skips`: the axis of the layers in the second argument."""
        return scanned(UViTBlock, self.depth // 2, self.remat, self.is_initializing(), (skips, 0), kept=kept, pick=pick)

    def _per_layer(self, inputs: dict[str, Any], tokens: jax.Array) -> dict[str, jax.Array]:
        """The entries of the condition that belong to single layers, each with the layers as first axis."""
        layers = self.depth + 1
        per_layer = {}
        if inputs["skip"] is not None:
            per_layer |= layer_masks.parted({"skip": inputs["skip"]}, tokens.shape[0], layers)[1]
        residuals = inputs["residuals"]
        if residuals is not None:
            shapes = {a.shape for a in residuals} if isinstance(residuals, tuple) else set()
            if shapes != {tokens.shape} or len(residuals) != layers:
                raise ValueError(
                    f"the condition's 'residuals' must be a tuple of depth + 1 = {layers} arrays of the tokens' shape "
                    f"{tokens.shape}"
                )
            per_layer["residual"] = jnp.stack(residuals)
        return per_layer

    def _inputs(self, x: jax.Array, t: jax.Array, condition: Any) -> dict[str, Any]:
        """The entries of the condition, once all shapes are checked."""
        if x.shape[1:] != tuple(self.shape):
            raise ValueError(
                f"this U-ViT takes images [B, *shape] = [B, {', '.join(map(str, self.shape))}]; got an "
                f"array of shape {x.shape}"
            )
        network_checks.times(self, x, t)
        if self.num_classes and condition is not None and not isinstance(condition, dict):
            condition = {"label": condition}
        required = ("label",) * bool(self.num_classes) + ("text",) * bool(self.text_width)
        inputs = conditions.entries(condition, required, ("skip", "residuals"))
        text = inputs.get("text")
        conditions.check_label(inputs.get("label"), len(x), self.num_classes)
        if text is not None and text.shape != (len(x), self.text_tokens, self.text_width):
            raise ValueError(
                f"the condition's 'text' must be [B, text_tokens, text_width] = ({len(x)}, {self.text_tokens}, "
                f"{self.text_width}); got {text.shape}"
            )
        return inputs
