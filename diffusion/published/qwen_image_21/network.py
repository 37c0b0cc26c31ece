"""The transformer of Qwen-Image 2.1: one sequence, the text and then the picture, whose layers share one modulation.

            text [B, M, E]                 x [B, H, W, C]
                  |                              |
       norm, dense, gelu, dense             dense, a token a pixel
                  |                              |
                  +------- [text, picture] ------+
                                  |
    t --> scales, gates --> [ layer ]  x depth
    0 --> those of the text       |  picture's tokens
                        norm, scale, dense --> [B, H, W, C]

A token of the text attends to itself and the tokens before it, a token of the picture to all. The text's states
therefore do not depend on x or t. Pictures and features are channels last.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays.boxes import patchify
from diffusion.models.layers import layout, network_checks
from diffusion.models.layers.activations import gelu
from diffusion.models.layers.attention import attention, mask_bias
from diffusion.models.layers.blocks import Modulation, SwiGlu, xavier, zeros
from diffusion.models.layers.conditions import EMBEDDINGS, entries
from diffusion.models.layers.embeddings import TimestepEmbedding
from diffusion.models.layers.joint_blocks import Projections, to_tokens
from diffusion.models.layers.joint_conditions import check_text, shown_text
from diffusion.models.layers.network_bases import Backbone, Entries, Numbers, Through
from diffusion.models.layers.norms import layer_norm
from diffusion.models.layers.patches import picture_output
from diffusion.models.layers.rotary import axis_angles, centred_grid, turn
from diffusion.models.layers.stacks import Layered, single_stack
from diffusion.models.text_encoders.decoder import RmsNorm

PATCH = 1
EPSILON = 1e-6


class CausalTextBlock(nn.Module):
    """Attention and a gated MLP over a text and a picture, whose scales and gates all layers share.

        x <- x + tanh(gate) * f((1 + scale) * norm(x)),     f = attention, mlp

    A token of the text attends to the text's tokens up to itself; a token of the picture attends to all tokens.

    Attributes:
        picture: number N of the picture's tokens.
        heads: number of attention heads.
        hidden: number of features inside the MLP.
        attention: implementation, see `diffusion.models.layers.attention`.
        dtype: compute type.
    """

    picture: int
    heads: int
    hidden: int
    attention: str
    dtype: str

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        vectors: jax.Array,
        text_vectors: jax.Array,
        angles: jax.Array,
        attended: jax.Array,
        entering: bool = False,
    ) -> tuple[jax.Array, None]:
        """Args:
            x: tokens [B, M + N, D], first the text's, then the picture's.
            vectors: scale and gate of the attention and of the MLP for the picture, [B, 4, D].
            text_vectors: the same vectors for the text.
            angles: rotary angles [B, M + N, D / (2 heads)].
            attended: Bool [B, M + N], False for tokens that no token attends to.
            entering: whether to return only the attention's input at the picture's tokens.

        Returns:
            (x, None), as a scan expects; with `entering`, (the input [B, N, D], None).
        """
        words = x.shape[1] - self.picture
        is_text = jnp.arange(x.shape[1])[:, None] < words
        scale_a, gate_a, scale_m, gate_m = (
            jnp.where(is_text, text_vectors[:, i, None], vectors[:, i, None]) for i in range(4)
        )
        read = layer_norm(x, EPSILON) * (1 + scale_a)
        if entering:
            return read[:, words:], None
        heads = Projections(x.shape[-1], self.heads, True, self.dtype, bias=False, epsilon=EPSILON, name="attention")
        q, k, v = heads.enter(read)
        q, k = (turn(a, angles) for a in (q, k))
        before = jnp.tril(jnp.ones((words, words), bool)) & attended[:, None, :words]
        text = attention(q[:, :words], k[:, :words], v[:, :words], self.attention, mask_bias(before))
        picture = attention(q[:, words:], k, v, self.attention, mask_bias(attended))
        mixed = layout.attended(jnp.concatenate([text, picture], axis=1))
        x = x + jnp.tanh(gate_a) * heads.leave(to_tokens(mixed))
        mlp = SwiGlu(1.0, self.dtype, bias=False, hidden=self.hidden, name="mlp")
        x = x + jnp.tanh(gate_m) * mlp(layer_norm(x, EPSILON) * (1 + scale_m))
        return layout.split(x, "batch", "tokens", None), None


class QwenImage21(Layered, Backbone):
    """The transformer of Qwen-Image 2.1: `apply(variables, x, t, condition)` is a `Network`.

    Its clock is t itself, in [0, 1], and its output the velocity eps - x0. Token i = 0, 1, .. of a text of n tokens has
    the position (i, i, i). Pixel (r, c) of a latent of h x w pixels has (n, r - ceil(h / 2), c - ceil(w / 2)). The
    picture's positions therefore depend on the number of tokens of its text, not on the padding.

    Attributes:
        channels: C of the latents.
        width: number of features of a token, a multiple of `heads`.
        depth: number of layers.
        heads: number of attention heads.
        text_width: number E of features of the text's tokens.
        mlp_ratio: number of features inside the gated MLP, as a multiple of `width`.
        axes: features of a head that rotate with each of the three coordinates; they sum to width / heads.
        clean: whether the text has the time 0, not the time of x.

    Reference: Qwen Team, "Qwen-Image 2.1", 2026, as diffusers has its code.
    """

    channels: int = 64
    width: int = 4096
    depth: int = 32
    heads: int = 32
    text_width: int = 4096
    mlp_ratio: int = 3
    axes: tuple[int, int, int] = (16, 56, 56)
    clean: bool = True
    text_inputs = EMBEDDINGS
    ranks = (3,)
    reuses = ("blocks",)
    positive = ("channels", "width", "depth", "heads", "text_width", "mlp_ratio")

    def check_fields(self) -> None:
        network_checks.rotary_axes(self, 3)

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, condition: Entries, features: Numbers = None, through: Through = None
    ) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: noised latents [B, H, W, C].
            t: times in [0, 1], [B] or [], float32 or wider.
            condition: inputs by name, see `diffusion.models.layers.conditions`:
                "text": [B, M, text_width]. "text_mask": Bool [B, M], a text's tokens before its padding; without it all
                are attended.
            features, through: the options of every backbone, see `network_bases.Backbone`.

        Returns:
            [B, H, W, C].
        """
        inputs = entries(condition, ("text",), ("text_mask",))
        network_checks.latents(self, x, t, self.channels)
        check_text(x.shape[0], self.text_width, inputs)
        batch, height, width, _ = x.shape
        dense = lambda name: nn.Dense(self.width, False, self.dtype, kernel_init=xavier, name=name)
        text = RmsNorm(EPSILON, True, self.dtype, name="text_norm")(inputs["text"])
        text = dense("text_out")(gelu(dense("text_hidden")(text)))
        image = dense("patch_embedding")(patchify(x, PATCH))
        words, number = text.shape[1], image.shape[1]
        shown = shown_text(inputs)

        embedding = TimestepEmbedding(self.width, self.dtype, bias=False, name="time")
        modulation = Modulation(4, self.dtype, bias=False, name="modulation")
        t = jnp.broadcast_to(jnp.asarray(t), (batch,))
        c = nn.silu(embedding(1000 * t))
        vectors = jnp.concatenate(modulation(c), axis=1)
        text_vectors = jnp.concatenate(modulation(nn.silu(embedding(0 * t))), axis=1) if self.clean else vectors
        angles = _angles(words, height, width, self.axes, shown.sum(axis=1))
        attended = jnp.concatenate([shown, jnp.ones((batch, number), bool)], axis=1)
        tokens = layout.split(jnp.concatenate([text, image], axis=1), "batch", "tokens", None)

        def output(tokens: jax.Array) -> jax.Array:
            scale = nn.Dense(self.width, False, self.dtype, kernel_init=zeros, name="final_scale")(c)[:, None]
            vectors = jnp.zeros((), scale.dtype), scale
            return picture_output(tokens, c, layer_norm, PATCH, x.shape, self.dtype, vectors=vectors, bias=False)

        fields = (number, self.heads, self.mlp_ratio * self.width, self.attention, self.dtype)
        axes = (nn.broadcast,) * 4
        picture = lambda tokens: tokens[:, words:]
        arguments = (vectors, text_vectors, angles, attended)
        return single_stack(self, CausalTextBlock, fields, tokens, arguments, axes, output, features, through, picture)


def _angles(words: int, rows: int, columns: int, axes: tuple[int, int, int], lengths: jax.Array) -> jax.Array:
    """Rotary angles of M words and of a latent's pixels, behind a text of as many words as `lengths` [B] has."""
    pixels = np.pad(centred_grid(rows, columns), [(0, 0), (1, 0)])
    positions = np.concatenate([np.tile(np.arange(words)[:, None], (1, 3)), pixels])
    behind = jnp.where((np.arange(len(positions)) >= words)[:, None], lengths[:, None, None], 0)
    turned = jnp.asarray(axis_angles(np.array([[1, 0, 0]]), axes))
    return jnp.asarray(axis_angles(positions, axes)) + behind.astype(turned.dtype) * turned


MODELS = {"qwen_image_21": QwenImage21}  # by its name in configs
