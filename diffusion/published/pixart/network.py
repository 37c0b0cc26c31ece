"""PixArt: a diffusion transformer with cross-attention to the prompt and one embedding of the time for all layers.

    text [B, M, E] -- dense, gelu, dense      x [B, H, W, C]
                              |                     |
                              |             patches, dense, + positions
                              |                     |
    t (and the size) --+--> [ attention to itself, shifted, scaled and gated by table + c      ]
        |              |    [ attention to the text                                            ]  x depth
    dense: c [6, D] ---+    [ MLP, shifted, scaled and gated by table + c                      ]
        |                                           |
        +----- table + t: shift, scale ------ norm, dense, unpatchify
                                                    |
                                               [B, H, W, 2 C]

Pictures and features are channels last.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays.boxes import patchify
from diffusion.models.layers import extra_attention, layer_masks, layout, network_checks
from diffusion.models.layers.attention import mask_bias
from diffusion.models.layers.blocks import xavier
from diffusion.models.layers.conditions import EMBEDDINGS, entries
from diffusion.models.layers.embeddings import TimestepEmbedding, sincos_positions
from diffusion.models.layers.extra_attention import ExtraLayer
from diffusion.models.layers.joint_conditions import check_residuals, check_strength, check_text
from diffusion.models.layers.network_bases import Backbone, Entries, Numbers, Through
from diffusion.models.layers.norms import layer_norm
from diffusion.models.layers.patches import picture_output
from diffusion.models.layers.pixart_block import PixArtBlock, embedded_text, shared_vectors, table_vectors
from diffusion.models.layers.stacks import Layered, single_stack


class PixArt(Layered, Backbone):
    """The transformer of PixArt-alpha and PixArt-Sigma: `apply(variables, x, t, condition)` is a `Network`.

    Attributes:
        shape: (H, W, C) of the latents in training; other H and W that `patch` divides are valid too.
        patch: side of a patch in pixels of the latents.
        width: number of features of a token; a multiple of 4 and of `heads`, and with `sized` also of 3.
        depth: number of layers.
        heads: number of attention heads.
        text_width: number E of features of the text's tokens.
        mlp_ratio: number of hidden features of the MLP, divided by `width`.
        learn_sigma: whether the output has 2 C channels, the last C for the variance (Nichol & Dhariwal, 2021).
        sized: whether the network receives the size of the picture, as PixArt-alpha for 1024 pixels does.
        strength: whether the network receives the scale of the guidance that it imitates; 1 means no guidance.
        span: range of the positions of patches along each side, which lie in [0, span) for a picture of any size.

    Reference: Chen et al., "PixArt-alpha: Fast Training of Diffusion Transformer for Photorealistic Text-to-Image
    Synthesis", 2023; Chen et al., "PixArt-Sigma: Weak-to-Strong Training of Diffusion Transformer for 4K Text-to-Image
    Generation", 2024.
    """

    shape: tuple[int, int, int] = (64, 64, 4)
    patch: int = 2
    width: int = 1152
    depth: int = 28
    heads: int = 16
    text_width: int = 4096
    mlp_ratio: float = 4.0
    learn_sigma: bool = True
    sized: bool = False
    strength: bool = False
    span: float = 32.0
    text_inputs = EMBEDDINGS
    ranks = (3,)
    reuses = ("blocks",)
    positive = ("patch", "width", "depth", "heads", "text_width", "mlp_ratio", "span")

    def check_fields(self) -> None:
        network_checks.heads(self)
        if self.width % 4 or (self.sized and self.width % 3):
            raise ValueError(
                f"width={self.width} must be a multiple of 4, for 2-D sin-cos positions, and with sized=True also of 3"
            )

    def extra_layers(self, height: int, width: int) -> tuple[ExtraLayer, ...]:
        """The widths and grids of the layers, for image prompts ("extra"), at latents of these sides."""
        return (ExtraLayer(self.width, height // self.patch, width // self.patch),) * self.depth

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, condition: Entries, features: Numbers = None, through: Through = None
    ) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: noised latents [B, H, W, C].
            t: the network's clock, [B] or [], float32 or wider; from 0 to 999 for the published weights.
            condition: inputs by name, see `diffusion.models.layers.conditions`:
                "text": T5's states [B, M, text_width]. "text_mask": Bool [B, M].
                "size": [B, 6], required with `sized`. Of it the network reads the original height and width (numbers 0
                and 1) and the ratio of the requested height to the requested width (numbers 4 and 5).
                "strength": [B], required with `strength`.
                "skip", "identity", "borrow": [B, depth], see `diffusion.models.layers.layer_masks`.
                "residuals": tuple of up to `depth` arrays [B, N, width]; the k-th is added to the tokens after layer k.
                "extra": image prompts, see `extra_attention`.
            features, through: the options of every backbone, see `network_bases.Backbone`.

        Returns:
            The prediction [B, H, W, C], or [B, H, W, 2 C] with `learn_sigma`.
        """
        required = ("text", *("size",) * self.sized, *("strength",) * self.strength)
        inputs = entries(condition, required, ("text_mask", *layer_masks.KINDS, "residuals", "extra"))
        self._check(x, t, inputs)
        batch, height, width, _ = x.shape
        dense = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name="patch_embedding")
        tokens = dense(patchify(x, self.patch))
        positions = sincos_positions(height // self.patch, width // self.patch, self.width, self.span)
        tokens = layout.split(tokens + jnp.asarray(positions, tokens.dtype), "batch", "tokens", None)
        text = embedded_text(self, inputs["text"])
        bias = None if inputs["text_mask"] is None else mask_bias(inputs["text_mask"])

        embedding = TimestepEmbedding(self.width, self.dtype, name="timestep_embedding")(jnp.broadcast_to(t, (batch,)))
        if self.sized:
            embedding = embedding + self._size(inputs["size"])
        if self.strength:
            strength = TimestepEmbedding(self.width, self.dtype, name="strength_embedding")
            embedding = embedding + strength(1000 * (inputs["strength"] - 1))

        axes = (nn.broadcast, nn.broadcast, nn.broadcast, 0)
        fields = (self.heads, self.mlp_ratio, self.attention, self.dtype)
        arguments = (shared_vectors(self, embedding), text, bias, self._per_layer(inputs, batch))

        def output(tokens: jax.Array) -> jax.Array:
            vectors = table_vectors(self, embedding[:, None], tokens, 2, "final_table")
            return picture_output(
                tokens, embedding, layer_norm, self.patch, x.shape, self.dtype, self.learn_sigma, vectors=vectors
            )

        return single_stack(self, PixArtBlock, fields, tokens, arguments, axes, output, features, through)

    @staticmethod
    def text_states(params: Mapping[str, Any], text: Any) -> jax.Array:
        """The text as the cross-attention reads it: gelu(text W_hidden + b_hidden) W_out + b_out.

        Args:
            params: parameters of the network.
            text: the text encoder's states [..., text_width].

        Returns:
            Features of the text [..., width].
        """
        dense = lambda x, name: x @ params[name]["kernel"] + params[name]["bias"]
        return dense(nn.gelu(dense(jnp.asarray(text), "text_hidden"), approximate=True), "text_out")

    def spread(self, residuals: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        """One residual for each of the `depth` layers: the given ones for the first layers, zeros for the others."""
        return (*residuals, *[jnp.zeros_like(residuals[0])] * (self.depth - len(residuals)))

    def _size(self, size: jax.Array) -> jax.Array:
        """The embedding [B, width] of sizes [B, 6].

        A third of its features each is for the original height, the original width, and the requested ratio.
        """
        third = lambda name: TimestepEmbedding(self.width // 3, self.dtype, name=name)
        original = third("original_embedding")(size[:, :2].reshape(-1)).reshape(size.shape[0], -1)
        return jnp.concatenate([original, third("ratio_embedding")(size[:, 4] / size[:, 5])], axis=-1)

    def _per_layer(self, inputs: dict[str, Any], batch: int) -> dict[str, Any]:
        """The entries of the condition that belong to single layers, each with a first axis of length `depth`."""
        masks = {name: inputs[name] for name in layer_masks.KINDS if inputs[name] is not None}
        per_layer: dict[str, Any] = layer_masks.parted(masks, batch, self.depth)[1]
        if inputs["extra"] is not None:
            per_layer["extra"] = extra_attention.stacked(inputs["extra"], 0, self.depth)
        if inputs["residuals"] is not None:
            per_layer["residual"] = jnp.stack(self.spread(inputs["residuals"]))
        return per_layer

    def _check(self, x: jax.Array, t: jax.Array, inputs: dict[str, Any]) -> None:
        network_checks.latents(self, x, t, self.shape[-1])
        batch = x.shape[0]
        check_text(batch, self.text_width, inputs)
        check_strength(batch, inputs)
        size = inputs.get("size")
        if size is not None and size.shape != (batch, 6):
            raise ValueError(f"the condition's 'size' must be [B, 6] = ({batch}, 6); got {size.shape}")
        tokens = (batch, x.shape[1] * x.shape[2] // self.patch**2, self.width)
        check_residuals(inputs["residuals"], tokens, self.depth)
        extra_attention.check(inputs["extra"], x.shape[0], self.extra_layers(*x.shape[1:3]))


MODELS = {"pixart": PixArt}  # by its name in configs
