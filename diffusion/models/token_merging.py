"""Token merging: self-attention over fewer tokens, among which similar tokens are represented by one."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays.promotion import promoted
from diffusion.models.layers.blocks import Attention, Block
from diffusion.models.layers.cross_attention import CrossAttention
from diffusion.models.layers.pixart_block import PixArtBlock
from diffusion.models.layers.spatial_transformer import TransformerBlock

CELL = 2  # the side of the square cells in the grid of tokens; one token of each cell stays
MOST = 1 - 1 / CELL**2  # the largest share of tokens that can be merged
BLOCKS = (Block, PixArtBlock, TransformerBlock)


def merged(network: Callable[..., Any], ratio: float) -> Callable[..., Any]:
    """A network whose self-attention reads fewer tokens, since similar tokens are merged: ToMe for diffusion.

        x <- x + unmerge(attention(merge(norm(x))))

    At the finest level (in a U-Net, the level of its first attention), a share `ratio` of the tokens is merged into the
    tokens that are most similar to them. Cross-attention and MLP read all tokens. One token of each 2 x 2 cell is never
    merged into another. The authors draw this token at random; here it is the first, so that a picture depends only on
    its seed.

    Facts:
        skips: a share of the tokens of each self-attention, at the finest level
        number: ratio, 0.25 to 0.5; 0 merges nothing
        paper: Bolya and Hoffman 2023, "Token Merging for Fast Stable Diffusion"; the matching follows the
            authors' code

    Args:
        network: a function (x `[B, H, W, C]`, clock, condition, ...) -> output that consists of blocks of DiT, PixArt
            or Stable Diffusion's U-Net.
        ratio: share of the tokens that is merged, in [0, 0.75].

    Returns:
        A function with the same arguments; the network itself if the ratio is 0.

    Raises:
        ValueError: if the ratio is out of range; when called, if the tokens do not form a grid or have rotary
            positions, or the network has no attention whose tokens can be merged.
    """
    if not 0 <= ratio <= MOST:
        raise ValueError(
            f"merge = {ratio} must be in 0 .. {MOST}, because one token of each cell of {CELL} x {CELL} stays"
        )
    if ratio == 0:
        return network

    def apply(x: jax.Array, *inputs: Any, **more: Any) -> Any:
        state = _Interception(x.shape[1:3], ratio)
        with nn.intercept_methods(state.intercept):
            output = network(x, *inputs, **more)
        part = "through" in more or more.get("deep") is not None  # a cache may run no block with attention
        if not state.merges and not part:
            raise ValueError(
                f"merge = {ratio}: this network has no self-attention whose tokens can be merged. Valid: 0; or a DiT, "
                "a PixArt or a U-Net of Stable Diffusion"
            )
        return output

    return apply


class _Interception:
    """The state of a network's call while it is traced.

    Attributes:
        size: (H, W) of the network's input.
        finest: side in pixels of the square that a token of the finest level represents; 0 before the first attention.
        tokens: a stack with the tokens of the blocks that are being traced.
        merges: number of attention layers so far whose tokens were merged.
    """

    def __init__(self, size: tuple[int, ...], ratio: float):
        self.size, self.ratio = size, ratio
        self.finest = 0
        self.tokens: list[jax.Array] = []
        self.merges = 0

    def intercept(self, call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if context.method_name != "__call__" or not args:
            return call(*args, **kwargs)
        if isinstance(module, BLOCKS):
            self.tokens.append(args[0])
            try:
                return call(*args, **kwargs)
            finally:
                self.tokens.pop()
        alone = isinstance(module, Attention) or (isinstance(module, CrossAttention) and len(args) == 1)
        if not self.tokens or not alone:
            return call(*args, **kwargs)
        x = self.tokens[-1]
        pixels = math.ceil(math.sqrt(self.size[0] * self.size[1] // x.shape[1]))
        self.finest = self.finest or pixels
        if pixels != self.finest:
            return call(*args, **kwargs)
        rows, columns = (math.ceil(side / pixels) for side in self.size)
        if rows * columns != x.shape[1]:
            raise ValueError(f"merge: {x.shape[1]} tokens do not form a grid of {rows} x {columns}. Valid: 0")
        if any(entry is not None for entry in args[1:2] + args[3:]):
            raise ValueError("merge: merged tokens have no position, but this network has rotary positions. Valid: 0")
        merge, unmerge = matching(x, rows, columns, int(x.shape[1] * self.ratio))
        self.merges += 1
        return unmerge(call(merge(args[0]), *args[1:], **kwargs))


def matching(
    metric: jax.Array, height: int, width: int, number: int
) -> tuple[Callable[[jax.Array], jax.Array], Callable[[jax.Array], jax.Array]]:
    """Bipartite soft matching of tokens: the most similar tokens are merged into tokens that stay.

    The first token of each 2 x 2 cell stays. Of the other tokens, the `number` tokens with the largest cosine
    similarity to a token that stays are merged into the most similar one. The result is the mean of the merged tokens.

    Args:
        metric: features by which tokens are compared, `[B, N, D]`.
        height, width: sides of the grid of tokens, N = height width, row by row.
        number: number of tokens to merge; at most as many as do not stay are merged.

    Returns:
        (merge, a function `[B, N, D]` -> `[B, N - number, D]`; unmerge, a function in the other direction, in which
        every merged token receives the value of the mean).
    """
    rows, columns = np.divmod(np.arange(height * width), width)
    stays = (rows % CELL == 0) & (columns % CELL == 0) & (rows < height // CELL * CELL)
    stays &= columns < width // CELL * CELL
    source, target = np.flatnonzero(~stays), np.flatnonzero(stays)
    unit = metric / jnp.linalg.norm(metric, axis=-1, keepdims=True)
    alike = jnp.einsum("bsd,btd->bst", unit[:, source], unit[:, target])
    nearest = jnp.argmax(alike, axis=-1)
    order = jnp.argsort(-jnp.max(alike, axis=-1), axis=-1)
    number = min(number, len(source))
    gone, remaining = order[:, :number], order[:, number:]
    into = jnp.take_along_axis(nearest, gone, axis=1)
    take = lambda x, index: jnp.take_along_axis(x, index[..., None], axis=1)
    batch = jnp.arange(metric.shape[0])[:, None]

    def merge(x: jax.Array) -> jax.Array:
        wide = x.astype(promoted(x.dtype))  # bfloat16 counts to 256
        sums = wide[:, target].at[batch, into].add(take(wide[:, source], gone))
        count = jnp.ones(sums.shape[:2], wide.dtype).at[batch, into].add(1)
        means = (sums / count[..., None]).astype(x.dtype)
        return jnp.concatenate([take(x[:, source], remaining), means], axis=1)

    def unmerge(x: jax.Array) -> jax.Array:
        rest, means = jnp.split(x, [remaining.shape[1]], axis=1)
        out = jnp.zeros((x.shape[0], height * width, *x.shape[2:]), x.dtype)
        places = jnp.asarray(source)
        out = out.at[:, target].set(means)
        out = out.at[batch, places[remaining]].set(rest)
        return out.at[batch, places[gone]].set(take(means, into))

    return merge, unmerge
