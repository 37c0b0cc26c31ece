"""Distributions on manifolds with exact densities with respect to the metric's volume."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from diffusion.manifolds.manifold import Manifold, Shape, check_manifold, leaf_shapes, scaled
from diffusion.schedules.noise_schedule import as_float


class Distribution(NamedTuple):
    """A distribution with draws and a log-density.

    Attributes:
        sample: keys `[B]` -> x `[B, *shape]`, one draw for each key.
        log_density: x `[..., *shape]` -> log-density `[...]` in nats, with respect to the metric's volume.
    """

    sample: Callable[[Array], Any]
    log_density: Callable[[Any], Array]


def uniform(manifold: Manifold) -> Distribution:
    """The uniform distribution 1 / volume of a compact manifold; its log-density is -log_volume everywhere.

    Args:
        manifold: a manifold with finite volume.

    Raises:
        ValueError: if the volume is infinite.
    """
    check_manifold(manifold)
    draw = manifold.uniform
    if draw is None:
        raise ValueError(
            f"{manifold.name} has no uniform distribution, because its volume is infinite. Use wrapped_normal"
        )

    def log_density(x):
        leaf, axes = jax.tree.leaves(x)[0], leaf_shapes(manifold.shape)[0]
        return jnp.full(leaf.shape[: leaf.ndim - len(axes)], -manifold.log_volume, leaf.dtype)

    return Distribution(lambda keys: jax.vmap(lambda key: draw(key, ()))(keys), log_density)


def wrapped_normal(manifold: Manifold, mean: Any, scale: Any) -> Distribution:
    """The distribution of exp(mean, scale eps), where eps is standard normal in the tangent space at the mean.

    The density sums over all tangent vectors that lead to a point, see `wrapped`; in flat space it is the normal
    density. Mathieu and Nickel 2020, "Riemannian Continuous Normalizing Flows"; Nagano et al. 2019, "A Wrapped Normal
    Distribution on Hyperbolic Space for Gradient-Based Learning".

    Args:
        manifold: the manifold.
        mean: a point of the manifold, `[*shape]`.
        scale: standard deviation of all directions, > 0, and at most pi if geodesics are closed; for a product also a
            tuple with one number for each factor.

    Raises:
        ValueError: if mean is not a point of the manifold, or a scale is not positive or not one number.
    """
    check_manifold(manifold)
    if [np.shape(leaf) for leaf in jax.tree.leaves(mean)] != leaf_shapes(manifold.shape):
        raise ValueError(
            f"wrapped_normal: mean must be one point of {manifold.name}, an array of shape {manifold.shape} or a tuple "
            f"of such for a product; got {jax.tree.map(np.shape, mean)}"
        )
    manifold.check(mean)
    for number in jax.tree.leaves(scale):
        if not isinstance(number, Tracer) and not np.all(np.asarray(number) > 0):
            raise ValueError(f"wrapped_normal: scale = {number} must be positive")
    if not _fits(scale, manifold.shape):
        raise ValueError(
            f"wrapped_normal: scale = {scale} on {manifold.name} must be one number, or, for a product, a tuple with "
            "one for each factor"
        )
    mean = jax.tree.map(as_float, mean)
    draw = lambda key: manifold.exp(mean, scaled(scale, manifold.tangent_normal(key, mean)))
    return Distribution(jax.vmap(draw), lambda x: manifold.wrapped_log_density(mean, scale, x))


def _fits(scale: Any, shape: Shape) -> bool:
    """Whether a scale is one number, or, for the shape of a product's point, a tuple that fits its factors."""
    if not isinstance(scale, tuple):
        return np.ndim(scale) == 0
    factors = () if all(isinstance(axis, int) for axis in shape) else shape
    return len(scale) == len(factors) and all(map(_fits, scale, factors))
