"""Pictures and frames larger than memory, tile by tile: overlapping tiles whose overlaps are blended linearly.

    decode = tiled(partial(vae.apply, {"params": params}, method="decode"), tile=64, overlap=16, margin=4)
    encode = tiled(partial(vae.apply, {"params": params}, method="encode"), tile=512, overlap=128, margin=32, step=8)

The result equals the whole picture's if the function is local: if an output depends on no input further away than
`margin`. Only convolutions are local. Autoencoders with group norms or attention over all pixels are not. The
statistics of their tiles differ: the colour changes slowly from tile to tile, less so for larger tiles, and the
blending hides it.
The size of the autoencoder's training pictures is a good tile.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Cut(NamedTuple):
    """One side of a picture cut into tiles.

    Attributes:
        size: size of a tile.
        starts: int [n], first index of each tile.
    """

    size: int
    starts: np.ndarray


def cut(side: int, tile: int, overlap: int, step: int) -> Cut:
    """The fewest tiles that cover a side and overlap at least so much, spread evenly.

    Args:
        side: side of the picture, a multiple of `step`.
        tile: size of a tile; where the side is smaller, the side is the tile.
        overlap: least overlap of neighbours.
        step: a number that divides all starts.
    """
    if side <= tile:
        return Cut(side, np.zeros(1, np.int32))
    count = -((overlap - side) // (tile - overlap))
    # Tiles stand as far right as allowed, so that rounding down never makes an overlap too small.
    starts = np.arange(count) * (side - tile) // (count - 1) // step * step
    starts[-1] = side - tile
    return Cut(tile, starts.astype(np.int32))


def weights(size: int, starts: np.ndarray, side: int, overlap: int, margin: int) -> np.ndarray:
    """Weight of each tile at each of its pixels, along one side: ramps at the inner ends, with the sum one over tiles.

        0 up to the margin, then linear to 1 at overlap - margin; divided by the sum over the tiles that cover a pixel

    Args:
        size: size of a tile.
        starts: int [n], first index of each tile.
        side: side of the picture.
        overlap: least overlap of neighbours.
        margin: width at each inner end that counts for nothing, less than half of the overlap.

    Returns:
        float32 [n, size].
    """
    rise = np.clip((np.arange(size) + 0.5 - margin) / max(overlap - 2 * margin, 1), 0, 1)
    ramps = np.ones((len(starts), size))
    ramps[1:] *= rise
    ramps[:-1] *= rise[::-1]
    total = np.zeros(side)
    for start, ramp in zip(starts, ramps):
        total[start : start + size] += ramp
    return np.stack([ramp / total[start : start + size] for start, ramp in zip(starts, ramps)]).astype(np.float32)


def tiled(
    function: Callable[[jax.Array], Any], tile: int, overlap: int, margin: int = 0, step: int = 1
) -> Callable[[jax.Array], Any]:
    """Applies a function of pictures tile by tile, with the memory of one tile.

    All sizes are in pixels of the input: of the latent for a decoder.

    Args:
        function: pictures [B, h, w, C] -> a pytree of pictures [B, r h, r w, ...], the same r for all sizes, such as
            8 for a decoder and 1 / 8 for an encoder; or videos [B, F, h, w, C] -> [B, G, r h, r w, ...].
        tile: side of a tile.
        overlap: least overlap of neighbouring tiles, less than half of the tile.
        margin: width at the inner edges of a tile that is thrown away, less than half of the overlap: as far as the
            padding at a tile's edge reaches, if it is to be exact.
        step: 1 / r for an encoder, its factor: tiles begin at multiples of it, and it divides all sizes.

    Returns:
        The function of whole pictures, of any sides that `step` divides. A picture that fits into one tile
        is not cut.

    Raises:
        ValueError: for sizes that do not fit, here or where it is called.
    """
    sizes = {"tile": tile, "overlap": overlap, "margin": margin}
    if not 0 <= 2 * margin <= overlap or 2 * overlap > tile or tile <= 0 or (margin and 2 * margin == overlap):
        raise ValueError(
            f"tile={tile}, overlap={overlap}, margin={margin}: the overlap may be at most half of a tile, and the "
            "margin must be less than half of the overlap"
        )
    if step <= 0 or any(size % step for size in sizes.values()):
        raise ValueError(f"step={step} does not divide each of {sizes}")

    def by_tiles(x: jax.Array) -> Any:
        sides = x.shape[-3:-1]
        if x.ndim not in (4, 5) or any(side % step or not side for side in sides):
            raise ValueError(
                "tiles are cut from pictures [B, H, W, C] or videos [B, F, H, W, C] whose sides must be multiples of "
                f"step={step}; got {x.shape}"
            )
        before = (0,) * (x.ndim - 3)
        cuts = [cut(side, tile, overlap, step) for side in sides]
        if all(len(one.starts) == 1 for one in cuts):
            return function(x)
        one_tile = jax.ShapeDtypeStruct((*x.shape[:-3], cuts[0].size, cuts[1].size, x.shape[-1]), x.dtype)
        output_shapes = jax.eval_shape(function, one_tile)
        ratio = _ratio(output_shapes, one_tile, step)

        scaled = lambda size: size * ratio[0] // ratio[1]
        ramps = [
            weights(scaled(one.size), scaled(one.starts), scaled(side), scaled(overlap), scaled(margin))
            for one, side in zip(cuts, sides)
        ]
        rows, columns = (jnp.asarray(ramp) for ramp in ramps)

        def add(result: Any, position: jax.Array) -> tuple[Any, None]:
            i, j = position
            top = jnp.asarray(cuts[0].starts)[i]
            left = jnp.asarray(cuts[1].starts)[j]
            outputs = function(jax.lax.dynamic_slice(x, (*before, top, left, 0), one_tile.shape))
            weight = rows[i][:, None, None] * columns[j][:, None]

            def put(total: jax.Array, part: jax.Array) -> jax.Array:
                at = (*before, scaled(top), scaled(left), 0)
                sum_before = jax.lax.dynamic_slice(total, at, part.shape)
                return jax.lax.dynamic_update_slice(total, sum_before + weight.astype(part.dtype) * part, at)

            return jax.tree.map(put, result, outputs), None

        empty = jax.tree.map(
            lambda leaf: jnp.zeros((*leaf.shape[:-3], *map(scaled, sides), leaf.shape[-1]), leaf.dtype), output_shapes
        )
        positions = np.indices([len(one.starts) for one in cuts]).reshape(2, -1).T
        return jax.lax.scan(add, empty, jnp.asarray(positions))[0]

    return by_tiles


def _ratio(output: Any, tile: jax.ShapeDtypeStruct, step: int) -> tuple[int, int]:
    """(a, b): outputs have a / b times the sides of the input."""
    height, width = tile.shape[-3:-1]
    for leaf in jax.tree.leaves(output):
        a = leaf.shape[-3]
        if leaf.ndim != len(tile.shape) or leaf.shape[-2] * height != a * width or step * a % height:
            raise ValueError(
                f"a tile of shape {tile.shape} became {leaf.shape}. Both sides must change by the same ratio, a "
                f"multiple of 1 / step = 1 / {step}"
            )
        if a != jax.tree.leaves(output)[0].shape[-3]:
            raise ValueError("the outputs of a tile have different sides")
    return a, height
