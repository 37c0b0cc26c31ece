"""The transformer of HunyuanImage 2.1: Flux's layers over a latent's pixels, and tokens of two text encoders.

    words in quotes -- norm, three layers --+
    text            -- refined -------------+-- side by side      x [B, H, W, C]
                                                    |                   |  dense
    t (strength) --> [ joint layer: attention over both, an MLP each ]  x depth
                     [ single layer: attention and MLP side by side  ]  x singles
                                                                        |
                                            norm, shift, scale, dense --> [B, H, W, C]

Pictures and features are channels last.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.layers import layout, network_checks
from diffusion.models.layers.blocks import modulated_output, xavier
from diffusion.models.layers.conditions import entries
from diffusion.models.layers.embeddings import TimestepEmbedding
from diffusion.models.layers.joint_conditions import check_strength, check_text
from diffusion.models.layers.joint_stacks import joint_then_single
from diffusion.models.layers.network_bases import Backbone, Entries, Numbers, Through
from diffusion.models.layers.norms import layer_norm
from diffusion.models.layers.rotary import axis_angles, grid_positions
from diffusion.models.layers.stacks import Layered
from diffusion.published.hunyuan_video.network import THETA, TextRefiner
from diffusion.published.hunyuan_video_15.network import GlyphEmbedding, check_glyphs


class HunyuanImage(Layered, Backbone):
    """The transformer of HunyuanImage 2.1: `apply(variables, x, t, condition)` is a `Network`.

    Attributes:
        channels: C of the latents.
        width: number of features of a token, a multiple of `heads`.
        depth: number of joint layers.
        singles: number of single layers.
        refiners: number of layers that refine the text before it meets the picture.
        heads: number of attention heads.
        text_width: number E of features of the text's tokens.
        glyph_width: number G of features of the tokens of words in quotes; 0 for a network without them.
        axes: features of a head that rotate with row and column; they sum to width / heads.
        strength: whether the network receives the scale of the guidance that it imitates.
        times: number of times that the network receives as its clock: 1, or 2 for a distilled network, which also
            receives the time at which a step ends, and whose output is the mean velocity over the step (MeanFlow).

    Reference: Tencent Hunyuan, "HunyuanImage 2.1", 2025, and its code.
    """

    channels: int = 64
    width: int = 3584
    depth: int = 20
    singles: int = 40
    refiners: int = 2
    heads: int = 28
    text_width: int = 3584
    glyph_width: int = 1472
    axes: tuple[int, int] = (64, 64)
    strength: bool = False
    times: int = 1
    depths = ("depth", "singles")
    ranks = (3,)
    reuses = ("blocks",)
    positive = ("channels", "width", "depth", "singles", "refiners", "heads", "text_width")

    def check_fields(self) -> None:
        network_checks.rotary_axes(self, 2)
        if self.times not in (1, 2):
            raise ValueError(f"times={self.times} must be 1, or 2 for a network that receives the end of a step, too")

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, condition: Entries, features: Numbers = None, through: Through = None
    ) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: noised latents [B, H, W, C].
            t: times in [0, 1], [B] or [], float32 or wider; a tuple of the start and the end of a step if `times` is 2.
            condition: inputs by name, see `diffusion.models.layers.conditions`:
                "text": [B, M, text_width]. "text_mask": Bool [B, M].
                "glyphs": [B, K, glyph_width], of words in quotes. "glyph_mask": Bool [B, K]. A network with
                `glyph_width` requires both.
                "strength": [B], required where the network receives it, refused elsewhere.
            features, through: the options of every backbone, see `network_bases.Backbone`.

        Returns:
            [B, H, W, C].
        """
        glyph_names = ("glyphs", "glyph_mask") if self.glyph_width else ()
        inputs = entries(condition, ("text", "text_mask", *glyph_names, *("strength",) * self.strength))
        clocks = t if isinstance(t, tuple) else (t,)
        network_checks.latents(self, x, clocks[0], self.channels)
        network_checks.own_times(self, x, *clocks)
        check_text(x.shape[0], self.text_width, inputs)
        check_strength(x.shape[0], inputs)
        batch, height, width, channels = x.shape
        t, *end = (1000 * jnp.broadcast_to(jnp.asarray(clock), (batch,)) for clock in clocks)

        dense = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name="patch_embedding")
        image = dense(x.reshape(batch, -1, channels))
        refiner = TextRefiner(self.width, self.refiners, self.heads, self.attention, self.dtype, name="refiner")
        text, mask = refiner(inputs["text"], inputs["text_mask"], t), inputs["text_mask"]
        if self.glyph_width:
            check_glyphs(batch, self.glyph_width, inputs)
            glyphs = GlyphEmbedding(self.width, self.dtype, name="glyph_embedding")(inputs["glyphs"])
            text = jnp.concatenate([glyphs, text], axis=1)
            mask = jnp.concatenate([inputs["glyph_mask"], mask], axis=1)
        c = TimestepEmbedding(self.width, self.dtype, name="time")(t)
        if end:
            c = (c + TimestepEmbedding(self.width, self.dtype, name="end")(end[0])) / 2
        if self.strength:
            c = c + TimestepEmbedding(self.width, self.dtype, name="strength_embedding")(1000 * inputs["strength"])
        c = nn.silu(c)

        positions = np.pad(grid_positions(height, width), [(text.shape[1], 0), (0, 0)])
        angles = jnp.asarray(axis_angles(positions, self.axes, THETA))
        shown = jnp.concatenate([mask, jnp.ones(image.shape[:2], bool)], axis=1)
        per_layer = lambda depth: {"seen": jnp.broadcast_to(shown, (depth, *shown.shape))}
        streams = layout.split(image, "batch", "tokens", None), layout.split(text, "batch", "tokens", None)
        fields = (self.heads, True, False, False, self.attention, self.dtype)
        joint = fields, (c, angles, per_layer(self.depth))
        single = (self.heads, self.attention, self.dtype), (c, angles, per_layer(self.singles))

        def output(tokens: jax.Array) -> jax.Array:
            return modulated_output(tokens, c, layer_norm, channels, self.dtype).reshape(x.shape)

        return joint_then_single(self, streams, joint, single, image.shape[1], output, features, through)


MODELS = {"hunyuan_image": HunyuanImage}  # by its name in configs
