"""Losses on cross-attention maps: whether words appear, and where.

Maps are probabilities `[B, heads, N, M]`: query n, a position in the picture, has a distribution over the prompt's M
tokens. Tokens are int `[B, S, K]`: for each example, the positions of the K tokens of each of S words; -1 for none.
"""

__all__ = ["boxed", "chosen", "excited", "grid", "token_maps"]

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from diffusion.package import public

QUERIES = 256  # queries of the maps that are read: 16 x 16 in Stable Diffusion, which show objects best
SHARPNESS = 100.0  # factor in the softmax over the words, from the code of Attend-and-Excite


def grid(queries: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of a map's queries over a picture of these sides.

    Raises:
        ValueError: if the queries do not form a grid with the picture's aspect ratio.
    """
    rows = round(math.sqrt(queries * height / width))
    if rows < 1 or queries % rows or rows * width != queries // rows * height:
        raise ValueError(
            f"a map with {queries} queries does not fit x of {height} x {width}: the queries form no grid over it"
        )
    return rows, queries // rows


def chosen(maps: Sequence[Array]) -> list[Array]:
    """The maps with the most queries among those with at most QUERIES, or else the maps with the fewest queries."""
    sizes = {a.shape[2] for a in maps}
    few = [size for size in sizes if size <= QUERIES]
    size = max(few) if few else min(sizes)
    return [a for a in maps if a.shape[2] == size]


def token_maps(maps: Array, tokens: Array) -> Array:
    """The columns `[B, S, K, ...]` of maps `[B, ..., M]` that belong to tokens `[B, S, K]`."""
    take = lambda rows, at: jnp.moveaxis(rows, -1, 0)[jnp.maximum(at, 0)]
    return jax.vmap(take)(maps, tokens)


def excited(maps: Sequence[Array], tokens: Array, sides: tuple[int, int], first: int = 1) -> Array:
    """Attend-and-Excite's loss `[B]`, the max over tokens of 1 - max over positions of the smoothed map.

    The maps are averaged over layers and heads, and normalised over the words by a softmax of 100 times their values. A
    3 x 3 Gaussian with standard deviation 1/2 smooths them, so that a single position is not enough.

    Args:
        maps: attention maps of the layers, `[B, heads, N, M]` each.
        tokens: tokens of the S words that must appear, int `[B, S, K]`.
        sides: height and width of x.
        first: number of leading tokens that belong to no word, which receive most of the attention; 1 for CLIP.

    Raises:
        ValueError: if a map has no such token, where the tokens are not traced.

    Reference: Chefer et al. 2023, "Attend-and-Excite: Attention-Based Semantic Guidance for Text-to-Image Diffusion
    Models", section 4 and their code.
    """
    few = chosen(maps)
    _check_tokens(tokens, few[0])
    rows, columns = grid(few[0].shape[2], *sides)
    mean = jnp.stack([a.mean(1) for a in few]).mean(0)
    words = jax.nn.softmax(SHARPNESS * mean[..., first:], axis=-1)
    word_maps = token_maps(words, tokens - first).reshape(*tokens.shape, rows, columns)
    return jnp.where(tokens >= first, 1 - _smoothed(word_maps).max((-2, -1)), 0).max((1, 2))


def _check_tokens(tokens: Array, layer: Array) -> None:
    """Refuses positions beyond the prompt, at which the map of the last token would be read."""
    number = layer.shape[-1]
    if not isinstance(tokens, Tracer) and np.max(tokens, initial=-1) >= number:
        raise ValueError(
            f"a word has a token at position {int(np.max(tokens))}, but the maps have {number} tokens. Valid: 0 .. "
            f"{number - 1}, or -1 for none"
        )


def _smoothed(maps: Array) -> Array:
    """Smooths the last two axes by a 3 x 3 Gaussian, with reflected borders on axes of at least two values."""
    weights = np.exp(-0.5 * (np.arange(-1, 2) / 0.5) ** 2)
    weights /= weights.sum()
    for axis in (-2, -1):
        mode = "reflect" if maps.shape[axis] > 1 else "edge"
        padded = jnp.pad(maps, [(int(i == maps.ndim + axis),) * 2 for i in range(maps.ndim)], mode=mode)
        shifted = [jax.lax.slice_in_dim(padded, i, i + maps.shape[axis], axis=maps.ndim + axis) for i in range(3)]
        maps = jnp.tensordot(jnp.asarray(weights, maps.dtype), jnp.stack(shifted), axes=1)
    return maps


def boxed(maps: Sequence[Array], tokens: Array, boxes: Sequence[Sequence[float]], sides: tuple[int, int]) -> Array:
    """The loss `[B]` of layout guidance, the mean of (1 - share of the map inside the box)^2.

        E = mean over layers, words, tokens, heads of (1 - sum_{n in box} A_n / sum_n A_n)^2

    Args:
        maps: attention maps of the layers, `[B, heads, N, M]` each.
        tokens: tokens of S words, int `[B, S, K]`.
        boxes: S boxes (left, top, right, bottom), as fractions of the sides in [0, 1].
        sides: height and width of x.

    Raises:
        ValueError: if a box covers no position of a map, or a map has no such token, where the tokens are not traced.

    Reference: Chen et al. 2023, "Training-Free Layout Control with Cross-Attention Guidance", equation 5; their code.
    """
    present = (tokens >= 0).astype(jnp.float32)
    total = jnp.zeros(tokens.shape[:2])
    few = chosen(maps)
    _check_tokens(tokens, few[0])
    for layer in few:
        rows, columns = grid(layer.shape[2], *sides)
        inside = np.zeros((len(boxes), rows, columns), np.float32)
        for mask, (left, top, right, bottom) in zip(inside, boxes):
            mask[int(top * rows) : int(bottom * rows), int(left * columns) : int(right * columns)] = 1
        if not inside.any((1, 2)).all():
            raise ValueError(
                f"a box covers none of the {rows} x {columns} positions of a map: {list(map(tuple, boxes))}"
            )
        word_maps = token_maps(layer, tokens)  # [B, S, K, heads, N]
        share = _share(word_maps, inside.reshape(len(boxes), 1, 1, -1))
        total = total + (present * ((1 - share) ** 2).mean(-1)).sum(-1) / jnp.maximum(present.sum(-1), 1)
    return (total / len(few)).mean(-1)


def _share(maps: Array, inside: np.ndarray) -> Array:
    """sum_{n inside} A_n / sum_n A_n of maps `[..., N]`; 0, without a gradient, for a map that is 0 everywhere.

    A token that no query attends to has probabilities that may underflow. Each map is first divided by its largest
    value, so that neither the sum nor its square in the derivative vanishes.
    """
    peak = jax.lax.stop_gradient(maps.max(-1, keepdims=True))
    attended = peak > jnp.finfo(maps.dtype).tiny
    scaled = jnp.where(attended, maps / jnp.where(attended, peak, 1), 0)
    return (scaled * inside).sum(-1) / jnp.where(attended[..., 0], scaled.sum(-1), 1)


public.declare(__name__, renamed={"of_tokens": "token_maps"})
