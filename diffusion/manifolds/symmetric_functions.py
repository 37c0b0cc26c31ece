"""Functions of symmetric matrices by their eigenvalues, with derivatives also where eigenvalues coincide."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.manifolds import smooth

_HIGHEST = jax.lax.Precision.HIGHEST


def _of_symmetric(
    function: Callable[[Array], Array], slope: Callable[[Array, Array], Array]
) -> Callable[[Array], Array]:
    """The function A = Q diag(a) Q^T -> Q diag(f(a)) Q^T, with the Daleckii-Krein derivative.

        df(A)[E] = Q (F o Q^T E Q) Q^T,    F_ij = (f(a_i) - f(a_j)) / (a_i - a_j), f'(a_i) where both are equal

    Higham 2008, "Functions of Matrices", section 3.2. Eigenvectors have no derivative at equal eigenvalues. Second
    derivatives of this function depend on them, and are therefore not finite there.

    Args:
        function: the scalar function f, elementwise.
        slope: the divided difference F as a function of (a_i, a_j), in a form that does not divide by zero.
    """

    @jax.custom_jvp
    def matrix_function(a):
        values, q = jnp.linalg.eigh(a)
        return _conjugated(q * function(values)[..., None, :], q)

    @matrix_function.defjvp
    def derivative(primals, tangents):
        (a,), (e,) = primals, tangents
        values, q = jnp.linalg.eigh(a)
        turned = _turned(q, e)
        change = slope(values[..., :, None], values[..., None, :]) * turned
        return _conjugated(q * function(values)[..., None, :], q), _conjugated(
            jnp.matmul(q, change, precision=_HIGHEST), q
        )

    return matrix_function


def _conjugated(left: Array, q: Array) -> Array:
    return jnp.matmul(left, jnp.swapaxes(q, -1, -2), precision=_HIGHEST)


def _turned(q: Array, e: Array) -> Array:
    """Q^T E Q for the symmetric part of E."""
    e = (e + jnp.swapaxes(e, -1, -2)) / 2
    return jnp.matmul(jnp.swapaxes(q, -1, -2), jnp.matmul(e, q, precision=_HIGHEST), precision=_HIGHEST)


exp = _of_symmetric(jnp.exp, lambda a, b: jnp.exp((a + b) / 2) * smooth.sine_ratio(-jnp.square((a - b) / 2)))
"""The exponential `[..., n, n]` of symmetric matrices."""


def _log_slope(a: Array, b: Array) -> Array:
    """(log a - log b) / (a - b), by its series in (a - b) / (a + b) where a and b are near."""
    apart = jnp.abs(a - b) > (a + b) / 4
    share = jnp.where(apart, 0, (a - b) / (a + b))
    series = 2 / (a + b) * smooth.arctan_ratio(-jnp.square(share))
    return jnp.where(apart, jnp.log(a / b) / jnp.where(apart, a - b, 1), series)


log = _of_symmetric(jnp.log, _log_slope)
"""The logarithm `[..., n, n]` of positive definite matrices."""

square_root = _of_symmetric(jnp.sqrt, lambda a, b: 1 / (jnp.sqrt(a) + jnp.sqrt(b)))
"""The positive square root `[..., n, n]` of positive definite matrices."""


@jax.custom_jvp
def eigenvalues(a: Array) -> Array:
    """The eigenvalues `[..., n]` of symmetric matrices, in ascending order.

    Args:
        a: symmetric matrices `[..., n, n]`.
    """
    return jnp.linalg.eigh(a)[0]


@eigenvalues.defjvp
def _eigenvalues_jvp(primals, tangents):
    values, q = jnp.linalg.eigh(primals[0])
    return values, jnp.diagonal(_turned(q, tangents[0]), axis1=-2, axis2=-1)
