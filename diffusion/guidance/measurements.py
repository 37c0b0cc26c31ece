"""Measurements of a picture in a linear inverse problem: y = A x_0 + sigma_y z."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike


class Measurement(NamedTuple):
    """A linear operator A.

    Attributes:
        forward: x `[B, ...]` -> A x.
        solve: (y like A x, ratio >= 0 that broadcasts against it) -> (A A^T + ratio I)^-1 y; the pseudo-inverse where
            ratio is 0, and 0 where it is infinite.
        filtered: (x `[B, ...]`, f) -> V f(s) V^T x for A = U s V^T with a complete basis V, where the function f of the
            singular values broadcasts; only `ddrm` and `mcgdiff` need it.
        trace: (f, x `[B, ...]`) -> the sum of f(s) over that basis `[]` or `[B]`; only `mcgdiff` needs it.
    """

    forward: Callable[[Array], Array]
    solve: Callable[[Array, Array], Array]
    filtered: Callable[[Array, Callable[[Array], Array]], Array] | None = None
    trace: Callable[[Callable[[Array], Array], Array], Array] | None = None

    def transpose(self, y: Array, like: Array) -> Array:
        """A^T y, in the shape of `like`, an x `[B, ...]`."""
        return jax.linear_transpose(self.forward, like)(y)[0]

    def inverse(self, y: Array, like: Array, ratio: ArrayLike = 0.0) -> Array:
        """A^T (A A^T + ratio I)^-1 y, in the shape of `like`, an x `[B, ...]`; A^+ y where the ratio is 0.

        Args:
            y: a measurement `[B, ...]`.
            like: an array of the shape and type of x.
            ratio: ratio >= 0: a number, or one that broadcasts against x, alike for all of an example or of y's shape.
        """
        ratio = jnp.asarray(ratio, y.dtype)
        if ratio.ndim and ratio.shape != y.shape:  # one for each example; leaves may have one for each number
            ratio = ratio.reshape(ratio.shape[:1] + (1,) * (y.ndim - 1))
        return self.transpose(self.solve(y, ratio), like)


def masked(mask: Array) -> Measurement:
    """Some values are known: A x = mask x.

    Args:
        mask: Bool that broadcasts against x `[B, ...]`, True where x is known. y then has x's shape and is 0 elsewhere.
    """
    return Measurement(
        lambda x: jnp.where(mask, x, 0),
        lambda y, ratio: jnp.where(mask, y / (1 + ratio), 0),
        lambda x, f: f(jnp.asarray(mask, x.dtype)) * x,
        lambda f, x: jnp.sum(f(jnp.broadcast_to(mask, x.shape).astype(x.dtype)), axis=tuple(range(1, x.ndim))),
    )


def box(shape: Sequence[int], corner: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """Bool `[H, W, 1]`, False in a box, which is unknown: a mask for `masked`.

    Args:
        shape: shape (H, W, C) of a picture.
        corner: the box's first pixel (row, column).
        size: size (rows, columns) of the box.

    Raises:
        ValueError: if the box is not within the picture.
    """
    if not all(0 <= a and 0 < n and a + n <= side for a, n, side in zip(corner, size, shape[:2])):
        raise ValueError(
            f"box: corner = {corner} and size = {size} do not lie within a picture of shape {tuple(shape)}"
        )
    mask = np.ones((*shape[:2], 1), bool)
    mask[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]] = False
    return mask


def at_random(shape: Sequence[int], share: float, seed: int = 0) -> np.ndarray:
    """Bool `[H, W, 1]`, True at a share of the pixels, the same for all pictures: a mask for `masked`.

    Args:
        shape: shape (H, W, C) of a picture.
        share: share of the pixels that are known, in (0, 1].
        seed: seed of the choice of pixels.

    Raises:
        ValueError: if the share is out of range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"at_random: share = {share} must be in (0, 1]")
    return np.random.default_rng(seed).random((*shape[:2], 1)) < share


