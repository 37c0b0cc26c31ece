"""The circle of angles, and the flat torus, its power."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.manifolds import wrapped
from diffusion.manifolds.manifold import Manifold, checked, for_batch, for_batches
from diffusion.manifolds.product_spaces import power


def circle() -> Manifold:
    """The circle of angles modulo 2 pi, in [-pi, pi]: exp(x, v) = x + v, wrapped into the interval.

    Facts:
        points: one angle
        metric: the difference of angles; the circle has the length 2 pi
        cut_locus: the opposite angle
        paper: Jammalamadaka and SenGupta 2001, "Topics in Circular Statistics"
    """
    wrap = lambda angle: angle - 2 * math.pi * jnp.round(angle / (2 * math.pi))
    log = lambda x, y: wrap(y - x)
    distance = lambda x, y: jnp.abs(log(x, y))

    def uniform(key, shape):
        return jax.random.uniform(key, shape, minval=-math.pi, maxval=math.pi)

    return Manifold(
        name="circle",
        shape=(),
        dimension=1,
        exp=lambda x, v: wrap(x + v),
        log=log,
        distance=distance,
        inner=lambda x, u, v: for_batch(u * v, x, ()),
        project=wrap,
        tangent=lambda x, v: for_batches(v, x),
        lift=lambda x, w: for_batches(w, x),
        basis=lambda x: jnp.ones_like(x)[..., None],
        transport=lambda x, y, v: for_batches(v, x, y),
        log_volume_change=lambda x, v: jnp.zeros_like(x + v),
        tangent_normal=lambda key, x: jax.random.normal(key, x.shape, jnp.result_type(x)),
        wrapped_log_density=lambda mean, scale, x: wrapped.closed(distance(mean, x), scale, 1, jnp.ones_like, 0),
        cut_distance=lambda x, y: math.pi - distance(x, y),
        log_volume=math.log(2 * math.pi),
        uniform=uniform,
        injectivity_radius=math.pi,
        check=checked("circle", (), "angles are radians in [-pi, pi]", lambda x: np.maximum(np.abs(x) - math.pi, 0)),
    )


def torus(n: int) -> Manifold:
    """The flat torus of n angles modulo 2 pi, such as the torsions of a molecule: the n-th power of `circle`.

    Facts:
        points: angles `[n]`, radians in [-pi, pi]
        metric: the sum of squares of angles
        cut_locus: points with at least one opposite angle
        paper: Chen and Lipman 2024, "Flow Matching on General Geometries"

    Args:
        n: number of angles, >= 1.

    Raises:
        ValueError: if n < 1.
    """
    return power(circle(), n)._replace(name=f"torus({n})")
