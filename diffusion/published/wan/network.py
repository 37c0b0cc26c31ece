"""Wan's transformer of videos: full attention over the patches of all frames, and attention to a text and to pictures.

    text [B, M, E] -- dense, gelu, dense          x [B, F, H, W, C]        pictures [B, K, P]
                              |                           |                       |
                              |               patches of 1 x 2 x 2, dense     norm, MLP, norm
    t [B] or [B, F] --+       |                           |                       |
         |            |   [ attention over all patches, shifted, scaled and gated by table + c ]
         |       c [6, D] [ attention to the text, and with separate keys to the pictures      ]  x depth
         |            +-> [ MLP, shifted, scaled and gated by table + c                        ]
         |                                                |
         +----- table + t: shift, scale ------- norm, dense, unpatchify --> [B, F, H, W, C]

Videos and features are channels last; a picture is a video of one frame.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays.boxes import depth_to_space, space_to_depth
from diffusion.models.layers import layout, network_checks
from diffusion.models.layers.activations import gelu
from diffusion.models.layers.blocks import modulated_output, xavier, zeros
from diffusion.models.layers.conditions import EMBEDDINGS, entries
from diffusion.models.layers.embeddings import TimestepEmbedding
from diffusion.models.layers.joint_blocks import modulated
from diffusion.models.layers.joint_conditions import check_text
from diffusion.models.layers.network_bases import Backbone, Entries, Numbers, Through
from diffusion.models.layers.norms import layer_norm
from diffusion.models.layers.pixart_block import embedded_text, shared_vectors, small, table_vectors
from diffusion.models.layers.rotary import axis_angles, grid_positions
from diffusion.models.layers.scan import keep_narrow, scanned
from diffusion.models.layers.stacks import Layered, single_stack
from diffusion.models.layers.wide_attention import WideAttention

PATCH = 2  # side of a patch; a patch lies within one frame


class WanBlock(nn.Module):
    """Attention over all patches, attention to the text, and an MLP; table + c conditions the first and the last.

        x <- x + gate * f((1 + scale) * norm(x) + shift),     f = attention, mlp
        x <- x + attention(norm(x), text)

    Without the field `text_norm`, the attention to the text reads x in place of norm(x).
    """

    heads: int
    hidden: int
    text_norm: bool
    attention: str
    dtype: str

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        c: jax.Array,
        angles: jax.Array,
        text: jax.Array,
        pictures: jax.Array | None,
        hints: jax.Array | None = None,
        hint: jax.Array | None = None,
        entering: bool = False,
    ) -> tuple[jax.Array, Any]:
        """Args:
            x: tokens [B, N, D], frame by frame.
            c: the times' vectors [B, F, 6, D], which all layers share; F = 1 if all frames have the same time.
            angles: rotary angles of the patches.
            text: tokens of the text [B, M, D].
            pictures: tokens of pictures [B, K, D]; None for none.
            hints: hints [L, B, N, D] of VACE's branch; None for no branch.
            hint: index of the hint that is added after this layer, int []; None for no hint.
            entering: whether to return only the attention's input.

        Returns:
            (x, None), as a scan expects; with `entering`, (the input [B, N, D], None).
        """
        width = x.shape[-1]
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = table_vectors(self, c, x)
        attend = lambda name: WideAttention(self.heads, 1e-6, self.attention, self.dtype, name=name)
        read = modulated(x, shift_a, scale_a)
        if entering:
            return read, None
        x = x + gate_a * attend("attention")(read, angles=angles)
        read = nn.LayerNorm(1e-6, dtype=self.dtype, name="text_norm")(x) if self.text_norm else x
        x = x + attend("cross_attention")(read, text, pictures=pictures)
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=xavier)
        hidden = dense(self.hidden, name="mlp_hidden")(modulated(x, shift_m, scale_m))
        hidden = layout.split(gelu(hidden), "batch", "tokens", "hidden")
        x = x + gate_m * keep_narrow(dense(width, name="mlp_out")(hidden))
        if hints is not None and hint is not None:
            x = x + jnp.take(hints, hint, axis=0)
        return layout.split(x, "batch", "tokens", None), None


class WanControlBlock(WanBlock):
    """A layer of VACE's branch: `WanBlock`, and a dense layer from its tokens to a hint. Returns (x, hint)."""

    @nn.compact
    def __call__(self, x: jax.Array, *arguments: Any) -> tuple[jax.Array, jax.Array]:
        x, _ = super().__call__(x, *arguments)
        return x, nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=zeros, name="hint")(x)


