"""The transformer layers of Lumina-Image 2 and Z-Image, normalised before and after attention and MLP."""

__all__ = ["SandwichBlock"]

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.layers import layout
from diffusion.models.layers.blocks import Modulation, SwiGlu
from diffusion.models.layers.joint_blocks import Projections, attend, to_tokens

OF_HEADS = 1e-5  # epsilon of the norms of queries and keys


class SandwichBlock(nn.Module):
    """A layer of tokens, each part of which is normalised before and after.

        x <- x + tanh(gate) * norm(f((1 + scale) * norm(x))),     f = attention, mlp

    Arguments of the call: tokens x [B, N, D], the condition c [B, P], or None for a layer without scales and gates,
    rotary angles [N, D / (2 H)] or [B, N, D / (2 H)], and which tokens others attend to, Bool [B, N], or None for all.
    Returns (x, None), as a scan expects; with `entering` (what the attention reads of the last `picture` tokens, None).

    Attributes:
        heads: H, attention heads.
        epsilon: of the norms.
        attention: implementation, see `diffusion.models.layers.attention`.
        dtype: compute type.
        picture: tokens of the picture, the last ones.

    Reference: Qin et al., "Lumina-Image 2.0", 2025; Z-Image Team, "Z-Image", 2025.
    """

    heads: int
    epsilon: float
    attention: str
    dtype: str
    picture: int = 0

    @nn.compact
    def __call__(
        self, x: jax.Array, c: jax.Array | None, angles: jax.Array, seen: jax.Array | None, entering: bool = False
    ) -> tuple[jax.Array, None]:
        norm = lambda name: nn.RMSNorm(self.epsilon, dtype=self.dtype, name=name)
        scales, gates = (1, 1), (1, 1)
        if c is not None:
            vectors = Modulation(4, self.dtype, x.shape[-1], name="modulation")(c)
            scales = [1 + scale for scale in vectors[::2]]
            gates = [jnp.tanh(gate) for gate in vectors[1::2]]
        read = norm("attention_norm")(x) * scales[0]
        if entering:
            return read[:, -self.picture :], None
        heads = Projections(x.shape[-1], self.heads, True, self.dtype, bias=False, epsilon=OF_HEADS, name="attention")
        mixed = heads.leave(to_tokens(attend(*heads.enter(read), angles, self.attention, seen)))
        x = x + gates[0] * norm("after_attention")(mixed)
        mlp = SwiGlu(4.0, self.dtype, bias=False, name="mlp")
        x = x + gates[1] * norm("after_mlp")(mlp(norm("mlp_norm")(x) * scales[1]))
        return layout.split(x, "batch", "tokens", None), None
