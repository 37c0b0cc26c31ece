"""BERT that attends to a picture: BLIP's text encoder, and its decoder, which writes captions.

ids [B, N] -> norm(tokens + positions) -> depth x layer -> [B, N, D]

layer:  x = norm(x + attention(x));  x = norm(x + attention(x, picture));  x = norm(x + out(gelu(hidden(x))))

In the encoder a token attends to all tokens, in the decoder to itself and those before it. The decoder keeps the
keys and values of the picture and of the tokens so far, so that a further token costs one token's computation.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.layers import layout, network_checks
from diffusion.models.layers.attention import attention, mask_bias
from diffusion.models.layers.clip_layers import Mlp, layer_norm
from diffusion.models.layers.cross_attention import xavier
from diffusion.models.layers.network_bases import CheckedNetwork
from diffusion.models.layers.scan import scanned
from diffusion.models.layers.vision_layers import normal

KeysValues = tuple[jax.Array, jax.Array]
"""Keys and values of attention, each [B, M, heads, size]; of all layers [L, B, M, heads, size]."""


class Cache(NamedTuple):
    """The keys and values that a decoder keeps from one token to the next.

    Attributes:
        text: keys and values of the tokens so far, with room for the longest text.
        picture: keys and values of the picture; None before the decoder receives it.
    """

    text: KeysValues
    picture: KeysValues | None


class Attention(nn.Module):
    """Multi-head attention of tokens x [B, N, D] to a source [B, M, E], which also returns its keys and values.

    The source's keys and values go into the cache from position `at` on; without a source the cache holds all of them.
    """

    heads: int
    attention: str
    dtype: str

    @nn.compact
    def __call__(
        self, x: jax.Array, source: jax.Array | None, bias: jax.Array | None, cache: KeysValues | None, at: jax.Array
    ) -> tuple[jax.Array, KeysValues]:
        def project(tokens: jax.Array, name: str) -> jax.Array:
            size = (self.heads, x.shape[-1] // self.heads)
            dense = nn.DenseGeneral(size, dtype=self.dtype, kernel_init=xavier, name=name)
            return layout.attended(layout.split(dense(tokens), "batch", "tokens", "heads", None))

        q = project(x, "query")
        if source is not None:
            new = project(source, "key"), project(source, "value")
            place = lambda old, part: jax.lax.dynamic_update_slice_in_dim(old, part.astype(old.dtype), at, axis=1)
            cache = new if cache is None else (place(cache[0], new[0]), place(cache[1], new[1]))
        if cache is None:
            raise ValueError("the first call of a decoder needs the picture")
        out = layout.split(attention(q, *cache, self.attention, bias), "batch", "tokens", "heads", None)
        out = nn.DenseGeneral(x.shape[-1], axis=(-2, -1), dtype=self.dtype, kernel_init=xavier, name="out")(out)
        return layout.split(out, "batch", "tokens", None), cache


class Attended(nn.Module):
    """norm(x + attention(x, source)), and the keys and values; arguments as `Attention`."""

    heads: int
    epsilon: float
    attention: str
    dtype: str

    @nn.compact
    def __call__(
        self, x: jax.Array, source: jax.Array | None, bias: jax.Array | None, cache: KeysValues | None, at: jax.Array
    ) -> tuple[jax.Array, KeysValues]:
        mixed, cache = Attention(self.heads, self.attention, self.dtype, name="attention")(x, source, bias, cache, at)
        return layer_norm(self.epsilon, self.dtype, "norm")(x + mixed), cache


class Layer(nn.Module):
    """One layer; returns (x, the keys and values where there is a cache, else None), as a scan expects."""

    heads: int
    hidden: int
    epsilon: float
    attention: str
    dtype: str

    @nn.compact
    def __call__(
        self, x: jax.Array, cache: Cache | None, picture: jax.Array | None, bias: jax.Array, at: jax.Array
    ) -> tuple[jax.Array, Cache | None]:
        attended = lambda name: Attended(self.heads, self.epsilon, self.attention, self.dtype, name=name)
        kept_text, kept_picture = cache or (None, None)
        x, text = attended("self")(x, x, bias, kept_text, at)
        x, cross = attended("cross")(x, picture, None, kept_picture if picture is None else None, at)
        mlp = Mlp(self.hidden, "gelu", self.dtype, name="mlp")
        x = layer_norm(self.epsilon, self.dtype, "norm")(x + mlp(x))
        return layout.split(x, "batch", "tokens", None), Cache(text, cross) if cache else None


class MED(CheckedNetwork):
    """The mixture of encoder and decoder of BLIP: a BERT in which every layer attends to a picture's tokens.

    Attributes:
        vocabulary: number of token ids.
        width: number of features of a token.
        depth: number of layers.
        heads: number of attention heads, a divisor of the width.
        hidden: number of features inside the MLP.
        positions: the longest text in tokens.
        epsilon: epsilon of the norms, > 0.

    References:
        Li et al., "BLIP: Bootstrapping Language-Image Pre-training", 2022, section 3.1; salesforce/BLIP, models/med.py.
        Devlin et al., "BERT", 2019.
    """

    vocabulary: int = 30524
    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    positions: int = 512
    epsilon: float = 1e-12

    def check_fields(self) -> None:
        network_checks.tower(self)

    def checked(self, ids: jax.Array) -> None:
        """Refuses texts of another form.

        Raises:
            ValueError: naming the shape and the type.
        """
        if ids.ndim != 2 or ids.shape[1] > self.positions or not jnp.issubdtype(ids.dtype, jnp.integer):
            raise ValueError(
                f"the text must be integer ids [B, N] with N <= {self.positions}; got shape {ids.shape}, dtype "
                f"{ids.dtype}"
            )

    def embedding(self) -> nn.Embed:
        """The table of tokens, a part of a network's call."""
        return nn.Embed(self.vocabulary, self.width, embedding_init=normal, name="tokens")

    def states(
        self, tokens: jax.Array, bias: jax.Array, picture: jax.Array | None, cache: Cache | None, at: jax.Array | int
    ) -> tuple[jax.Array, Cache | None]:
        """The layers, a part of a network's call.

        Args:
            tokens: embeddings [B, N, D] of the text from its position `at` on.
            bias: bias of the self-attention's scores.
            picture: tokens [B, M, E] of the picture; None where the cache holds their keys and values.
            cache: keys and values of the tokens before; None to keep nothing.
            at: position of the first token.

        Returns:
            (states [B, N, D], the cache with these tokens).
        """
        positions = self.param("positions", normal, (self.positions, self.width))
        at = jnp.asarray(at, jnp.int32)
        x = tokens + jax.lax.dynamic_slice_in_dim(positions, at, tokens.shape[1])
        x = layer_norm(self.epsilon, self.dtype, "norm")(x)
        shared = (nn.broadcast, nn.broadcast, nn.broadcast)
        layers = scanned(Layer, self.depth, "none", self.is_initializing(), (0, *shared))(
            self.heads, self.hidden, self.epsilon, self.attention, self.dtype, name="layers"
        )
        return layers(x, cache, None if picture is None else picture.astype(self.dtype), bias, at)


