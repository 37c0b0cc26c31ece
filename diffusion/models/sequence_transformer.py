"""A transformer of sequences: series, sound in patches, latents of a line; DiT's layers with positions on one axis.

 class   vector   t               x [B, L, C]    (given, mask, real)
   |       |      |                    |
embedding dense sinusoid, MLP     patches, dense, + sin-cos
   +-------+------+                    |
     silu: c --> [ norm, shift, scale, attention, gate ]
       |         [ norm, shift, scale, MLP, gate       ]  x depth
       |                               |
       +------> shift, scale -- norm, dense, unpatchify --> [B, L, C]    (+ gain * x)
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.layers import conditions, layout, network_checks
from diffusion.models.layers.block_features import Features
from diffusion.models.layers.blocks import MLPS, Block, modulated_output, xavier
from diffusion.models.layers.condition_embedding import ConditionEmbedding, check_fields
from diffusion.models.layers.network_bases import Backbone, Clock, Condition, Numbers
from diffusion.models.layers.norms import NORMS
from diffusion.models.layers.stacks import Layered, Stack


def line_positions(length: int, size: int) -> np.ndarray:
    """Fixed sin-cos embedding of positions 0 .. length - 1: [sin(n w), cos(n w)], w[k] = 10000^(-k / (size / 2)).

    Args:
        length: number of tokens.
        size: number of features, even.

    Returns:
        [length, size], float32 (computed in float64).

    Reference: Vaswani et al., "Attention Is All You Need", 2017, section 3.5.
    """
    angles = np.multiply.outer(np.arange(length), 10_000.0 ** (-np.arange(size // 2) / (size // 2)))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def line_angles(length: int, head_size: int, theta: float = 10_000.0) -> np.ndarray:
    """Angles of the rotary embedding of positions 0 .. length - 1, in the layout that `embeddings.rotate` reads.

        out[n, j, i] = n w[2 i + j],   w[k] = theta^(-k / (head_size / 2)),   k = 0 .. head_size / 2 - 1

    Args:
        length: number of tokens.
        head_size: number of features of a head, a multiple of 4.
        theta: base of the frequencies.

    Returns:
        [length, 2, head_size / 4] in radians, float32 (computed in float64).

    Reference: Su et al., "RoFormer", 2021, equation 15.
    """
    frequencies = theta ** (-np.arange(head_size // 2) / (head_size // 2))
    return np.multiply.outer(np.arange(length), frequencies.reshape(-1, 2).T).astype(np.float32)


class SequenceTransformer(Layered, Backbone):
    """The transformer of sequences: `apply(variables, x, t, condition)` is a `Network`. Lengths may differ by call.

    Parameters are float32 whatever the compute type, and so is the output. Blocks are scanned, as in DiT.

    Attributes:
        width: number of features of a token, even; `heads` divides it.
        depth: number of blocks.
        heads: number of attention heads.
        patch: steps of a token; it divides the length.
        num_classes: number of classes, whose null class is label `num_classes`; 0 for an unconditional network.
        vector_width: number of values in the condition's "vector"; 0 for a network that receives none.
        given: whether the condition has "given", "mask" and "real" [B, L, C] of a partly observed series, which are
            further channels beside x (CSDI); see `diffusion.data.series_masks`.
        mlp_ratio: hidden features of the MLP over `width`.
        norm: "layernorm" or "rmsnorm".
        mlp: "gelu" or "swiglu".
        positions: "sincos" (fixed, added to the tokens, so that the place of a step counts) or "rope" (rotary, in every
            attention, so that only distances count, for data that are alike along the line).
        qk_norm: whether queries and keys are RMS-normalised, with a learned scale.
        unroll: number of blocks in one turn of the scan; 0: as DiT.
        times: number of times that the network receives as its clock, 1 or 2, as in `DiT`.
        input_gain: whether the output is o + g x, where the last layer computes both o and g for each value. The best
            denoiser of white noise is such a g (Wiener), while a token of `width` features cannot hold more values of
            noise than that.
        shape: (L, C) of the sequences that it is made for; it takes other L too. None: the shape of the first input.

    Reference: Peebles & Xie, "Scalable Diffusion Models with Transformers", 2023; Su et al., "RoFormer", 2021; Tashiro
    et al., "CSDI: Conditional Score-based Diffusion Models for Probabilistic Time Series Imputation", 2021.
    """

    width: int = 128
    depth: int = 4
    heads: int = 4
    patch: int = 1
    num_classes: int = 0
    vector_width: int = 0
    mlp_ratio: float = 4.0
    norm: str = "layernorm"
    mlp: str = "gelu"
    positions: str = "sincos"
    qk_norm: bool = False
    unroll: int = 0
    times: int = 1
    shape: tuple[int, int] | None = None
    given: bool = False
    input_gain: bool = False
    ranks = (2,)
    choices = Backbone.choices | {"norm": NORMS, "mlp": MLPS, "positions": ("sincos", "rope")}

    def check_fields(self) -> None:
        check_fields(self, ("width", "depth", "heads", "patch", "mlp_ratio", "times"))
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"width={self.width} must be even, and a multiple of heads={self.heads}")
        if self.positions == "rope":
            network_checks.heads(self, 4)

    @nn.compact
    def __call__(self, x: jax.Array, t: Clock, condition: Condition = None, features: Numbers = None) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: sequences [B, L, C].
            t: the network's clock, [B] or [], float32 or wider; a tuple of `times` such if `times` is more than 1.
            condition: class labels int [B], None, or a dict of "label" and "vector" [B, vector_width]; with the
                network's `given` also "given" float, "mask" and "real" Bool, each [B, L, C].
            features: numbers of blocks, from 1, whose features the call returns too, see `network_bases.Backbone`.

        Returns:
            [B, L, C].
        """
        network_checks.example(self, x, "sequences [B, L, C]", rank=3)
        recorded = Features(features, self.feature_blocks)
        batch, length, channels = x.shape
        if length % self.patch:
            raise ValueError(f"patch={self.patch} does not divide the length {length}; choose a patch that does")
        channels_in = x
        if self.given:
            (given, mask, real), condition = conditions.series_parts(condition, x.shape)
            masks = [mask.astype(x.dtype), real.astype(x.dtype)]
            channels_in = jnp.concatenate([x, jnp.where(mask, given, 0), *masks], axis=-1)
        c = ConditionEmbedding(
            self.width, self.num_classes, self.vector_width, self.times, self.dtype, name="condition"
        )(x, t, condition)

        tokens = channels_in.reshape(batch, length // self.patch, -1)
        tokens = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name="patch_embedding")(tokens)
        angles = None
        if self.positions == "sincos":
            tokens = tokens + jnp.asarray(line_positions(length // self.patch, self.width), tokens.dtype)
        else:
            angles = jnp.asarray(line_angles(length // self.patch, self.width // self.heads))
        tokens = layout.split(tokens, "batch", "tokens", None)
        fields = (self.heads, self.mlp_ratio, self.norm, self.mlp, self.qk_norm, self.attention, self.dtype)
        blocks = Stack("blocks", self.depth, Block, fields, (c, angles, {}), unroll=self.unroll)
        tokens = blocks.run(self, tokens, recorded)
        outputs = self.patch * channels * (2 if self.input_gain else 1)
        out = modulated_output(tokens, c, NORMS[self.norm], outputs, self.dtype)
        if self.input_gain:
            offset, gain = jnp.split(out, 2, axis=-1)
            out = offset + gain * x.reshape(offset.shape)
        return recorded.beside(out.reshape(x.shape))
