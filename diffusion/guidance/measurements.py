"""Measurements of a picture in a linear inverse problem: y = A x_0 + sigma_y z."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.arguments import require, require_mask
from diffusion.arrays.broadcasting import flattened
from diffusion.arrays.matrices import matmul
from diffusion.schedules.noise_schedule import as_float


class Measurement(NamedTuple):
    """A linear operator A.

    Attributes:
        forward: x `[B, ...]` -> A x.
        solve: (y in the shape of A x, ratio >= 0 that broadcasts against y) -> (A A^T + ratio I)^-1 y; the
            pseudo-inverse if ratio is 0, and 0 if it is infinite.
        filtered: (x `[B, ...]`, f) -> V f(s) V^T x for A = U s V^T with a complete basis V and an elementwise function
            f of the singular values; only `ddrm` and `mcgdiff` need it.
        trace: (f, x `[B, ...]`) -> the sum of f(s) over this basis, `[]` or `[B]`; only `mcgdiff` needs it.
    """

    forward: Callable[[Array], Array]
    solve: Callable[[Array, Array], Array]
    filtered: Callable[[Array, Callable[[Array], Array]], Array] | None = None
    trace: Callable[[Callable[[Array], Array], Array], Array] | None = None

    def residual(self, y: Array, x: Array) -> Array:
        """y - A x in the dtype of A x, for a measurement of any dtype, such as float64 beside samples in float32."""
        measured = self.forward(x)
        check_measurement(y, measured)
        return jnp.asarray(y, measured.dtype) - measured

    def transpose(self, y: Array, like: Array) -> Array:
        """A^T y in the shape of `like`, an array x `[B, ...]`."""
        return jax.linear_transpose(self.forward, like)(y)[0]

    def inverse(self, y: Array, like: Array, ratio: ArrayLike = 0.0) -> Array:
        """A^T (A A^T + ratio I)^-1 y in the shape of `like`, an array x `[B, ...]`; A^+ y if ratio is 0.

        Args:
            y: a measurement `[B, ...]`, of any floating-point dtype; `[1, ...]` or `[...]` for one that all share.
            like: an array with the shape and dtype of x.
            ratio: ratio >= 0: a number, an array that broadcasts against x with one value for each example, or an array
                that broadcasts against y, for a measurement of single numbers.

        Raises:
            ValueError: if y has another shape than A x, if an example has several ratios that do not broadcast against
                y, or if a measurement that mixes the numbers of an example, `blurred` or `matrix`, receives several.
        """
        measured = jax.eval_shape(self.forward, like)
        check_measurement(y, measured)
        y = jnp.broadcast_to(jnp.asarray(y, measured.dtype), measured.shape)
        ratio = jnp.asarray(ratio, y.dtype)
        beside = ratio.ndim == y.ndim and all(r in (1, n) for r, n in zip(ratio.shape, y.shape))
        if ratio.ndim and not beside:  # leaves may have one for each number, and clips one for each frame
            _check_one_ratio("a measurement y " + str(y.shape), ratio)
            ratio = ratio.reshape(ratio.shape[:1] + (1,) * (y.ndim - 1))
        return self.transpose(self.solve(y, ratio), like)


def _check_one_ratio(what: str, ratio: ArrayLike) -> None:
    """Refuses several ratios in an example.

    Raises:
        ValueError: naming the measurement and the shape of the ratios.
    """
    shape = jnp.shape(ratio)
    if any(side != 1 for side in shape[1:]):
        raise ValueError(
            f"{what} takes one ratio for each example, but got ratios of the shape {shape}, as times for each frame or "
            "leaf give them. Valid: measurements.masked, or one time for each example"
        )


def require_measurement(value: Any) -> None:
    """Refuses a value that is not a `Measurement`, such as its function `forward`.

    Raises:
        TypeError: naming the value.
    """
    require(value, Measurement, "measurement", "a Measurement, such as measurements.masked(mask)")


def check_measurement(y: Array, measured: Array | jax.ShapeDtypeStruct) -> None:
    """Refuses a measurement y that has neither the shape of A x nor that of one example of it.

    Args:
        y: the measurement `[B, ...]`; `[1, ...]` or `[...]` for one that all samples share.
        measured: A x `[B, ...]`.

    Raises:
        ValueError: naming both shapes.
    """
    one = measured.shape[1:]
    if jnp.shape(y) not in (measured.shape, (1, *one), one):
        raise ValueError(
            f"the measurement y has the shape {jnp.shape(y)}, but A x has {measured.shape}. Valid: this shape, or "
            f"{one} for a measurement that all samples share"
        )


def masked(mask: Array) -> Measurement:
    """Some of the values are measured: A x = mask x.

    Args:
        mask: Bool that broadcasts against x `[B, ...]`, True where x is measured. y has x's shape and is 0 elsewhere.

    Raises:
        TypeError: if the mask is not Bool.
        ValueError: when called, if the mask does not broadcast to x, such as `[H, W]` to `[B, H, W, C]`.
    """
    require_mask(mask, "mask")
    mask = jnp.asarray(mask)

    def forward(x):
        fits = all(m in (1, n) for m, n in zip(mask.shape[::-1], x.shape[::-1]))
        if mask.ndim > x.ndim or not fits:
            raise ValueError(
                f"measurements.masked: a mask of shape {mask.shape} does not broadcast to x of shape {x.shape}. Valid: "
                "e.g. [H, W, 1] for pictures [B, H, W, C]"
            )
        return jnp.where(mask, x, 0)

    return Measurement(
        forward,
        lambda y, ratio: jnp.where(mask, y / (1 + ratio), 0),
        lambda x, f: f(jnp.broadcast_to(mask, x.shape).astype(x.dtype)) * x,
        lambda f, x: jnp.sum(f(jnp.broadcast_to(mask, x.shape).astype(x.dtype)), axis=tuple(range(1, x.ndim))),
    )


def box(shape: Sequence[int], corner: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """A mask for `masked`, Bool `[H, W, 1]`, that is False in a box, where x is unknown.

    Args:
        shape: shape (H, W, C) of a picture.
        corner: first pixel (row, column) of the box.
        size: size (rows, columns) of the box.

    Raises:
        ValueError: if the box does not lie within the picture.
    """
    if not all(0 <= a and 0 < n and a + n <= side for a, n, side in zip(corner, size, shape[:2])):
        raise ValueError(
            f"box: corner = {corner} and size = {size} do not lie within a picture of shape {tuple(shape)}"
        )
    mask = np.ones((*shape[:2], 1), bool)
    mask[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]] = False
    return mask


def at_random(shape: Sequence[int], share: float, seed: int = 0) -> np.ndarray:
    """A mask for `masked`, Bool `[H, W, 1]`, that is True at a random share of the pixels, equal for all pictures.

    Args:
        shape: shape (H, W, C) of a picture.
        share: share of the pixels that are known, in (0, 1].
        seed: seed of the choice of pixels.

    Raises:
        ValueError: if share is out of range, or no pixel is known.
    """
    if not 0 < share <= 1:
        raise ValueError(f"at_random: share = {share} must be in (0, 1]")
    mask = np.random.default_rng(seed).random((*shape[:2], 1)) < share
    if not mask.any():
        raise ValueError(f"at_random: share = {share} leaves no pixel of {tuple(shape)} known. Valid: a larger share")
    return mask


def blurred(std: float) -> Measurement:
    """A Gaussian blur of images `[B, H, W, C]` with periodic borders; A is diagonal in the Fourier basis.

    Args:
        std: standard deviation of the Gaussian, in pixels, > 0.

    Raises:
        ValueError: if std is not positive and finite.
    """
    if not 0 < std < math.inf:
        raise ValueError(f"measurements.blurred: std = {std} must be positive and finite")

    def gains(x):
        frequencies = lambda side: jnp.fft.fftfreq(side, dtype=as_float(x).dtype)
        rows, columns = (jnp.exp(-2 * (jnp.pi * std * frequencies(side)) ** 2) for side in x.shape[1:3])
        return rows[:, None] * columns[None]

    def filtered(x, of):
        gain = of(gains(x)[None, :, :, None])
        spectrum = jnp.fft.fft2(x, axes=(1, 2))
        return jnp.real(jnp.fft.ifft2(spectrum * gain.astype(spectrum.dtype), axes=(1, 2))).astype(x.dtype)

    def solve(y, ratio):
        _check_one_ratio("measurements.blurred", ratio)

        def inverse(gain):
            square = gain**2 + ratio
            regular = square > 1e-6  # the pseudo-inverse leaves out frequencies that the blur erases
            return jnp.where(regular, 1 / jnp.where(regular, square, 1), 0)

        return filtered(y, inverse)

    trace = lambda f, x: x.shape[-1] * jnp.sum(f(gains(x)))
    return Measurement(lambda x: filtered(x, lambda gain: gain), solve, filtered, trace)


def pooled(factor: int) -> Measurement:
    """Means over factor x factor pixels of images `[B, H, W, C]` (super-resolution); A A^T = I / factor^2.

    Args:
        factor: side of a pooled square in pixels, >= 1, a divisor of H and W.

    Raises:
        ValueError: if factor is not a positive integer; when called, if x is not `[B, H, W, C]`, or factor does not
            divide its sides.
    """
    if not factor >= 1 or factor % 1:
        raise ValueError(f"measurements.pooled: factor = {factor} must be an integer of at least 1")
    factor = int(factor)

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
    """Any matrix A, for small problems: y = A x, where x is flattened.

    Args:
        A: the matrix `[M, D]`, not traced; y is `[B, M]`.

    Raises:
        ValueError: if A is not a matrix of finite real numbers; when called, if examples do not have D numbers.
    """
    A = np.asarray(A)
    if A.ndim != 2:
        raise ValueError(f"measurements.matrix: A has the shape {A.shape}. Valid: [M, D]")
    if A.dtype.kind not in "fiub" or not np.isfinite(A).all():
        raise ValueError(f"measurements.matrix: A of {A.dtype} must hold finite real numbers")
    A = A if np.issubdtype(A.dtype, np.floating) else A.astype(np.float32)
    values, axes = np.linalg.eigh(A @ A.T)
    rank = values > values.max(initial=0) * len(values) * np.finfo(A.dtype).eps

    def solve(y, ratio):
        _check_one_ratio("measurements.matrix", ratio)
        inverse = jnp.where(rank[None], 1 / (jnp.asarray(np.where(rank, values, 1)[None], y.dtype) + ratio), 0)
        rotation = jnp.asarray(axes, y.dtype)
        return matmul(matmul(y, rotation) * inverse, rotation.T)

    singular = np.zeros(A.shape[1], A.dtype)
    _, few, basis = np.linalg.svd(A)
    singular[: len(few)] = np.where(few > few.max(initial=0) * max(A.shape) * np.finfo(A.dtype).eps, few, 0)

    def filtered(x, f):
        x, shape = flattened(as_float(x)), x.shape
        rotation = jnp.asarray(basis, x.dtype)
        gain = jnp.broadcast_to(f(jnp.asarray(singular, x.dtype)), x.shape)
        return matmul(matmul(x, rotation.T) * gain, rotation).reshape(shape)

    trace = lambda f, x: jnp.sum(f(jnp.asarray(singular, as_float(x).dtype)))

    def forward(x):
        if (numbers := math.prod(x.shape[1:])) != A.shape[1]:
            raise ValueError(f"measurements.matrix: A has {A.shape[1]} columns, but an example has {numbers} numbers")
        x = as_float(x.reshape(x.shape[0], numbers))
        return matmul(x, jnp.asarray(A.T, x.dtype))

    return Measurement(forward, solve, filtered, trace)
