"""Prompts as embeddings: by one text encoder, or by several whose embeddings are joined."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.io import limits
from diffusion.text import weighting
from diffusion.text.long_prompts import Windows, all_windows, first_window
from diffusion.text.tokenizer import Tokenizer, checked
from diffusion.text.weighting import EMPHASIS

Network = Callable[[Any, Any], tuple[jax.Array, jax.Array | None]]
"""(ids int32 `[B, N]`, mask Bool `[B, N]`) -> (tokens `[B, N, D]`, pooled `[B, P]` or None)."""


class AlreadyRead(NamedTuple):
    """Texts that have been tokenized before, in place of a tokenizer: `encode` takes their tokens unchanged.

    A text encoder can thus be a part of a compiled program, which receives ids and no texts.

    Attributes:
        ids: int [B, N].
        mask: Bool [B, N].
    """

    ids: Any
    mask: Any
    start = ()
    room = 0

    @property
    def length(self) -> int:
        """N."""
        return self.ids.shape[1]

    def begin(self, ids: int) -> int:
        """0, since its rows are empty."""
        return 0

    def longer(self, ids: int) -> "AlreadyRead":
        """The same texts, which were tokenized at their full length."""
        return self

    def split(self, text: str) -> tuple[list[int], Callable[[int], str]]:
        """No ids; `framed` returns all of them."""
        return [], lambda first: ""

    def framed(self, rows: Sequence[Sequence[int]]) -> tuple[Any, Any]:
        """The texts that were read."""
        return self.ids, self.mask


class Encoder(NamedTuple):
    """A vocabulary and the network that reads it.

    Attributes:
        tokenizer: tokenizer of the network's vocabulary.
        network: (ids [B, N], mask [B, N]) -> (tokens [B, N, D], pooled [B, P] or None). That of an encoder that sees
            pictures also takes `pictures`, their tokens.
        see: function from a picture [1, H, W, 3] in [-1, 1] to its tokens [h, w, D], whose places the text's
            placeholders hold; None: the encoder sees no pictures.
    """

    tokenizer: Tokenizer | AlreadyRead
    network: Network
    see: Callable[[Any], jax.Array] | None = None

    @classmethod
    def from_module(
        cls, tokenizer: Tokenizer, module: Any, params: Any, *, masked: bool = False, **how: Any
    ) -> "Encoder":
        """The encoder of a Linen module and its parameters, compiled.

        Args:
            tokenizer: tokenizer of its vocabulary.
            module: text encoder, such as `CLIPText` or `T5Encoder` of `models.text_encoders`.
            params: its parameters.
            masked: whether its attention receives the mask; of the published models only PixArt's T5 does.
            **how: further arguments of its call: `skip=1, norm=False` for CLIP as SDXL and SD 3 read it.
        """
        apply = jax.jit(reading(module, masked=masked, **how))
        return cls(tokenizer, lambda ids, mask: apply(params, ids, mask))

    def with_pictures(self, pictures: Sequence[Any], held: int = 0) -> tuple["Encoder", list[int]]:
        """The encoder of texts that hold pictures, and the number of tokens of each picture.

        Args:
            pictures: the pictures, float32 [1, H, W, 3] in [-1, 1] each.
            held: number of the pictures' tokens that the tokenizer's length has room for.
        """
        tokens = tuple(self.see(picture) for picture in pictures) if self.see else ()
        counts = [height * width for height, width, _ in (picture.shape for picture in tokens)]
        network: Any = self.network
        seeing = (lambda ids, mask: network(ids, mask, pictures=tokens)) if tokens else network
        return Encoder(self.tokenizer.longer(sum(counts) - held), seeing), counts


def reading(module: Any, *, masked: bool = False, **how: Any) -> Callable[[Any, Any, Any], tuple]:
    """(parameters, ids, mask) -> (tokens, pooled) of a Linen module; arguments as `Encoder.from_module`.

    For a module that sees pictures the function also takes `pictures`.

    Raises:
        ValueError: when called, if the module returns something else.
    """

    def read(params: Any, ids: Any, mask: Any, **seen: Any) -> tuple:
        pair = module.apply({"params": params}, ids, mask if masked else None, **how, **seen)
        if not isinstance(pair, tuple) or len(pair) != 2 or getattr(pair[0], "shape", ())[:1] != ids.shape[:1]:
            shape = getattr(pair, "shape", None)
            returned = limits.kind(pair) if shape is None else f"an array {shape}"
            raise ValueError(
                f"the text encoder {type(module).__name__} returns {returned} for ids {ids.shape}. Valid: (tokens "
                "[B, N, D], pooled [B, P] or None)"
            )
        return tuple(pair)

    return read


class Embeddings(NamedTuple):
    """Prompts as a network receives them.

    Attributes:
        tokens: [B, M, D].
        mask: Bool [B, M], False where a prompt is padded.
        pooled: [B, P], or None.
    """

    tokens: jax.Array
    mask: np.ndarray | jax.Array
    pooled: jax.Array | None


def encode(
    prompts: Sequence[str],
    encoder: Encoder,
    *,
    emphasis: str = "none",
    windows: bool = False,
    before: str = "",
    behind: str = "",
    closed: bool = False,
) -> Embeddings:
    """The embeddings of prompts.

    Args:
        prompts: B texts, which may be "". Negative prompts belong in the same call, since all need one number of
            windows.
        encoder: encoder that reads them.
        emphasis: effect of brackets, see `weighting`:
            "none": they are text.
            "scale": a token's embedding is multiplied by its weight.
            "restore_mean": as "scale", and then the whole window is multiplied by one number, so that the mean over
                tokens and features is kept (AUTOMATIC1111's way, over a batch there; "scale" is "No norm" there).
            "from_empty": empty + weight (embedding - empty), with the embedding of an empty prompt at the same
                position (ComfyUI's way, and compel's for weights above one).
        windows: whether a long prompt is read in several windows, which follow one another, [B, K N, D]; pooled is the
            first's. Otherwise what does not fit is cut, and a warning quotes it.
        before, behind: texts around each prompt, also an empty one, with weight 1: the template of a chat.
        closed: whether `behind` stays where a prompt is cut, which then leaves room for it.

    Returns:
        `Embeddings`, with M = N, or K N for the K windows of the longest prompt.

    Raises:
        ValueError: for an unknown emphasis, one text in place of a list, or no text.
    """
    if emphasis not in EMPHASIS:
        raise ValueError(f"emphasis={emphasis!r} is not known. Valid: {', '.join(map(repr, EMPHASIS))}")
    if isinstance(prompts, str) or not prompts:
        raise ValueError(f"prompts = {prompts!r}. Valid: a list of at least one text")
    tokenizer: Any = encoder.tokenizer

    def in_windows(prompt: str) -> Windows:
        parts = [(prompt, 1.0)] if emphasis == "none" else weighting.parse(prompt)
        if closed and not windows:
            end = [(token, 1.0) for token in tokenizer.split(behind)[0]]
            (row,), cut = first_window(weighting.joined([(before, 1.0), *parts]), tokenizer.longer(-len(end)))
            return Windows([[*row, *end]], cut)
        parts = weighting.joined([(before, 1.0), *parts, (behind, 1.0)])
        return (all_windows if windows else first_window)(parts, tokenizer)

    read = []
    for prompt in map(checked, prompts):
        read.append(in_windows(prompt))
        if cut := read[-1].cut:
            cut = cut.removesuffix(behind) or cut
            shown = cut if len(cut) <= 120 else f"{cut[:100]} ... ({len(cut)} letters)"
            warnings.warn(
                f"the prompt {prompt[:30]!r} is longer than the {tokenizer.length} tokens of its encoder; this part "
                f"is left out: {shown!r}. To encode all of it, set windows=True",
                stacklevel=2,
            )
    count = max(len(one.rows) for one in read)
    filled = lambda one: one.rows + [[]] * (count - len(one.rows))
    rows = [row for one in read for row in filled(one)]
    ids, mask = tokenizer.framed([[token for token, _ in row] for row in rows])
    tokens, pooled = encoder.network(ids, mask)
    weights = np.ones(ids.shape, np.float32)
    for i, row in enumerate(rows):
        first = tokenizer.begin(len(row))
        weights[i, first : first + len(row)] = [weight for _, weight in row]
    if (weights != 1).any():
        nothing = [[token for token, _ in row] for row in filled(in_windows(""))]
        tokens = _emphasised(tokens, weights, emphasis, encoder, nothing)
    by_prompt = lambda a: a.reshape(len(prompts), -1, *a.shape[2:])
    pooled = None if pooled is None else pooled[::count]
    return Embeddings(by_prompt(tokens), by_prompt(mask), pooled)


def _emphasised(
    tokens: jax.Array, weights: np.ndarray, emphasis: str, encoder: Encoder, nothing: list[list[int]]
) -> jax.Array:
    """The tokens [W, N, D] of windows, weighted by [W, N] as `encode` says; `nothing` is an empty prompt."""
    if emphasis == "from_empty":
        states, _ = encoder.network(*encoder.tokenizer.framed(nothing))
        empty = jnp.tile(states, (len(tokens) // len(nothing), 1, 1))
        return empty + weights[..., None] * (tokens - empty)
    weighted = tokens * weights[..., None]
    if emphasis == "scale":
        return weighted
    restored = weighted * (tokens.mean((1, 2)) / weighted.mean((1, 2)))[:, None, None]
    return jnp.where((weights == 1).all(1)[:, None, None], tokens, restored)


def side_by_side(*parts: Embeddings) -> Embeddings:
    """Concatenates the features of encoders that read the same tokens.

    Args:
        *parts: the embeddings, with tokens `[B, M, D1]`, `[B, M, D2]`, ...

    Returns:
        Embeddings with tokens `[B, M, D1 + D2 + ...]`, the mask of the first part, and the pooled vector of the last.

    Raises:
        ValueError: if the parts differ in the number of prompts or tokens.
    """
    shapes = {part.tokens.shape[:2] for part in parts}
    if len(shapes) > 1:
        raise ValueError(
            f"encoders side by side must read the same number of tokens; theirs are [B, M] = {sorted(shapes)}"
        )
    return Embeddings(jnp.concatenate([part.tokens for part in parts], -1), parts[0].mask, parts[-1].pooled)


def one_after_other(*parts: Embeddings) -> Embeddings:
    """Encoders whose tokens follow one another, padded with zeros to the widest: [B, M1 + M2 + ..., max D].

    The first part gives pooled.
    """
    width = max(part.tokens.shape[-1] for part in parts)
    wide = [jnp.pad(part.tokens, ((0, 0), (0, 0), (0, width - part.tokens.shape[-1]))) for part in parts]
    mask = jnp.concatenate([part.mask for part in parts], axis=1)
    return Embeddings(jnp.concatenate(wide, axis=1), mask, parts[0].pooled)


def text_first(embeddings: Embeddings, left_out: int = 0) -> dict[str, Any]:
    """{"text", "text_mask"} with the tokens of all windows before all padding.

    Args:
        embeddings: the prompts.
        left_out: number of the first tokens that are left out, such as a task before each prompt; padding on the left
            does not count.
    """
    mask = jnp.asarray(embeddings.mask)
    order = jnp.argsort(~mask, axis=1, stable=True)[:, left_out:]
    text = jnp.take_along_axis(embeddings.tokens, order[..., None], axis=1)
    return {"text": text, "text_mask": jnp.take_along_axis(mask, order, axis=1)}


def zeroed_padding(embeddings: Embeddings) -> jax.Array:
    """The tokens of embeddings [B, M, D], with zeros in the place of padding."""
    return jnp.where(jnp.asarray(embeddings.mask)[..., None], embeddings.tokens, 0)


def pooled(embeddings: Embeddings) -> jax.Array:
    """The pooled vectors of embeddings [B, P].

    Raises:
        ValueError: for an encoder without one.
    """
    if embeddings.pooled is None:
        raise ValueError("this encoder has no pooled embedding. Valid: CLIP's text encoder, not T5")
    return embeddings.pooled
