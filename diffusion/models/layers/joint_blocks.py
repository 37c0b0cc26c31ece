"""The transformer layers of SD3 and Flux, in which picture and text are two streams with a joint attention."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.layers import extra_attention, layout
from diffusion.models.layers.activations import gelu
from diffusion.models.layers.attention import attention, mask_bias
from diffusion.models.layers.blocks import Gelu, Modulation, SwiGlu, xavier
from diffusion.models.layers.embeddings import TimestepEmbedding
from diffusion.models.layers.heads import Heads
from diffusion.models.layers.norms import layer_norm
from diffusion.models.layers.products import rows_first
from diffusion.models.layers.rotary import turn
from diffusion.models.layers.scan import keep_narrow

GATED = 4.5  # ratio of `SwiGlu`, whose hidden features are then three times the width


class VectorEmbedding(nn.Module):
    """A two-layer network (SiLU between) on one vector for each example: [B, P] -> [B, width]."""

    width: int
    dtype: str

    @nn.compact
    def __call__(self, pooled: jax.Array) -> jax.Array:
        hidden = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name="hidden")(pooled)
        return nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name="out")(nn.silu(hidden))


class Conditioning(nn.Module):
    """The vector [B, width] that conditions every layer: silu(time(t) + pooled(text) [+ strength(guidance)]).

    It takes the time [B] or [], the pooled text [B, P], and the guidance strength [B] or None.
    """

    width: int
    dtype: str

    @nn.compact
    def __call__(self, t: jax.Array, pooled: jax.Array, strength: jax.Array | None = None) -> jax.Array:
        t = jnp.broadcast_to(t, pooled.shape[:1])
        c = TimestepEmbedding(self.width, self.dtype, name="time")(t)
        if strength is not None:
            c = c + TimestepEmbedding(self.width, self.dtype, name="strength")(strength)
        return nn.silu(c + VectorEmbedding(self.width, self.dtype, name="pooled")(pooled))


class Projections(nn.Module):
    """The projections of one stream's tokens into an attention's heads, and back.

        enter: [B, N, D] -> q, k, v, each [B, N, H, D / H]
        leave: [B, N, H, D / H] -> [B, N, D]

    With `qk_norm`, q and k are RMS-normalised with a learned scale, and `epsilon` is added to the mean square. With
    `beside`, the same two matrices also hold an MLP of beside * D hidden features, parallel to the attention: `enter`
    also returns the hidden features [B, N, beside, H, D / H], and `leave` takes [B, N, 1 + beside, H, D / H]. `bias`
    says whether the two projections have a bias.
    """

    width: int
    heads: int
    qk_norm: bool
    dtype: str
    beside: int = 0
    bias: bool = True
    epsilon: float = 1e-6

    def setup(self):
        self.qkv = Heads(self.heads, self.width // self.heads, self.dtype, self.bias, self.beside)
        axes = (-3, -2, -1) if self.beside else (-2, -1)
        self.out = nn.DenseGeneral(
            self.width, axes, use_bias=self.bias, dtype=self.dtype, kernel_init=xavier, dot_general=rows_first
        )
        if self.qk_norm:
            self.query_norm = nn.RMSNorm(self.epsilon, dtype=self.dtype)
            self.key_norm = nn.RMSNorm(self.epsilon, dtype=self.dtype)

    def projected(self, x: jax.Array) -> list[jax.Array]:
        """The result of `enter` before the norms."""
        return self.qkv(x)

    def enter(self, x: jax.Array) -> list[jax.Array]:
        q, k, v, *hidden = self.projected(x)
        if self.qk_norm:
            q = self.query_norm(q)
            k = self.key_norm(k)
        return [q, k, v, *hidden]

    def leave(self, x: jax.Array) -> jax.Array:
        return layout.split(keep_narrow(self.out(x)), "batch", "tokens", None)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    angles: jax.Array | None,
    implementation: str,
    seen: jax.Array | None = None,
    bias: jax.Array | None = None,
) -> jax.Array:
    """Attention with rotary positions, after which tokens are split over devices again.

    Args:
        q, k, v: queries [B, N, H, D / H], and keys and values [B, M, H, D / H].
        angles: rotary angles of queries and keys, see `turn`; None for no rotation.
        implementation: implementation of attention, see `attention`.
        seen: Bool [B, M] over keys, or [B or 1, N, M], True where a query attends to a key; None if each query attends
            to all keys.
        bias: numbers that are added to the scores, as in `attention`; None for no bias.

    Returns:
        The output of the attention [B, N, H, D / H].
    """
    if angles is not None:
        q = turn(q, angles)
        k = turn(k, angles)
    if seen is not None:
        bias = mask_bias(seen) if bias is None else bias + mask_bias(seen)
    return layout.attended(attention(q, k, v, implementation, bias))


def _alone(identity: jax.Array, queries: int, keys: int, picture: int) -> jax.Array:
    """The bias [B, 1, queries, keys] with which the picture's tokens, the last ones, do not attend to each other.

    Args:
        identity: Bool [B], True for the examples with this bias; for the others the bias is 0.
        queries, keys: numbers of queries and keys; the queries of the text, which come first, may be left out.
        picture: number of the picture's tokens.
    """
    n, m = jnp.arange(queries)[:, None] + keys - queries, jnp.arange(keys)
    others = (n >= keys - picture) & (m >= keys - picture) & (n != m)
    return mask_bias(~(others & identity[:, None, None]))


def to_tokens(x: jax.Array) -> jax.Array:
    """The heads' features x [B, N, H, D / H], with the tokens split over devices."""
    return layout.split(x, "batch", "tokens", "heads", None)


