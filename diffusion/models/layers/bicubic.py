"""Bicubic interpolation of a grid along one axis, as a matrix [out, in] that acts on the rows or the columns."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def plain(size: int, to: int, step: float | None = None) -> np.ndarray:
    """PyTorch's bicubic `interpolate(align_corners=False)` without antialiasing.

    Output i is the sum of the four values around x = (i + 1/2) step - 1/2 with the weights of Keys' cubic of slope
    -3/4; beyond the border the first and last values are repeated.

    Args:
        size: values before.
        to: values after.
        step: distance of two outputs, size / to by default; 1 / scale_factor where PyTorch receives one.

    Returns:
        float32 [to, size] (computed in float64), rows of sum 1.
    """
    at = (np.arange(to) + 0.5) * (size / to if step is None else step) - 0.5
    low = np.floor(at).astype(int)
    matrix = np.zeros((to, size))
    for k in range(-1, 3):
        np.add.at(matrix, (np.arange(to), np.clip(low + k, 0, size - 1)), cubic(at - (low + k), -0.75))
    return matrix.astype(np.float32)


def antialiased(size: int, to: int) -> np.ndarray:
    """Pillow's bicubic `resize` of floats, and PyTorch's with antialias=True: the filter grows where the grid shrinks.

    Output i is the sum of values k with weights c((k - x) / s), of sum 1, where x = (i + 1/2) size / to - 1/2,
    s = max(size / to, 1), and c is Keys' cubic of slope -1/2 on (-2, 2).

    Args:
        size: values before.
        to: values after.

    Returns:
        float32 [to, size] (computed in float64), rows of sum 1.
    """
    scale = size / to
    stretch = max(scale, 1.0)
    centre = (np.arange(to) + 0.5) * scale
    low = np.maximum((centre - 2 * stretch + 0.5).astype(int), 0)  # Pillow rounds the ends of the filter
    high = np.minimum((centre + 2 * stretch + 0.5).astype(int), size)
    index = np.arange(size)
    weights = cubic((index + 0.5 - centre[:, None]) / stretch, -0.5)
    weights *= (index >= low[:, None]) & (index < high[:, None])
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def cubic(x: np.ndarray, slope: float) -> np.ndarray:
    """Keys' cubic, 1 at 0 and 0 at every other integer, with this slope at distance 1 (Keys, 1981, equation 15)."""
    x = np.abs(x)
    near = ((slope + 2) * x - (slope + 3)) * x * x + 1
    far = ((slope * x - 5 * slope) * x + 8 * slope) * x - 4 * slope
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def interpolated(grid: jax.Array, rows: ArrayLike, columns: ArrayLike) -> jax.Array:
    """A grid [H, W, D] by a matrix for its rows and one for its columns: [H', W', D], in full precision."""
    highest = jax.lax.Precision.HIGHEST
    return jnp.einsum("ih,jw,hwd->ijd", rows, columns, grid, precision=highest)
