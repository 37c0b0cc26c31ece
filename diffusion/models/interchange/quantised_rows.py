"""One of our kernels, built from tensors that a file stores as values and scales and that stay quantised."""

from collections.abc import Sequence

import numpy as np

from diffusion.models.interchange import rows
from diffusion.models.interchange.rows import Row
from diffusion.models.interchange.tensor_files import Tensors
from diffusion.models.quantised import Quantised

BLOCK = 32  # values along an axis that share a scale, in GGUF's Q8_0


def assembled(table: Sequence[Row], tensors: Tensors, shape: tuple[int, ...]) -> Quantised | None:
    """One leaf as values and scales; None where one of its tensors is stored otherwise.

    A layout moves a tensor's scales as it moves its values. Along axes where the scales of a layer are equal, or equal
    in blocks of 32, one scale is kept for each.

    Args:
        table: the rows of the leaf.
        tensors: tensors of the file.
        shape: shape of the leaf.
    """
    if any(row.copies or row.theirs not in tensors.shapes for row in table):
        return None
    stacked = all(row.at and isinstance(row.at[0], int) for row in table)
    layers: dict[int, list[Row]] = {}
    for row in table:
        layers.setdefault(row.at[0] if stacked else 0, []).append(row)
    values, scales = None, []
    for layer in sorted(layers):
        inner = shape[1:] if stacked else shape
        scale = np.empty(inner, np.float32)
        for row in layers[layer]:
            one = tensors.read_quantised(row.theirs)
            if one is None or (values is not None and one.values.dtype != values.dtype):
                return None
            if values is None:
                values = np.empty(shape, one.values.dtype)
            within = slice(None) if row.rows is None else slice(*row.rows)
            part = values[*row.at, ...]
            rows.fill(part, row.layout.to_ours(one.values[within], part.shape))
            at = row.at[1:] if stacked else row.at
            rows.fill(scale[*at, ...], row.layout.to_ours(one.repeated()[within], part.shape))
        scales.append(_shared(scale))
    if len({scale.shape for scale in scales}) > 1:
        return None
    return Quantised(values, np.stack(scales) if stacked else scales[0])


def _shared(scale: np.ndarray) -> np.ndarray:
    """The same with one number for those that are equal along an axis, or in blocks along it."""
    for axis, side in enumerate(scale.shape):
        for block in (side, BLOCK):
            if side % block == 0:
                first = np.take(scale, range(0, side, block), axis)
                if np.array_equal(np.repeat(first, block, axis), scale):
                    scale = first
                    break
    return scale
