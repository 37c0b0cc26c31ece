"""The transformer of Krea 2: the states of several layers of a language model become one text, then one sequence.

    states of the text [B, M, S, E]               x [B, H, W, C]
                  |                                     |
    [ attention over the S states of a token ]          |
                  |                                     |
       a weighted sum of the states           patches of 2 x 2, dense
                  |                                     |
    [ attention over the M tokens ]                     |
                  |                                     |
        norm, dense, gelu, dense                        |
                  |                                     |
                  +----------- [text, picture] ---------+
                                      |
    t --> dense: c [6, D] --> [ layer, shifted, scaled and gated by table + c ]  x depth
     |                                |  picture's tokens
     +---- table + t: scale, shift -- norm, dense, unpatchify
                                      |
                               [B, H, W, C]

Pictures and features are channels last.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays.boxes import patchify
from diffusion.models.layers import layout, network_checks
from diffusion.models.layers.activations import gelu
from diffusion.models.layers.blocks import SwiGlu, xavier
from diffusion.models.layers.conditions import EMBEDDINGS, entries
from diffusion.models.layers.embeddings import sinusoid
from diffusion.models.layers.joint_blocks import attend, to_tokens
from diffusion.models.layers.joint_conditions import check_text, shown_text
from diffusion.models.layers.network_bases import Backbone, Entries, Numbers, Through
from diffusion.models.layers.patches import picture_output
from diffusion.models.layers.pixart_block import table_vectors
from diffusion.models.layers.rotary import axis_angles, grid_positions
from diffusion.models.layers.scan import scanned
from diffusion.models.layers.stacks import Layered, single_stack
from diffusion.models.text_encoders.decoder import RmsNorm

PATCH = 2
THETA = 1000.0  # base of the rotary frequencies
TIMES = 256  # features of the sinusoid


class GatedAttention(nn.Module):
    """Self-attention whose output is gated by its input, and whose keys and values each serve several heads.

        q, k, v = [norm(query(x)), norm(key(x)), value(x)];    x <- out(attention(turn(q), turn(k), v) sigmoid(gate(x)))

    No dense layer has a bias. A norm multiplies by 1 + its learned scale.

    Reference: Ainslie et al., "GQA", 2023; Qiu et al., "Gated Attention for Large Language Models", 2025.
    """

    heads: int
    key_heads: int
    epsilon: float
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, angles: jax.Array | None, seen: jax.Array | None) -> jax.Array:
        """Args:
            x: tokens [B, N, D].
            angles: rotary angles [N, D / (2 heads)]; None for no rotation.
            seen: Bool [B, N], True for tokens that the others attend to; None for all.

        Returns:
            [B, N, D].
        """
        width = x.shape[-1]
        dense = functools.partial(nn.DenseGeneral, use_bias=False, dtype=self.dtype, kernel_init=xavier)
        norm = lambda name: RmsNorm(self.epsilon, True, self.dtype, name=name)
        size = width // self.heads
        q = norm("query_norm")(dense((self.heads, size), name="query")(x))
        both = dense((2, self.key_heads, size), name="key_value")(x)
        k, v = norm("key_norm")(both[:, :, 0]), both[:, :, 1]
        k, v = (jnp.repeat(heads, self.heads // self.key_heads, axis=2) for heads in (k, v))
        q, k, v = (layout.attended(heads) for heads in (q, k, v))
        mixed = to_tokens(attend(q, k, v, angles, self.attention, seen))
        mixed = mixed * nn.sigmoid(dense(width, name="gate")(x)).reshape(mixed.shape)
        return layout.split(dense(width, axis=(-2, -1), name="out")(mixed), "batch", "tokens", None)


class TextBlock(nn.Module):
    """Attention and an MLP, each behind a norm: the layer of the text.

    It takes tokens x [B, N, D] and the mask `seen` of `GatedAttention`, and returns (x, None), as a scan expects. The
    field `hidden` is the MLP's number of hidden features; the others are the fields of `GatedAttention`.
    """

    hidden: int
    heads: int
    key_heads: int
    epsilon: float
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, seen: jax.Array | None) -> tuple[jax.Array, None]:
        norm = lambda name: RmsNorm(self.epsilon, True, self.dtype, name=name)
        fields = (self.heads, self.key_heads, self.epsilon, self.attention, self.dtype)
        x = x + GatedAttention(*fields, name="attention")(norm("attention_norm")(x), None, seen)
        mlp = SwiGlu(4.0, self.dtype, bias=False, hidden=self.hidden, name="mlp")
        return layout.split(x + mlp(norm("mlp_norm")(x)), "batch", "tokens", None), None


class Krea2Block(nn.Module):
    """Attention and an MLP, conditioned by table + c.

        x <- x + gate * f((1 + scale) * norm(x) + shift),     f = attention, mlp

    The field `picture` is the number of the picture's tokens, which are the last ones; the others are the fields of
    `TextBlock`.
    """

    picture: int
    hidden: int
    heads: int
    key_heads: int
    epsilon: float
    attention: str
    dtype: str

    @nn.compact
    def __call__(
        self, x: jax.Array, c: jax.Array, angles: jax.Array, seen: jax.Array, entering: bool = False
    ) -> tuple[jax.Array, None]:
        """Args:
            x: tokens [B, N, D].
            c: the time's vectors [B, 6, D], which all layers share.
            angles: rotary angles [N, D / (2 heads)].
            seen: Bool [B, N], True for tokens that the others attend to.
            entering: whether to return only the attention's input at the picture's tokens.

        Returns:
            (x, None), as a scan expects; with `entering`, (the input [B, picture, D], None).
        """
        norm = lambda name: RmsNorm(self.epsilon, True, self.dtype, name=name)
        scale_a, shift_a, gate_a, scale_m, shift_m, gate_m = table_vectors(self, c, x)
        read = (1 + scale_a) * norm("attention_norm")(x) + shift_a
        if entering:
            return read[:, -self.picture :], None
        fields = (self.heads, self.key_heads, self.epsilon, self.attention, self.dtype)
        x = x + gate_a * GatedAttention(*fields, name="attention")(read, angles, seen)
        mlp = SwiGlu(4.0, self.dtype, bias=False, hidden=self.hidden, name="mlp")
        x = x + gate_m * mlp((1 + scale_m) * norm("mlp_norm")(x) + shift_m)
        return layout.split(x, "batch", "tokens", None), None


class Krea2(Layered, Backbone):
    """The transformer of Krea 2: `apply(variables, x, t, condition)` is a `Network`.

    Its clock is t itself, in [0, 1], and its output the velocity eps - x0. A patch has the position (0, row, column),
    and all of the text (0, 0, 0), so that only the states of the text's tokens show their order.

    Attributes:
        channels: C of the latents.
        width: number of features of a token, a multiple of `heads`.
        depth: number of layers.
        heads: number of heads of the queries.
        key_heads: number of heads of keys and values, a divisor of `heads`.
        hidden: number of features inside the gated MLPs.
        text_width: number of features of a text's token: its `states` one after the other.
        states: number S of states of a text's token.
        text_heads: number of heads of the queries in the text's layers.
        text_key_heads: number of heads of keys and values there, a divisor of `text_heads`.
        text_hidden: number of features inside the text's MLPs.
        state_layers: number of layers in which the states of a token attend to each other.
        text_layers: number of layers in which the tokens of the text attend to each other.
        axes: features of a head that rotate with each of the three coordinates; they sum to width / heads.
        epsilon: epsilon of the norms.

    Reference: Krea, "Krea 2", 2026, as diffusers has its code.
    """

    channels: int = 16
    width: int = 6144
    depth: int = 28
    heads: int = 48
    key_heads: int = 12
    hidden: int = 16384
    text_width: int = 30720
    states: int = 12
    text_heads: int = 20
    text_key_heads: int = 20
    text_hidden: int = 6912
    state_layers: int = 2
    text_layers: int = 2
    axes: tuple[int, int, int] = (32, 48, 48)
    epsilon: float = 1e-5
    text_inputs = EMBEDDINGS
    ranks = (3,)
    reuses = ("blocks",)
    positive = (
        "channels", "width", "depth", "heads", "key_heads", "hidden", "text_width", "states", "text_heads",
        "text_key_heads", "text_hidden", "state_layers", "text_layers", "epsilon",
    )  # fmt: skip

    def check_fields(self) -> None:
        network_checks.rotary_axes(self, 3)
        for heads, keys in (("heads", "key_heads"), ("text_heads", "text_key_heads")):
            if getattr(self, heads) % getattr(self, keys):
                raise ValueError(f"{keys}={getattr(self, keys)} does not divide {heads}={getattr(self, heads)}")
        if self.text_width % (self.states * self.text_heads):
            raise ValueError(
                f"text_width={self.text_width} must be a multiple of states={self.states} times "
                f"text_heads={self.text_heads}"
            )

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, condition: Entries, features: Numbers = None, through: Through = None
    ) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: noised latents [B, H, W, C]; H and W even.
            t: times in [0, 1], [B] or [], float32 or wider.
            condition: inputs by name, see `diffusion.models.layers.conditions`:
                "text": [B, M, text_width]. "text_mask": Bool [B, M]; without it all are seen.
            features, through: the options of every backbone, see `network_bases.Backbone`.

        Returns:
            [B, H, W, C].
        """
        inputs = entries(condition, ("text",), ("text_mask",))
        network_checks.latents(self, x, t, self.channels)
        check_text(x.shape[0], self.text_width, inputs)
        batch, height, width, _ = x.shape
        shown = shown_text(inputs)
        dense = functools.partial(nn.DenseGeneral, dtype=self.dtype, kernel_init=xavier)
        text = self._fused(inputs["text"], shown)
        text = RmsNorm(self.epsilon, True, self.dtype, name="text_norm")(text)
        text = dense(self.width, name="text_out")(gelu(dense(self.width, name="text_hidden")(text)))
        image = dense(self.width, name="patch_embedding")(patchify(x, PATCH))

        times = sinusoid(1000 * jnp.broadcast_to(jnp.asarray(t), (batch,)), TIMES)
        embedding = dense(self.width, name="time_out")(gelu(dense(self.width, name="time_hidden")(times)))
        c = dense((6, self.width), name="modulation")(gelu(embedding))
        positions = np.pad(grid_positions(height // PATCH, width // PATCH), [(text.shape[1], 0), (1, 0)])
        angles = jnp.asarray(axis_angles(positions, self.axes, THETA))
        number = image.shape[1]
        attended = jnp.concatenate([shown, jnp.ones((batch, number), bool)], axis=1)
        tokens = layout.split(jnp.concatenate([text, image], axis=1), "batch", "tokens", None)

        def output(tokens: jax.Array) -> jax.Array:
            scale, shift = table_vectors(self, embedding[:, None], tokens, 2, "final_table")
            norm = RmsNorm(self.epsilon, True, self.dtype, name="final_norm")
            return picture_output(tokens, embedding, norm, PATCH, x.shape, self.dtype, vectors=(shift, scale))

        fields = (number, self.hidden, self.heads, self.key_heads, self.epsilon, self.attention, self.dtype)
        axes = (nn.broadcast,) * 3
        picture = lambda tokens: tokens[:, -number:]
        return single_stack(
            self, Krea2Block, fields, tokens, (c, angles, attended), axes, output, features, through, picture
        )

    def _fused(self, text: jax.Array, shown: jax.Array) -> jax.Array:
        """One vector for each token of the text, from its states: [B, M, S E] -> [B, M, E]."""
        fields = (self.text_hidden, self.text_heads, self.text_key_heads, self.epsilon, self.attention, self.dtype)
        layers = lambda depth, name: scanned(
            TextBlock, depth, self.remat, self.is_initializing(), (nn.broadcast,)
        )(*fields, name=name)  # fmt: skip
        batch, words, width = text.shape
        states = text.reshape(batch * words, self.states, width // self.states)
        states, _ = layers(self.state_layers, "state_blocks")(states, None)
        states = states.reshape(batch, words, self.states, -1).swapaxes(2, 3)
        text = nn.Dense(1, False, self.dtype, kernel_init=xavier, name="state_weights")(states)[..., 0]
        return layers(self.text_layers, "text_blocks")(text, shown)[0]


MODELS = {"krea2": Krea2}  # by its name in configs