class MixedTimes(NamedTuple):
    """The conditions of tokens of a picture, if every token has one of two times.

    Attributes:
        c: [B, D] after SiLU, the condition of the text's tokens and of the picture's tokens with the first time.
        other: [B, D] after SiLU, the condition of the picture's tokens with the second time.
        others: Bool [N], True for the picture's tokens with the second time; Bool [M + N] where text and picture are
            one stream.
    """

    c: jax.Array
    other: jax.Array
    others: jax.Array

    def vectors(self, modulation: Modulation) -> list[jax.Array]:
        """The vectors [B, N, D] of the tokens, by the modulation of a layer."""
        both = zip(modulation(self.c), modulation(self.other))
        return [jnp.where(self.others[:, None], other, one) for one, other in both]


class Stream(nn.Module):
    """One stream's part of a joint layer: adaLN, projections to and from the joint attention, and an MLP.

    The attention between the two projections belongs to `JointBlock`. A stream has `vectors` = 6 vectors of adaLN. A
    stream that ends in this layer has only 2, the shift and the scale before attention; a stream with a second
    attention has 9. `gated` has the meaning that it has in `JointBlock`.
    """

    width: int
    heads: int
    qk_norm: bool
    dtype: str
    vectors: int
    gated: bool = False

    def setup(self):
        self.modulation = Modulation(self.vectors, self.dtype)
        self.attention = Projections(self.width, self.heads, self.qk_norm, self.dtype, bias=not self.gated)
        self.mlp = SwiGlu(GATED, self.dtype, bias=False) if self.gated else Gelu(4.0, self.dtype)

    def vectors_of(self, c: Any, given: jax.Array | None) -> list[jax.Array]:
        """The stream's vectors of adaLN, each [B, 1, D], or [B, N, D] if the condition is `MixedTimes`.

        They are computed from the condition c, unless they are `given` as [B, vectors, D].
        """
        if given is not None:
            return _each(given)
        return c.vectors(self.modulation) if isinstance(c, MixedTimes) else self.modulation(c)

    def enter(self, x: jax.Array, c: Any, given: jax.Array | None = None) -> tuple[list[jax.Array], list[jax.Array]]:
        """x [B, N, D] -> ([q, k, v], the stream's vectors), see `vectors_of`."""
        vectors = self.vectors_of(c, given)
        return self.attention.enter(modulated(x, *vectors[:2])), vectors

    def projected(self, x: jax.Array, vectors: list[jax.Array]) -> list[jax.Array]:
        """The q, k and v of x [B, N, D] before their norms, by the stream's vectors."""
        return self.attention.projected(modulated(x, *vectors[:2]))

    def leave(self, x: jax.Array, mixed: jax.Array, vectors: list[jax.Array]) -> jax.Array:
        """(x [B, N, D], the output of attention [B, N, H, D / H], vectors) -> x after the layer [B, N, D]."""
        x = x + vectors[2] * self.attention.leave(to_tokens(mixed))
        return layout.split(x + vectors[5] * self.mlp(modulated(x, *vectors[3:5])), "batch", "tokens", None)