class MEDText(MED):
    """BLIP's text encoder. Fields and reference as `MED`."""

    @nn.compact
    def __call__(self, ids: jax.Array, mask: jax.Array, picture: jax.Array) -> jax.Array:
        """Args:
            ids: integers [B, N], 0 .. vocabulary - 1, N at most `positions`.
            mask: Bool [B, N], True where other tokens may attend to a token.
            picture: its tokens [B, M, E]; the text attends to all of them.

        Returns:
            [B, N, width] float32.

        Raises:
            ValueError: for shapes that do not fit.
        """
        self.checked(ids)
        network_checks.ids(ids, mask)
        x, _ = self.states(self.embedding()(ids), mask_bias(mask), picture, None, 0)
        return x.astype(jnp.float32)


class MEDDecoder(MED):
    """BLIP's text decoder, which predicts the next token of a caption.

        logits = head(norm(gelu(dense(x))))

    Attributes:
        start: id before a caption.
        stop: id after it.
        tied: whether the head's kernel is the table of tokens.

    Other fields and reference as `MED`.
    """

    start: int = 30522
    stop: int = 102
    tied: bool = True

    def check_fields(self) -> None:
        super().check_fields()
        for name in ("start", "stop"):
            if not 0 <= getattr(self, name) < self.vocabulary:
                raise ValueError(f"{name}={getattr(self, name)} must be an id, 0 .. {self.vocabulary - 1}")

    def room(self, batch: int, length: int) -> Cache:
        """The cache of no tokens, with room for `length` tokens of each of `batch` texts."""
        shape = (self.depth, batch, length, self.heads, self.width // self.heads)
        return Cache((jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype)), None)

    @nn.compact
    def __call__(
        self, ids: jax.Array, cache: Cache, at: jax.Array | int = 0, picture: jax.Array | None = None
    ) -> tuple[jax.Array, Cache]:
        """Args:
            ids: integers [B, N] of the text from its position `at` on.
            cache: the cache of the last call; before the first call `room`.
            at: number of tokens before these, at + N at most the room.
            picture: its tokens [B, M, E], for the first call; None afterwards.

        Returns:
            (logits [B, N, vocabulary] float32 of the token after each, the cache with these tokens).

        Raises:
            ValueError: for shapes that do not fit.
        """
        self.checked(ids)
        if (room := cache.text[0].shape[2]) > self.positions:
            raise ValueError(f"room for {room} tokens, but the longest text has {self.positions}")
        embedding = self.embedding()
        visible = jnp.arange(room) <= at + jnp.arange(ids.shape[1])[:, None]
        x, after = self.states(embedding(ids), mask_bias(visible[None]), picture, cache, at)
        x = nn.gelu(nn.Dense(self.width, dtype=self.dtype, name="transform")(x), approximate=False)
        x = layer_norm(self.epsilon, self.dtype, "transform_norm")(x)
        if self.tied:
            x = embedding.attend(x)
        else:
            x = nn.Dense(self.vocabulary, use_bias=False, dtype=self.dtype, kernel_init=normal, name="head")(x)
        bias = self.param("head_bias", nn.initializers.zeros_init(), (self.vocabulary,))
        assert after is not None  # since there was one before
        return x.astype(jnp.float32) + bias, after
