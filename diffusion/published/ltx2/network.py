"""The transformer of LTX-2: LTX-Video's layers for a clip, smaller ones for its sound, and attention between the two.

    text [B, M, E] -- dense, gelu, dense              x["video"] [B, F, H, W, C], x["sound"] [B, L, C']
    (for the clip, and for the sound)    |                                |
                                         |                 dense, of each modality its own
                                         |                                |
    t ---> own vectors ------------------+-> [ attention to itself, shifted, scaled and gated   ]
                                         +-> [ attention to its text                            ]
    t ---> vectors of the other's time ----> [ attention to the other modality, likewise        ]  x depth
    t ---> own vectors --------------------> [ MLP, likewise                                    ]
                                                                          |
                                              norm, dense: {"video": [B, F, H, W, C], "sound": [B, L, C']}

Each layer adds its tables to the vectors. A token of the clip stands for 32 x 32 pixels and 8 frames, and a token of
the sound for 4 frames of its spectrogram, which are 40 ms. The positions of both include their time in seconds.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.layers import layer_masks, layout, network_checks
from diffusion.models.layers.attention import mask_bias
from diffusion.models.layers.block_features import Features
from diffusion.models.layers.blocks import Gelu, modulated_output, xavier
from diffusion.models.layers.conditions import entries
from diffusion.models.layers.embeddings import TimestepEmbedding
from diffusion.models.layers.joint_conditions import check_text
from diffusion.models.layers.network_bases import Backbone, Entries, Numbers
from diffusion.models.layers.norms import layer_norm, rms_norm
from diffusion.models.layers.pixart_block import embedded_text, for_tokens, small, table, table_vectors
from diffusion.models.layers.stacks import Layered, Stack
from diffusion.models.layers.wide_attention import WideAttention
from diffusion.published.ltx_video.network import CELL, SPAN, span_angles

RATE = 24.0
SOUND_CELL = 4  # frames of the spectrogram per latent
SPECTRA = 100  # frames of the spectrogram per second


def _middles(edges: Any) -> Any:
    return (edges[..., :-1] + edges[..., 1:]) / 2


def clip_positions(rate: jax.Array, frames: int, rows: int, columns: int) -> jax.Array:
    """The midpoints of a clip's latents in time, rows and columns, in units of 20 seconds and 2048 pixels.

    The first latent stands for one frame, and each of the others for eight.

    Args:
        rate: frames per second of the clip, [B].
        frames: number of frames of the latents.
        rows: number of rows of the latents.
        columns: number of columns of the latents.

    Returns:
        The midpoints, float32 [B, frames * rows * columns, 3].
    """
    edges = np.maximum(CELL[0] * np.arange(frames + 1, dtype=np.float32) + 1 - CELL[0], 0)
    seconds = _middles(edges / jnp.asarray(rate, jnp.float32)[:, None]) / SPAN[0]
    sides = [(np.arange(side, dtype=np.float32) + 0.5) * CELL[a] / SPAN[a] for a, side in ((1, rows), (2, columns))]
    shape = (len(seconds), frames, rows, columns)
    axes = (seconds[:, :, None, None], sides[0][:, None], sides[1])
    return jnp.stack([jnp.broadcast_to(axis, shape) for axis in axes], axis=-1).reshape(len(seconds), -1, 3)


def sound_positions(length: int) -> jax.Array:
    """The midpoints of a sound's latents in time, in units of 20 seconds, float32 [1, length, 1].

    The first latent stands for one frame of the spectrogram, and each of the others for four.
    """
    edges = np.maximum(SOUND_CELL * np.arange(length + 1, dtype=np.float32) + 1 - SOUND_CELL, 0)
    return jnp.asarray((_middles(edges / np.float32(SPECTRA)) / np.float32(SPAN[0]))[None, :, None])


class StreamInputs(NamedTuple):
    """The inputs of one modality that are the same in all layers; its tokens change from layer to layer.

    Attributes:
        vectors: vectors of the modality's time, [B, F or 1, 6 or 9, D]: shift, scale and gate of the self-attention, of
            the MLP and, if there are 9, of the attention to the text.
        between: vectors of the other modality's time, [B, 1, 5, D]: scale and shift of the tokens in the clip's
            attention to the sound, scale and shift in the sound's attention to the clip, and the gate of this
            modality's attention to the other.
        reading: shift and scale of the text, [B, 1, 2, D]; None for neither.
        text: tokens of the modality's text, [B, M, D].
        angles: rotary angles of the tokens in the self-attention.
        times: rotary angles of the tokens in the attention between the modalities.
    """

    vectors: jax.Array
    between: jax.Array
    reading: jax.Array | None
    text: jax.Array
    angles: jax.Array
    times: jax.Array


class TimeVectors(nn.Module):
    """`count` vectors [B, F, count, width] of times [B, F], and the embeddings [B, F, width] of the times."""

    count: int
    width: int
    dtype: str

    @nn.compact
    def __call__(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        embedding = TimestepEmbedding(self.width, self.dtype, name="embedding")(t.reshape(-1))
        embedding = embedding.reshape(*t.shape, self.width)
        dense = nn.DenseGeneral((self.count, self.width), dtype=self.dtype, kernel_init=small, name="vectors")
        return dense(nn.silu(embedding)), embedding


class LTX2Entry(nn.Module):
    """The layer from one modality's latents, times and text to the inputs of its transformer layers.

    The fields are described in `LTX2`.
    """

    width: int
    projected: bool
    modulated: bool
    gate_clock: int
    dtype: str

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, other: jax.Array, text: jax.Array, angles: jax.Array, times: jax.Array
    ) -> tuple[jax.Array, jax.Array, StreamInputs]:
        """Args:
            x: latents [B, N, C].
            t: clocks [B, F] of the frames, or [B, 1].
            other: clock [B, 1] of the other modality, the largest one if its frames have several.
            text: tokens of the modality's text [B, M, E].
            angles: rotary angles of the tokens in the self-attention.
            times: rotary angles of the tokens in the attention between the modalities.

        Returns:
            (tokens [B, N, width], embeddings of t [B, F or 1, width], `StreamInputs`).
        """
        dense = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name="patch_embedding")
        vectors = lambda count, name: TimeVectors(count, self.width, self.dtype, name=name)
        tokens = layout.split(dense(x), "batch", "tokens", None)
        text = embedded_text(self, text) if self.projected else text
        timed, embedding = vectors(6 + 3 * self.modulated, "time")(t)
        pairs, _ = vectors(4, "other_time")(other)
        gate, _ = vectors(1, "other_gate")(other * (self.gate_clock / 1000))
        reading = vectors(2, "text_time")(t.max(1, keepdims=True))[0] if self.modulated else None
        between = jnp.concatenate([pairs, gate], axis=2)
        return tokens, embedding, StreamInputs(timed, between, reading, text, angles, times)


class LTX2Stream(nn.Module):
    """One modality's part of a layer.

    Attributes:
        width: number of features of its tokens.
        heads: number of attention heads.
        between: number of features of all heads in the attention to the other modality.
        gated: whether the heads of attention have gates.
        modulated: whether the attention to the text is also shifted, scaled and gated.
        halves: whether angles turn pairs of features half a head apart, see `WideAttention`.
        implementation: implementation of attention.
        dtype: compute type.
    """

    width: int
    heads: int
    between: int
    gated: bool
    modulated: bool
    halves: bool
    implementation: str
    dtype: str

    def setup(self):
        def attend(size: int = 0) -> WideAttention:
            return WideAttention(self.heads, 1e-6, self.implementation, self.dtype, size, self.gated, self.halves)

        self.self_attention, self.text_attention = attend(), attend()
        self.other_attention = attend(self.between // self.heads)
        self.mlp = Gelu(4.0, self.dtype)
        self.table = self.param("table", table, (6 + 3 * self.modulated, self.width))
        self.other_table = self.param("other_table", nn.initializers.normal(1.0), (5, self.width))
        if self.modulated:
            self.text_table = self.param("text_table", nn.initializers.normal(1.0), (2, self.width))

    def conditions(self, x: jax.Array, inputs: StreamInputs) -> list[jax.Array]:
        """The shift, scale and gate of each part of the layer that the modality's time conditions, two or three."""
        vectors = inputs.vectors + self.table.astype(inputs.vectors.dtype)
        return [for_tokens(vectors[:, :, i], x) for i in range(vectors.shape[2])]

    def attended(
        self, x: jax.Array, inputs: StreamInputs, bias: jax.Array | None, identity: jax.Array | None
    ) -> jax.Array:
        """x after the attention to itself and to the text."""
        vectors = self.conditions(x, inputs)
        read = rms_norm(x) * (1 + vectors[1]) + vectors[0]
        x = x + vectors[2] * self.self_attention(read, angles=inputs.angles, identity=identity)
        read, text = rms_norm(x), inputs.text
        if inputs.reading is None:
            return x + self.text_attention(read, text, bias)
        shift, scale, gate = vectors[6:]
        reading = inputs.reading + self.text_table.astype(inputs.reading.dtype)
        text = text * (1 + reading[:, :, 1]) + reading[:, :, 0]
        return x + gate * self.text_attention(read * (1 + scale) + shift, text, bias)

    def modulated_for(self, x: jax.Array, inputs: StreamInputs, reader: int) -> jax.Array:
        """The stream's tokens, modulated for the attention of the clip (reader 0) or of the sound (reader 1)."""
        vectors = inputs.between + self.other_table.astype(inputs.between.dtype)
        return rms_norm(x) * (1 + vectors[:, :, 2 * reader]) + vectors[:, :, 2 * reader + 1]

    def cross_attended(
        self, x: jax.Array, inputs: StreamInputs, read: jax.Array, other: jax.Array, times: jax.Array, apart: Any
    ) -> jax.Array:
        """x after the attention to the other modality, which is left out for examples that are `apart`."""
        mixed = self.other_attention(read, other, angles=inputs.times, key_angles=times)
        gate = inputs.between[:, :, 4] + self.other_table[4].astype(inputs.between.dtype)
        mixed = gate * mixed
        return x + (mixed if apart is None else jnp.where(apart[:, None, None], 0, mixed))

    def after_mlp(self, x: jax.Array, inputs: StreamInputs) -> jax.Array:
        """x after the MLP."""
        vectors = self.conditions(x, inputs)
        x = x + vectors[5] * self.mlp(rms_norm(x) * (1 + vectors[4]) + vectors[3])
        return layout.split(x, "batch", "tokens", None)