class PictureEmbedding(nn.Module):
    """The tokens of an image encoder's patches x: norm(MLP(norm(x + positions))).

    [B, K, P] -> [B, K, width]; `positions` is K if the patches have learned positions, and 0 otherwise.
    """

    width: int
    positions: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.positions:
            x = x + self.param("positions", small, (self.positions, x.shape[-1]))
        norm = lambda name: nn.LayerNorm(1e-5, dtype=self.dtype, name=name)
        dense = lambda features, name: nn.Dense(features, dtype=self.dtype, kernel_init=xavier, name=name)
        hidden = nn.gelu(dense(x.shape[-1], "hidden")(norm("norm_in")(x)), approximate=False)
        return norm("norm_out")(dense(self.width, "out")(hidden))


class Wan(Layered, Backbone):
    """The transformer of Wan 2.1 and 2.2: `apply(variables, x, t, condition)` is a `Network`.

    Its clock is 0 .. 1000. A head has D features: 2 floor(D / 6) rotate with the row, 2 floor(D / 6) with the column,
    and the others with the frame.

    Attributes:
        channels: number C of channels of the latents.
        in_channels: number of channels of the network's input. A network that receives known frames has further
            channels beside the C of the noised latents, for a mask and for the latents of these frames.
        width: number of features of a token, a multiple of `heads`.
        depth: number of layers.
        heads: number of attention heads.
        hidden: number of features inside the MLP.
        text_width: number E of features of the text's tokens.
        picture_width: number P of features of the patches of pictures; 0 for a network that receives none.
        picture_tokens: number K of the patches of pictures if they have learned positions; 0 if they have no positions,
            so that any number of patches is valid.
        text_norm: whether the tokens are normalised before the attention to the text.
        control_layers: indices of the layers after which a hint of VACE's branch is added to the tokens, growing from 0
            on; () for no branch.
        control_channels: number of channels of the branch's input.

    Reference: Wan Team, "Wan: Open and Advanced Large-Scale Video Generative Models", 2025, and its code.
    """

    channels: int = 16
    in_channels: int = 16
    width: int = 5120
    depth: int = 40
    heads: int = 40
    hidden: int = 13824
    text_width: int = 4096
    picture_width: int = 0
    picture_tokens: int = 0
    text_norm: bool = True
    control_layers: tuple[int, ...] = ()
    control_channels: int = 0
    text_inputs = EMBEDDINGS
    ranks = (4,)
    takes_frames = True
    reuses = ("blocks",)
    positive = ("channels", "in_channels", "width", "depth", "heads", "hidden", "text_width")

    def check_fields(self) -> None:
        if self.in_channels < self.channels or min(self.picture_width, self.picture_tokens) < 0:
            raise ValueError(
                f"in_channels={self.in_channels}, picture_width={self.picture_width}, "
                f"picture_tokens={self.picture_tokens}: a Wan needs at least its own {self.channels} channels, and no "
                "number may be negative"
            )
        layers = self.control_layers
        ordered = list(layers) == sorted(set(layers)) and layers[0] == 0 and layers[-1] < self.depth if layers else True
        if not ordered or bool(layers) != (self.control_channels > 0):
            raise ValueError(
                f"control_layers={layers}, control_channels={self.control_channels}: the numbers of layers begin with "
                f"0, grow and stay below depth={self.depth}, and the channels are positive if there are any"
            )
        network_checks.rotary_axes(self, 3)

    @property
    def axes(self) -> tuple[int, int, int]:
        """Features of a head that rotate with the frame, the row and the column."""
        size = self.width // self.heads
        space = size // 6 * 2
        return size - 2 * space, space, space

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, condition: Entries, features: Numbers = None, through: Through = None
    ) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: noised latents [B, F, H, W, in_channels], H and W even.
            t: the clock, [], [B], or [B, F] with a time for each frame; float32 or wider.
            condition: inputs by name, see `diffusion.models.layers.conditions`:
                "text": [B, M, text_width]; all of its tokens are attended to.
                "patches": [B, K, picture_width], with `picture_width`.
                "control": [B, F, H, W, control_channels], with `control_layers`.
            features, through: the options of every backbone, see `network_bases.Backbone`.

        Returns:
            [B, F, H, W, channels].
        """
        required = ("text", *("patches",) * bool(self.picture_width), *("control",) * bool(self.control_layers))
        inputs = entries(condition, required)
        self._check(x, t, inputs)
        batch, frames, height, width, _ = x.shape
        grid = (frames, height // PATCH, width // PATCH)
        dense = lambda name: nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name=name)

        def embedded(x: jax.Array, name: str) -> jax.Array:
            tokens = dense(name)(space_to_depth(x, (1, PATCH, PATCH)))
            return layout.split(tokens.reshape(batch, -1, self.width), "batch", "tokens", None)

        tokens = embedded(x, "patch_embedding")
        text = embedded_text(self, inputs["text"])
        pictures = None
        if self.picture_width:
            embed = PictureEmbedding(self.width, self.picture_tokens, self.dtype, name="picture_embedding")
            pictures = embed(inputs["patches"])

        t = t if jnp.ndim(t) == 2 else jnp.broadcast_to(t, (batch,))[:, None]
        embedding = TimestepEmbedding(self.width, self.dtype, name="time")(t.reshape(-1))
        embedding = embedding.reshape(*t.shape, self.width)
        angles = jnp.asarray(axis_angles(grid_positions(*grid), self.axes))
        arguments: tuple[Any, ...] = (shared_vectors(self, embedding), angles, text, pictures)
        axes = (nn.broadcast,) * 4
        fields = (self.heads, self.hidden, self.text_norm, self.attention, self.dtype)
        if number := len(self.control_layers):
            control = dense("control_in")(embedded(inputs["control"], "control_embedding")) + tokens
            branch = scanned(WanControlBlock, number, self.remat, self.is_initializing(), axes)
            _, hints = branch(*fields, name="control_blocks")(control, *arguments)
            hint = np.full(self.depth, number, np.int32)  # layers without a hint have the index of the zeros
            hint[list(self.control_layers)] = np.arange(number)
            arguments = (*arguments, jnp.concatenate([hints, jnp.zeros_like(hints[:1])]), hint)
            axes = (*axes, nn.broadcast, 0)

        def output(tokens: jax.Array) -> jax.Array:
            vectors = table_vectors(self, embedding[:, :, None], tokens, 2, "final_table")
            tokens = modulated_output(tokens, embedding, layer_norm, PATCH**2 * self.channels, self.dtype, vectors)
            return depth_to_space(tokens.reshape(batch, *grid, -1), (1, PATCH, PATCH))

        return single_stack(self, WanBlock, fields, tokens, arguments, axes, output, features, through)

    def _check(self, x: jax.Array, t: jax.Array, inputs: dict[str, Any]) -> None:
        if x.ndim != 5 or x.shape[-1] != self.in_channels or x.shape[2] % PATCH or x.shape[3] % PATCH:
            raise ValueError(
                f"this Wan takes latents [B, F, H, W, {self.in_channels}] with even H and W; got an array of shape "
                f"{x.shape}"
            )
        network_checks.frame_times(self, x, t)
        check_text(x.shape[0], self.text_width, inputs)
        expected = (*x.shape[:-1], self.control_channels)
        if self.control_layers and inputs["control"].shape != expected:
            raise ValueError(
                f"the condition's 'control' must be [B, F, H, W, control_channels] = {expected}; got "
                f"{inputs['control'].shape}"
            )
        if self.picture_width:
            patches = inputs["patches"].shape
            number = self.picture_tokens or (patches[1] if len(patches) == 3 else 0)
            if patches != (x.shape[0], number, self.picture_width):
                raise ValueError(
                    f"the condition's 'patches' must be [B, K, picture_width] = ({x.shape[0]}, "
                    f"{self.picture_tokens or 'K'}, {self.picture_width}); got {patches}"
                )
