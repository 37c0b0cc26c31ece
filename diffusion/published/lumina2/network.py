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

from diffusion.models.layers import layout, network_checks
from diffusion.models.layers.blocks import Modulation, modulated_output, xavier
from diffusion.models.layers.conditions import EMBEDDINGS, entries
from diffusion.models.layers.embeddings import TimestepEmbedding
from diffusion.models.layers.joint_conditions import check_text
from diffusion.models.layers.network_bases import Backbone, Entries, Numbers, Through
from diffusion.models.layers.norms import layer_norm
from diffusion.models.layers.patches import patchify, unpatchify
from diffusion.models.layers.rotary import axis_angles
from diffusion.models.layers.sandwich_blocks import SandwichBlock
from diffusion.models.layers.scan import scanned
from diffusion.models.layers.stacks import Layered, single_stack

PATCH = 2
SHARED = (nn.broadcast,) * 3  # the arguments of a layer
CONDITION = 1024  # features of the time's vector at most


class Lumina2(Layered, Backbone):
    """The transformer of Lumina-Image 2: `apply(variables, x, t, condition)` is a `Network`.

    Its clock is t itself, in [0, 1], and its output the velocity eps - x0. (Its authors count the time from the noise,
    so that it reads 1 - t, and their output has the other sign.) Text token i, 0 the first, has the position (i, 0, 0),
    a patch (L, row, column) behind L tokens of text.

    Attributes:
        channels: C of the latents.
        width: number of features of a token, a multiple of `heads`.
        depth: layers of the whole sequence.
        refiners: number of layers of the text alone, and of the picture alone.
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
        if self.heads % self.key_heads:
            raise ValueError(f"key_heads={self.key_heads} does not divide heads={self.heads}")

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, condition: Entries, features: Numbers = None, through: Through = None
    ) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: noised latents [B, H, W, C]; H and W even.
            t: times in [0, 1], [B] or [], float32 or wider.
            condition: inputs by name, see `diffusion.models.layers.conditions`:
                "text": [B, M, text_width]. "text_mask": [B, M], True for the text's tokens, which stand first; without
                it all are.

        Returns:
            [B, H, W, C].
        """
        inputs = entries(condition, ("text",), ("text_mask",))
        network_checks.latents(self, x, t, self.channels)
        check_text(x.shape[0], self.text_width, inputs)
        batch, height, width, _ = x.shape
        c = TimestepEmbedding(min(self.width, CONDITION), self.dtype, name="time")(
            1 - jnp.broadcast_to(jnp.asarray(t), (batch,))
        )
        c = nn.silu(c)
        dense = lambda name: nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name=name)
        text = nn.RMSNorm(self.epsilon, dtype=self.dtype, name="text_norm")(inputs["text"])
        text, image = dense("text_embedding")(text), dense("patch_embedding")(patchify(x, PATCH))
        shown = inputs["text_mask"]
        shown = jnp.ones(text.shape[:2], bool) if shown is None else jnp.asarray(shown)

        angles = self._angles(shown.sum(1), text.shape[1], height // PATCH, width // PATCH)
        text_angles, image_angles = jnp.split(angles, [text.shape[1]], axis=1)
        text = self._refined("text_refiners", text, None, text_angles, shown)
        image = self._refined("picture_refiners", image, c, image_angles, None)
        number = image.shape[1]
        tokens = layout.split(jnp.concatenate([text, image], axis=1), "batch", "tokens", None)
        arguments = (c, angles, jnp.concatenate([shown, jnp.ones((batch, number), bool)], axis=1))
        picture = lambda tokens: tokens[:, -number:]
        output = lambda tokens: self._output(tokens, c, height, width)
        fields = (*self._fields, number)
        return single_stack(self, SandwichBlock, fields, tokens, arguments, SHARED, output, features, through, picture)

    @property
    def _fields(self) -> tuple:
        return self.heads, self.epsilon, self.attention, self.dtype, self.hidden, self.key_heads

    def _refined(self, name: str, tokens: jax.Array, *arguments: Any) -> jax.Array:
        stack = scanned(SandwichBlock, self.refiners, self.remat, self.is_initializing(), SHARED)
        return stack(*self._fields, name=name)(tokens, *arguments)[0]

    def _angles(self, length: jax.Array, words: int, rows: int, columns: int) -> jax.Array:
        """The angles of all tokens [B, M + N, head / 2], behind texts of `length` [B]."""
        row, column = np.indices((rows, columns)).reshape(2, -1)
        places = np.concatenate([np.zeros((words, 2), int), np.stack([row, column], axis=1)])
        flat = axis_angles(places, self.axes[1:])
        # Computed in float64 for every place that a text can end at, and looked up.
        table = jnp.asarray(axis_angles(np.arange(words + 1)[:, None], self.axes[:1]))
        batch = len(length)
        text_places = jnp.broadcast_to(jnp.arange(words), (batch, words))
        behind = jnp.broadcast_to(length[:, None], (batch, rows * columns))
        along = table[jnp.concatenate([text_places, behind], axis=1)]
        return jnp.concatenate([along, jnp.broadcast_to(flat, (batch, *flat.shape))], axis=-1)

    def _output(self, tokens: jax.Array, c: jax.Array, height: int, width: int) -> jax.Array:
        (scale,) = Modulation(1, self.dtype, self.width, name="final_modulation")(c)
        vectors = jnp.zeros_like(scale), scale
        tokens = modulated_output(tokens, c, layer_norm, PATCH**2 * self.channels, self.dtype, vectors)
        return -unpatchify(tokens, PATCH, height, width)


MODELS = {"lumina2": Lumina2}  # by its name in configs