class LTX2Block(nn.Module):
    """A layer: each modality attends to itself and its text, then both to each other, then an MLP for each.

    In the attention between them, each modality reads the other's tokens before this attention changes them.

    Attributes:
        clip, sound: fields of the two streams, see `LTX2Stream`.
    """

    clip: tuple
    sound: tuple

    @nn.compact
    def __call__(
        self,
        carry: tuple[jax.Array, jax.Array],
        inputs: tuple[StreamInputs, StreamInputs],
        bias: jax.Array | None,
        apart: jax.Array | None,
        masks: dict[str, jax.Array],
    ) -> tuple[tuple[jax.Array, ...], None]:
        """Args:
            carry: tokens (clip [B, N, D], sound [B, L, D']).
            inputs: the `StreamInputs` of clip and sound.
            bias: bias of the scores of the text's tokens; None for none.
            apart: Bool [B], True for examples whose modalities do not attend to each other; None for no example.
            masks: this layer's masks: "identity" Bool [B], or no entry.

        Returns:
            (tokens, None), as a scan expects.
        """
        streams = LTX2Stream(*self.clip, name="video"), LTX2Stream(*self.sound, name="audio")
        identity = masks.get("identity")
        clip, sound = (part.attended(x, given, bias, identity) for part, x, given in zip(streams, carry, inputs))
        for_clip, for_sound = (
            [part.modulated_for(x, given, reader) for part, x, given in zip(streams, (clip, sound), inputs)]
            for reader in (0, 1)
        )
        crossed = (
            streams[0].cross_attended(clip, inputs[0], for_clip[0], for_clip[1], inputs[1].times, apart),
            streams[1].cross_attended(sound, inputs[1], for_sound[1], for_sound[0], inputs[0].times, apart),
        )
        return tuple(part.after_mlp(x, given) for part, x, given in zip(streams, crossed, inputs)), None


