"""The transformer of Lumina-Image 2: text and picture are refined apart, and then are one sequence.

         text [B, M, E]                 x [B, H, W, C]
               |                              |
          norm, dense                patches of 2 x 2, dense
               |                              |
    [ layer without c ] x refiners    [ layer with c ] x refiners     <-- c = silu(time(1 - t))
               |                              |
               +-------- [text, picture] -----+
                              |
                       [ layer with c ]  x depth
                              |  picture's tokens
                   norm, scale, dense, unpatchify
                              |
                       [B, H, W, C]

Each key and value serves several queries. Pictures and features are channels last.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays.boxes import patchify
from diffusion.models.layers import network_checks
from diffusion.models.layers.blocks import xavier
from diffusion.models.layers.conditions import EMBEDDINGS, entries
from diffusion.models.layers.embeddings import TimestepEmbedding
from diffusion.models.layers.joint_conditions import check_text, shown_text
from diffusion.models.layers.network_bases import Backbone, Entries, Numbers, Through
from diffusion.models.layers.sandwich_blocks import angles_behind_text, refined_then_joined, scaled_output
from diffusion.models.layers.stacks import Layered

PATCH = 2
CONDITION = 1024  # features of the time's vector at most


class Lumina2(Layered, Backbone):
    """The transformer of Lumina-Image 2: `apply(variables, x, t, condition)` is a `Network`.

    Its clock is t itself, in [0, 1], and its output the velocity eps - x0. (Its authors count the time from the noise,
    so that it reads 1 - t, and their output has the other sign.) Text tokens are numbered from 0, and token i has the
    position (i, 0, 0). After L tokens of text, a patch has the position (L, row, column).

    Attributes:
        channels: C of the latents.
        width: number of features of a token, a multiple of `heads`.
        depth: layers of the whole sequence.
        refiners: number of layers for the text before the two are joined, and of layers for the picture.
        heads: number of heads of the queries.
        key_heads: number of heads of keys and values, a divisor of `heads`.
        hidden: number of features inside the gated MLPs.
        text_width: number E of features of the text's tokens.
        axes: features of a head that rotate with each of the three coordinates; they sum to width / heads.
        epsilon: epsilon of the norms of tokens.

    Reference: Qin et al., "Lumina-Image 2.0: A Unified and Efficient Image Generative Framework", 2025, and its code.
    """

    channels: int = 16
    width: int = 2304
    depth: int = 26
    refiners: int = 2
    heads: int = 24
    key_heads: int = 8
    hidden: int = 9216
    text_width: int = 2304
    axes: tuple[int, int, int] = (32, 32, 32)
    epsilon: float = 1e-5
    text_inputs = EMBEDDINGS
    ranks = (3,)
    reuses = ("blocks",)
    positive = ("channels", "width", "depth", "refiners", "heads", "key_heads", "hidden", "text_width", "epsilon")

    def check_fields(self) -> None:
        network_checks.rotary_axes(self, 3)
        network_checks.key_heads(self)

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, condition: Entries, features: Numbers = None, through: Through = None
    ) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: noised latents [B, H, W, C]; H and W even.
            t: times in [0, 1], [B] or [], float32 or wider.
            condition: inputs by name, see `diffusion.models.layers.conditions`:
                "text": [B, M, text_width]. "text_mask": [B, M], True for the text's tokens, which come before
                padding; without it True for all.
            features, through: the options of every backbone, see `network_bases.Backbone`.

        Returns:
            [B, H, W, C].
        """
        inputs = entries(condition, ("text",), ("text_mask",))
        network_checks.latents(self, x, t, self.channels)
        check_text(x.shape[0], self.text_width, inputs)
        batch, height, width, _ = x.shape
        shown = shown_text(inputs)
        time = TimestepEmbedding(min(self.width, CONDITION), self.dtype, name="time")
        c = nn.silu(time(1 - jnp.broadcast_to(jnp.asarray(t), (batch,))))
        dense = lambda name: nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name=name)
        text = nn.RMSNorm(self.epsilon, dtype=self.dtype, name="text_norm")(inputs["text"])
        text, image = dense("text_embedding")(text), dense("patch_embedding")(patchify(x, PATCH))
        words = np.arange(text.shape[1])
        angles = angles_behind_text(words, shown.sum(1), height // PATCH, width // PATCH, self.axes)
        output = lambda tokens: scaled_output(self, tokens, c, PATCH, x.shape)
        arguments = (c, angles, shown)
        return refined_then_joined(self, text, image, arguments, image.shape[1], output, features, through)

    @property
    def block_fields(self) -> tuple:
        """The fields of a layer, see `refined_then_joined`."""
        return self.heads, self.epsilon, self.attention, self.dtype, self.hidden, self.key_heads


MODELS = {"lumina2": Lumina2}  # by its name in configs
