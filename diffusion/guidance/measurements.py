"""Measurements of a picture in a linear inverse problem: y = A x_0 + sigma_y z."""

__all__ = ["Measurement", "masked", "matrix", "pooled"]

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array


class Measurement(NamedTuple):
    """A linear operator A.

    Attributes:
        forward: x `[B, ...]` -> A x.
        solve: (y like A x, ratio >= 0 that broadcasts against it) -> (A A^T + ratio I)^-1 y; the pseudo-inverse where
            ratio is 0, and 0 where it is infinite.
    """

    forward: Callable[[Array], Array]
    solve: Callable[[Array, Array], Array]


def masked(mask: Array) -> Measurement:
    """Some values are known: A x = mask x.

    Args:
        mask: Bool that broadcasts against x `[B, ...]`, True where x is known. y is then of x's shape, 0 elsewhere.
    """
    return Measurement(lambda x: jnp.where(mask, x, 0), lambda y, ratio: jnp.where(mask, y / (1 + ratio), 0))


def pooled(factor: int) -> Measurement:
    """Means over factor x factor pixels of images `[B, H, W, C]` are known (super-resolution): A A^T = I / factor^2.

    Args:
        factor: divides H and W.

    Raises:
        ValueError: if factor is not positive.
    """
    if factor < 1:
        raise ValueError(f"measurements.pooled: factor = {factor} must be at least 1")

    def forward(x):
        B, H, W, C = x.shape
        return x.reshape(B, H // factor, factor, W // factor, factor, C).mean((2, 4))

    return Measurement(forward, lambda y, ratio: y / (1 / factor**2 + ratio))


def matrix(A: np.ndarray) -> Measurement:
    """Any matrix, for small problems: y = A x, x flattened.

    Args:
        A: `[M, D]`, concrete. y is `[B, M]`.
    """
    values, axes = np.linalg.eigh(A @ A.T)
    rank = values > values.max(initial=0) * len(values) * np.finfo(A.dtype).eps

    def solve(y, ratio):
        inverse = jnp.where(rank, 1 / (jnp.where(rank, values, 1) + ratio), 0)
        return (y @ axes * inverse) @ axes.T

    return Measurement(lambda x: x.reshape(x.shape[0], math.prod(x.shape[1:])) @ A.T, solve)
