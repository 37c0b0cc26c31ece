"""DDT: a transformer that encodes the noisy image and, conditioned by that token by token, decodes the velocity.

     class     t            x [B, H, W, C]                    x
       |       |                  |                           |
    embedding  features, MLP   patches, dense              patches, dense
       +---+---+                  |                           |
         silu: c --> [ DiT's layer ] x depth                  |
               |                  |                           |
               +-- t: add, silu, dense: s [B, N, D'] --> [ DiT's layer, modulated by s ] x decoder_depth
                                  |                           |
                                  +---- shift, scale --- norm, dense, unpatchify
                                                              |
                                                        [B, H, W, C]

Two papers have it: DDT (Wang et al., 2025), with a decoder as wide as the encoder, and DiT^DH of RAE (Zheng et al.,
2025), a LightningDiT as the encoder with a shallow, wide head.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.layers import layer_masks, layout, network_checks
from diffusion.models.layers.block_features import Features
from diffusion.models.layers.blocks import BLOCK_NORMS, MLPS, Block, normalisation, xavier
from diffusion.models.layers.choices import look_up
from diffusion.models.layers.condition_embedding import condition_vector, time_and_class
from diffusion.models.layers.embeddings import FourierEmbedding, TimestepEmbedding, rope_angles
from diffusion.models.layers.network_bases import Backbone, Condition, Numbers
from diffusion.models.layers.patches import embedded_patches, picture_output
from diffusion.models.layers.stacks import Layered, Stack


class DDT(Layered, Backbone):
    """The decoupled diffusion transformer: `apply(variables, x, t, condition)` is a `Network`.

    The defaults are DDT's; `DIT_DH` holds DiT^DH's. Parameters are float32 whatever the compute type, and so is
    the output. Both stacks of layers are scanned.

    Attributes:
        patch: side of a patch in pixels; it divides height and width.
        width: number of features of a token of the encoder.
        depth: number of its blocks.
        heads: its attention heads.
        decoder_width: features of a token of the decoder; if it is another, a dense layer leads there.
        decoder_depth: number of its blocks.
        decoder_heads: its attention heads.
        num_classes: number of classes, whose null class is label `num_classes`; 0 for an unconditional network.
        mlp_ratio: hidden features of the MLP over the width.
        norm: norm of the blocks: "layernorm", "rmsnorm" or "scaled_rmsnorm", whose scales are learned.
        final_norm: norm of the last layer, one of the same names.
        mlp: "gelu" or "swiglu".
        bias: whether the layers of queries, keys and values, and of the MLP, have biases.
        qk_norm: whether queries and keys are RMS-normalised, with a learned scale.
        positions: "rope" (rotary, in every attention) or "sincos_rope", also fixed ones added to the encoder's tokens.
        span: rotary position of the last row and column, see `rope_angles`; 0 for whole numbers.
        clock: "positional", sinusoids of periods up to 20 pi, or "fourier" features of the time, with random constant
            frequencies.
        silu_again: whether the blocks apply SiLU to their condition, to which SiLU was applied before.
        unroll: number of blocks in one turn of a scan, as `DiT`.
        shape: (H, W, C) of the images for which it is made, as in the files of other libraries; it takes other H and W
            too. None: the shape of the first images.

    Reference: Wang et al., "DDT: Decoupled Diffusion Transformer", 2025, section 3.2; Zheng et al., "Diffusion
    Transformers with Representation Autoencoders", 2025, section 5.
    """

    patch: int
    width: int
    depth: int
    heads: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    num_classes: int
    mlp_ratio: float = 4.0
    norm: str = "scaled_rmsnorm"
    final_norm: str = "layernorm"
    mlp: str = "swiglu"
    bias: bool = False
    qk_norm: bool = True
    positions: str = "rope"
    span: float = 16.0
    clock: str = "positional"
    silu_again: bool = False
    unroll: int = 0
    shape: tuple[int, int, int] | None = None
    depths = ("depth", "decoder_depth")
    ranks = (3,)
    layer_masks = ("skip", "identity", "borrow")
    positive = ("patch", "width", "depth", "heads", "decoder_width", "decoder_depth", "decoder_heads", "mlp_ratio")
    choices = Backbone.choices | {
        "norm": BLOCK_NORMS,
        "final_norm": BLOCK_NORMS,
        "mlp": MLPS,
        "positions": ("rope", "sincos_rope"),
        "clock": ("positional", "fourier"),
    }

    def check_fields(self) -> None:
        network_checks.positive(self, ("num_classes", "span", "unroll"), zero=True)
        for part in ("", "decoder_"):
            width = getattr(self, f"{part}width")
            heads = getattr(self, f"{part}heads")
            if width % heads:
                raise ValueError(f"{part}heads={heads} does not divide {part}width={width}")
            if width // heads % 4:
                raise ValueError(
                    f"{part}width / {part}heads = {width // heads} must be a multiple of 4, for axial rotary positions"
                )

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, condition: Condition = None, features: Numbers = None) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: images [B, H, W, C].
            t: the network's clock, [B] or [], float32 or wider; in [0, 1].
            condition: class labels int [B] in 0 .. num_classes, or None if num_classes is 0; or a dict of "label" and
                the layer masks (`diffusion.models.layers.layer_masks`) over all blocks, the encoder's first.
            features: blocks whose tokens the call returns too, [B, N, width] of the encoder and [B, N, decoder_width]
                of the decoder, see `layers.block_features`; None: none.

        Returns:
            [B, H, W, C].
        """
        label, masks = layer_masks.parted(condition, x.shape[0], self.feature_blocks)
        network_checks.labelled_images(self, x, t, label)
        recorded = Features(features, self.feature_blocks)
        batch, height, width, _ = x.shape
        rows = height // self.patch
        columns = width // self.patch

        sinusoids = functools.partial(TimestepEmbedding, max_period=10.0)
        times = FourierEmbedding if self.clock == "fourier" else sinusoids
        time, class_vector = time_and_class(self, t, label, batch, times)
        c = condition_vector(time, class_vector)

        def stack(tokens: jax.Array, c: jax.Array, name: str, depth: int, heads: int, first: int) -> jax.Array:
            angles = rope_angles(rows, columns, tokens.shape[-1] // heads, span=self.span or None)
            tokens = layout.split(tokens, "batch", "tokens", None)
            fields = (self.norm, self.mlp, self.qk_norm, self.attention, self.dtype, self.bias)
            part_masks = {kind: mask[first : first + depth] for kind, mask in masks.items()}
            arguments = (c, jnp.asarray(angles), part_masks)
            blocks = Stack(name, depth, Block, (heads, self.mlp_ratio, *fields), arguments, unroll=self.unroll)
            return blocks.run(self, tokens, recorded)

        again = nn.silu if self.silu_again else lambda c: c
        s = embedded_patches(x, self.patch, self.width, self.dtype, self.positions == "sincos_rope")
        s = stack(s, again(c), "blocks", self.depth, self.heads, 0)
        s = nn.silu(time[:, None] + s)
        if self.decoder_width != self.width:
            s = nn.Dense(self.decoder_width, dtype=self.dtype, kernel_init=xavier, name="decoder_condition")(s)
        s = again(s)
        tokens = embedded_patches(x, self.patch, self.decoder_width, self.dtype, name="decoder_patch_embedding")
        tokens = stack(tokens, s, "decoder_blocks", self.decoder_depth, self.decoder_heads, self.depth)
        norm = normalisation(self.final_norm, "final_norm", self.dtype)
        return recorded.beside(picture_output(tokens, s, norm, self.patch, x.shape, self.dtype))


def _sizes(width: int, depth: int, heads: int, decoder_depth: int) -> dict[str, int]:
    return {
        "width": width,
        "depth": depth,
        "heads": heads,
        "decoder_width": width,
        "decoder_depth": decoder_depth,
        "decoder_heads": heads,
    }


# Depths of encoder and decoder: the paper's table 2, and its code's configs/repa_improved_ddt_xlen22de6_512.yaml.
DDT_SIZES = {"B": _sizes(768, 8, 12, 4), "L": _sizes(1024, 20, 16, 4), "XL": _sizes(1152, 22, 16, 6)}
DIT_DH = {
    "final_norm": "scaled_rmsnorm",
    "bias": True,
    "qk_norm": False,
    "positions": "sincos_rope",
    "span": 0.0,
    "clock": "fourier",
    "silu_again": True,
}
HEAD = {"decoder_width": 2048, "decoder_depth": 2, "decoder_heads": 16}
# configs/training/ImageNet256/DiTDH-*.yaml of RAE's code.
DIT_DH_SIZES = {
    "S": {"width": 384, "depth": 12, "heads": 6, **HEAD},
    "XL": {"width": 1152, "depth": 28, "heads": 16, **HEAD},
}


def ddt_preset(size: str, num_classes: int, **options: Any) -> DDT:
    """Builds a DDT of a published size.

    Args:
        size: "B/2", "L/2" or "XL/2": 8, 20 or 22 blocks of the encoder, 4, 4 or 6 of the decoder. The published network
            is XL/2, with 675M parameters.
        num_classes: number of classes, 0 for an unconditional network; the paper's networks have 1000.
        **options: other fields of `DDT`.

    Returns:
        The module, without parameters. Its clock is 1 - t (`parameterizations.reversed_time`), as SiT's.

    Raises:
        ValueError: for an unknown size, and as `DDT`.

    Reference: Wang et al., 2025, table 2.
    """
    sizes = {f"{name}/2": {"patch": 2, **fields} for name, fields in DDT_SIZES.items()}
    return DDT(num_classes=num_classes, **look_up(sizes, size, "size"), **options)


def dit_dh_preset(size: str, num_classes: int, **options: Any) -> DDT:
    """Builds a DiT^DH of a published size: a LightningDiT with a head of two layers of width 2048.

    Args:
        size: "S/1" or "XL/1", of 839M parameters, for latents (16, 16, 768) of RAE.
        num_classes: number of classes, 0 for an unconditional network; the paper's networks have 1000.
        **options: other fields of `DDT`.

    Returns:
        The module, without parameters. Its clock is t itself.

    Raises:
        ValueError: for an unknown size, and as `DDT`.

    Reference: Zheng et al., 2025, section 5.
    """
    sizes = {f"{name}/1": {"patch": 1, **fields} for name, fields in DIT_DH_SIZES.items()}
    return DDT(num_classes=num_classes, **look_up(sizes, size, "size"), **(DIT_DH | options))
