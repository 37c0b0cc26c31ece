"""An autoregressive transformer of characters: the layers of `SymbolTransformer` with a causal mask."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.layers.blocks import Attention, Gelu
from diffusion.models.sequence_transformer import line_angles


class CausalTransformer(nn.Module):
    """Logits of each character by the characters before it, int `[B, L]` -> float32 `[B, L, size]`.

    The table of characters is also the last layer. Its further row stands for the beginning of a text.
    """

    size: int
    width: int
    depth: int
    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array | None = None) -> jax.Array:
        del t  # a text has no time
        table = self.param("table", nn.initializers.normal(0.02), (self.size + 1, self.width))
        earlier = jnp.pad(x[:, :-1], ((0, 0), (1, 0)), constant_values=self.size)
        tokens, angles = table[earlier], jnp.asarray(line_angles(x.shape[1], self.width // self.heads))
        later = jnp.where(jnp.tri(x.shape[1], dtype=bool), 0.0, -jnp.inf)[None, None]
        for _ in range(self.depth):
            attend = Attention(self.heads, False, "auto", "float32", bias=False, out_bias=False)
            tokens = tokens + attend(nn.LayerNorm()(tokens), angles, {}, later)
            tokens = tokens + Gelu(4.0, "float32")(nn.LayerNorm()(tokens))
        return nn.LayerNorm()(tokens) @ table[: self.size].T


def nats(logits: jax.Array, x: jax.Array) -> jax.Array:
    """The exact -log p of texts in nats per character, `[B]`."""
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), x[..., None], -1)
    return -log_p[..., 0].mean(-1)


def sample(network: CausalTransformer, params: dict, keys: jax.Array, length: int) -> jax.Array:
    """Draws texts int `[B, length]`, one character after the other, each from its own key `[B]`."""

    def step(x: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
        logits = network.apply({"params": params}, x)
        assert isinstance(logits, jax.Array)
        draws = jax.vmap(lambda key, row: jax.random.categorical(jax.random.fold_in(key, i), row))(keys, logits[:, i])
        return x.at[:, i].set(draws), None

    return jax.lax.scan(step, jnp.zeros((len(keys), length), jnp.int32), jnp.arange(length))[0]
