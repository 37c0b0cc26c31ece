"""The transformer of Qwen-Image: layers of two streams, text and picture, with rotary positions from the centre.

                 text [B, M, E]        x [B, H, W, C]
                      |                      |
                 norm, dense          patches of 2 x 2, dense
                      |                      |
    t --> c --> [ joint layer: attention over both, an MLP each ]   x depth
                                             |
                         norm, shift, scale, dense, unpatchify
                                             |
                                      [B, H, W, C]

Pictures and features are channels last.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays.boxes import patchify, unpatchify
from diffusion.models.layers import layout, network_checks
from diffusion.models.layers.blocks import modulated_output, xavier
from diffusion.models.layers.conditions import entries
from diffusion.models.layers.embeddings import TimestepEmbedding
from diffusion.models.layers.joint_blocks import JointBlock, MixedTimes
from diffusion.models.layers.joint_conditions import check_pictures, check_text
from diffusion.models.layers.network_bases import Backbone, Entries, Numbers, Through
from diffusion.models.layers.norms import layer_norm
from diffusion.models.layers.rotary import axis_angles, centred_grid
from diffusion.models.layers.stacks import Layered, single_stack

PATCH = 2


class QwenImage(Layered, Backbone):
    """The transformer of Qwen-Image: `apply(variables, x, t, condition)` is a `Network`.

    The network's clock is t itself, in [0, 1], which the network multiplies by 1000. In a picture of h x w patches,
    patch (r, c) has the position (k, r - ceil(h / 2), c - ceil(w / 2)), with k = 0 for x and k = 1, 2, ... for the
    pictures that are edited. Text token i = 0, 1, ... has the position (m + i, m + i, m + i), where m is the largest
    floor(h / 2) or floor(w / 2) of all pictures. So positions of pictures are relative to the centre, and the text
    follows on the diagonal.

    Attributes:
        channels: number of channels C of the latents.
        width: number of features of a token, a multiple of `heads`.
        depth: number of layers.
        heads: number of attention heads.
        text_width: number E of features of the text's tokens.
        axes: numbers of features of a head that rotate with each of the three coordinates; their sum is width / heads.
        clean: whether the pictures that are edited have the time 0 (Qwen-Image-Edit-2511) instead of the time of x.
        layered: whether x holds the L layers of a picture, [B, L, H, W, C] (Qwen-Image-Layered). Then layer l has the
            position k = l, and the last of the pictures, which is taken apart into the layers, has k = -1; m is at
            least the number of the layers and the other pictures; and one of two learned vectors is added to the
            embedding of the time.

    Reference: Qwen Team, "Qwen-Image Technical Report", 2025, and its code.
    """

    channels: int = 16
    width: int = 3072
    depth: int = 60
    heads: int = 24
    text_width: int = 3584
    axes: tuple[int, int, int] = (16, 56, 56)
    clean: bool = False
    layered: bool = False
    ranks = (3, 4)
    reuses = ("blocks",)
    positive = ("channels", "width", "depth", "heads", "text_width")

    def check_fields(self) -> None:
        network_checks.rotary_axes(self, 3)

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, condition: Entries, features: Numbers = None, through: Through = None
    ) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: noised latents [B, H, W, C], or with `layered` [B, L, H, W, C]; H and W are even.
            t: times in [0, 1], [B] or [], float32 or wider.
            condition: inputs by name, see `diffusion.models.layers.conditions`:
                "text": [B, M, text_width]. "text_mask": Bool [B, M].
                "pictures": a tuple of the latents [B, h, w, C], h and w even, of pictures that are edited or combined,
                which become further tokens. With `layered` there must be at least one.
                "kind": integers [B], 0 or 1, only with `layered`: the index of the vector that is added to the
                embedding of the time. If it is missing it is 0, as in the published pipeline.
            features, through: the options of every backbone, see `network_bases.Backbone`.

        Returns:
            The prediction, in the shape of x.
        """
        inputs = entries(condition, ("text", "text_mask"), ("pictures", *("kind",) * self.layered))
        network_checks.latents(self, x, t, self.channels, video=self.layered)
        pictures = tuple(inputs["pictures"] or ())
        if self.layered and not pictures:
            raise ValueError("the condition's 'pictures' must hold the picture that is taken apart into layers")
        layers = tuple(jnp.moveaxis(x, 1, 0)) if self.layered else (x,)
        check_pictures(layers[0], pictures)
        check_text(x.shape[0], self.text_width, inputs)
        batch, height, width, _ = layers[0].shape

        dense = lambda name: nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name=name)
        parts = [patchify(latents.astype(x.dtype), PATCH) for latents in (*layers, *pictures)]
        number = len(layers) * parts[0].shape[1]
        image = dense("patch_embedding")(jnp.concatenate(parts, axis=1))
        text = dense("text_embedding")(nn.RMSNorm(dtype=self.dtype, name="text_norm")(inputs["text"]))
        t = jnp.broadcast_to(jnp.asarray(t), (batch,))
        embedding = TimestepEmbedding(self.width, self.dtype, name="time")
        kind = self._kind(inputs, batch)
        c = nn.silu(embedding(1000 * t) + kind)
        sides = [(latents.shape[1] // PATCH, latents.shape[2] // PATCH) for latents in (*layers, *pictures)]
        angles = jnp.asarray(axis_angles(_token_positions(text.shape[1], sides, self.layered), self.axes))

        shown = jnp.concatenate([inputs["text_mask"], jnp.ones(image.shape[:2], bool)], axis=1)
        per_layer = {"seen": jnp.broadcast_to(shown, (self.depth, *shown.shape))}
        streams = layout.split(image, "batch", "tokens", None), layout.split(text, "batch", "tokens", None)
        times = c
        if self.clean and pictures:
            times = MixedTimes(c, nn.silu(embedding(0 * t) + kind), jnp.arange(image.shape[1]) >= number)
        arguments = (times, angles, per_layer)
        axes = (nn.broadcast, nn.broadcast, 0)
        fields = (self.heads, True, False, False, self.attention, self.dtype)
        picture = lambda streams: streams[0][:, :number]

        def output(tokens: jax.Array) -> jax.Array:
            tokens = modulated_output(tokens, c, layer_norm, PATCH**2 * self.channels, self.dtype)
            by_layer = tokens.reshape(batch * len(layers), -1, tokens.shape[-1])
            return unpatchify(by_layer, PATCH, height, width).reshape(x.shape)

        return single_stack(self, JointBlock, fields, streams, arguments, axes, output, features, through, picture)

    def _kind(self, inputs: dict[str, Any], batch: int) -> jax.Array | float:
        """The vector [B, D] of each example's kind; 0 without layers."""
        if not self.layered:
            return 0.0
        kind = jnp.zeros(batch, int) if inputs["kind"] is None else jnp.asarray(inputs["kind"])
        if kind.shape != (batch,) or not jnp.issubdtype(kind.dtype, jnp.integer):
            raise ValueError(
                f"the condition's 'kind' must be integers [B] = ({batch},); got {kind.dtype} of shape {kind.shape}"
            )
        return nn.Embed(2, self.width, dtype=self.dtype, name="kinds")(kind)


def _token_positions(words: int, sides: Sequence[tuple[int, int]], layered: bool = False) -> np.ndarray:
    """Rotary positions [M + N, 3] of the M tokens of a text and of the N patches of pictures.

    Args:
        words: number M of the text's tokens.
        sides: (rows, columns) of the patches of each picture, x first.
        layered: whether the last picture has the position k = -1.
    """
    positions = []
    for k, (rows, columns) in enumerate(sides):
        number = -1 if layered and k == len(sides) - 1 else k
        positions.append(np.pad(centred_grid(rows, columns), [(0, 0), (1, 0)], constant_values=number))
    behind = max(side // 2 for pair in sides for side in pair)
    text = max(behind, len(sides) - 1 if layered else 0) + np.arange(words)
    return np.concatenate([np.stack([text] * 3, axis=1), *positions])


MODELS = {"qwen_image": QwenImage}  # by its name in configs
