"""Token merging: self-attention over fewer tokens; the most similar tokens share one."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.layers.blocks import Attention, Block
from diffusion.models.layers.cross_attention import CrossAttention
from diffusion.models.layers.pixart_block import PixArtBlock
from diffusion.models.layers.spatial_transformer import TransformerBlock

CELL = 2  # side of the squares; one token of each square stays
MOST = 1 - 1 / CELL**2  # share of tokens that can be merged
BLOCKS = (Block, PixArtBlock, TransformerBlock)


def merged(network: Callable[..., Any], ratio: float) -> Callable[..., Any]:
    """A network whose self-attention sees a share of the tokens fewer: ToMe for diffusion.

        x <- x + unmerge(attention(merge(norm(x))))

    Where tokens are finest (in a U-Net the level of its first attention) a share `ratio` of them is merged into those
    most alike; cross-attention and MLP see all. The authors draw the token of each 2 x 2 cell that stays at random;
    here it is the first, so that a picture depends only on its seed.

    Facts:
        skips: a share of the tokens of each self-attention, at the finest level
        number: ratio, 0.25 to 0.5; 0 merges nothing
        paper: Bolya and Hoffman 2023, "Token Merging for Fast Stable Diffusion"; the matching follows the
            authors' code

    Args:
        network: (x `[B, H, W, C]`, clock, condition, ...) -> output, of the blocks of DiT, PixArt or a U-Net for text.
        ratio: share of the tokens that is merged, at most 0.75.

    Returns:
        The network itself where the ratio is 0.

    Raises:
        ValueError: for a ratio out of range; when called, for tokens that are no grid, that have rotary positions, or
            where nothing can be merged.
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
        size: (H, W) of its input.
        finest: pixels that a token of the finest level stands for, along a side; 0 before the first.
        tokens: tokens of the block that is being traced.
        merges: attentions that merge, so far.
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

    The first token of each 2 x 2 cell stays. Of the others, the `number` tokens with the largest cosine similarity to
    one of these are merged into the nearest of them, by the mean.

    Args:
        metric: `[B, N, D]` features by which tokens are compared.
        height, width: sides of the grid of tokens, N = height width, row by row.
        number: number of tokens to merge.

    Returns:
        (merge, `[B, N, D]` -> `[B, N - number, D]`; unmerge, back, where a merged token has the value of its mean).
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
        sums = x[:, target].at[batch, into].add(take(x[:, source], gone))
        count = jnp.ones(sums.shape[:2], x.dtype).at[batch, into].add(1)
        return jnp.concatenate([take(x[:, source], remaining), sums / count[..., None]], axis=1)

    def unmerge(x: jax.Array) -> jax.Array:
        rest, means = jnp.split(x, [remaining.shape[1]], axis=1)
        out = jnp.zeros((x.shape[0], height * width, *x.shape[2:]), x.dtype)
        places = jnp.asarray(source)
        out = out.at[:, target].set(means)
        out = out.at[batch, places[remaining]].set(rest)
        return out.at[batch, places[gone]].set(take(means, into))

    return merge, unmerge