def _each(vectors: jax.Array) -> list[jax.Array]:
    """The K vectors of an array [B, K, D], each as [B, 1, D]."""
    return jnp.split(vectors, vectors.shape[1], axis=1)


def modulated(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """layer_norm(x) (1 + scale) + shift of tokens x [B, N, D], with vectors [B, 1, D] or [B, N, D]."""
    return layer_norm(x) * (1 + scale) + shift


class JointBlock(nn.Module):
    """A layer of two streams, each with parameters of its own, whose tokens attend to all tokens of both streams.

        q, k, v = [enter(norm(stream) (1 + scale) + shift)]     of text and picture, one after the other
        stream <- stream + gate * leave(attention(q, k, v))
        stream <- stream + gate' * mlp(norm(stream) (1 + scale') + shift')

    Attributes:
        heads: number H of attention heads.
        qk_norm: whether queries and keys are RMS-normalised.
        dual: whether the picture has a second attention, only to itself (SD3.5-medium).
        last: whether no later layer needs the text, so that this layer reads the text without changing it.
        attention: implementation of the attention, see `diffusion.models.layers.attention`.
        dtype: compute type.
        gated: whether the MLP is a SwiGLU with three times the width, and no dense layer has a bias (FLUX.2).

    Reference: Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", 2024, figure 2b.
    """

    heads: int
    qk_norm: bool
    dual: bool
    last: bool
    attention: str
    dtype: str
    gated: bool = False

    @nn.compact
    def __call__(
        self,
        streams: tuple[jax.Array, jax.Array],
        c: Any,
        angles: jax.Array | None,
        inputs: dict[str, Any],
        entering: bool = False,
    ) -> tuple[Any, None]:
        """Args:
            streams: tokens of the picture [B, N, D] and of the text [B, M, D].
            c: condition [B, D] after SiLU, or `MixedTimes`.
            angles: rotary angles of text and picture [M + N, D / (2 H)]; None for no rotation.
            inputs: this layer's entries of the condition, none of which is required:
                "skip": Bool [B], True for examples that the layer leaves unchanged.
                "identity": Bool [B], True for examples in which a token of the picture attends to itself and the text
                    only.
                "residual": numbers [B, N, D] that are added to the picture after the layer, even if it is skipped.
                "extra": image prompts with separate attentions, which read the picture's queries before their rotation.
                    The output is added to the picture after the layer, see `extra_attention`.
                "extra_joint": image prompts that the picture's tokens attend to together with the picture's own tokens.
                    The output is added to the picture's attention, see `extra_attention`.
                "vectors": a pair of the vectors of the picture, [B, 6, D] or with `dual` [B, 9, D], and of the text,
                    [B, 6, D] or with `last` [B, 2, D], which replace the vectors computed from c.
                "seen": Bool [B, M + N], the text first, True for tokens to which the tokens attend.
            entering: whether to return only the input of the attention at the picture's tokens.

        Returns:
            (streams, None), as a scan expects; with `entering`, (the input [B, N, D], None).
        """
        x, text = streams = jax.tree.map(layout.row_major, streams)
        width = x.shape[-1]
        stream = (width, self.heads, self.qk_norm, self.dtype)
        image = Stream(*stream, 9 if self.dual else 6, self.gated, name="image")
        picture_vectors, given_text_vectors = inputs.get("vectors", (None, None))
        if entering:
            return modulated(x, *image.vectors_of(c, picture_vectors)[:2]), None
        words = Stream(*stream, 2 if self.last else 6, self.gated, name="text")

        picture, vectors = image.enter(x, c, picture_vectors)
        theirs, text_vectors = words.enter(text, c.c if isinstance(c, MixedTimes) else c, given_text_vectors)
        q, k, v = (jnp.concatenate(pair, axis=1) for pair in zip(theirs, picture))
        identity, queries = inputs.get("identity"), picture[0] if self.last else q
        alone = None if identity is None else _alone(identity, queries.shape[1], k.shape[1], x.shape[1])
        mixed = attend(queries, k, v, angles, self.attention, inputs.get("seen"), alone)

        if self.dual:
            second = Projections(width, self.heads, self.qk_norm, self.dtype, name="self_attention")
            q, k, v = second.enter(modulated(x, *vectors[6:8]))
            mixed_alone = attend(q, k, v, None, self.attention)
            if identity is not None:
                mixed_alone = jnp.where(identity[:, None, None, None], v, mixed_alone)
            x = x + vectors[8] * second.leave(to_tokens(mixed_alone))
        attended = mixed[:, -x.shape[1] :]
        if "extra_joint" in inputs:  # XLA computes these products only once, though `enter` has them too
            q, k, v = image.projected(streams[0], vectors)
            attended = attended + extra_attention.beside_own(q, k, v, inputs["extra_joint"], self.attention)
        x = image.leave(x, attended, vectors)
        if not self.last:
            text = words.leave(text, mixed[:, : text.shape[1]], text_vectors)

        if "extra" in inputs:
            prompted = extra_attention.added(jnp.zeros_like(picture[0]), picture[0], inputs["extra"], self.attention)
            x = x + prompted.reshape(x.shape).astype(x.dtype)
        if "skip" in inputs:
            x, text = (jnp.where(inputs["skip"][:, None, None], *pair) for pair in zip(streams, (x, text)))
        if "residual" in inputs:
            x = x + inputs["residual"].astype(x.dtype)
        return (x, text), None


class PictureBlock(nn.Module):
    """A layer of only the picture's stream, whose tokens attend to each other (SD3.5-large's ControlNets).

    It takes tokens x [B, N, D] and the condition c [B, D] after SiLU, and returns (x [B, N, D], None) for a scan.
    """

    heads: int
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, c: jax.Array) -> tuple[jax.Array, None]:
        image = Stream(x.shape[-1], self.heads, False, self.dtype, 6, name="image")
        (q, k, v), vectors = image.enter(x, c)
        return image.leave(x, attend(q, k, v, None, self.attention), vectors), None


