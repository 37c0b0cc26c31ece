"""Functions of symmetric matrices through their eigenvalues, with derivatives also where eigenvalues coincide."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.manifolds import smooth

_HIGHEST = jax.lax.Precision.HIGHEST


def _of_symmetric(
    function: Callable[[Array], Array], slope: Callable[[Array, Array], Array]
) -> Callable[[Array], Array]:
    """A = Q diag(a) Q^T -> Q diag(f(a)) Q^T, with the derivative of Daleckii and Krein.

        df(A)[E] = Q (F o Q^T E Q) Q^T,    F_ij = (f(a_i) - f(a_j)) / (a_i - a_j), f'(a_i) where both are equal

    Higham 2008, "Functions of Matrices", section 3.2. Eigenvectors themselves have no derivative at equal
    eigenvalues; second derivatives go through theirs, and are not finite there.

    Args:
        function: f.
        slope: the divided difference F, in a form that does not divide by zero.
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
    """Q^T E Q of the symmetric part of E."""
    e = (e + jnp.swapaxes(e, -1, -2)) / 2
    return jnp.matmul(jnp.swapaxes(q, -1, -2), jnp.matmul(e, q, precision=_HIGHEST), precision=_HIGHEST)


exp = _of_symmetric(jnp.exp, lambda a, b: jnp.exp((a + b) / 2) * smooth.sine_ratio(-jnp.square((a - b) / 2)))
"""`[..., n, n]` exponential of symmetric matrices."""


def _log_slope(a: Array, b: Array) -> Array:
    """(log a - log b) / (a - b) where they are apart, and its series in (a - b) / (a + b) where they are near."""
    apart = jnp.abs(a - b) > (a + b) / 4
    share = jnp.where(apart, 0, (a - b) / (a + b))
    series = 2 / (a + b) * smooth.arctan_ratio(-jnp.square(share))
    return jnp.where(apart, jnp.log(a / b) / jnp.where(apart, a - b, 1), series)


log = _of_symmetric(jnp.log, _log_slope)
"""`[..., n, n]` logarithm of positive definite matrices."""

square_root = _of_symmetric(jnp.sqrt, lambda a, b: 1 / (jnp.sqrt(a) + jnp.sqrt(b)))
"""`[..., n, n]` positive root of positive definite matrices."""


@jax.custom_jvp
def eigenvalues(a: Array) -> Array:
    """`[..., n]` eigenvalues of symmetric matrices, in ascending order.

    Args:
        a: `[..., n, n]`.
    """
    return jnp.linalg.eigh(a)[0]


@eigenvalues.defjvp
def _eigenvalues_jvp(primals, tangents):
    values, q = jnp.linalg.eigh(primals[0])
    return values, jnp.diagonal(_turned(q, tangents[0]), axis1=-2, axis2=-1)