class LTX2Output(nn.Module):
    """The last layers of one modality: norm, shift and scale by table + embedding of its time, and a dense layer."""

    channels: int
    dtype: str

    @nn.compact
    def __call__(self, tokens: jax.Array, embedding: jax.Array) -> jax.Array:
        vectors = table_vectors(self, embedding[:, :, None], tokens, 2)
        return modulated_output(tokens, embedding, layer_norm, self.channels, self.dtype, vectors)


class LTX2(Layered, Backbone):
    """The transformer of LTX-2: `apply(variables, x, t, condition)` is a network of pytrees.

    Its x is {"video": [B, F, H, W, C], "sound": [B, L, C']}, and so is its output. `pytrees.vector_network` makes it a
    `Network` of vectors.

    Attributes:
        channels: C of the clip's latents.
        sound_channels: C' of the sound's latents.
        width: number of features of a clip's token, a multiple of `heads`.
        sound_width: number of features of a sound's token, and of all heads in the attention between clip and sound; a
            multiple of `heads`.
        depth: number of layers.
        heads: number of attention heads, in every attention.
        text_width: number of features of the texts' tokens.
        projected: whether two dense layers project the texts to the widths of the tokens (2.0); otherwise the texts
            have these widths already.
        halves: whether positions turn pairs of features half a head apart (as published); otherwise neighbouring ones.
        gated: whether the heads of attention have gates (2.3).
        modulated: whether the time also conditions the attention to the text (2.3).
        perturbed: whether guidance may perturb layers of these weights by the mask "identity"; pipelines read it.
        gate_clock: the largest clock of the gates between the modalities.

    Reference: HaCohen et al., "LTX-2: Efficient Joint Audio-Visual Foundation Model", 2026; its code in diffusers.
    """

    channels: int = 128
    sound_channels: int = 128
    width: int = 4096
    sound_width: int = 2048
    depth: int = 48
    heads: int = 32
    text_width: int = 3840
    projected: bool = True
    halves: bool = False
    gated: bool = False
    modulated: bool = False
    perturbed: bool = False
    gate_clock: int = 1000
    ranks = ()  # it takes pytrees alone
    layer_masks = ("identity",)
    cell = CELL
    positive = ("channels", "sound_channels", "width", "sound_width", "depth", "heads", "text_width", "gate_clock")

    def check_fields(self) -> None:
        for field, least in (("width", 12), ("sound_width", 4)):
            value = getattr(self, field)
            if value % (2 * self.heads) or value < least:
                raise ValueError(
                    f"{field}={value} must be at least {least}, and a multiple of 2 heads = {2 * self.heads}"
                )

    @property
    def text_widths(self) -> tuple[int, int]:
        """Numbers of features of the text's tokens, for the clip and for the sound."""
        return (self.text_width, self.text_width) if self.projected else (self.width, self.sound_width)

    @nn.compact
    def __call__(self, x: dict[str, jax.Array], t: Any, condition: Entries, features: Numbers = None) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: noised latents, {"video": [B, F, H, W, C], "sound": [B, L, C']}.
            t: the network's clock in [0, 1000], [] or [B], or such a clock for each modality, {"video", "sound"}; the
                clock of the clip may be [B, F], a time for each frame. Float32 or wider. The attention between the
                modalities reads the largest time of the other one.
            condition: inputs by name, see `diffusion.models.layers.conditions`:
                "text", "sound_text": the text for the clip and for the sound, [B, M, E], see `text_widths`.
                "text_mask": Bool [B, M], for both.
                "rate": frames per second of the clip, [B]; 24 if it is missing.
                "apart": Bool [B], True for examples whose clip and sound do not attend to each other; without it False
                    for all.
                "identity": layer mask, see `layer_masks`: in these layers a token attends only to itself.
            features: blocks whose tokens of the clip [B, F H W, width] the call returns too, see
                `layers.block_features`; None: none.

        Returns:
            {"video": [B, F, H, W, C], "sound": [B, L, C']}.
        """
        inputs = entries(condition, ("text", "sound_text"), ("text_mask", "rate", "apart", "identity"))
        clocks = self._check(x, t, inputs)
        clip, sound = x["video"], x["sound"]
        batch, frames, rows, columns = clip.shape[:4]
        times = [
            jnp.broadcast_to(clock, (batch,))[:, None] if jnp.ndim(clock) < 2 else clock
            for clock in (clocks["video"], clocks["sound"])
        ]
        rate = jnp.full(1, RATE) if inputs["rate"] is None else inputs["rate"]
        clip_at, sound_at = clip_positions(rate, frames, rows, columns), sound_positions(sound.shape[1])
        widths = self.width, self.sound_width
        angles = [span_angles(p, width, np.float64) for p, width in zip((clip_at, sound_at), widths)]
        seconds = span_angles(clip_at[..., :1], self.sound_width, np.float64), angles[1]

        entry = lambda width, name: LTX2Entry(
            width, self.projected, self.modulated, self.gate_clock, self.dtype, name=name
        )
        latents = clip.reshape(batch, -1, self.channels), sound
        texts = inputs["text"], inputs["sound_text"]
        carry, embeddings, given = zip(
            *(
                entry(widths[i], name)(
                    latents[i], times[i], times[1 - i].max(1, keepdims=True), texts[i], angles[i], seconds[i]
                )
                for i, name in enumerate(("video", "audio"))
            )
        )
        bias = None if inputs["text_mask"] is None else mask_bias(inputs["text_mask"])
        masked = {} if inputs["identity"] is None else {"identity": inputs["identity"]}
        _, masks = layer_masks.parted(masked, batch, self.depth)

        facts = (self.heads, self.sound_width, self.gated, self.modulated, self.halves, self.attention, self.dtype)
        fields = tuple((width, *facts) for width in widths)
        arguments, axes = (given, bias, inputs["apart"], masks), (nn.broadcast, nn.broadcast, nn.broadcast, 0)
        stack = Stack("blocks", self.depth, LTX2Block, fields, arguments, axes, picture=lambda streams: streams[0])
        recorded = Features(features, self.depth)
        carry = stack.run(self, carry, recorded)
        outputs = [
            LTX2Output(channels, self.dtype, name=f"{name}_output")(tokens, embedding)
            for channels, name, tokens, embedding in zip(
                (self.channels, self.sound_channels), ("video", "audio"), carry, embeddings
            )
        ]
        return recorded.beside({"video": outputs[0].reshape(clip.shape), "sound": outputs[1]})

    def _check(self, x: Any, t: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        """The clocks of the modalities; refuses inputs of other shapes than the network's."""
        shapes = jax.tree.map(jnp.shape, x)
        if not isinstance(x, dict) or x.keys() != {"video", "sound"} or x["video"].ndim != 5 or x["sound"].ndim != 3:
            raise ValueError(
                f"this LTX2 takes {{'video': [B, F, H, W, {self.channels}], 'sound': [B, L, {self.sound_channels}]}}; "
                f"got {shapes}"
            )
        clip, sound = x["video"], x["sound"]
        if len(clip) != len(sound) or (clip.shape[-1], sound.shape[-1]) != (self.channels, self.sound_channels):
            raise ValueError(
                f"latents must have {self.channels} channels of a clip and {self.sound_channels} of a sound, of one "
                f"batch; got {shapes}"
            )
        clocks = t if isinstance(t, dict) else {"video": t, "sound": t}
        if clocks.keys() != x.keys():
            raise ValueError(f"the clocks of an LTX2 are of 'video' and 'sound'; got {', '.join(map(repr, clocks))}")
        network_checks.frame_times(self, clip, clocks["video"])
        network_checks.times(self, sound, clocks["sound"])
        for name, width in zip(("text", "sound_text"), self.text_widths):
            check_text(len(clip), width, {"text": inputs[name], "text_mask": inputs["text_mask"]})
        for name in ("rate", "apart"):
            if inputs[name] is not None and inputs[name].shape != clip.shape[:1]:
                raise ValueError(f"the condition's {name!r} must be [B] = {clip.shape[:1]}; got {inputs[name].shape}")
        return clocks


MODELS = {"ltx2": LTX2}  # by its name in configs