class SingleBlock(nn.Module):
    """A layer of one stream of text and picture, with attention and MLP in parallel between two matrices.

        q, k, v, h = enter(norm(x) (1 + scale) + shift)
        x <- x + gate * leave([attention(q, k, v), gelu(h)])

    Otherwise than in `JointBlock`, h has four times the width. With `gated`, silu(h) h' replaces gelu(h), where h and
    h' have three times the width each, and no dense layer has a bias.

    Reference: Dehghani et al., "Scaling Vision Transformers to 22 Billion Parameters", 2023, section 2, for the
    parallel layer; the code of FLUX.1 (Black Forest Labs, 2024).
    """

    heads: int
    attention: str
    dtype: str
    gated: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, c: Any, angles: jax.Array, inputs: dict[str, jax.Array]) -> tuple[jax.Array, None]:
        """Args:
            x: tokens [B, M + N, D], first the text's, then the picture's.
            c: condition, see `JointBlock`.
            angles: rotary angles [M + N, D / (2 H)].
            inputs: this layer's entries of the condition: "residual" [B, N, D] and "seen" as in `JointBlock`, and
                "vectors" [B, 3, D] for all tokens.

        Returns:
            (x, None), as a scan expects.
        """
        shift, scale, gate = self._vectors(c, inputs.get("vectors"))
        options = {"beside": 6 if self.gated else 4, "bias": not self.gated}
        both = Projections(x.shape[-1], self.heads, True, self.dtype, **options, name="attention")
        q, k, v, hidden = both.enter(modulated(x, shift, scale))
        mixed = to_tokens(attend(q, k, v, angles, self.attention, inputs.get("seen")))
        hidden = nn.silu(hidden[:, :, :3]) * hidden[:, :, 3:] if self.gated else gelu(hidden)
        x = x + gate * both.leave(jnp.concatenate([mixed[:, :, None], hidden], axis=2))
        if "residual" in inputs:
            text = x.shape[1] - inputs["residual"].shape[1]
            x = x.at[:, text:].add(inputs["residual"].astype(x.dtype))
        return layout.split(x, "batch", "tokens", None), None

    def _vectors(self, c: Any, given: jax.Array | None) -> list[jax.Array]:
        if given is not None:
            return _each(given)
        modulation = Modulation(3, self.dtype, name="modulation")
        return c.vectors(modulation) if isinstance(c, MixedTimes) else modulation(c)
