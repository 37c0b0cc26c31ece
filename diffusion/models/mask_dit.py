"""MaskDiT: a DiT that sees a part of the patches in training, with a small decoder that completes the picture.

     class     t             x [B, H, W, C]
       |       |                   |
     dense  sinusoid, MLP   patches, dense, + sin-cos
       +---+---+                   |
         silu: c            only patches of "keep" (in training)
           |                       |
           +--------------> [ DiT's layer ] x depth
           |                       |
           +--> shift, scale -- norm, dense, the mask's token in the place of the others, + sin-cos
           |                       |
           +--------------> [ DiT's layer, narrower ] x decoder_depth
           |                       |
           +--> shift, scale -- norm, dense, unpatchify
                                   |
                             [B, H, W, C]

Pictures and features are channels last.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays.not_a_number import nan_outside
from diffusion.models.layers import layer_masks, layout, network_checks
from diffusion.models.layers.block_features import Features
from diffusion.models.layers.blocks import Block, Modulation, zeros
from diffusion.models.layers.choices import look_up
from diffusion.models.layers.condition_embedding import time_and_class
from diffusion.models.layers.embeddings import sincos_positions
from diffusion.models.layers.kept_patches import check_keep, completed, parted_keep, picked
from diffusion.models.layers.network_bases import Backbone, Condition, Numbers
from diffusion.models.layers.norms import layer_norm
from diffusion.models.layers.patches import embedded_patches, picture_output
from diffusion.models.layers.stacks import Layered, Stack

SIZES = {  # width, depth, heads: models/maskdit.py of the authors' repository
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "XL": (1152, 28, 16),
    "H": (1280, 32, 16),
}


class MaskDiT(Layered, Backbone):
    """The MaskDiT: `apply(variables, x, t, condition)` is a `Network`.

    The paper reads it by EDM's preconditioning, and trains it by `objectives.masked_denoising`, at the end without a
    mask.

    Attributes:
        patch: side of a patch in pixels; it divides height and width.
        width: number of features of a token; 4 divides it, and so does `heads`.
        depth: number of blocks.
        heads: number of attention heads.
        num_classes: number of classes, whose null class is label `num_classes`; 0 for an unconditional network.
        decoder_width: features of a token in the decoder; 4 divides it, and so does `decoder_heads`.
        decoder_depth: number of blocks of the decoder.
        decoder_heads: attention heads of the decoder.
        mlp_ratio: hidden features of the MLP over the width.
        shape: (H, W, C) of the images for which it is made, as in the files of other libraries; it takes other H and W
            too. None: the shape of the first images.

    Reference: Zheng et al., "Fast Training of Diffusion Models with Masked Transformers", 2023.
    """

    patch: int
    width: int
    depth: int
    heads: int
    num_classes: int
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    mlp_ratio: float = 4.0
    shape: tuple[int, int, int] | None = None
    depths = ("depth", "decoder_depth")
    ranks = (3,)
    layer_masks = ("skip", "identity", "borrow")
    positive = ("patch", "width", "depth", "heads", "decoder_width", "decoder_depth", "decoder_heads", "mlp_ratio")

    def check_fields(self) -> None:
        network_checks.classes(self)
        for part in ("", "decoder_"):
            width = getattr(self, f"{part}width")
            heads = getattr(self, f"{part}heads")
            if width % heads or width % 4:
                raise ValueError(f"{part}width={width} must be a multiple of 4 and of {part}heads={heads}")

    @property
    def masks(self) -> int:
        """Side of the patches that it can do without."""
        return self.patch

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, condition: Condition = None, features: Numbers = None) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: images [B, H, W, C].
            t: the network's clock [B] or [], float32 or wider; ln(sigma) / 4 for the published ones.
            condition: class labels int [B] in 0 .. num_classes (any other gives NaN), or None if num_classes is 0; or a
                dict of "label", the layer masks (`diffusion.models.layers.layer_masks`) over all blocks, the encoder's
                first, and "keep": int [B, K], the numbers of the patches that the network sees, row by row; without it,
                all.
            features: blocks whose tokens the call returns too, [B, K or N, width] of the encoder, [B, N, decoder_width]
                of the decoder, see `layers.block_features`; None: none.

        Returns:
            [B, H, W, C].
        """
        condition, keep = parted_keep(condition)
        label, masks = layer_masks.parted(condition, x.shape[0], self.feature_blocks)
        network_checks.labelled_images(self, x, t, label)
        recorded = Features(features, self.feature_blocks)
        batch, height, width, _ = x.shape
        rows = height // self.patch
        columns = width // self.patch
        check_keep(keep, batch, rows * columns)

        tokens = picked(embedded_patches(x, self.patch, self.width, self.dtype, sincos=True), keep)
        c, _ = time_and_class(self, t, None, batch)
        if self.num_classes:  # the null class has no row: its embedding is zero
            small = nn.initializers.normal(0.02)
            table = nn.Dense(self.width, False, self.dtype, kernel_init=small, name="label_embedding")
            embedded = table(jax.nn.one_hot(label, self.num_classes))
            c = c + nan_outside(label, self.num_classes + 1, embedded)
        c = nn.silu(c)

        def stack(tokens: jax.Array, name: str, depth: int, heads: int, first: int) -> jax.Array:
            fields = (heads, self.mlp_ratio, "layernorm", "gelu", False, self.attention, self.dtype)
            part_masks = {kind: mask[first : first + depth] for kind, mask in masks.items()}
            tokens = layout.split(tokens, "batch", "tokens", None)
            return Stack(name, depth, Block, fields, (c, None, part_masks)).run(self, tokens, recorded)

        tokens = stack(tokens, "blocks", self.depth, self.heads, 0)
        shift, scale = Modulation(2, self.dtype, name="decoder_modulation")(c)
        narrow = nn.Dense(self.decoder_width, dtype=self.dtype, kernel_init=zeros, name="decoder_embedding")
        tokens = narrow(layer_norm(tokens) * (1 + scale) + shift)
        mask_token = self.param("mask_token", nn.initializers.normal(0.02), (self.decoder_width,))
        positions = jnp.asarray(sincos_positions(rows, columns, self.decoder_width), self.dtype)
        tokens = completed(tokens, keep, mask_token, rows * columns) + positions
        tokens = stack(tokens, "decoder_blocks", self.decoder_depth, self.decoder_heads, self.depth)
        return recorded.beside(picture_output(tokens, c, layer_norm, self.patch, x.shape, self.dtype))


def mask_dit_preset(size: str, num_classes: int = 1000, **options: Any) -> MaskDiT:
    """Builds a MaskDiT of a size of the authors' repository; the published network is XL/2.

    Args:
        size: "S/2" to "H/8": S, B, L, XL or H, then the side of a patch (2, 4 or 8).
        num_classes: number of classes, 0 for an unconditional network; the paper's networks have 1000.
        **options: other fields of `MaskDiT`.

    Raises:
        ValueError: for an unknown size, and as `MaskDiT`.

    Reference: Zheng et al., 2023, section 4.
    """
    presets = {
        f"{name}/{patch}": {"patch": patch, "width": width, "depth": depth, "heads": heads}
        for name, (width, depth, heads) in SIZES.items()
        for patch in (2, 4, 8)
    }
    return MaskDiT(num_classes=num_classes, **look_up(presets, size, "size"), **options)
