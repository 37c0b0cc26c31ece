"""Attention to the tokens of pictures beside a network's own: the entries "extra" and "extra_joint" of its condition.

    out = attention(q, text) + sum_p weight_p attention(q, keys_p, values_p)                              "extra"
    out = joint(q, k, v) + sum_p weight_p attention(s_p rms(q), [s'_p rms(k), keys_p], [v, values_p])     "extra_joint"

An entry is a tuple of image prompts p. Each is a tuple with (keys, values) or (keys, values, weight) for every layer
that `network.extra_layers(height, width)` lists: keys and values [B, K, D], and a weight [B, 1] or [B, N] of what each
of the N queries receives, such as a mask over the picture. Image prompts may have different numbers K of tokens.

In the second form, of Stable Diffusion 3's IP-Adapter, the picture's own tokens are attended to beside the image
prompt, with the adapter's norms: (keys, values, weight, query_scale, key_scale) for every layer, the scales s, s' [B, D
/ H] of the H heads' features, and q, k the picture's before the network's norms.

References:
    Ye et al., "IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image Diffusion Models", 2023, equation 5.
    The code of SD3.5-Large-IP-Adapter (InstantX, 2024).
"""

__all__ = ["ExtraLayer", "added", "beside_own", "check", "check_joint", "lengthened", "stacked"]

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion.models.layers.attention import attention
from diffusion.models.layers.norms import rms_norm
from diffusion.package import public


class ExtraLayer(NamedTuple):
    """A layer of a network that attends to image prompts.

    Attributes:
        width: number D of features of its keys and values.
        rows, columns: the grid of its N = rows * columns queries.
    """

    width: int
    rows: int
    columns: int


def added(out: jax.Array, q: jax.Array, extra: tuple, implementation: str) -> jax.Array:
    """The output of an attention, plus the outputs of the attentions to image prompts.

    Args:
        out: [B, N, H, D / H].
        q: its queries, of the same shape.
        extra: this layer's (keys, values) or (keys, values, weight) of each image prompt.
        implementation: implementation of attention, see `attention`.
    """
    for keys, values, *weight in extra:
        more = attention(q, _in_heads(keys, q), _in_heads(values, q), implementation)
        for factor in weight:
            more = more * factor[:, :, None, None].astype(more.dtype)
        out = out + more
    return out


def beside_own(q: jax.Array, k: jax.Array, v: jax.Array, extra: tuple, implementation: str) -> jax.Array:
    """The sum that image prompts of the second form add to a picture's attention.

    Args:
        q, k, v: queries, keys and values of the picture's tokens, [B, N, H, D / H], before any norm.
        extra: this layer's (keys, values, weight, query_scale, key_scale) of each image prompt.
        implementation: implementation of attention, see `attention`.

    Returns:
        [B, N, H, D / H].
    """
    normed = lambda a, scale: rms_norm(a) * scale[:, None, None].astype(a.dtype)
    out = jnp.zeros_like(q)
    for keys, values, weight, query_scale, key_scale in extra:
        both = jnp.concatenate([normed(k, key_scale), _in_heads(keys, q)], axis=1)
        values = jnp.concatenate([v, _in_heads(values, q)], axis=1)
        more = attention(normed(q, query_scale), both, values, implementation)
        out = out + more * weight[:, :, None, None].astype(more.dtype)
    return out


def _in_heads(x: jax.Array, q: jax.Array) -> jax.Array:
    """Tokens [B, M, D] split into the heads of queries [B, N, H, D / H], in their dtype: [B, M, H, D / H]."""
    return x.reshape(*x.shape[:2], *q.shape[2:]).astype(q.dtype)


def stacked(extra: tuple, start: int, stop: int) -> tuple:
    """The arrays of layers start .. stop - 1 of every image prompt, stacked along a first axis for a scan."""
    return tuple(jax.tree.map(lambda *layers: jnp.stack(layers), *prompt[start:stop]) for prompt in extra)


def lengthened(extra: tuple, queries: int, more: int) -> tuple:
    """Image prompts of `stacked` whose weights over `queries` queries are extended to `more` queries by zeros.

    Args:
        extra: (keys, values, *weights) of each image prompt, with weights [L, B, 1] or [L, B, queries].
        queries: number of queries of the masks.
        more: number of queries of the attention, >= `queries`.
    """

    def longer(weight: jax.Array) -> jax.Array:
        rest = more - queries if weight.shape[-1] == queries else 0
        return jnp.pad(weight, ((0, 0), (0, 0), (0, rest)))

    return tuple((keys, values, *map(longer, weight)) for keys, values, *weight in extra)


def check(extra: Any, batch: int, layers: Sequence[ExtraLayer]) -> None:
    """Refuses image prompts that do not fit the layers of a network.

    Args:
        extra: the entry "extra" of the condition; None: there is none.
        batch: number B of examples.
        layers: the layers of the network that attend to image prompts, in order.

    Raises:
        ValueError: naming the first image prompt and layer that do not fit, the shapes, and those that are valid.
    """
    for p, i, shapes, layer in _layers("extra", extra, layers):
        queries = layer.rows * layer.columns
        pairs = len(shapes) in (2, 3) and _are_pairs(shapes[:2], batch, layer.width)
        if not pairs or shapes[2:] not in ([], [(batch, 1)], [(batch, queries)]):
            raise ValueError(
                f"'extra', image prompt {p}, layer {i}: keys and values must be [B, K, D] = ({batch}, K, "
                f"{layer.width}), and the weight [B, 1] or [B, N] = ({batch}, {queries}); got {shapes}"
            )


def check_joint(extra: Any, batch: int, layers: Sequence[ExtraLayer], heads: int) -> None:
    """Checks as `check` does, for the entry "extra_joint" and a network with this number of heads."""
    for p, i, shapes, layer in _layers("extra_joint", extra, layers):
        queries, size = layer.rows * layer.columns, layer.width // heads
        valid = len(shapes) == 5 and _are_pairs(shapes[:2], batch, layer.width)
        valid = valid and shapes[2] in ((batch, 1), (batch, queries)) and shapes[3:] == [(batch, size)] * 2
        if not valid:
            raise ValueError(
                f"'extra_joint', image prompt {p}, layer {i}: keys and values must be [B, K, D] = ({batch}, K, "
                f"{layer.width}), the weight [B, 1] or [B, N] = ({batch}, {queries}), and the two scales [B, D / H] = "
                f"({batch}, {size}); got {shapes}"
            )


def _layers(name: str, extra: Any, layers: Sequence[ExtraLayer]) -> Iterator[tuple[int, int, list, ExtraLayer]]:
    """(image prompt, layer, shapes of its entry, the network's layer) of all image prompts of an entry."""
    if extra is None:
        return
    if not isinstance(extra, tuple) or not all(isinstance(prompt, tuple) for prompt in extra):
        raise ValueError(
            f"the condition's {name!r} must be a tuple of image prompts, each a tuple with an entry for each layer"
        )
    for p, prompt in enumerate(extra):
        if len(prompt) != len(layers):
            raise ValueError(
                f"{name!r}, image prompt {p}: this network has {len(layers)} layers that attend to image prompts; got "
                f"{len(prompt)} entries"
            )
        for i, (entry, layer) in enumerate(zip(prompt, layers)):
            yield p, i, [jnp.shape(a) for a in entry], layer


def _are_pairs(shapes: list, batch: int, width: int) -> bool:
    return all(len(s) == 3 and (s[0], s[2]) == (batch, width) and s == shapes[0] for s in shapes)


public.declare(__name__, renamed={"of_layers": "stacked"})
