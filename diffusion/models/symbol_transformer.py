"""A bidirectional transformer of symbols: ids [B, L] in, a number for each symbol at each position out.

 class      t            ids [B, L]
   |        |                |
embedding  sinusoid, MLP   table
   +--------+                |
     silu: c --> [ norm, shift, scale, attention with rotary positions, gate ]
       |         [ norm, shift, scale, MLP, gate                           ]  x depth
       |                     |
       +------> norm, shift, scale -- dense, or the table again --> [B, L, K]

Without a clock and without classes there is no c: nothing shifts, scales or gates.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from diffusion.arrays.not_a_number import nan_outside, table_rows
from diffusion.models.layers import key_value_memory, layout, network_checks
from diffusion.models.layers.block_features import Features
from diffusion.models.layers.blocks import BLOCK_NORMS, MLPS, Attention, Modulation, normalisation, zeros
from diffusion.models.layers.choices import look_up
from diffusion.models.layers.condition_embedding import ConditionEmbedding
from diffusion.models.layers.key_value_memory import KeyValueMemory
from diffusion.models.layers.network_bases import Backbone, Condition, Numbers
from diffusion.models.layers.stacks import Layered, Stack
from diffusion.models.sequence_transformer import line_angles, line_positions

PRESETS = {
    "tiny": {"width": 512, "depth": 8, "heads": 8, "condition_width": 128},
    "small": {"width": 768, "depth": 12, "heads": 12, "condition_width": 128},
    "medium": {"width": 1024, "depth": 24, "heads": 16, "condition_width": 128},
}


class SymbolBlock(nn.Module):
    """One layer of `SymbolTransformer`: attention, then an MLP, each normalised, and modulated where there is a c.

        x <- x + gate * f((1 + scale) * norm(x) + shift),     f = attention, mlp

    The dense layers of the attention have no bias.

    Reference: Lou et al. 2024 and Sahoo et al. 2024: the authors' code, `DDiTBlock`.
    """

    heads: int
    mlp_ratio: float
    norm: str
    mlp: str
    qk_norm: bool
    attention: str
    dtype: str

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        c: jax.Array | None,
        angles: jax.Array,
        bias: jax.Array | None = None,
        before: tuple[jax.Array, jax.Array] | None = None,
    ) -> tuple[jax.Array, None]:
        """Args:
            x: tokens [B, L, D].
            c: condition [B, C]; None for a layer without shifts, scales and gates.
            angles: rotary angles.
            bias: numbers that are added to the scores, see `attention`; None for none.
            before: keys and values of earlier tokens, see `Attention`; None for none.

        Returns:
            (x, None), as a scan expects.
        """
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (
            (0, 0, 1, 0, 0, 1) if c is None else Modulation(6, self.dtype, x.shape[-1], name="modulation")(c)
        )
        attend = Attention(
            self.heads, self.qk_norm, self.attention, self.dtype, bias=False, out_bias=False, name="attention"
        )
        read = normalisation(self.norm, "attention_norm", self.dtype)(x)
        x = x + gate_a * attend(read * (1 + scale_a) + shift_a, angles, {}, bias, before)
        mlp = MLPS[self.mlp](self.mlp_ratio, self.dtype, name="mlp")
        read = normalisation(self.norm, "mlp_norm", self.dtype)(x)
        x = x + gate_m * mlp(read * (1 + scale_m) + shift_m)
        return layout.row_major(layout.split(x, "batch", "tokens", None)), None


class SymbolTransformer(Layered, Backbone):
    """The transformer of symbols: `apply(variables, x_t, t, condition)` is a network of `discrete.predictor`.

    Parameters are float32 whatever the compute type, and so is the output. Blocks are scanned, as in DiT.

    Attributes:
        size: number K of symbols, the mask among them.
        width: number of features of a token, even; `heads` divides it, and with rotary positions 4 `heads`.
        depth: number of blocks.
        heads: number of attention heads.
        length: greatest number L of positions; 0 for any.
        clock: "time": adaptive layer norm by the time; "none": the network does not read the time, which a masked
            process does not need (Ou et al. 2024; Zheng et al. 2024).
        num_classes: number of classes, whose null class is label `num_classes`; 0 for an unconditional network.
        condition_width: number of features of the embedding of time and class; 0: `width`.
        tied: whether the table of symbols is also the last layer.
        mlp_ratio: hidden features of the MLP over `width`.
        norm: a name in `blocks.BLOCK_NORMS`.
        mlp: "gelu" or "swiglu".
        qk_norm: whether queries and keys are RMS-normalised, with a learned scale.
        unroll: number of blocks in one turn of the scan; 0: as DiT.
        causal: number of positions in a block, which see only each other and earlier blocks, so that a block can be
            evaluated with what `symbol_memory` keeps of these; 0 if all positions see each other. It requires
            `clock="none"`, since earlier blocks have no time.
        hollow: whether a position's output depends only on the other positions: there is one evaluation for each
            position, in which this position has all symbols with equal probability.
        outputs: numbers at each position, such as the classes of a classifier; 0: one for each symbol.
        positions: "rope" (rotary, in every attention, so that only distances count, as in text) or "sincos" (fixed,
            added to the symbols, so that the place of a symbol counts, as in pictures).

    References: Lou et al. 2024, "Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution"; Sahoo
    et al. 2024, "Simple and Effective Masked Diffusion Language Models": the network of both, by their code; Ou et al.
    2024, "Your Absorbing Discrete Diffusion Secretly Models the Conditional Distributions of Clean Data"; Zheng et al.
    2024, "Masked Diffusion Models are Secretly Time-Agnostic Masked Models"; Arriola et al. 2025, "Block Diffusion:
    Interpolating Between Autoregressive and Diffusion Language Models", which trains block-causal attention.
    """

    size: int
    width: int = 128
    depth: int = 4
    heads: int = 4
    length: int = 0
    clock: str = "time"
    num_classes: int = 0
    condition_width: int = 0
    tied: bool = False
    mlp_ratio: float = 4.0
    norm: str = "scaled_layernorm"
    mlp: str = "gelu"
    qk_norm: bool = False
    unroll: int = 0
    causal: int = 0
    hollow: bool = False
    outputs: int = 0
    positions: str = "rope"
    takes_symbols = True
    last_layer = True
    ranks = (1,)
    positive = ("width", "depth", "heads", "mlp_ratio")
    choices = Backbone.choices | {
        "clock": ("time", "none"),
        "positions": ("rope", "sincos"),
        "norm": BLOCK_NORMS,
        "mlp": MLPS,
    }

    def check_fields(self) -> None:
        network_checks.classes(self)
        if self.size < 2:
            raise ValueError(f"size={self.size}: a network needs at least 2 symbols")
        if self.width % 2 or self.width % self.heads:
            raise ValueError(f"width={self.width} must be even, and a multiple of heads={self.heads}")
        if self.positions == "rope":
            network_checks.heads(self, 4)
        for field, what in (("length", "any"), ("condition_width", "the width"), ("causal", "all positions")):
            if getattr(self, field) < 0:
                raise ValueError(f"{field}={getattr(self, field)} must be 0 ({what}) or positive")
        if self.outputs < 0 or (self.outputs and self.tied):
            raise ValueError(f"outputs={self.outputs} must be 0 (the symbols), or positive with tied=False")
        if self.causal and self.clock != "none":
            raise ValueError(f"causal={self.causal}: the blocks before have no time. Valid: clock='none'")

    def __call__(
        self,
        x: jax.Array,
        t: jax.Array | None = None,
        condition: Condition = None,
        features: Numbers = None,
        memory: KeyValueMemory | None = None,
        states: bool = False,
    ) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: symbols int [B, L], 0 .. K - 1; or probabilities of symbols float [B, L, K], whose mean row of the table
                each position receives (Sahoo et al. 2025, "The Diffusion Duality").
            t: the network's clock, [B] or [], float32 or wider, which is embedded as it comes: published networks
                receive -log alpha(t). Not read with `clock="none"`.
            condition: class labels int [B], None, or a dict of "label".
            memory: memory of earlier blocks, which x follows; needs `causal`.
            states: whether the call returns what the last layer reads, for `discrete.in_chunks`.
            features: numbers of blocks, from 1, whose features the call returns too, see `network_bases.Backbone`.

        Returns:
            [B, L, K], or `outputs` in place of K; with `states` (states [B, L, D], kernel [D, K], bias [K] or None) of
            its last layer.

        Raises:
            TypeError: for symbols that are no whole numbers.
            ValueError: for shapes that do not fit, symbols out of range where their values are known, more positions
                than `length`, and a superfluous or a missing condition.
        """
        if not self.hollow:
            return self._evaluated(x, t, condition, features, memory, states)
        if features is not None or memory is not None or states:
            raise ValueError("hollow=True: a network of the other positions returns its output alone")
        soft = x if self._check_symbols(x) else self._one_hot(x)
        number = x.shape[1]
        contexts = jnp.where(jnp.eye(number, dtype=bool)[..., None], 1 / self.size, soft[:, None])  # [B, L, L, K]
        repeated = lambda leaf: jnp.repeat(jnp.asarray(leaf), number, 0) if jnp.ndim(leaf) else leaf
        t, condition = jax.tree.map(repeated, (t, condition))
        output = self._evaluated(contexts.reshape(-1, number, self.size), t, condition, None, None, False)
        return jnp.moveaxis(jnp.diagonal(output.reshape(len(x), number, number, -1), 0, 1, 2), -1, 1)

    @nn.compact
    def _evaluated(
        self, x: jax.Array, t: Any, condition: Condition, features: Numbers, memory: KeyValueMemory | None, states: bool
    ) -> Any:
        soft = self._check_symbols(x)
        if memory is not None and not self.causal:
            raise ValueError(
                "a memory of earlier blocks needs a network with causal, in which blocks see no later ones"
            )
        recorded = Features(features, self.feature_blocks)
        clocks = (t,) if self.clock == "time" else ()
        c = ConditionEmbedding(
            self.condition_width or self.width, self.num_classes, 0, len(clocks), self.dtype, name="condition"
        )(x, clocks, condition)
        c = c if clocks or self.num_classes else None

        table = self.param("table", nn.initializers.normal(0.02), (self.size, self.width), jnp.float32)
        if soft:
            tokens = jnp.matmul(x, table, precision=jax.lax.Precision.HIGHEST)
        else:
            tokens = table_rows(table, x)
        tokens = layout.split(tokens.astype(self.dtype), "batch", "tokens", None)
        room, angles = memory.keys.shape[2] if memory else x.shape[1], None
        here = lambda table: key_value_memory.following_positions(jnp.asarray(table), x.shape[1], memory)
        if self.positions == "rope":
            angles = here(line_angles(room, self.width // self.heads))
        else:
            tokens = tokens + here(line_positions(room, self.width)).astype(tokens.dtype)
        bias = key_value_memory.causal_bias(x.shape[1], self.causal, memory) if self.causal else None
        fields = (self.heads, self.mlp_ratio, self.norm, self.mlp, self.qk_norm, self.attention, self.dtype)
        arguments = (c, angles, bias, memory and memory[:2])
        axes = (*(nn.broadcast,) * 3, 0)
        blocks = Stack("blocks", self.depth, SymbolBlock, fields, arguments, axes, unroll=self.unroll)
        tokens = blocks.run(self, tokens, recorded)

        tokens = normalisation(self.norm, "final_norm", self.dtype)(tokens)
        if c is not None:
            shift, scale = Modulation(2, self.dtype, self.width, name="final_modulation")(c)
            tokens = tokens * (1 + scale) + shift
        tokens = tokens.astype(jnp.float32)
        if self.tied:
            return recorded.beside((tokens, table.T, None) if states else tokens @ table.T)
        last = nn.Dense(self.outputs or self.size, dtype=jnp.float32, kernel_init=zeros, bias_init=zeros, name="final")
        if states:
            layer = last.variables["params"]
            return recorded.beside((tokens, layer["kernel"], layer["bias"]))
        return recorded.beside(last(tokens))

    def _one_hot(self, x: jax.Array) -> jax.Array:
        """Probabilities [..., K] of symbols, 0 and 1; NaN for symbols out of range."""
        return nan_outside(x, self.size, jax.nn.one_hot(x, self.size))

    def _check_symbols(self, x: jax.Array) -> bool:
        """Whether x holds probabilities of symbols; an error where it holds neither these nor symbols."""
        soft = jnp.shape(x)[2:] == (self.size,) and jnp.issubdtype(jnp.result_type(x), jnp.floating)
        if not soft and not jnp.issubdtype(jnp.result_type(x), jnp.integer):
            raise TypeError(
                f"SymbolTransformer takes integers, symbols [B, L], or probabilities float [B, L, {self.size}]; got "
                f"{jnp.result_type(x)} of shape {jnp.shape(x)}"
            )
        if jnp.ndim(x) != 2 + soft:
            raise ValueError(f"SymbolTransformer takes symbols [B, L]; got an array of shape {jnp.shape(x)}")
        if self.length and x.shape[1] > self.length:
            raise ValueError(f"this network takes at most length={self.length} positions; got {x.shape[1]}")
        if soft or isinstance(x, Tracer) or not x.size:
            return soft
        low, high = np.asarray(x).min(), np.asarray(x).max()  # of NumPy: jnp.min would be traced where the call is
        if not 0 <= low <= high < self.size:
            raise ValueError(
                f"the symbols run from {low} to {high}. Valid: 0 .. {self.size - 1}, because size={self.size}"
            )
        return soft


def symbol_transformer_preset(size: str, symbols: int = 50_258, **options: Any) -> SymbolTransformer:
    """Builds the network of SEDD and MDLM of a published size.

    Args:
        size: "tiny", "small" or "medium"; SEDD has the last two.
        symbols: number K of symbols; the published networks have GPT-2's 50,257 and a mask.
        **options: other fields of `SymbolTransformer`.

    Raises:
        ValueError: for an unknown size, and as `SymbolTransformer`.

    Reference: Lou et al. 2024 and Sahoo et al. 2024; the numbers come from the configs of the authors' code.
    """
    return SymbolTransformer(symbols, **look_up(PRESETS, size, "size"), length=1024, **options)
