"""A transformer of sets: point clouds, particles, tables of objects. Their order does not matter.

     class   vector   t               x [B, N, C]
       |       |      |                    |
    embedding dense sinusoid, MLP        dense
       +-------+------+                    |
         silu: c --> [ norm, shift, scale, attention, gate ]
           |         [ norm, shift, scale, MLP, gate       ]  x depth
           |                               |
           +------> shift, scale -- norm, dense --> [B, N, C]

No element has a position: a permutation of the elements permutes the output. Sets of several sizes share one array by
the condition's mask "real". With `summaries` M, elements attend to M
summaries of the set, which attend to the elements, so that a layer costs N M in place of N^2.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays import padding
from diffusion.models.layers import layout, network_checks
from diffusion.models.layers.attention import mask_bias
from diffusion.models.layers.block_features import Features
from diffusion.models.layers.blocks import MLPS, Block, Modulation, modulated_output, xavier
from diffusion.models.layers.condition_embedding import ConditionEmbedding, check_fields
from diffusion.models.layers.cross_attention import CrossAttention
from diffusion.models.layers.network_bases import Backbone, Clock, Condition, Numbers
from diffusion.models.layers.norms import NORMS
from diffusion.models.layers.stacks import Layered, Stack


class SummaryBlock(nn.Module):
    """`Block` with attention by way of M learned seeds S, [B, N, D] -> [B, N, D]: f(x) = attend(x, attend(S, x)).

    Reference: Lee et al., "Set Transformer", 2019, equations 9 and 10, with DiT's norms, shifts, scales and gates.
    """

    summaries: int
    heads: int
    mlp_ratio: float
    norm: str
    mlp: str
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, c: jax.Array, bias: jax.Array | None = None) -> tuple[jax.Array, None]:
        """One block, in the form of `nn.scan`.

        Args:
            x: elements [B, N, D].
            c: embedding from which shifts, scales and gates follow, as `Block` receives it.
            bias: added to the scores of the elements where seeds attend to them, such as `mask_bias`; None: nothing.

        Returns:
            (the elements after the block [B, N, D], None).
        """
        norm = NORMS[self.norm]
        width = x.shape[-1]
        attend = lambda name: CrossAttention(
            self.heads, width // self.heads, attention=self.attention, dtype=self.dtype, name=name
        )
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = Modulation(6, self.dtype, name="modulation")(c)
        h = norm(x) * (1 + scale_a) + shift_a
        seeds = self.param("seeds", nn.initializers.normal(1.0), (self.summaries, width)).astype(h.dtype)
        seeds = jnp.broadcast_to(seeds, (x.shape[0], *seeds.shape))
        summaries = norm(seeds + attend("summary_attention")(seeds, h, bias))
        x = x + gate_a * attend("attention")(h, summaries)
        mlp = MLPS[self.mlp](self.mlp_ratio, self.dtype, name="mlp")
        x = x + gate_m * mlp(norm(x) * (1 + scale_m) + shift_m)
        return layout.split(x, "batch", "tokens", None), None


class SetTransformer(Layered, Backbone):
    """The transformer of sets: `apply(variables, x, t, condition)` is a `Network`. Sizes of sets may differ by call.

    Parameters are float32 whatever the compute type, and so is the output. Blocks are scanned, as in DiT.

    Attributes:
        width: number of features of an element; `heads` divides it.
        depth: number of blocks.
        heads: number of attention heads.
        summaries: number M of summaries, see above; 0: every element attends to every other.
        num_classes: number of classes, whose null class is label `num_classes`; 0 for an unconditional network.
        vector_width: number of values in the condition's "vector"; 0 for a network that receives none.
        mlp_ratio: hidden features of the MLP over `width`.
        norm: "layernorm" or "rmsnorm".
        mlp: "gelu" or "swiglu".
        unroll: number of blocks in one turn of the scan; 0: as DiT.
        times: number of times that the network receives as its clock, 1 or 2, as in `DiT`.
        shape: (N, C) of the sets that it is made for; it takes other N too. None: the shape of the first input.

    Reference: Lee et al., "Set Transformer", 2019; Peebles & Xie, "Scalable Diffusion Models with Transformers", 2023.
    """

    width: int = 128
    depth: int = 4
    heads: int = 4
    summaries: int = 0
    num_classes: int = 0
    vector_width: int = 0
    mlp_ratio: float = 4.0
    norm: str = "layernorm"
    mlp: str = "gelu"
    unroll: int = 0
    times: int = 1
    shape: tuple[int, int] | None = None
    ranks = (2,)
    choices = Backbone.choices | {"norm": NORMS, "mlp": MLPS}

    def check_fields(self) -> None:
        check_fields(self, ("width", "depth", "heads", "mlp_ratio", "times"))
        network_checks.heads(self)
        if self.summaries < 0:
            raise ValueError(f"summaries={self.summaries} must be 0 (none) or the number of summaries")

    @nn.compact
    def __call__(self, x: jax.Array, t: Clock, condition: Condition = None, features: Numbers = None) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: sets [B, N, C].
            t: the network's clock, [B] or [], float32 or wider; a tuple of `times` such if `times` is more than 1.
            condition: class labels int [B], None, or a dict of "label", of "vector" [B, vector_width], and of "real"
                Bool [B, N]: the elements of each set; the others are padding, which no element sees.
            features: numbers of blocks, from 1, whose features the call returns too, see `network_bases.Backbone`.

        Returns:
            [B, N, C], float32, zero on padding.
        """
        network_checks.example(self, x, "sets [B, N, C]", rank=3)
        recorded = Features(features, self.feature_blocks)
        condition, real = _parted(condition, x)
        x = padding.zeroed(x, real)
        bias = None if real is None else mask_bias(real)
        c = ConditionEmbedding(
            self.width, self.num_classes, self.vector_width, self.times, self.dtype, name="condition"
        )(x, t, condition)
        tokens = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name="embedding")(x)
        tokens = layout.split(tokens, "batch", "tokens", None)
        sizes, kinds = (self.heads, self.mlp_ratio, self.norm, self.mlp), (self.attention, self.dtype)
        axes = (nn.broadcast, nn.broadcast, 0, nn.broadcast)
        layers = (Block, (*sizes, False, *kinds), (c, None, {}, bias), axes)
        if self.summaries:
            layers = (SummaryBlock, (self.summaries, *sizes, *kinds), (c, bias), (nn.broadcast, nn.broadcast))
        tokens = Stack("blocks", self.depth, *layers, unroll=self.unroll).run(self, tokens, recorded)
        output = modulated_output(tokens, c, NORMS[self.norm], x.shape[-1], self.dtype)
        return recorded.beside(padding.zeroed(output, real))


def _parted(condition: Any, x: jax.Array) -> tuple[Any, jax.Array | None]:
    """The condition without its entry "real", and that mask, which is None where all is real."""
    if not (isinstance(condition, Mapping) and "real" in condition):
        return condition, None
    real = condition["real"]
    if jnp.shape(real) != x.shape[:2]:
        raise ValueError(
            f"the mask of the elements, 'real', must be Bool [B, N] = {x.shape[:2]}; got {jnp.shape(real)}"
        )
    padding.check(real, x)
    return {name: entry for name, entry in condition.items() if name != "real"} or None, real
