"""The transformer of AuraFlow: a few layers of two streams, text and picture, then many of one stream.

      registers, text [B, M, E]     x [B, H, W, C]
                  |                      |
                dense         patches, dense, + positions
                  |                      |
    t --> [ joint layer: attention over both, an MLP each ]   x depth
     c            |                      |
                  +---- [text, picture] -+
                              |
      --> [ the same layer of one stream ]                    x singles
                              |  picture's tokens
                 scale, shift, dense, unpatchify
                              |
                       [B, H, W, C]

Pictures and features are channels last.
"""

import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays.boxes import patchify
from diffusion.models.layers import layout, network_checks
from diffusion.models.layers.blocks import Modulation, SwiGlu, xavier
from diffusion.models.layers.conditions import entries
from diffusion.models.layers.embeddings import TimestepEmbedding
from diffusion.models.layers.joint_blocks import Projections, attend, to_tokens
from diffusion.models.layers.joint_conditions import check_text
from diffusion.models.layers.network_bases import Backbone, Entries, Numbers, Through
from diffusion.models.layers.norms import layer_norm
from diffusion.models.layers.patches import picture_output
from diffusion.models.layers.stacks import Layered, Stack, several_stacks

REGISTERS = 8  # learned tokens before the text
MULTIPLE = 256  # the hidden features of an MLP are a multiple of it
norm = functools.partial(layer_norm, epsilon=1e-5)


