"""The transformer of FLUX.2: Flux's layers without biases, with SwiGLU and one modulation for all layers of a kind.

                 text [B, M, E]        x [B, H, W, C]
                      |                      |
                    dense                  dense
                      |                      |
    t (strength) --> [ joint layer: attention over both, an MLP each ]   x depth
         c            |                      |
                      +------ [text, picture] ------+
                                  |
             --> [ single layer: attention beside an MLP ]               x singles
                                  |  picture's tokens
                       norm, shift, scale, dense
                                  |
                           [B, H, W, C]

A value of x is a patch of 2 x 2 of the autoencoder's latents. Pictures and features are channels last.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.layers import layout, network_checks
from diffusion.models.layers.blocks import Modulation, modulated_output, xavier
from diffusion.models.layers.conditions import entries
from diffusion.models.layers.embeddings import TimestepEmbedding
from diffusion.models.layers.joint_conditions import check_pictures, check_strength, check_text
from diffusion.models.layers.joint_stacks import joint_then_single
from diffusion.models.layers.network_bases import Backbone, Entries, Numbers, Through
from diffusion.models.layers.norms import layer_norm
from diffusion.models.layers.rotary import axis_angles, grid_positions
from diffusion.models.layers.stacks import Layered

SPACING = 10  # spacing of the first coordinates of x and of the edited pictures


class Flux2(Layered, Backbone):
    """The transformer of FLUX.2: `apply(variables, x, t, condition)` is a `Network`.

    Its clock is t itself, in [0, 1], and its strength is the scale of the guidance itself; the network multiplies both
    by 1000. A value of x has the position (0, row, column, 0), and a value of the k-th edited picture, k = 1, 2, ..,
    has (10 k, row, column, 0). Text token i = 0, 1, .. has (0, 0, 0, i).

    Attributes:
        channels: C of the latents.
        width: number of features of a token, a multiple of `heads`.
        depth: number of joint layers.
        singles: number of single layers.
        heads: number of attention heads.
        text_width: number E of features of the text's tokens.
        axes: features of a head that rotate with each of the four coordinates; they sum to width / heads.
        theta: base of the rotary frequencies.
        strength: whether the network receives the scale of the guidance that it imitates (FLUX.2 dev).

    Reference: the code of FLUX.2 (Black Forest Labs, 2025).
    """

    channels: int = 128
    width: int = 3072
    depth: int = 5
    singles: int = 20
    heads: int = 24
    text_width: int = 7680
    axes: tuple[int, int, int, int] = (32, 32, 32, 32)
    theta: float = 2000.0
    strength: bool = False
    depths = ("depth", "singles")
    ranks = (3,)
    reuses = ("blocks",)
    positive = ("channels", "width", "depth", "singles", "heads", "text_width", "theta")

    def check_fields(self) -> None:
        network_checks.rotary_axes(self, 4)

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, condition: Entries, features: Numbers = None, through: Through = None
    ) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: noised latents [B, H, W, C].
            t: times in [0, 1], [B] or [], float32 or wider.
            condition: inputs by name, see `diffusion.models.layers.conditions`: "text": [B, M, text_width]. "strength":
                [B], required where the network receives it, refused elsewhere. "pictures": a tuple of latents
                [B, h, w, C], which may differ in h and w, of pictures that are edited or combined; they are further
                tokens.
            features, through: the options of every backbone, see `network_bases.Backbone`.

        Returns:
            [B, H, W, C].
        """
        inputs = entries(condition, ("text", "strength") if self.strength else ("text",), ("pictures",))
        self._check(x, t, inputs)
        batch, height, width, _ = x.shape

        dense = lambda name: nn.Dense(self.width, use_bias=False, dtype=self.dtype, kernel_init=xavier, name=name)
        pictures = tuple(inputs["pictures"] or ())
        flat = [latents.reshape(batch, -1, self.channels) for latents in (x, *pictures)]
        image = dense("patch_embedding")(jnp.concatenate([tokens.astype(x.dtype) for tokens in flat], axis=1))
        text = dense("text_embedding")(inputs["text"])
        embedding = lambda name: TimestepEmbedding(self.width, self.dtype, bias=False, name=name)
        c = embedding("time")(1000 * jnp.broadcast_to(jnp.asarray(t), (batch,)))
        c = nn.silu(c + embedding("strength")(1000 * inputs["strength"]) if self.strength else c)
        vectors = lambda count, name: jnp.concatenate(Modulation(count, self.dtype, bias=False, name=name)(c), axis=1)
        for_layers = lambda stream, depth: jnp.broadcast_to(stream, (depth, *stream.shape))
        both = vectors(6, "image_modulation"), vectors(6, "text_modulation")
        per_layer = {"vectors": tuple(for_layers(stream, self.depth) for stream in both)}
        single_inputs = {"vectors": for_layers(vectors(3, "single_modulation"), self.singles)}
        sides = [latents.shape[1:3] for latents in (x, *pictures)]
        angles = jnp.asarray(axis_angles(_token_positions(text.shape[1], sides), self.axes, self.theta))

        streams = layout.split(image, "batch", "tokens", None), layout.split(text, "batch", "tokens", None)
        joint = (self.heads, True, False, False, self.attention, self.dtype, True), (None, angles, per_layer)
        single = (self.heads, self.attention, self.dtype, True), (None, angles, single_inputs)
        modulated = lambda tokens: modulated_output(tokens, c, layer_norm, self.channels, self.dtype, bias=False)
        output = lambda tokens: modulated(tokens).reshape(x.shape)
        return joint_then_single(self, streams, joint, single, height * width, output, features, through)

    def _check(self, x: jax.Array, t: jax.Array, inputs: dict[str, Any]) -> None:
        network_checks.latents(self, x, t, self.channels)
        check_pictures(x, inputs["pictures"] or ())
        check_text(x.shape[0], self.text_width, inputs)
        check_strength(x.shape[0], inputs)


def _token_positions(words: int, sides: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Rotary positions of M words and of the values of latents, K pairs [height, width], x first: [M + N, 4]."""
    text = np.pad(grid_positions(words), [(0, 0), (3, 0)])
    pictures = [np.pad(grid_positions(*pair), [(0, 0), (1, 1)]) for pair in sides]
    for i, positions in enumerate(pictures):
        positions[:, 0] = SPACING * i
    return np.concatenate([text, *pictures])


MODELS = {"flux2": Flux2}  # by its name in configs
