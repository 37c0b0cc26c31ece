"""The unit sphere."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays.arguments import is_count
from diffusion.manifolds import smooth, wrapped
from diffusion.manifolds.manifold import Manifold, checked, for_batch


def sphere(n: int) -> Manifold:
    """S^n, the unit vectors of R^(n + 1): exp(x, v) = cos|v| x + sin|v| v / |v|.

    Facts:
        points: unit vectors `[n + 1]`
        metric: the Euclidean metric of R^(n + 1)
        cut_locus: the antipode -x
        paper: Absil, Mahony and Sepulchre 2008, "Optimization Algorithms on Matrix Manifolds"; Chen and Lipman 2024,
            "Flow Matching on General Geometries"

    At the antipode, log chooses the direction of the first vector of `basis`.

    Args:
        n: dimension, >= 1.

    Raises:
        ValueError: if n < 1.
    """
    if not is_count(n):
        raise ValueError(
            f"sphere: n = {n} must be positive and an integer; sphere(2) is the surface of a ball in three dimensions"
        )
    name = f"sphere({n})"

    def exp(x, v):
        squared = _dot(v, v)
        return project(smooth.cosine(squared) * x + smooth.sine_ratio(squared) * v)

    def log(x, y):
        # The formula tan(r / 2) = |y - x| / |y + x| is accurate both near x and near the antipode. There are two
        # projections because near the antipode the first one leaves a component along x.
        chord, opposite = y - x, y + x
        across = tangent(x, tangent(x, chord))
        near = _dot(x, y) > 0
        ratio = _dot(chord, chord) / jnp.where(near, _dot(opposite, opposite), 1)
        straight = (1 + ratio) * smooth.arctan_ratio(jnp.where(near, ratio, 0)) * across
        size = smooth.length(across)[..., None]
        separated = size > 8 * jnp.finfo(size.dtype).eps
        direction = jnp.where(separated, across / jnp.where(separated, size, 1), basis(x)[..., 0, :])
        return jnp.where(near, straight, distance(x, y)[..., None] * direction)

    def distance(x, y):
        chord, opposite = y - x, y + x
        near = _dot(x, y)[..., 0] > 0
        arc = lambda small, large: (
            2 * smooth.length(small) / large * smooth.arctan_ratio((smooth.length(small) / large) ** 2)
        )
        below = arc(chord, jnp.where(near, smooth.length(opposite), 1))
        above = math.pi - arc(opposite, jnp.where(near, 1, smooth.length(chord)))
        return jnp.where(near, below, above)

    def project(x):
        return x / jnp.sqrt(_dot(x, x))

    def tangent(x, v):
        return v - _dot(x, v) * x

    def basis(x):
        # All columns except the first of the reflection that maps the first axis to -+x.
        first = jnp.zeros(n + 1, jnp.result_type(x)).at[0].set(1)
        u = x + jnp.where(x[..., :1] >= 0, 1, -1) * first
        axes = jnp.eye(n + 1, dtype=jnp.result_type(x))[1:]
        return axes - 2 * u[..., 1:, None] * u[..., None, :] / _dot(u, u)[..., None]

    def transport(x, y, v):
        w = log(x, y)
        squared = _dot(w, w)
        turned = v - _dot(w, v) * (smooth.versine_ratio(squared) * w + smooth.sine_ratio(squared) * x)
        return tangent(y, turned)

    def inner(x, u, v):
        return for_batch(_dot(u, v)[..., 0], x, (n + 1,))

    def log_volume_change(x, v):
        return (n - 1) * jnp.log(jnp.abs(smooth.sine_ratio(inner(x, v, v))))

    def wrapped_log_density(mean, scale, x):
        return wrapped.closed(distance(mean, x), scale, n, smooth.sine_ratio, n - 1)

    return Manifold(
        name=name,
        shape=(n + 1,),
        dimension=n,
        exp=exp,
        log=log,
        distance=distance,
        inner=inner,
        project=project,
        tangent=tangent,
        lift=tangent,
        basis=basis,
        transport=transport,
        log_volume_change=log_volume_change,
        tangent_normal=lambda key, x: tangent(x, jax.random.normal(key, x.shape, jnp.result_type(x))),
        wrapped_log_density=wrapped_log_density,
        cut_distance=lambda x, y: math.pi - distance(x, y),
        log_volume=math.log(2) + (n + 1) / 2 * math.log(math.pi) - math.lgamma((n + 1) / 2),
        uniform=lambda key, shape: project(jax.random.normal(key, (*shape, n + 1))),
        injectivity_radius=math.pi,
        check=checked(name, (n + 1,), "points are unit vectors", lambda x: np.abs(np.linalg.norm(x, axis=-1) - 1)),
    )


def _dot(u, v):
    return jnp.sum(u * v, -1, keepdims=True)
