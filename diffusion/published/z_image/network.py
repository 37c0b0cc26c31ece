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

Text and picture are each padded to a multiple of 32 tokens by a learned token, which the others attend to. Pictures and
features are channels last.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.layers import layout, network_checks
from diffusion.models.layers.blocks import Modulation, modulated_output, xavier
from diffusion.models.layers.conditions import entries
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
MULTIPLE = 32  # the numbers of text and picture tokens are multiples of it
CONDITION, HIDDEN = 256, 1024  # features of the time's vector at most, and between its two layers


class ZImage(Layered, Backbone):
    """The transformer of Z-Image: `apply(variables, x, t, condition)` is a `Network`.

    Its clock is t itself, in [0, 1], and its output the velocity eps - x0. (Its authors count the time from the noise,
    so that it reads 1000 (1 - t), and their output has the other sign.) Text token i, 1 the first, has the position
    (i, 0, 0), a patch (L + 1, row, column) behind L tokens of text and padding, and padding of the picture (0, 0, 0).

    Attributes:
        channels: C of the latents.
        width: number of features of a token, a multiple of `heads`.
        depth: layers of the whole sequence.
        refiners: layers of the text alone, and of the picture alone.
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
                "text": [B, M, text_width]. "text_mask": [B, M], True for the text's tokens, which stand first.

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
        image, angles = self._picture(x, length, text.shape[1])
        text_angles, image_angles = jnp.split(angles, [text.shape[1]], axis=1)
        text = self._refined("text_refiners", text, None, text_angles, shown)
        image = self._refined("picture_refiners", image, c, image_angles, None)
        number = height * width // PATCH**2
        tokens = layout.split(jnp.concatenate([text, image], axis=1), "batch", "tokens", None)
        shown = jnp.concatenate([shown, jnp.ones(image.shape[:2], bool)], axis=1)
        arguments = (c, angles, shown)
        picture = lambda tokens: tokens[:, -number:]
        output = lambda tokens: self._output(tokens, c, height, width)
        fields = (*self._fields, 0, 0, number)
        return single_stack(self, SandwichBlock, fields, tokens, arguments, SHARED, output, features, through, picture)

    @property
    def _fields(self) -> tuple:
        return self.heads, self.epsilon, self.attention, self.dtype

    def _refined(self, name: str, tokens: jax.Array, *arguments: Any) -> jax.Array:
        stack = scanned(SandwichBlock, self.refiners, self.remat, self.is_initializing(), SHARED)
        return stack(*self._fields, name=name)(tokens, *arguments)[0]

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

    def _picture(self, x: jax.Array, length: jax.Array, words: int) -> tuple[jax.Array, jax.Array]:
        """The picture's tokens behind their padding, and the angles of all tokens [B, M' + N', head / 2]."""
        patches = patchify(x, PATCH)
        batch, number, _ = patches.shape
        image = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name="patch_embedding")(patches)
        padding = -number % MULTIPLE
        pad = jnp.broadcast_to(self._padding("picture_padding").astype(image.dtype), (batch, padding, self.width))
        rows, columns = np.indices((x.shape[1] // PATCH, x.shape[2] // PATCH)).reshape(2, -1)
        zeros = np.zeros((words + padding, 2), int)
        places = np.concatenate([zeros, np.stack([rows, columns], axis=1)])
        flat = axis_angles(places, self.axes[1:], self.theta)
        # Computed in float64 for every place that a text can end at, and looked up.
        table = jnp.asarray(axis_angles(np.arange(words + 2)[:, None], self.axes[:1], self.theta))
        first = np.concatenate([1 + np.arange(words), np.zeros(padding, int)])
        behind = jnp.broadcast_to(length[:, None] + 1, (batch, number))
        along = table[jnp.concatenate([jnp.broadcast_to(first, (batch, len(first))), behind], axis=1)]
        angles = jnp.concatenate([along, jnp.broadcast_to(flat, (batch, *flat.shape))], axis=-1)
        return jnp.concatenate([pad, image], axis=1), angles

    def _padding(self, name: str) -> jax.Array:
        return self.param(name, nn.initializers.normal(0.02), (self.width,))

    def _output(self, tokens: jax.Array, c: jax.Array, height: int, width: int) -> jax.Array:
        (scale,) = Modulation(1, self.dtype, self.width, name="final_modulation")(nn.silu(c))
        vectors = jnp.zeros_like(scale), scale
        tokens = modulated_output(tokens, c, layer_norm, PATCH**2 * self.channels, self.dtype, vectors)
        return -unpatchify(tokens, PATCH, height, width)


MODELS = {"z_image": ZImage}  # by its name in configs
