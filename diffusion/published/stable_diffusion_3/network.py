"""MM-DiT: the transformer of Stable Diffusion 3 and 3.5, in which picture and text are separate streams.

                 text [B, M, E]        x [B, H, W, C]
                      |                      |
                    dense            patches, dense, + positions
                      |                      |
    t, pooled --> [ joint layer: attention over both, an MLP each ]   x depth - 1
         c            |                      |                        (the first `dual` with a second attention
                      +-- attended to only --|                         of the picture to itself)
                                             |
                       norm, shift, scale, dense, unpatchify
                                             |
                                      [B, H, W, C]

Pictures and features are channels last.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays.boxes import patchify
from diffusion.models.layers import extra_attention, layer_masks, layout, network_checks
from diffusion.models.layers.blocks import xavier
from diffusion.models.layers.conditions import entries
from diffusion.models.layers.constants import constant
from diffusion.models.layers.extra_attention import ExtraLayer
from diffusion.models.layers.joint_blocks import Conditioning, JointBlock
from diffusion.models.layers.joint_conditions import check_residuals, check_text
from diffusion.models.layers.network_bases import Backbone, Entries, Numbers, Through
from diffusion.models.layers.norms import layer_norm
from diffusion.models.layers.patches import picture_output
from diffusion.models.layers.stacks import Layered, Stack, several_stacks


class MMDiT(Layered, Backbone):
    """The multimodal diffusion transformer: `apply(variables, x, t, condition)` is a `Network`.

    The table of positions is a leaf of the parameters, as in the published files. It is not trained, since its gradient
    is zero; exclude it from an optimizer's weight decay. Pictures smaller than the table use its middle.

    Attributes:
        channels: number C of channels of the input.
        out_channels: number of channels of the output, the velocity.
        patch: side of a patch in pixels of the latents.
        width: number of features of a token, a multiple of `heads`.
        depth: number of joint layers. The last one does not update the text.
        heads: number of attention heads.
        text_width: number E of features of the text's tokens.
        pooled_width: number P of features of the pooled text.
        positions: side of the table of positions, in tokens.
        sample_size: side of the latents for which neighbouring tokens have positions one apart in the initial table.
        dual: number of layers, from the first, in which the picture has a second attention to itself (SD3.5-medium).
        qk_norm: whether queries and keys are RMS-normalised, with a learned scale (SD3.5).

    Reference: Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", 2024.
    """

    channels: int = 16
    out_channels: int = 16
    patch: int = 2
    width: int = 1536
    depth: int = 24
    heads: int = 24
    text_width: int = 4096
    pooled_width: int = 2048
    positions: int = 192
    sample_size: int = 128
    dual: int = 0
    qk_norm: bool = False
    ranks = (3,)
    reuses = ("blocks",)
    positive = ("channels", "out_channels", "patch", "width", "depth", "heads", "text_width", "pooled_width",
                "positions", "sample_size")  # fmt: skip

    def check_fields(self) -> None:
        network_checks.heads(self)
        if self.width % 4:
            raise ValueError(f"width={self.width} must be a multiple of 4, for 2-D sin-cos positions")
        if not 0 <= self.dual < self.depth:
            raise ValueError(
                f"dual={self.dual}: the layers with a second attention must be among the first depth - 1 = "
                f"{self.depth - 1} layers"
            )

    def extra_layers(self, height: int, width: int) -> tuple[ExtraLayer, ...]:
        """The widths and grids of the layers for image prompts ("extra"), for x of these sides."""
        return (ExtraLayer(self.width, height // self.patch, width // self.patch),) * self.depth

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, condition: Entries, features: Numbers = None, through: Through = None
    ) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: noised latents [B, H, W, C].
            t: the network's clock [B] or [], float32 or wider; the published networks receive 1000 t for t in [0, 1].
            condition: inputs by name, see `diffusion.models.layers.conditions`:
                "text": [B, M, text_width]. "pooled": [B, pooled_width].
                "skip", "identity": Bool [B, depth], see `diffusion.models.layers.layer_masks`; with "identity" a patch
                attends only to itself and to the text.
                "residuals": a tuple of K <= depth arrays [B, N, width] over the N patches, row by row; the k-th is
                added to the picture's tokens after each layer i with floor(i K / depth) = k, except the last layer.
                "extra", "extra_joint": image prompts, see `extra_attention`.
            features, through: the options of every backbone, see `network_bases.Backbone`.

        Returns:
            [B, H, W, out_channels].
        """
        inputs = entries(condition, ("text", "pooled"), ("skip", "identity", "residuals", "extra", "extra_joint"))
        self._check(x, t, inputs)
        batch, height, width, _ = x.shape

        tokens = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name="patch_embedding")(
            patchify(x, self.patch)
        )
        tokens = self.positioned(tokens, constant(self, "positions_table", self.initial_positions), height, width)
        text = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name="text_embedding")(inputs["text"])
        c = Conditioning(self.width, self.dtype, name="conditioning")(t, inputs["pooled"])

        streams = layout.split(tokens, "batch", "tokens", None), layout.split(text, "batch", "tokens", None)
        per_layer = self._per_layer(inputs, batch)
        part = lambda start, stop: jax.tree.map(lambda entry: entry[start:stop], per_layer)
        last = self.depth - 1
        stack = lambda name, length, dual, ends, inputs: Stack(
            name,
            length,
            JointBlock,
            (self.heads, self.qk_norm, dual, ends, self.attention, self.dtype),
            (c, None, inputs),
            (nn.broadcast, nn.broadcast, 0 if length else nn.broadcast),
            picture=_picture,
        )
        stacks = [
            stack("dual_blocks", self.dual, True, False, part(0, self.dual)),
            stack("blocks", last - self.dual, False, False, part(self.dual, last)),
        ]
        stacks = [layers for layers in stacks if layers.length]
        stacks.append(stack("last_block", 0, False, True, jax.tree.map(lambda entry: entry[last], per_layer)))
        shape = (*x.shape[:3], self.out_channels)
        output = lambda tokens: picture_output(tokens, c, layer_norm, self.patch, shape, self.dtype)
        return several_stacks(self, stacks, streams, output, features, through, _picture)

    def positioned(self, tokens: jax.Array, table: jax.Array, height: int, width: int) -> jax.Array:
        """The tokens of latents [H, W], with the positions in the middle of the table added, row by row."""
        rows, columns = height // self.patch, width // self.patch
        top, left = (self.positions - rows) // 2, (self.positions - columns) // 2
        positions = table[top : top + rows, left : left + columns]
        return tokens + positions.reshape(rows * columns, self.width).astype(tokens.dtype)

    def spread(self, residuals: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        """The residual of each layer i, number floor(i K / depth) of K; the last layer's is not used."""
        return tuple(residuals[i * len(residuals) // self.depth] for i in range(self.depth))

    def initial_positions(self, key: jax.Array) -> jax.Array:
        """The initial table, as in diffusers: table[row, column] = [e(column), e(row)], e(p) = [sin(p w), cos(p w)]."""
        count = functools.partial(jnp.arange, dtype=jnp.float32)
        positions = count(self.positions) * (self.sample_size // self.patch / self.positions)
        angles = positions[:, None] * 10_000.0 ** (-count(self.width // 4) / (self.width // 4))
        e = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)
        grid_shape = (self.positions, *e.shape)
        return jnp.concatenate([jnp.broadcast_to(e, grid_shape), jnp.broadcast_to(e[:, None], grid_shape)], axis=-1)

    def _per_layer(self, inputs: dict[str, Any], batch: int) -> dict[str, Any]:
        """The entries of the condition for single layers, each with the layers as its first axis."""
        masks = {name: inputs[name] for name in ("skip", "identity") if inputs[name] is not None}
        per_layer: dict[str, Any] = layer_masks.parted(masks, batch, self.depth)[1]
        for name in ("extra", "extra_joint"):
            if inputs[name] is not None:
                per_layer[name] = extra_attention.stacked(inputs[name], 0, self.depth)
        if inputs["residuals"] is not None:
            spread = self.spread(inputs["residuals"])
            per_layer["residual"] = jnp.stack([*spread[:-1], jnp.zeros_like(spread[0])])
        return per_layer

    def _check(self, x: jax.Array, t: jax.Array, inputs: dict[str, Any]) -> None:
        network_checks.latents(self, x, t, self.channels)
        network_checks.positions_table(self, x)
        check_text(x.shape[0], self.text_width, inputs, self.pooled_width)
        tokens = (x.shape[0], x.shape[1] * x.shape[2] // self.patch**2, self.width)
        check_residuals(inputs["residuals"], tokens, self.depth)
        layers = self.extra_layers(*x.shape[1:3])
        extra_attention.check(inputs["extra"], x.shape[0], layers)
        extra_attention.check_joint(inputs["extra_joint"], x.shape[0], layers, self.heads)


def _picture(streams: tuple[jax.Array, jax.Array]) -> jax.Array:
    return streams[0]


MODELS = {"mmdit": MMDiT}  # by its name in configs
