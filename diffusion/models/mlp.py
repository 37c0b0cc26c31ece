"""A residual MLP for points and other small vectors: what one wants for two-dimensional examples and tables.

     class   vector   t               x [B, D]
       |       |      |                  |
    embedding dense sinusoid, MLP      dense
       +-------+------+                  |
         silu: c --> [ norm, shift, scale, MLP, gate ]  x depth
           |                             |
           +------> shift, scale -- norm, dense --> [B, D]

It is DiT without attention, on one token.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.layers import network_checks
from diffusion.models.layers.block_features import Features
from diffusion.models.layers.blocks import MLPS, Modulation, modulated_output, xavier
from diffusion.models.layers.condition_embedding import ConditionEmbedding, check_fields
from diffusion.models.layers.network_bases import Clock, Condition, Numbers
from diffusion.models.layers.norms import NORMS
from diffusion.models.layers.scan import scanned
from diffusion.models.layers.stacks import Layered

CHOICES = {"norm": NORMS, "mlp": MLPS, "dtype": ("float32", "bfloat16")}


class MLPBlock(nn.Module):
    """x + gate * mlp((1 + scale) * norm(x) + shift) on [B, 1, D]; the gate starts at zero (adaLN-Zero)."""

    mlp_ratio: float
    norm: str
    mlp: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, c: jax.Array) -> tuple[jax.Array, None]:
        shift, scale, gate = Modulation(3, self.dtype, name="modulation")(c)
        mlp = MLPS[self.mlp](self.mlp_ratio, self.dtype, name="mlp")
        return x + gate * mlp(NORMS[self.norm](x) * (1 + scale) + shift), None


class MLP(Layered, nn.Module):
    """The MLP: `apply(variables, x, t, condition)` is a `Network`. It takes an example of any shape as one vector.

    Parameters are float32 whatever the compute type, and so is the output. Blocks are scanned, as in DiT.

    Attributes:
        width: number of features.
        depth: number of blocks.
        num_classes: number of classes, whose null class is label `num_classes`; 0 for an unconditional network.
        vector_width: number of values in the condition's "vector"; 0 for a network that receives none.
        mlp_ratio: hidden features of a block over `width`.
        norm: "layernorm" or "rmsnorm".
        mlp: "gelu" or "swiglu".
        unroll: number of blocks in one turn of the scan; 0: as DiT.
        dtype: compute type, "float32" or "bfloat16".
        times: number of times that the network receives as its clock, 1 or 2, as in `DiT`.
        periodic: whether the numbers of an example are angles; the network then receives their cosines and sines.
        shape: shape of one example; None: the shape of the first input.

    Raises:
        ValueError: at construction, for a field out of range or an unknown name.
    """

    width: int = 128
    depth: int = 3
    num_classes: int = 0
    vector_width: int = 0
    mlp_ratio: float = 4.0
    norm: str = "layernorm"
    mlp: str = "gelu"
    unroll: int = 0
    dtype: str = "float32"
    times: int = 1
    periodic: bool = False
    shape: tuple[int, ...] | None = None
    takes_arrays = True

    def __post_init__(self):
        check_fields(self, ("width", "depth", "mlp_ratio", "times"))
        network_checks.known(self, CHOICES)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, t: Clock, condition: Condition = None, features: Numbers = None) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: examples [B, ...], for example points [B, D].
            t: the network's clock, [B] or [], float32 or wider; a tuple of `times` such if `times` is more than 1.
            condition: class labels int [B], None, or a dict of "label" and "vector" [B, vector_width].
            features: numbers of blocks, from 1, whose features the call returns too, see `network_bases.Backbone`.

        Returns:
            float32, of the shape of x.
        """
        network_checks.example(self, x, "examples [B, ...]")
        recorded = Features(features, self.feature_blocks)
        c = ConditionEmbedding(
            self.width, self.num_classes, self.vector_width, self.times, self.dtype, name="condition"
        )(x, t, condition)
        h = x.reshape(x.shape[0], 1, -1)
        h = jnp.concatenate([jnp.cos(h), jnp.sin(h)], -1) if self.periodic else h
        h = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name="embedding")(h)
        blocks = scanned(
            MLPBlock,
            self.depth,
            "none",
            self.is_initializing(),
            (nn.broadcast,),
            self.unroll,
            recorded.among(self.depth),
        )
        h, states = blocks(self.mlp_ratio, self.norm, self.mlp, self.dtype, name="blocks")(h, c)
        recorded.stack(self.depth, states or ())
        out = modulated_output(h, c, NORMS[self.norm], math.prod(x.shape[1:]), self.dtype)
        return recorded.beside(out.reshape(x.shape))