def blurred(std: float) -> Measurement:
    """Images `[B, H, W, C]` are blurred by a Gaussian that goes round at the edges; A is diagonal in Fourier's basis.

    Args:
        std: standard deviation of the Gaussian, in pixels, > 0.

    Raises:
        ValueError: if std is not positive.
    """
    if not std > 0:
        raise ValueError(f"measurements.blurred: std = {std} must be positive")

    def gains(x):
        rows, columns = (jnp.exp(-2 * (jnp.pi * std * jnp.fft.fftfreq(side)) ** 2) for side in x.shape[1:3])
        return rows[:, None] * columns

    def filtered(x, of):
        gain = of(gains(x))[None, :, :, None]
        return jnp.real(jnp.fft.ifft2(jnp.fft.fft2(x, axes=(1, 2)) * gain, axes=(1, 2))).astype(x.dtype)

    def solve(y, ratio):
        # Frequencies that the blur erases are left out of the pseudo-inverse.
        inverse = lambda gain: jnp.where(gain > 1e-3, 1 / (jnp.where(gain > 1e-3, gain, 1) ** 2 + jnp.max(ratio)), 0)
        return filtered(y, inverse)

    trace = lambda f, x: x.shape[-1] * jnp.sum(f(gains(x)))
    return Measurement(lambda x: filtered(x, lambda gain: gain), solve, filtered, trace)


def pooled(factor: int) -> Measurement:
    """Means over factor x factor pixels of images `[B, H, W, C]` are known (super-resolution): A A^T = I / factor^2.

    Args:
        factor: side of a pooled square in pixels, >= 1, a divisor of H and W.

    Raises:
        ValueError: if factor is not positive; when called, for x of another rank, or sides that it does not divide.
    """
    if factor < 1:
        raise ValueError(f"measurements.pooled: factor = {factor} must be at least 1")

    def forward(x):
        if x.ndim != 4:
            raise ValueError(f"measurements.pooled: x has the shape {x.shape}. Valid: [B, H, W, C]")
        B, H, W, C = x.shape
        if H % factor or W % factor:
            raise ValueError(f"measurements.pooled: factor = {factor} does not divide the sides {H} x {W}")
        return x.reshape(B, H // factor, factor, W // factor, factor, C).mean((2, 4))

    def filtered(x, f):  # A^T A is the mean over each square, over factor^2; all else is in the null space
        means = jnp.repeat(jnp.repeat(forward(x), factor, 1), factor, 2)
        return f(jnp.asarray(1 / factor, x.dtype)) * means + f(jnp.zeros((), x.dtype)) * (x - means)

    def trace(f, x):
        numbers = math.prod(x.shape[1:])
        means = numbers // factor**2
        return means * f(jnp.asarray(1 / factor, x.dtype)) + (numbers - means) * f(jnp.zeros((), x.dtype))

    return Measurement(forward, lambda y, ratio: y / (1 / factor**2 + ratio), filtered, trace)


def matrix(A: np.ndarray) -> Measurement:
    """Any matrix, for small problems: y = A x, x flattened.

    Args:
        A: the matrix `[M, D]`, concrete. y is `[B, M]`.

    Raises:
        ValueError: when called, for examples that have not D numbers.
    """
    A = np.asarray(A)
    A = A if np.issubdtype(A.dtype, np.floating) else A.astype(np.float32)
    values, axes = np.linalg.eigh(A @ A.T)
    rank = values > values.max(initial=0) * len(values) * np.finfo(A.dtype).eps

    def solve(y, ratio):
        inverse = jnp.where(rank, 1 / (jnp.where(rank, values, 1) + ratio), 0)
        return (y @ axes * inverse) @ axes.T

    singular = np.zeros(A.shape[1], A.dtype)
    _, few, basis = np.linalg.svd(A)
    singular[: len(few)] = np.where(few > few.max(initial=0) * max(A.shape) * np.finfo(A.dtype).eps, few, 0)

    def filtered(x, f):
        return (x.reshape(x.shape[0], -1) @ basis.T * f(singular) @ basis).reshape(x.shape)

    trace = lambda f, x: jnp.sum(f(singular))

    def forward(x):
        if (numbers := math.prod(x.shape[1:])) != A.shape[1]:
            raise ValueError(f"measurements.matrix: A has {A.shape[1]} columns, and an example {numbers} numbers")
        return x.reshape(x.shape[0], numbers) @ A.T

    return Measurement(forward, solve, filtered, trace)
