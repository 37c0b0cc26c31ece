"""The values of a box of neighbours as channels, and back: images and clips with fewer positions and more channels."""

import math
from collections.abc import Sequence

from jax import Array


def space_to_depth(x: Array, box: Sequence[int]) -> Array:
    """The values of each box as the channels of one position: [B, *S, C] -> [B, *(S / box), prod(box) C].

    In the channels of the result, the positions of the box follow each other, each with all channels of x.

    Args:
        x: float or int [B, *S, C] with as many axes S as `box` has numbers.
        box: sides of a box, each a divisor of its axis.
    """
    axes = len(box)
    cut = _cut(x, box).transpose(0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1)
    return cut.reshape(*cut.shape[: axes + 1], math.prod(box) * x.shape[-1])


def depth_to_space(x: Array, box: Sequence[int]) -> Array:
    """The inverse of `space_to_depth`: [B, *S, prod(box) C] -> [B, *(S box), C]."""
    axes = len(box)
    pairs = [axis for i in range(1, axes + 1) for axis in (i, axes + i)]
    channels = x.shape[-1] // math.prod(box)
    return _joined(x.reshape(*x.shape[:-1], *box, channels).transpose(0, *pairs, 2 * axes + 1), box)


def patchify(x: Array, patch: int) -> Array:
    """Cuts images [B, H, W, C] into tokens [B, H W / p^2, p p C], both the tokens and the values in a token row by row.

    Raises:
        ValueError: if the patch does not divide height and width.
    """
    batch, height, width, channels = x.shape
    if height % patch or width % patch:
        raise ValueError(f"patch={patch} does not divide height {height} and width {width}; choose a patch that does")
    return space_to_depth(x, (patch, patch)).reshape(batch, -1, patch * patch * channels)


def unpatchify(tokens: Array, patch: int, height: int, width: int) -> Array:
    """Puts tokens [B, H W / p^2, p p C] back into images [B, H, W, C]: the inverse of `patchify`."""
    grid = tokens.reshape(tokens.shape[0], height // patch, width // patch, -1)
    return depth_to_space(grid, (patch, patch))


def pixel_unshuffle(x: Array, box: Sequence[int]) -> Array:
    """The values of each box as channels, in the order of PyTorch: [B, *S, C] -> [B, *(S / box), C prod(box)].

    Otherwise than in `space_to_depth`, the channels of x follow each other, each with all positions of the box.

    Args:
        x: float or int [B, *S, C].
        box: sides of a box, each a divisor of its axis.
    """
    axes = len(box)
    cut = _cut(x, box).transpose(0, *range(1, 2 * axes, 2), 2 * axes + 1, *range(2, 2 * axes + 1, 2))
    return cut.reshape(*cut.shape[: axes + 1], math.prod(box) * x.shape[-1])


def pixel_shuffle(x: Array, box: Sequence[int]) -> Array:
    """The inverse of `pixel_unshuffle`: [B, *S, C prod(box)] -> [B, *(S box), C]."""
    axes = len(box)
    pairs = [axis for i in range(1, axes + 1) for axis in (i, axes + 1 + i)]
    channels = x.shape[-1] // math.prod(box)
    return _joined(x.reshape(*x.shape[:-1], channels, *box).transpose(0, *pairs, axes + 1), box)


def _cut(x: Array, box: Sequence[int]) -> Array:
    """The array x with each axis divided in two: [B, S_1 / b_1, b_1, S_2 / b_2, b_2, ..., C]."""
    parts = (part for size, side in zip(x.shape[1:-1], box, strict=True) for part in (size // side, side))
    return x.reshape(x.shape[0], *parts, x.shape[-1])


def _joined(x: Array, box: Sequence[int]) -> Array:
    """The inverse of `_cut`."""
    axes = len(box)
    return x.reshape(x.shape[0], *(x.shape[2 * i + 1] * x.shape[2 * i + 2] for i in range(axes)), x.shape[-1])
