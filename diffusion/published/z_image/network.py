"""The transformer of Z-Image: text and picture are refined apart, and then are one sequence.

         text [B, M, E]                 x [B, H, W, C]
               |                              |
          norm, dense                patches of 2 x 2, dense
               |                              |
    [ layer without c ] x refiners    [ layer with c ] x refiners     <-- c = time(1 - t)
               |                              |
               +---- [text, padding, picture] +
                              |
                       [ layer with c ]  x depth
                              |  picture's tokens
                   norm, scale, dense, unpatchify
                              |
                       [B, H, W, C]

Text and picture are each padded to a multiple of 32 tokens with a learned token, to which the others attend. Pictures
and features are channels last.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays.boxes import patchify
from diffusion.models.layers import network_checks
from diffusion.models.layers.blocks import xavier
from diffusion.models.layers.conditions import entries
from diffusion.models.layers.embeddings import TimestepEmbedding
from diffusion.models.layers.joint_conditions import check_text
from diffusion.models.layers.network_bases import Backbone, Entries, Numbers, Through
from diffusion.models.layers.sandwich_blocks import angles_behind_text, refined_then_joined, scaled_output
from diffusion.models.layers.stacks import Layered

PATCH = 2
MULTIPLE = 32  # the numbers of text and picture tokens are multiples of it
CONDITION, HIDDEN = 256, 1024  # features of the time's vector at most, and between its two layers


class ZImage(Layered, Backbone):
    """The transformer of Z-Image: `apply(variables, x, t, condition)` is a `Network`.

    Its clock is t itself, in [0, 1], and its output the velocity eps - x0. (Its authors count the time from the noise,
    so that it reads 1000 (1 - t), and their output has the other sign.) Text tokens are numbered from 1, and token i
    has the position (i, 0, 0). After L tokens of text and padding, a patch has the position (L + 1, row, column). The
    padding of the picture has (0, 0, 0).

    Attributes:
        channels: C of the latents.
        width: number of features of a token, a multiple of `heads`.
        depth: layers of the whole sequence.
        refiners: number of layers for the text before the two are joined, and of layers for the picture.
        heads: number of attention heads.
        text_width: number E of features of the text's tokens.
        axes: features of a head that rotate with each of the three coordinates; they sum to width / heads.
        theta: base of the rotary frequencies.
        epsilon: epsilon of the norms of tokens.

    Reference: Z-Image Team, "Z-Image: An Efficient Image Generation Foundation Model with Single-Stream Diffusion
    Transformer", 2025, and its code.
    """

    channels: int = 16
    width: int = 3840
    depth: int = 30
    refiners: int = 2
    heads: int = 30
    text_width: int = 2560
    axes: tuple[int, int, int] = (32, 48, 48)
    theta: float = 256.0
    epsilon: float = 1e-5
    ranks = (3,)
    reuses = ("blocks",)
    positive = ("channels", "width", "depth", "refiners", "heads", "text_width", "theta", "epsilon")

    def check_fields(self) -> None:
        network_checks.rotary_axes(self, 3)

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, condition: Entries, features: Numbers = None, through: Through = None
    ) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: noised latents [B, H, W, C]; H and W even.
            t: times in [0, 1], [B] or [], float32 or wider.
            condition: inputs by name, see `diffusion.models.layers.conditions`:
                "text": [B, M, text_width]. "text_mask": [B, M], True for the text's tokens, which come before padding.
            features, through: the options of every backbone, see `network_bases.Backbone`.

        Returns:
            [B, H, W, C].
        """
        inputs = entries(condition, ("text", "text_mask"))
        network_checks.latents(self, x, t, self.channels)
        check_text(x.shape[0], self.text_width, inputs)
        batch, height, width, _ = x.shape
        t = jnp.broadcast_to(jnp.asarray(t), (batch,))
        features_of_time = min(self.width, CONDITION)
        c = TimestepEmbedding(features_of_time, self.dtype, hidden=HIDDEN, name="time")(1000 * (1 - t))

        text, shown, length = self._text(inputs["text"], inputs["text_mask"])
        image = self._picture(x)
        rows, columns = height // PATCH, width // PATCH
        number = rows * columns
        first = np.concatenate([1 + np.arange(text.shape[1]), np.zeros(image.shape[1] - number, int)])
        angles = angles_behind_text(first, length + 1, rows, columns, self.axes, self.theta)
        output = lambda tokens: scaled_output(self, tokens, nn.silu(c), PATCH, x.shape)
        return refined_then_joined(self, text, image, (c, angles, shown), number, output, features, through)

    @property
    def block_fields(self) -> tuple:
        """The fields of a layer, see `refined_then_joined`."""
        return self.heads, self.epsilon, self.attention, self.dtype, 0, 0

    def _text(self, text: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The text's tokens [B, M', width] up to a multiple, which of them are seen, and how many [B]."""
        number = mask.sum(1)
        length = -(-number // MULTIPLE) * MULTIPLE
        text = jnp.pad(text, ((0, 0), (0, -text.shape[1] % MULTIPLE), (0, 0)))
        place = jnp.arange(text.shape[1])
        text = nn.RMSNorm(self.epsilon, dtype=self.dtype, name="text_norm")(text)
        text = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name="text_embedding")(text)
        pad = self._padding("text_padding").astype(text.dtype)
        return jnp.where((place < number[:, None])[..., None], text, pad), place < length[:, None], length

    def _picture(self, x: jax.Array) -> jax.Array:
        """The picture's tokens behind their padding, [B, N', width]."""
        patches = patchify(x, PATCH)
        image = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name="patch_embedding")(patches)
        shape = (len(x), -patches.shape[1] % MULTIPLE, self.width)
        pad = jnp.broadcast_to(self._padding("picture_padding").astype(image.dtype), shape)
        return jnp.concatenate([pad, image], axis=1)

    def _padding(self, name: str) -> jax.Array:
        return self.param(name, nn.initializers.normal(0.02), (self.width,))


MODELS = {"z_image": ZImage}  # by its name in configs
