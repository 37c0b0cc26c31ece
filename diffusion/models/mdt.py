"""MDTv2: a DiT with long skips that, in training, also completes pictures from a part of their patches.

     class     t                x [B, H, W, C]
       |       |                      |
    embedding  sinusoid, MLP   patches, dense, + positions --------+
       +---+---+                      |                            |
         silu: c              only patches of "keep"               |
           |                  (in training)                        |
           +---------------> [ layer ] ----> tokens                |
           |                      |             |  (last in,       |
           +---------------> [ dense of both, layer ] first out)   |
           |                      |                                |
           |            the mask's token in the place of the       |
           |            others, + positions, one layer for those   |
           |                      |                                |
           +---------------> [ dense of both, layer ] <------------+
           |                      |
           +--> shift, scale -- norm, dense, unpatchify
                                  |
                            [B, H, W, C or 2 C]

A layer is DiT's, whose attention has a learned bias for each distance of two patches. Channels last.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.layers import conditions, layer_masks, layout, network_checks
from diffusion.models.layers.block_features import Features
from diffusion.models.layers.blocks import Attention, Gelu, Modulation, xavier
from diffusion.models.layers.choices import look_up
from diffusion.models.layers.condition_embedding import condition_vector, time_and_class
from diffusion.models.layers.embeddings import sincos_positions
from diffusion.models.layers.kept_patches import check_keep, completed, parted_keep, picked
from diffusion.models.layers.network_bases import Backbone, Condition, Numbers
from diffusion.models.layers.norms import layer_norm
from diffusion.models.layers.patches import embedded_patches, picture_output
from diffusion.models.layers.scan import scanned
from diffusion.models.layers.stacks import Layered

SIZES = {  # masked_diffusion/models.py of the authors' repository
    "S/2": {"width": 384, "depth": 12, "heads": 6},
    "B/2": {"width": 768, "depth": 12, "heads": 12},
    "L/2": {"width": 1024, "depth": 24, "heads": 16},
    "XL/2": {"width": 1152, "depth": 28, "heads": 16},
}


def distances(rows: int, columns: int) -> np.ndarray:
    """Numbers of the distances between the tokens of a grid.

        out[n, m] = (row_n - row_m + rows - 1) (2 columns - 1) + column_n - column_m + columns - 1

    Args:
        rows: tokens in a column of the grid, > 0.
        columns: tokens in a row, > 0.

    Returns:
        int32 [rows columns, rows columns], from 0 to (2 rows - 1) (2 columns - 1) - 1.

    Reference: Bao et al., "BEiT", 2022, whose code MDT uses.
    """
    row, column = np.divmod(np.arange(rows * columns), columns)
    away = lambda place, number: place[:, None] - place[None] + number - 1
    return (away(row, rows) * (2 * columns - 1) + away(column, columns)).astype(np.int32)


class MDTBlock(nn.Module):
    """A layer of DiT with relative positions; before it, x <- dense([x, skip]) if there is a skip."""

    heads: int
    mlp_ratio: float
    number: int  # number of distances
    attention: str
    dtype: str

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        skip: jax.Array | None,
        c: jax.Array,
        distance: jax.Array,
        absent: jax.Array | None,
        masks: dict[str, jax.Array],
    ) -> tuple[jax.Array, jax.Array]:
        """Args:
            x: tokens [B, K, D].
            skip: tokens [B, K, D] of the skip connection; None for no skip.
            c: condition [B, D].
            distance: index of the distance between two tokens, int [B or 1, K, K].
            absent: numbers [B, 1, 1, K] that are added to the scores of the keys; None for none.
            masks: this layer's masks, Bool [B] each.

        Returns:
            (x, x), for a scan that stacks the tokens after each layer.
        """
        before = x
        if skip is not None:
            both = jnp.concatenate([x, skip], axis=-1)
            x = nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=xavier, name="skip")(both)
        vectors = Modulation(6, self.dtype, name="modulation")(c)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = vectors
        table = self.param("relative_positions", nn.initializers.truncated_normal(0.02), (self.number, self.heads))
        bias = table[distance].transpose(0, 3, 1, 2)
        bias = bias if absent is None else bias + absent
        mixed = Attention(self.heads, False, self.attention, self.dtype, name="attention")
        x = x + gate_a * mixed(layer_norm(x) * (1 + scale_a) + shift_a, None, masks, bias)
        x = x + gate_m * Gelu(self.mlp_ratio, self.dtype, name="mlp")(layer_norm(x) * (1 + scale_m) + shift_m)
        if "skip" in masks:
            x = jnp.where(masks["skip"][:, None, None], before, x)
        x = layout.split(x, "batch", "tokens", None)
        return x, x


class MDT(Layered, Backbone):
    """The MDTv2: `apply(variables, x, t, condition)` is a `Network`. Its images have one size.

    The paper trains it by `objectives.hybrid` with `objectives.with_masked_copy`.

    Attributes:
        shape: (H, W, C) of the images.
        patch: side of a patch in pixels; it divides H and W.
        width: number of features of a token; 4 divides it, and so does `heads`.
        depth: number of blocks, the decoder's included.
        heads: number of attention heads.
        num_classes: number of classes, whose null class is label `num_classes`; 0 for an unconditional network.
        decoder_depth: number of blocks after the place where masked patches are completed; depth - decoder_depth is
            even.
        learn_sigma: whether the output has 2 C channels, the last C for the variance (Nichol & Dhariwal, 2021).
        mlp_ratio: hidden features of the MLP over `width`.

    Reference: Gao et al., "Masked Diffusion Transformer is a Strong Image Synthesizer", 2023 (its second version).
    """

    shape: tuple[int, int, int]
    patch: int
    width: int
    depth: int
    heads: int
    num_classes: int
    decoder_depth: int = 4
    learn_sigma: bool = False
    mlp_ratio: float = 4.0
    masks_vary = True
    one_size = True  # a position is learned for each patch, and a bias for each distance
    ranks = (3,)
    layer_masks = ("skip", "identity", "borrow")
    positive = ("patch", "width", "depth", "heads", "decoder_depth", "mlp_ratio")

    def check_fields(self) -> None:
        network_checks.classes(self)
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"width={self.width} must be a multiple of 4 and of heads={self.heads}")
        if self.depth <= self.decoder_depth or (self.depth - self.decoder_depth) % 2:
            raise ValueError(
                f"depth={self.depth}, decoder_depth={self.decoder_depth}: their difference must be positive and even, "
                "because half of those blocks keep tokens for the other half"
            )
        network_checks.whole_patches(self)

    @property
    def masks(self) -> int:
        """Side of the patches that it can do without."""
        return self.patch

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, condition: Condition = None, features: Numbers = None) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: images [B, H, W, C].
            t: the network's clock [B] or [], float32 or wider; 0 .. 999 for the published ones.
            condition: class labels int [B] in 0 .. num_classes, or None if num_classes is 0; or a dict of "label", the
                layer masks (`diffusion.models.layers.layer_masks`), and "keep": int [B, K], the numbers of the patches
                that the network sees, row by row, -1 for none; without it, all.
            features: blocks whose tokens [B, N, width] the call returns too ([B, K, width] of kept patches before the
                decoder), see `layers.block_features`; None: none.

        Returns:
            [B, H, W, C], or [B, H, W, 2 C] with `learn_sigma`.
        """
        condition, keep = parted_keep(condition)
        label, masks = layer_masks.parted(condition, x.shape[0], self.depth)
        self._check(x, t, label)
        recorded = Features(features, self.feature_blocks)
        batch, height, width, _ = x.shape
        rows = height // self.patch
        columns = width // self.patch
        check_keep(keep, batch, rows * columns)
        init = self.is_initializing()
        half = (self.depth - self.decoder_depth) // 2

        start = lambda key, shape: jnp.asarray(sincos_positions(rows, columns, self.width))
        positions = lambda name: self.param(name, start, (rows * columns, self.width)).astype(self.dtype)
        tokens = embedded_patches(x, self.patch, self.width, self.dtype)
        all_tokens = layout.split(tokens + positions("positions"), "batch", "tokens", None)
        time, class_vector = time_and_class(self, t, label, batch)
        c = condition_vector(time, class_vector)

        between = jnp.asarray(distances(rows, columns))[None]
        fields = (self.heads, self.mlp_ratio, (2 * rows - 1) * (2 * columns - 1) + 3, self.attention, self.dtype)
        part_masks = lambda first, length: {name: mask[first : first + length] for name, mask in masks.items()}
        every = nn.broadcast

        def stack(skips: Any, length: int, name: str, read: Sequence[int] = ()) -> Any:
            axes = (skips, every, every, every, 0)
            return scanned(MDTBlock, length, self.remat, init, axes, kept=read)(*fields, name=name)

        distance = between
        absent = None
        if keep is not None:
            places = keep % (rows * columns)
            distance = between[0][places[:, :, None], places[:, None, :]]
            absent = jnp.where(keep < 0, -1e9, 0.0)[:, None, None]
        tokens, skips = stack(every, half, "in_blocks")(
            picked(all_tokens, keep), None, c, distance, absent, part_masks(0, half)
        )
        recorded.stack(half, [skips[layer - 1] for layer in recorded.among(half)])
        out_blocks = stack(0, half, "out_blocks", recorded.among(half))
        tokens, states = out_blocks(tokens, skips[::-1], c, distance, absent, part_masks(half, half))
        recorded.stack(half, states if recorded.among(half) else ())

        mask_token = self.param("mask_token", nn.initializers.normal(0.02), (self.width,))
        tokens = completed(tokens, keep, mask_token, rows * columns) + positions("decoder_positions")
        if keep is not None or init:
            side, _ = MDTBlock(*fields, name="side_block")(tokens, None, c, between, None, {})
            if keep is not None:
                there = completed(jnp.ones((*keep.shape, 1)), keep, jnp.zeros(1), rows * columns)
                tokens = jnp.where(there > 0, tokens, side)
        decoder = stack(every, self.decoder_depth, "decoder_blocks", recorded.among(self.decoder_depth))
        tokens, states = decoder(tokens, all_tokens, c, between, None, part_masks(2 * half, self.decoder_depth))
        recorded.stack(self.decoder_depth, states if recorded.among(self.decoder_depth) else ())
        output = picture_output(tokens, c, layer_norm, self.patch, x.shape, self.dtype, self.learn_sigma)
        return recorded.beside(output)

    def _check(self, x, t, label):
        if x.shape[1:] != tuple(self.shape):
            raise ValueError(
                f"this MDT takes images [B, *shape] = [B, {', '.join(map(str, self.shape))}]; got an array of shape "
                f"{x.shape}"
            )
        network_checks.times(self, x, t)
        conditions.check_label(label, x.shape[0], self.num_classes)


def mdt_preset(size: str, num_classes: int = 1000, shape: tuple[int, int, int] = (32, 32, 4), **options: Any) -> MDT:
    """Builds an MDTv2 of a published size.

    Args:
        size: "S/2", "B/2", "L/2" or "XL/2".
        num_classes: number of classes, 0 for an unconditional network; the paper's networks have 1000.
        shape: (H, W, C) of its images; the paper's are latents of 256 pixels.
        **options: other fields of `MDT`; the paper's networks have learn_sigma=True.

    Raises:
        ValueError: for an unknown size, and as `MDT`.

    Reference: Gao et al., 2023, section 4.
    """
    return MDT(shape=shape, patch=2, num_classes=num_classes, **look_up(SIZES, size, "size"), **options)
