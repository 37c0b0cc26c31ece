"""Euclidean space as a manifold."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays.arguments import is_count
from diffusion.manifolds import smooth, wrapped
from diffusion.manifolds.manifold import Manifold, checked, for_batch, for_batches, identity_basis


def euclidean(*shape: int) -> Manifold:
    """Flat space R^D, with coordinates in any shape: exp(x, v) = x + v.

    Facts:
        points: all real coordinates
        metric: the sum of squares
        cut_locus: none
        paper: -

    Args:
        shape: the axes of a point's coordinates, such as 3, or 8, 3.

    Raises:
        ValueError: if an axis is not positive.
    """
    if not shape or not all(map(is_count, shape)):
        raise ValueError(
            f"euclidean: shape = {shape} must have at least one axis, and only sides that are positive integers"
        )
    axes = tuple(range(-len(shape), 0))
    name = f"euclidean({', '.join(map(str, shape))})"
    dimension = math.prod(shape)
    batch = lambda x, y: jnp.broadcast_shapes(jnp.shape(x), jnp.shape(y))
    flat = lambda x, y: jnp.zeros(batch(x, y)[: -len(shape)], jnp.result_type(x, y))
    inner = lambda x, u, v: for_batch(jnp.sum(u * v, axes), x, shape)
    log = lambda x, y: y - x
    no_change = lambda x, v: flat(x, v)
    return Manifold(
        name=name,
        shape=shape,
        dimension=dimension,
        exp=lambda x, v: x + v,
        log=log,
        distance=lambda x, y: smooth.length(y - x, axes),
        inner=inner,
        project=lambda x: x,
        tangent=lambda x, v: for_batches(v, x),
        lift=lambda x, w: for_batches(w, x),
        basis=lambda x: identity_basis(x, shape),
        transport=lambda x, y, v: for_batches(v, x, y),
        log_volume_change=no_change,
        tangent_normal=lambda key, x: jax.random.normal(key, x.shape, jnp.result_type(x)),
        wrapped_log_density=wrapped.open_(log, inner, no_change, dimension),
        cut_distance=lambda x, y: flat(x, y) + jnp.inf,
        check=checked(name, shape, "coordinates are finite", lambda x: np.abs(x - x).max(axes)),
    )
