"""The transformer layers of Lumina-Image 2 and Z-Image, normalised before and after attention and MLP."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.layers import layout
from diffusion.models.layers.blocks import Modulation, SwiGlu, xavier
from diffusion.models.layers.joint_blocks import Projections, attend, to_tokens

OF_HEADS = 1e-5  # epsilon of the norms of queries and keys


class GroupedProjections(nn.Module):
    """`joint_blocks.Projections` without biases, and with keys and values that each serve several heads.

        enter: [B, N, D] -> q, k, v, each [B, N, H, D / H], keys and values repeated
        leave: [B, N, H, D / H] -> [B, N, D]

    Reference: Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models", 2023.
    """

    width: int
    heads: int
    key_heads: int
    epsilon: float
    dtype: str

    def setup(self):
        options: Any = {"use_bias": False, "dtype": self.dtype, "kernel_init": xavier}
        size = self.width // self.heads
        self.query = nn.DenseGeneral((self.heads, size), **options)
        self.key_value = nn.DenseGeneral((2, self.key_heads, size), **options)
        self.out = nn.DenseGeneral(self.width, (-2, -1), **options)
        self.query_norm = nn.RMSNorm(self.epsilon, dtype=self.dtype)
        self.key_norm = nn.RMSNorm(self.epsilon, dtype=self.dtype)

    def enter(self, x: jax.Array) -> list[jax.Array]:
        both = self.key_value(x)
        k, v = self.key_norm(both[:, :, 0]), both[:, :, 1]
        repeated = [jnp.repeat(heads, self.heads // self.key_heads, axis=2) for heads in (k, v)]
        return [layout.attended(heads) for heads in (self.query_norm(self.query(x)), *repeated)]

    def leave(self, x: jax.Array) -> jax.Array:
        return layout.split(self.out(x), "batch", "tokens", None)


class SandwichBlock(nn.Module):
    """A layer of tokens whose parts are normalised before and after.

        x <- x + tanh(gate) * norm(f((1 + scale) * norm(x))),     f = attention, mlp

    Arguments of the call: tokens x [B, N, D], the condition c [B, P], or None for a layer without scales and gates,
    rotary angles [N, D / (2 H)] or [B, N, D / (2 H)], and which tokens others attend to, Bool [B, N], or None for all.
    Returns (x, None), as a scan expects; with `entering` (what the attention reads of the last `picture` tokens, None).

    Attributes:
        heads: number H of attention heads.
        epsilon: epsilon of the norms, > 0.
        attention: implementation, see `diffusion.models.layers.attention`.
        dtype: compute type.
        hidden: number of features inside the MLP; 0: 8 / 3 D.
        key_heads: number of heads of keys and values; 0: `heads`.
        picture: number of the picture's tokens, which are the last ones.

    Reference: Qin et al., "Lumina-Image 2.0", 2025; Z-Image Team, "Z-Image", 2025.
    """

    heads: int
    epsilon: float
    attention: str
    dtype: str
    hidden: int = 0
    key_heads: int = 0
    picture: int = 0

    @nn.compact
    def __call__(
        self, x: jax.Array, c: jax.Array | None, angles: jax.Array, seen: jax.Array | None, entering: bool = False
    ) -> tuple[jax.Array, None]:
        norm = lambda name: nn.RMSNorm(self.epsilon, dtype=self.dtype, name=name)
        width = x.shape[-1]
        scales, gates = (1, 1), (1, 1)
        if c is not None:
            vectors = Modulation(4, self.dtype, width, name="modulation")(c)
            scales = [1 + scale for scale in vectors[::2]]
            gates = [jnp.tanh(gate) for gate in vectors[1::2]]
        read = norm("attention_norm")(x) * scales[0]
        if entering:
            return read[:, -self.picture :], None
        if self.key_heads:
            heads: Any = GroupedProjections(width, self.heads, self.key_heads, OF_HEADS, self.dtype, name="attention")
        else:
            heads = Projections(width, self.heads, True, self.dtype, bias=False, epsilon=OF_HEADS, name="attention")
        q, k, v = heads.enter(read)
        mixed = heads.leave(to_tokens(attend(q, k, v, angles, self.attention, seen)))
        x = x + gates[0] * norm("after_attention")(mixed)
        mlp = SwiGlu(4.0, self.dtype, bias=False, hidden=self.hidden, name="mlp")
        x = x + gates[1] * norm("after_mlp")(mlp(norm("mlp_norm")(x) * scales[1]))
        return layout.split(x, "batch", "tokens", None), None
