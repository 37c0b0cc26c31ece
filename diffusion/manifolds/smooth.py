"""Functions of a squared length that are smooth at zero, so that derivatives at x = y are finite.

A length r has no derivative at zero, but the functions that exp and log need, such as sin(r) / r, are power series in s
= r^2. Each function below is such a series, evaluated by its closed form away from zero. For s < 0 it is the hyperbolic
function, so spheres and hyperbolic spaces share their formulas.
"""

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.square_roots import root


def cosine(s: Array) -> Array:
    """cos(sqrt(s)) for s >= 0, cosh(sqrt(-s)) below: Stumpff's c_0."""
    return _joined(s, _factorials(0), 1.0, jnp.cos, jnp.cosh)


def sine_ratio(s: Array) -> Array:
    """sin(sqrt(s)) / sqrt(s) for s >= 0, sinh(sqrt(-s)) / sqrt(-s) below: Stumpff's c_1."""
    return _joined(s, _factorials(1), 1.0, lambda r: jnp.sin(r) / r, lambda r: jnp.sinh(r) / r)


def versine_ratio(s: Array) -> Array:
    """(1 - cos(sqrt(s))) / s for s >= 0, (cosh(sqrt(-s)) - 1) / -s below: Stumpff's c_2."""
    return sine_ratio(s / 4) ** 2 / 2


def arctan_ratio(s: Array) -> Array:
    """arctan(sqrt(s)) / sqrt(s) for s >= 0, artanh(sqrt(-s)) / sqrt(-s) for -1 < s < 0."""
    odd = [(-1) ** j / (2 * j + 1) for j in range(14)]
    return _joined(s, odd, 0.0625, lambda r: jnp.arctan(r) / r, lambda r: jnp.arctanh(r) / r)


def tanh_ratio(s: Array) -> Array:
    """tanh(sqrt(s)) / sqrt(s) for any s >= 0."""
    near = s < 1
    small, r = jnp.where(near, s, 0), jnp.sqrt(jnp.where(near, 1, s))
    return jnp.where(near, sine_ratio(-small) / cosine(-small), jnp.tanh(r) / r)


def log_sinh_ratio(s: Array) -> Array:
    """log(sinh(sqrt(s)) / sqrt(s)) for any s >= 0."""
    near = s < 1
    small, r = jnp.where(near, s, 0), jnp.sqrt(jnp.where(near, 1, s))
    far = r + jnp.log(-jnp.expm1(-2 * r) / (2 * r))
    return jnp.where(near, jnp.log(sine_ratio(-small)), far)


def length(v: ArrayLike, axes: int | tuple[int, ...] = -1) -> Array:
    """Euclidean norm over the last axis, or several axes; its derivative at zero is set to zero.

    Args:
        v: the vectors, of any shape.
        axes: axes over which the squares are summed; () for the absolute value of numbers.
    """
    return root(jnp.sum(jnp.square(v), axis=axes))


def _factorials(first: int) -> list[float]:
    """Coefficients (-1)^j / (2 j + first)!."""
    return [(-1) ** j / math.factorial(2 * j + first) for j in range(11)]


def _joined(
    s: Array,
    coefficients: Sequence[float],
    near: float,
    circular: Callable[[Array], Array],
    hyperbolic: Callable[[Array], Array],
) -> Array:
    """The power series where |s| < near, and the closed forms in sqrt(|s|) elsewhere.

    Each form is evaluated only where it holds, and at a harmless number elsewhere; `jnp.where` alone would leave 0 *
    inf in the derivative.
    """
    s = jnp.asarray(s)
    small = jnp.where(jnp.abs(s) < near, s, 0)
    series = jnp.zeros_like(s)
    for coefficient in reversed(coefficients):
        series = series * small + coefficient
    above = circular(jnp.sqrt(jnp.where(s >= near, s, 1)))
    below = hyperbolic(jnp.sqrt(jnp.where(s <= -near, -s, 0.5)))
    return jnp.where(s >= near, above, jnp.where(s <= -near, below, series))
