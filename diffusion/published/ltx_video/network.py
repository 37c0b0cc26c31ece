"""The transformer of LTX-Video: PixArt's layers over all frames at once, with rotary positions in seconds and pixels.

    text [B, M, E] -- dense, gelu, dense        x [B, F, H, W, C]
                              |                        |
                              |                      dense
                              |                        |
    t [B] or [B, F]           |                        |
           |                  +-> [ attention to itself, shifted, scaled and gated by table + c  ]
    dense: c [.., 6, D] --------> [ attention to the text                                        ]  x depth
           |                      [ MLP, shifted, scaled and gated by table + c                  ]
           |                                           |
           +------- table + t: shift, scale ---- norm, dense
                                                       |
                                               [B, F, H, W, C]

Its latents are small (32 x 32 pixels and 8 frames each), so that each of them is a token.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.layers import layout, network_checks
from diffusion.models.layers.attention import mask_bias
from diffusion.models.layers.blocks import Gelu, modulated_output, xavier
from diffusion.models.layers.conditions import EMBEDDINGS, entries
from diffusion.models.layers.embeddings import TimestepEmbedding
from diffusion.models.layers.joint_conditions import check_text
from diffusion.models.layers.network_bases import Backbone, Entries, Numbers
from diffusion.models.layers.norms import layer_norm, rms_norm
from diffusion.models.layers.pixart_block import embedded_text, shared_vectors, table_vectors
from diffusion.models.layers.stacks import Layered, single_stack
from diffusion.models.layers.wide_attention import WideAttention

CELL = (8, 32, 32)  # frames, rows and columns of the video in one latent
SPAN = (20, 2048, 2048)  # seconds, rows and columns after which a position is 1
RATE = 25.0


def ltx_angles(seconds: jax.Array, rows: int, columns: int, width: int) -> jax.Array:
    """Angles of the pairs of neighbouring features of a token, different ones in each head.

        p = (seconds_f / 20, 32 i / 2048, 32 j / 2048);   the angles are those of `span_angles`

    Args:
        seconds: time in the video of each frame of the latents, [B, F].
        rows, columns: numbers of rows and columns of a frame of the latents.
        width: number D of features, even and at least 12.

    Returns:
        [B, F * rows * columns, D / 2] in radians, float32.

    Reference: HaCohen et al., "LTX-Video: Realtime Video Latent Diffusion", 2024, section on positions; its code.
    """
    seconds = jnp.asarray(seconds, jnp.float32)
    grid = np.stack(np.meshgrid(*map(np.arange, (seconds.shape[1], rows, columns)), indexing="ij"), axis=-1)
    grid = jnp.asarray(grid.reshape(-1, 3), jnp.float32)
    times = jnp.repeat(seconds, rows * columns, axis=1) / SPAN[0]
    sides = [jnp.broadcast_to(grid[:, a] * CELL[a] / SPAN[a], times.shape) for a in (1, 2)]
    return span_angles(jnp.stack([times, *sides], axis=-1), width)


def span_angles(positions: jax.Array, width: int, dtype: type[np.floating] = np.float32) -> jax.Array:
    """Angles of the pairs of features of tokens whose coordinates are parts of the largest ones.

        w_k = (pi / 2) 10000^(k / (K - 1)),   k < K = floor(D / (2 A))
        out[n] = [0, .., w_0 (2 p_0 - 1), w_0 (2 p_1 - 1), .., w_1 (2 p_0 - 1), ..]

    The first D / 2 - A K angles are zero. The products are computed in float32, as in training, although this rounds
    the largest angles, which are about 15,708 radians.

    Args:
        positions: coordinates p of the tokens, [B, N, A], 1 at the end of the span.
        width: number D of features, even and at least 4 A.
        dtype: type in which the frequencies are computed, before they become float32.

    Returns:
        [B, N, D / 2] in radians, float32.
    """
    exponents = np.linspace(0, 1, width // (2 * positions.shape[-1]), dtype=dtype)
    frequencies = (dtype(10_000) ** exponents * dtype(math.pi) / dtype(2)).astype(np.float32)
    angles = frequencies[:, None] * (positions[..., None, :] * 2 - 1)
    angles = angles.reshape(*positions.shape[:2], -1)
    return jnp.pad(angles, [(0, 0), (0, 0), (width // 2 - angles.shape[-1], 0)])


class LTXBlock(nn.Module):
    """Attention, attention to the text, and an MLP; the first and the last conditioned by table + c, frame by frame.

        x <- x + gate * attention(norm(x) (1 + scale) + shift)
        x <- x + attention(x, text)
        x <- x + gate' * mlp(norm(x) (1 + scale') + shift')

    The norm is RMSNorm without a learned scale.
    """

    heads: int
    attention: str
    dtype: str

    @nn.compact
    def __call__(
        self, x: jax.Array, c: jax.Array, text: jax.Array, bias: jax.Array | None, angles: jax.Array
    ) -> tuple[jax.Array, None]:
        """Args:
            x: tokens [B, N, D], frame by frame.
            c: the times' vectors [B, F or 1, 6, D], which all layers share.
            text: tokens of the text [B, M, D].
            bias: bias of the scores of the text's tokens; None for none.
            angles: rotary angles [B or 1, N, D / 2].

        Returns:
            (x, None), as a scan expects.
        """
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = table_vectors(self, c, x)
        attend = lambda name: WideAttention(self.heads, 1e-5, self.attention, self.dtype, name=name)
        read = rms_norm(x) * (1 + scale_a) + shift_a
        x = x + gate_a * attend("attention")(read, angles=angles)
        x = x + attend("cross_attention")(x, text, bias)
        read = rms_norm(x) * (1 + scale_m) + shift_m
        x = x + gate_m * Gelu(4.0, self.dtype, name="mlp")(read)
        return layout.split(x, "batch", "tokens", None), None


class LTXVideo(Layered, Backbone):
    """The transformer of LTX-Video: `apply(variables, x, t, condition)` is a `Network`.

    A frame whose t is 0 is known: with the times [0, t, .., t] the network continues a given first picture.

    Attributes:
        channels: C of the latents.
        width: number of features of a token, a multiple of `heads`.
        depth: number of layers.
        heads: number of attention heads.
        text_width: number E of features of the text's tokens.

    Reference: HaCohen et al., "LTX-Video: Realtime Video Latent Diffusion", 2024.
    """

    channels: int = 128
    width: int = 2048
    depth: int = 28
    heads: int = 32
    text_width: int = 4096
    text_inputs = EMBEDDINGS
    ranks = (4,)
    takes_frames = True
    cell = CELL
    positive = ("channels", "width", "depth", "heads", "text_width")

    def check_fields(self) -> None:
        if self.width % self.heads or self.width % 2 or self.width < 12:
            raise ValueError(
                f"width={self.width} must be an even number of at least 12, and a multiple of heads={self.heads}"
            )

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, condition: Entries, features: Numbers = None) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: noised latents [B, F, H, W, C].
            t: the network's clock in [0, 1000], [], [B], or [B, F] with a time for each frame; float32 or wider.
            condition: inputs by name, see `diffusion.models.layers.conditions`:
                "text": [B, M, text_width], of T5. "text_mask": Bool [B, M].
                "rate": frames of the video in a second, [B], so that frame f of x is at 8 f / rate seconds; without it
                    25.
                "seconds": the time of each frame of x in seconds, [B, F], in place of the rate.
            features: blocks whose tokens [B, F H W, width] the call returns too, see `layers.block_features`; None:
                none.

        Returns:
            [B, F, H, W, C].
        """
        inputs = entries(condition, ("text",), ("text_mask", "rate", "seconds"))
        self._check(x, t, inputs)
        batch, frames, rows, columns, channels = x.shape
        dense = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name="patch_embedding")
        tokens = layout.split(dense(x.reshape(batch, -1, channels)), "batch", "tokens", None)
        text = embedded_text(self, inputs["text"])
        bias = None if inputs["text_mask"] is None else mask_bias(inputs["text_mask"])
        seconds = inputs["seconds"]
        if seconds is None:
            rate = jnp.full(1, RATE) if inputs["rate"] is None else inputs["rate"]
            seconds = jnp.arange(frames, dtype=jnp.float32) * (CELL[0] / jnp.asarray(rate, jnp.float32)[:, None])
        angles = ltx_angles(seconds, rows, columns, self.width)

        t = jnp.broadcast_to(t, (batch,))[:, None] if jnp.ndim(t) < 2 else t
        embedding = TimestepEmbedding(self.width, self.dtype, name="timestep_embedding")(t.reshape(-1))
        embedding = embedding.reshape(*t.shape, self.width)

        def output(tokens: jax.Array) -> jax.Array:
            vectors = table_vectors(self, embedding[:, :, None], tokens, 2, "final_table")
            return modulated_output(tokens, embedding, layer_norm, channels, self.dtype, vectors).reshape(x.shape)

        fields = (self.heads, self.attention, self.dtype)
        arguments = (shared_vectors(self, embedding), text, bias, angles)
        return single_stack(self, LTXBlock, fields, tokens, arguments, (nn.broadcast,) * 4, output, features)

    def _check(self, x: jax.Array, t: jax.Array, inputs: dict[str, Any]) -> None:
        if x.ndim != 5 or x.shape[-1] != self.channels:
            raise ValueError(
                f"this LTXVideo takes latents [B, F, H, W, {self.channels}]; got an array of shape {x.shape}"
            )
        network_checks.frame_times(self, x, t)
        check_text(x.shape[0], self.text_width, inputs)
        rate = inputs["rate"]
        if rate is not None and rate.shape != x.shape[:1]:
            raise ValueError(f"the condition's 'rate' must be [B] = {x.shape[:1]}; got {rate.shape}")
        seconds = inputs["seconds"]
        if seconds is not None and seconds.shape != x.shape[:2]:
            raise ValueError(f"the condition's 'seconds' must be [B, F] = {x.shape[:2]}; got {seconds.shape}")
        if rate is not None and seconds is not None:
            raise ValueError("the condition has 'seconds' and a 'rate', which states the same; leave one of them out")


MODELS = {"ltx_video": LTXVideo}  # by its name in configs
