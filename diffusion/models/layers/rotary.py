"""Rotary positions over any number of axes, in neighbouring pairs of features, as in Flux.

(DiT's `embeddings.rope_angles` and `rotate` are for two axes, with the pairs half a head apart.)
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def grid_positions(*sides: int) -> np.ndarray:
    """The coordinates of a grid's cells, the last one fastest and each from 0: int [N, A] for A sides."""
    return np.indices(sides).reshape(len(sides), -1).T


def centred_grid(*sides: int) -> np.ndarray:
    """As `grid_positions`, with 0 in the middle of each side: from -ceil(side / 2) to floor(side / 2) - 1."""
    return grid_positions(*sides) - [side - side // 2 for side in sides]


def axis_angles(positions: np.ndarray, sizes: Sequence[int], theta: float = 10_000.0) -> np.ndarray:
    """Angles of the pairs of a head's features: the first pairs rotate with the first coordinate, and so on.

        out[n] = [positions[n, 0] w_0, positions[n, 1] w_1, ...],   w_a[i] = theta^(-2 i / sizes[a]),   i < sizes[a] / 2

    Args:
        positions: coordinates of the tokens, [N, A].
        sizes: features of a head that rotate with each coordinate, A even numbers; their sum is the head's width D.
        theta: base of the frequencies.

    Returns:
        [N, D / 2] in radians, float32 (computed in float64).

    Reference: Su et al., "RoFormer", 2021, equation 15; the axes as in the code of FLUX.1 (Black Forest Labs, 2024).
    """
    turns = [np.outer(axis, theta ** (-np.arange(0, size, 2) / size)) for axis, size in zip(positions.T, sizes)]
    return np.concatenate(turns, axis=1).astype(np.float32)


def turn(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Rotates each pair of neighbouring features by the angle of its token.

        [a', b'] = [a cos - b sin, a sin + b cos],   a, b = features 2 i and 2 i + 1

    Args:
        x: queries or keys [B, N, H, D].
        angles: [N, D / 2] from `axis_angles`, or [B, N, D / 2] where the tokens of each example have their own.

    Returns:
        [B, N, H, D], of the dtype of x (computed in float32).
    """
    cos = jnp.cos(angles)[..., None, :]
    sin = jnp.sin(angles)[..., None, :]
    a = x[..., 0::2]
    b = x[..., 1::2]
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape).astype(x.dtype)
