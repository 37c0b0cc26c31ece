"""The transformer of HunyuanVideo 1.5: joint layers over the latents of all frames, and tokens of three encoders.

    patches of an image -- norm, MLP, norm -------+
    words in quotes     -- norm, three layers ----+-- concatenated, each kind with a vector added
    text                -- refined ---------------+          |          x [B, F, H, W, C]
                                                             |                 |  dense
    t --> [ joint layer: attention over both, an MLP each ] x depth -----------+
                                                             |
                                          norm, shift, scale, dense --> [B, F, H, W, C]

Each position of the latents is one token of the clip. Videos and features are channels last.
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
from diffusion.models.layers.joint_blocks import JointBlock
from diffusion.models.layers.joint_conditions import check_text
from diffusion.models.layers.network_bases import Backbone, Entries, Numbers, Through
from diffusion.models.layers.norms import layer_norm
from diffusion.models.layers.rotary import axis_angles, grid_positions
from diffusion.models.layers.stacks import Layered, single_stack
from diffusion.published.hunyuan_video.network import THETA, TextRefiner
from diffusion.published.wan.network import PictureEmbedding

KINDS = 3  # the number of kinds of tokens besides the clip's: text, words in quotes, patches
GLYPH_HIDDEN = 2048  # the number of hidden features in the embedding of words in quotes


class GlyphEmbedding(nn.Module):
    """The embedding of words in quotes, [B, M, G] -> [B, M, width]: a norm, three dense layers with GELU between."""

    width: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dense = lambda features, name: nn.Dense(features, dtype=self.dtype, kernel_init=xavier, name=name)
        x = nn.LayerNorm(1e-5, dtype=self.dtype, name="norm")(x)
        for i in range(2):
            x = nn.gelu(dense(GLYPH_HIDDEN, f"hidden_{i}")(x), approximate=False)
        return dense(self.width, "out")(x)


def check_glyphs(batch: int, glyph_width: int, inputs: dict[str, Any]) -> None:
    """Refuses tokens of words in quotes, or a mask of them, whose shapes do not fit the network.

    Args:
        batch: number B of examples.
        glyph_width: number G of features of the tokens.
        inputs: entries of the condition, with "glyphs" and "glyph_mask".

    Raises:
        ValueError: if a shape does not fit; the message names both shapes.
    """
    glyphs, mask = inputs["glyphs"], inputs["glyph_mask"]
    if glyphs.ndim != 3 or (glyphs.shape[0], glyphs.shape[2]) != (batch, glyph_width):
        raise ValueError(
            f"the condition's 'glyphs' must be [B, K, glyph_width] = ({batch}, K, {glyph_width}); got {glyphs.shape}"
        )
    if mask.shape != glyphs.shape[:2] or mask.dtype != bool:
        raise ValueError(
            f"the condition's 'glyph_mask' must be Bool [B, K] = {glyphs.shape[:2]}; got {mask.dtype} of shape "
            f"{mask.shape}"
        )


class HunyuanVideo15(Layered, Backbone):
    """The transformer of HunyuanVideo 1.5: `apply(variables, x, t, condition)` is a `Network`.

    Attributes:
        channels: number C of channels of the latents.
        width: number of features of a token, a multiple of `heads`.
        depth: number of layers.
        refiners: number of layers that refine the text before the joint layers.
        heads: number of attention heads.
        text_width: number E of features of the text's tokens.
        glyph_width: number G of features of the tokens of words in quotes.
        patch_width: number P of features of the patches of an image.
        axes: numbers of features of a head that rotate with frame, row and column; they sum to width / heads.
        from_image: whether clips begin with an image. The image's latents and a mask are then further input channels,
            and the network receives the image's patches.
        side: side in pixels of a square with as many pixels as a frame of the training clips.

    Reference: Tencent Hunyuan, "HunyuanVideo 1.5 Technical Report", 2025, and its code.
    """

    channels: int = 32
    width: int = 2048
    depth: int = 54
    refiners: int = 2
    heads: int = 16
    text_width: int = 3584
    glyph_width: int = 1472
    patch_width: int = 1152
    axes: tuple[int, int, int] = (16, 56, 56)
    from_image: bool = False
    side: int = 640
    ranks = (4,)
    takes_frames = True
    reuses = ("blocks",)
    positive = ("channels", "width", "depth", "refiners", "heads", "text_width", "glyph_width", "patch_width", "side")

    def check_fields(self) -> None:
        network_checks.rotary_axes(self, 3)

    @property
    def in_channels(self) -> int:
        """The number of channels of the network's input, which include an image's latents and a mask."""
        return 2 * self.channels + 1 if self.from_image else self.channels

    @property
    def picture_width(self) -> int:
        """The number of features of the image patches that the network receives; 0 if it receives none."""
        return self.patch_width if self.from_image else 0

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, condition: Entries, features: Numbers = None, through: Through = None
    ) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: noised latents [B, F, H, W, in_channels].
            t: times in [0, 1], [B] or [], float32 or wider.
            condition: inputs by name, see `diffusion.models.layers.conditions`:
                "text": [B, M, text_width]. "text_mask": Bool [B, M].
                "glyphs": [B, K, glyph_width], of words in quotes. "glyph_mask": Bool [B, K].
                "patches": [B, L, patch_width], with `from_image`.
            features, through: the options of every backbone, see `network_bases.Backbone`.

        Returns:
            [B, F, H, W, channels].
        """
        required = ("text", "text_mask", "glyphs", "glyph_mask", *("patches",) * self.from_image)
        inputs = entries(condition, required)
        self._check(x, t, inputs)
        batch, frames, height, width, channels = x.shape
        t = 1000 * jnp.broadcast_to(jnp.asarray(t), (batch,))

        # A network without an image also has the image's channels, which are zero.
        x = jnp.pad(x, [(0, 0)] * 4 + [(0, 2 * self.channels + 1 - channels)])
        dense = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name="patch_embedding")
        clip = dense(x.reshape(batch, -1, x.shape[-1]))
        others, mask = self._others(t, inputs)
        c = nn.silu(TimestepEmbedding(self.width, self.dtype, name="time")(t))
        positions = np.pad(grid_positions(frames, height, width), [(others.shape[1], 0), (0, 0)])
        angles = jnp.asarray(axis_angles(positions, self.axes, THETA))
        shown = jnp.concatenate([mask, jnp.ones(clip.shape[:2], bool)], axis=1)
        per_layer = {"seen": jnp.broadcast_to(shown, (self.depth, *shown.shape))}
        streams = layout.split(clip, "batch", "tokens", None), layout.split(others, "batch", "tokens", None)

        def output(tokens: jax.Array) -> jax.Array:
            tokens = modulated_output(tokens, c, layer_norm, self.channels, self.dtype)
            return tokens.reshape(batch, frames, height, width, self.channels)

        axes = (nn.broadcast, nn.broadcast, 0)
        fields = (self.heads, True, False, False, self.attention, self.dtype)
        arguments, picture = (c, angles, per_layer), lambda streams: streams[0]
        return single_stack(self, JointBlock, fields, streams, arguments, axes, output, features, through, picture)

    def _others(self, t: jax.Array, inputs: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
        """(the tokens besides the clip's, [B, N, width]; their mask, Bool [B, N])."""
        kinds = self.param("kinds", nn.initializers.normal(0.02), (KINDS, self.width)).astype(self.dtype)
        refiner = TextRefiner(self.width, self.refiners, self.heads, self.attention, self.dtype, name="refiner")
        text = refiner(inputs["text"], inputs["text_mask"], t) + kinds[0]
        glyphs = GlyphEmbedding(self.width, self.dtype, name="glyph_embedding")(inputs["glyphs"]) + kinds[1]
        tokens, masks = [glyphs, text], [inputs["glyph_mask"], inputs["text_mask"]]
        patches = inputs.get("patches")
        if patches is None and self.is_initializing():  # published networks without an image have these parameters too
            patches = jnp.zeros((len(text), 1, self.patch_width))
        if patches is not None:
            embedded = PictureEmbedding(self.width, 0, self.dtype, name="picture_embedding")(patches) + kinds[2]
            tokens, masks = [embedded, *tokens], [jnp.ones(embedded.shape[:2], bool), *masks]
        return jnp.concatenate(tokens, axis=1), jnp.concatenate(masks, axis=1)

    def _check(self, x: jax.Array, t: jax.Array, inputs: dict[str, Any]) -> None:
        network_checks.latents(self, x, t, self.in_channels, video=True)
        check_text(x.shape[0], self.text_width, inputs)
        check_glyphs(x.shape[0], self.glyph_width, inputs)
        if self.from_image:
            patches = inputs["patches"].shape
            if len(patches) != 3 or (patches[0], patches[2]) != (x.shape[0], self.patch_width):
                raise ValueError(
                    f"the condition's 'patches' must be [B, L, patch_width] = ({x.shape[0]}, L, {self.patch_width}); "
                    f"got {patches}"
                )


MODELS = {"hunyuan_video_15": HunyuanVideo15}  # by its name in configs
