"""Attention to the tokens of pictures beside a network's own: the entry "extra" of its condition.

    out = attention(q, text) + sum_p weight_p * attention(q, keys_p, values_p)

The entry is a tuple of image prompts p. Each is a tuple with (keys, values) or (keys, values, weight) for every layer
that `network.extra_layers(height, width)` lists: keys and values [B, K, D], and a weight [B, 1] or [B, N] of what each
of the N queries receives, such as a mask over the picture. Image prompts may have different numbers K of tokens.

Reference: Ye et al., "IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image Diffusion Models", 2023,
equation 5.
"""

__all__ = ["ExtraLayer", "added", "check", "lengthened", "of_layers"]

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion.models.layers.attention import attention


class ExtraLayer(NamedTuple):
    """A layer of a network that attends to image prompts.

    Attributes:
        width: D, of its keys and values.
        rows, columns: the grid of its N = rows * columns queries.
    """

    width: int
    rows: int
    columns: int


def added(out: jax.Array, q: jax.Array, extra: tuple, implementation: str) -> jax.Array:
    """The output of an attention, with those to image prompts added.

    Args:
        out: [B, N, H, D / H].
        q: its queries, of the same shape.
        extra: for each image prompt this layer's (keys, values) or (keys, values, weight).
        implementation: see `attention`.
    """
    split = lambda a: a.reshape(*a.shape[:2], *q.shape[2:]).astype(q.dtype)
    for keys, values, *weight in extra:
        more = attention(q, split(keys), split(values), implementation)
        for factor in weight:
            more = more * factor[:, :, None, None].astype(more.dtype)
        out = out + more
    return out


def of_layers(extra: tuple, start: int, stop: int) -> tuple:
    """The layers start .. stop - 1 of every image prompt, stacked along a first axis for a scan."""
    return tuple(jax.tree.map(lambda *layers: jnp.stack(layers), *prompt[start:stop]) for prompt in extra)


def lengthened(extra: tuple, queries: int, more: int) -> tuple:
    """Layers of `of_layers` for `more` queries than the masks are of: weights [L, B, N] are zero for the rest."""

    def longer(weight: jax.Array) -> jax.Array:
        rest = more - queries if weight.shape[-1] == queries else 0
        return jnp.pad(weight, ((0, 0), (0, 0), (0, rest)))

    return tuple((keys, values, *map(longer, weight)) for keys, values, *weight in extra)


def check(extra: Any, batch: int, layers: Sequence[ExtraLayer]) -> None:
    """Refuses image prompts that do not fit the layers of a network.

    Args:
        extra: the entry of the condition; None: there is none.
        batch: B.
        layers: of the network.

    Raises:
        ValueError: naming the first image prompt and layer that do not fit, the shapes, and those that are valid.
    """
    if extra is None:
        return
    if not isinstance(extra, tuple) or not all(isinstance(prompt, tuple) for prompt in extra):
        raise ValueError(
            "the condition's 'extra' is a tuple of image prompts, each a tuple with an entry for each layer"
        )
    for p, prompt in enumerate(extra):
        if len(prompt) != len(layers):
            raise ValueError(
                f"'extra', image prompt {p}: this network has {len(layers)} layers that attend to it; got {len(prompt)}"
            )
        for i, (entry, layer) in enumerate(zip(prompt, layers)):
            shapes = [jnp.shape(a) for a in entry]
            queries = layer.rows * layer.columns
            pairs = len(shapes) in (2, 3) and all(
                len(s) == 3 and (s[0], s[2]) == (batch, layer.width) and s == shapes[0] for s in shapes[:2]
            )
            if not pairs or shapes[2:] not in ([], [(batch, 1)], [(batch, queries)]):
                raise ValueError(
                    f"'extra', image prompt {p}, layer {i}: keys and values are [B, K, D] = ({batch}, K, "
                    f"{layer.width}), and a weight [B, 1] or [B, N] = ({batch}, {queries}); got {shapes}"
                )
