"""SiD2's residual U-ViT: convolutions at the fine levels of a U-Net, transformer layers at the coarse ones.

    x [B, H, W, C] -- patches, dense -- [ residual blocks ] --+-- dense, mean of four --+-- ... next level ...
                                                              |                         |          |
                                                            high                       low       (after)
                                                              |                                    |
                                         [ residual blocks ] -+- high + up(dense(after - low)) ----+
                                                  |
                                     norm, dense, unpatchify: [B, H, W, C]

    t and the class: one embedding, by which every block is scaled and shifted

The only connections between the two sides are those drawn: one for each level, none for each block. Channels last.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays.boxes import patchify
from diffusion.models.layers import layer_masks, layout, network_checks
from diffusion.models.layers.block_features import Features
from diffusion.models.layers.blocks import Block, xavier
from diffusion.models.layers.convolutions import ResnetBlock
from diffusion.models.layers.embeddings import LabelEmbedding, TimestepEmbedding, rope_angles
from diffusion.models.layers.network_bases import Backbone, Condition, Numbers
from diffusion.models.layers.norms import layer_norm
from diffusion.models.layers.patches import picture_output
from diffusion.models.layers.resampling import double, halve
from diffusion.models.layers.scan import scanned


class ResidualUViT(Backbone):
    """The residual U-ViT: `apply(variables, x, t, condition)` is a `Network`.

    Attributes:
        widths: channels of each level, from the finest; the last is the middle's.
        blocks: number of blocks of each level but the last, on the way down and again on the way up.
        middle: transformer layers of the last level.
        transformers: number of the coarsest levels whose blocks are transformer layers, at least 1: the last.
        head_size: features of an attention head; 4 divides it, and it divides the widths of transformer layers.
        num_classes: number of classes, whose null class is label `num_classes`; 0 for an unconditional network.
        patch: side of the patches that are the pixels of the first level.
        embedding: features of the embedding of the time and the class.
        groups: number of groups of the group norms of residual blocks.
        mlp_ratio: hidden features of the MLP of a transformer layer over its width.
        remat: parts to compute again in the backward pass of transformer layers, see `DiT`.
        shape: (H, W, C) of the images for which it is made; it takes other H and W too. None: the shape of the first
            images.

    Reference: Hoogeboom et al., "Simpler Diffusion (SiD2)", 2024, section 3.2; "simple diffusion", 2023, section 3.4.
    Their code is not public: the layers come from this library's DiT and U-Net.
    """

    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    middle: int
    transformers: int = 1
    head_size: int = 64
    num_classes: int = 0
    patch: int = 2
    embedding: int = 1024
    groups: int = 32
    mlp_ratio: float = 4.0
    shape: tuple[int, int, int] | None = None
    ranks = (3,)
    layer_masks = ("skip", "identity", "borrow")
    positive = ("middle", "transformers", "head_size", "patch", "embedding", "groups", "mlp_ratio")

    def check_fields(self) -> None:
        network_checks.classes(self)
        levels = len(self.widths)
        if levels < 2 or len(self.blocks) != levels - 1 or min(self.widths) <= 0 or min(self.blocks) <= 0:
            raise ValueError(
                f"widths={self.widths}, blocks={self.blocks}: there must be at least two levels, a number of blocks "
                "for each but the last, and all must be positive"
            )
        if self.transformers > levels:
            raise ValueError(f"transformers={self.transformers} must not exceed the number of levels, {levels}")
        for level, width in enumerate(self.widths):
            divisor = self.head_size if self._has_attention(level) else self.groups
            if width % divisor or self.head_size % 4:
                raise ValueError(
                    f"widths={self.widths}, head_size={self.head_size}, groups={self.groups}: the widths of "
                    "transformer layers must be multiples of head_size, the widths of the others multiples of groups, "
                    "and head_size a multiple of 4"
                )

    def _has_attention(self, level: int) -> bool:
        return level >= len(self.widths) - self.transformers

    @property
    def feature_blocks(self) -> int:
        """Number of blocks whose features a call can return: the layers of the middle."""
        return self.middle

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, condition: Condition = None, features: Numbers = None) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: images [B, H, W, C], whose sides patch 2^(levels - 1) divides.
            t: the network's clock [B] or [], float32 or wider.
            condition: class labels int [B] in 0 .. num_classes, or None if num_classes is 0; or a dict of "label" and
                the layer masks (`diffusion.models.layers.layer_masks`) of the middle.
            features: layers of the middle whose tokens [B, N, widths[-1]] the call returns too, see
                `layers.block_features`; None: none.

        Returns:
            [B, H, W, C].
        """
        label, masks = layer_masks.parted(condition, x.shape[0], self.middle)
        self._check(x, t, label)
        recorded = Features(features, self.feature_blocks)
        batch, height, width, _ = x.shape
        init = self.is_initializing()
        dense = lambda size, name: nn.Dense(size, dtype=self.dtype, kernel_init=xavier, name=name)

        c = TimestepEmbedding(self.embedding, self.dtype, name="timestep_embedding")(jnp.broadcast_to(t, (batch,)))
        if self.num_classes:
            c = c + LabelEmbedding(self.num_classes, self.embedding, self.dtype, name="label_embedding")(label)

        def layers(h: jax.Array, number: int, name: str, masks: dict[str, jax.Array], read: Sequence[int] = ()) -> Any:
            """(the map after transformer layers over its pixels, the tokens after those that are kept)."""
            _, rows, columns, size = h.shape
            tokens = layout.split(h.reshape(batch, rows * columns, size), "batch", "tokens", None)
            stack = scanned(Block, number, self.remat, init, kept=read)
            fields = (size // self.head_size, self.mlp_ratio, "layernorm", "gelu", True, self.attention, self.dtype)
            angles = jnp.asarray(rope_angles(rows, columns, self.head_size))
            tokens, states = stack(*fields, name=name)(tokens, nn.silu(c), angles, masks)
            return tokens.reshape(h.shape), states

        def level_blocks(h: jax.Array, level: int, side: str) -> jax.Array:
            number = self.blocks[level]
            if self._has_attention(level):
                return layers(h, number, f"{side}_{level}_layers", {})[0]
            for i in range(number):
                block = ResnetBlock(self.widths[level], self.groups, scale_shift=True, dtype=self.dtype,
                                    name=f"{side}_{level}_block_{i}")  # fmt: skip
                h = block(h, c)
            return h

        patches = patchify(x, self.patch).reshape(batch, height // self.patch, width // self.patch, -1)
        h = dense(self.widths[0], "patch_embedding")(patches)
        skips = []
        for level in range(len(self.blocks)):
            high = level_blocks(h, level, "down")
            h = halve(dense(self.widths[level + 1], f"down_{level}_dense")(high))
            skips.append((high, h))
        h, states = layers(h, self.middle, "middle_layers", masks, recorded.among(self.middle))
        recorded.stack(self.middle, states or ())
        for level in reversed(range(len(self.blocks))):
            high, low = skips[level]
            h = high + double(dense(self.widths[level], f"up_{level}_dense")(h - low))
            h = level_blocks(h, level, "up")
        tokens = h.reshape(batch, -1, self.widths[0])
        return recorded.beside(picture_output(tokens, nn.silu(c), layer_norm, self.patch, x.shape, self.dtype))

    def _check(self, x, t, label):
        network_checks.labelled_images(self, x, t, label)
        least = self.patch * 2 ** len(self.blocks)
        if x.shape[1] % least or x.shape[2] % least:
            raise ValueError(
                f"ResidualUViT takes images [B, H, W, C] whose sides are multiples of {least}; got an array of shape "
                f"{x.shape}"
            )
