"""Symmetric positive definite matrices."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.arrays.arguments import is_count
from diffusion.arrays.matrices import matmul
from diffusion.manifolds import smooth, symmetric_functions, wrapped
from diffusion.manifolds.manifold import Manifold, checked, for_batches

_FLOOR = 1e-6  # smallest eigenvalue after `project`


def positive_definite(n: int) -> Manifold:
    """Symmetric positive definite matrices with the affine-invariant metric: exp(P, V) = L e^(L^-1 V L^-T) L^T.

    Facts:
        points: symmetric matrices `[n, n]` with positive eigenvalues
        metric: tr(P^-1 U P^-1 V), invariant under P, U, V -> A P A^T, A U A^T, A V A^T
        cut_locus: none
        paper: Pennec, Fillard and Ayache 2006, "A Riemannian Framework for Tensor Computing"

    L is the Cholesky factor of P. The literature has P^(1/2) in its place, and the result is the same. Derivatives are
    finite also where eigenvalues coincide, for example at log(P, P); see `symmetric_functions`.

    Args:
        n: number of rows and columns, >= 1.

    Raises:
        ValueError: if n < 1.
    """
    if not is_count(n):
        raise ValueError(f"positive_definite: n = {n} must be positive and an integer")
    name = f"positive_definite({n})"
    dimension = n * (n + 1) // 2
    symmetric = lambda a: (a + a.mT) / 2

    def whitened(x, v):
        """L^-1 v L^-T."""
        factor = jnp.linalg.cholesky(x)
        eye = jnp.broadcast_to(jnp.eye(n, dtype=jnp.result_type(x)), x.shape)
        inverse = jax.scipy.linalg.solve_triangular(factor, eye, lower=True)
        return symmetric(_conjugated(inverse, v))

    def coloured(x, w):
        """L w L^T."""
        return symmetric(_conjugated(jnp.linalg.cholesky(x), w))

    def lift(x, w):
        return coloured(x, symmetric(w))

    def exp(x, v):
        return coloured(x, symmetric_functions.exp(whitened(x, v)))

    def log(x, y):
        return coloured(x, symmetric_functions.log(whitened(x, y)))

    def distance(x, y):
        return smooth.length(symmetric_functions.log(whitened(x, y)), (-2, -1))

    def inner(x, u, v):
        return jnp.sum(whitened(x, u) * whitened(x, v), (-2, -1))

    def project(x):
        values, q = jnp.linalg.eigh(symmetric(x))
        return _conjugated(q, jnp.maximum(values, _FLOOR)[..., None, :] * jnp.eye(n, dtype=jnp.result_type(x)))

    def basis(x):
        rows, columns = np.triu_indices(n)
        units = np.zeros((dimension, n, n))
        units[np.arange(dimension), rows, columns] = np.where(rows == columns, 1.0, math.sqrt(2.0))  # not yet symmetric
        return coloured(x[..., None, :, :], jnp.asarray(units, jnp.result_type(x)))

    def transport(x, y, v):
        return coloured(x, symmetric(_conjugated(symmetric_functions.square_root(whitened(x, y)), whitened(x, v))))

    def log_volume_change(x, v):
        values = symmetric_functions.eigenvalues(whitened(x, v))
        rows, columns = np.triu_indices(n, 1)
        half = (values[..., rows] - values[..., columns]) / 2
        return smooth.log_sinh_ratio(jnp.square(half)).sum(-1)

    def off(x):
        finite = np.isfinite(x).all((-2, -1))
        least = np.linalg.eigvalsh(np.where(finite[..., None, None], x, np.eye(n)))[..., 0]
        skew = np.abs(x - np.swapaxes(x, -1, -2)).max((-2, -1))
        return np.where(finite, np.maximum(skew, np.where(least > 0, 0, np.maximum(-least, 1e-3))), np.nan)

    return Manifold(
        name=name,
        shape=(n, n),
        dimension=dimension,
        exp=exp,
        log=log,
        distance=distance,
        inner=inner,
        project=project,
        tangent=lambda x, v: for_batches(symmetric(v), x),
        lift=lift,
        basis=basis,
        transport=transport,
        log_volume_change=log_volume_change,
        tangent_normal=lambda key, x: lift(x, jax.random.normal(key, x.shape, jnp.result_type(x))),
        wrapped_log_density=wrapped.open_(log, inner, log_volume_change, dimension),
        cut_distance=lambda x, y: jnp.full_like(distance(x, y), jnp.inf),
        check=checked(name, (n, n), "points are symmetric matrices with positive eigenvalues", off),
    )


def _conjugated(a: Array, b: Array) -> Array:
    """a b a^T in full precision on every device."""
    return matmul(matmul(a, b), a.mT)