class AuraFlowStream(nn.Module):
    """One stream's part of a layer, without biases; the attention belongs to `AuraFlowBlock`.

    The hidden features of the MLP are 8 / 3 of the width, rounded up to a multiple of 256.
    """

    width: int
    heads: int
    dtype: str

    def setup(self):
        hidden = -(-(8 * self.width // 3) // MULTIPLE) * MULTIPLE
        self.modulation = Modulation(6, self.dtype, bias=False)
        self.attention = Projections(self.width, self.heads, False, self.dtype, bias=False)
        self.mlp = SwiGlu(4.0, self.dtype, bias=False, hidden=hidden)

    def read(self, x: jax.Array, c: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        """What the attention reads of x [B, N, D], and the stream's six vectors [B, 1, D]."""
        vectors = self.modulation(c)
        return norm(x) * (1 + vectors[1]) + vectors[0], vectors

    def enter(self, x: jax.Array, c: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
        """x [B, N, D] -> ([q, k, v], the vectors)."""
        read, vectors = self.read(x, c)
        q, k, v = self.attention.enter(read)
        return [norm(q), norm(k), v], vectors

    def leave(self, x: jax.Array, mixed: jax.Array, vectors: list[jax.Array]) -> jax.Array:
        """x [B, N, D] and the output of attention [B, N, H, D / H] -> x after the layer."""
        _, _, gate, shift, scale, last_gate = vectors
        h = norm(x + gate * self.attention.leave(to_tokens(mixed))) * (1 + scale) + shift
        return layout.split(x + last_gate * self.mlp(h), "batch", "tokens", None)


class AuraFlowBlock(nn.Module):
    """A layer of streams, each with its parameters, whose tokens attend to all tokens of all streams.

        q, k, v = [norm(q), norm(k), v] of [enter((1 + scale) norm(x) + shift)], side by side
        h       = (1 + scale') norm(x + gate leave(attention(q, k, v))) + shift'
        x       <- x + gate' mlp(h)

    The output of the attention reaches x only through the MLP.

    Attributes:
        streams: names of the streams.
        picture: number of the picture's tokens, which are the last ones of the first stream.
        heads: number H of attention heads.
        attention: implementation, see `diffusion.models.layers.attention`.
        dtype: compute type.
    """

    streams: tuple[str, ...]
    picture: int
    heads: int
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, streams: tuple[jax.Array, ...], c: jax.Array, entering: bool = False) -> tuple[Any, None]:
        """Args:
            streams: tokens [B, N, D] of each stream.
            c: condition [B, D] after SiLU.
            entering: whether to return only the attention's input at the picture's tokens.

        Returns:
            (streams, None), as a scan expects; with `entering`, (the input [B, picture, D], None).
        """
        width = streams[0].shape[-1]
        parts = [AuraFlowStream(width, self.heads, self.dtype, name=name) for name in self.streams]
        if entering:
            return parts[0].read(streams[0], c)[0][:, -self.picture :], None
        entered, vectors = zip(*(part.enter(x, c) for part, x in zip(parts, streams)))
        q, k, v = (jnp.concatenate(arrays, axis=1) for arrays in zip(*entered))
        ends = list(itertools.accumulate(x.shape[1] for x in streams))
        mixed = jnp.split(attend(q, k, v, None, self.attention), ends[:-1], axis=1)
        return tuple(part.leave(x, m, v) for part, x, m, v in zip(parts, streams, mixed, vectors)), None


class AuraFlow(Layered, Backbone):
    """The transformer of AuraFlow: `apply(variables, x, t, condition)` is a `Network`.

    Its clock is t itself, in [0, 1], and its output the velocity eps - x0. The positions of patches are learned: a
    picture takes the middle of their table. The network does not know the positions of the text.

    Attributes:
        channels: C of the latents.
        patch: side of a patch in pixels of the latents.
        width: number of features of a token, a multiple of `heads`.
        depth: number of layers of two streams.
        singles: number of layers of one stream.
        heads: number of attention heads.
        text_width: number E of features of the text's tokens.
        positions: side of the table of positions, in patches.

    Reference: Fal, "Introducing AuraFlow v0.1, an Open Exploration of Large Rectified Flow Models", 2024, and its code;
    Darcet et al., "Vision Transformers Need Registers", 2024, for the registers.
    """

    channels: int = 4
    patch: int = 2
    width: int = 3072
    depth: int = 4
    singles: int = 32
    heads: int = 12
    text_width: int = 2048
    positions: int = 32
    depths = ("depth", "singles")
    ranks = (3,)
    reuses = ("blocks",)
    positive = ("channels", "patch", "width", "depth", "singles", "heads", "text_width", "positions")

    def check_fields(self) -> None:
        network_checks.heads(self)

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, condition: Entries, features: Numbers = None, through: Through = None
    ) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: noised latents [B, H, W, C].
            t: times in [0, 1], [B] or [], float32 or wider.
            condition: inputs by name, see `diffusion.models.layers.conditions`: "text": [B, M, text_width].
            features, through: the options of every backbone, see `network_bases.Backbone`.

        Returns:
            [B, H, W, C].
        """
        inputs = entries(condition, ("text",))
        network_checks.latents(self, x, t, self.channels)
        network_checks.positions_table(self, x)
        check_text(x.shape[0], self.text_width, inputs)
        batch, height, width, _ = x.shape
        t = jnp.broadcast_to(jnp.asarray(t), (batch,))
        c = nn.silu(TimestepEmbedding(self.width, self.dtype, name="time")(1000 * t))
        dense = functools.partial(nn.Dense, self.width, dtype=self.dtype, kernel_init=xavier)
        image = self._positioned(dense(name="patch_embedding")(patchify(x, self.patch)), height, width)
        text = dense(use_bias=False, name="text_embedding")(inputs["text"])
        registers = self.param("registers", nn.initializers.normal(0.02), (REGISTERS, self.width)).astype(text.dtype)
        text = jnp.concatenate([jnp.broadcast_to(registers, (batch, *registers.shape)), text], axis=1)

        streams = layout.split(image, "batch", "tokens", None), layout.split(text, "batch", "tokens", None)
        number = image.shape[1]
        picture = lambda streams: streams[0][:, -number:]
        stack = functools.partial(Stack, arguments=(c,), axes=(nn.broadcast,), picture=picture)
        fields = (number, self.heads, self.attention, self.dtype)
        stacks = (
            stack("blocks", self.depth, AuraFlowBlock, (("image", "text"), *fields)),
            stack(
                "single_blocks",
                self.singles,
                AuraFlowBlock,
                (("tokens",), *fields),
                enter=lambda streams: (jnp.concatenate(streams[::-1], axis=1),),
            ),
        )
        same = lambda x: x
        output = lambda tokens: picture_output(tokens, c, same, self.patch, x.shape, self.dtype, bias=False)
        return several_stacks(self, stacks, streams, output, features, through, picture)

    def _positioned(self, tokens: jax.Array, height: int, width: int) -> jax.Array:
        """The tokens of latents [H, W] with their positions: the middle of the table, row by row."""
        table = self.param("positions", nn.initializers.normal(0.1), (self.positions, self.positions, self.width))
        rows, columns = height // self.patch, width // self.patch
        top, left = (self.positions // 2 - side // 2 for side in (rows, columns))
        positions = table[top : top + rows, left : left + columns]
        return tokens + positions.reshape(rows * columns, self.width).astype(tokens.dtype)


MODELS = {"auraflow": AuraFlow}  # by its name in configs
