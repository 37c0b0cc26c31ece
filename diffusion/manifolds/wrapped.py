"""Densities of wrapped normals: a normal draw in the tangent space of the mean, put on the manifold by exp.

    p(y) = sum over all v with exp(mean, v) = y of N(v; 0, scale^2 I) / |det d exp_mean(v)|

in the volume of the metric: Grattarola et al. 2019; Nagano et al. 2019; Mathieu and Nickel 2020, "Riemannian
Continuous Normalizing Flows", appendix. Where exp is one-to-one the sum has one term. On closed geodesics of length
2 pi it has one for each time that they are run through.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

WRAPS = 3
"""Turns in either direction that count: what they leave out is below 1e-6 for scales up to pi."""
_CAP = 1e-6  # floor of |sin(r) / r|: at its zeros whole spheres of the tangent space meet in one point


def log_normal(squared: Array, scale: ArrayLike, dimension: int) -> Array:
    """`[...]` log N(v; 0, scale^2 I) of a vector of squared length `squared`."""
    return -0.5 * squared / jnp.square(scale) - dimension * (0.5 * math.log(2 * math.pi) + jnp.log(scale))


def open_(
    log: Callable[[Any, Any], Any],
    inner: Callable[[Any, Any, Any], Array],
    log_volume_change: Callable[[Any, Any], Array],
    dimension: int,
) -> Callable[[Any, Any, Any], Array]:
    """`Manifold.wrapped_log_density` where exp is one-to-one.

    Args:
        log, inner, log_volume_change: the functions of these names in `Manifold`.
        dimension: the dimension of the manifold.
    """

    def log_density(mean, scale, x):
        v = log(mean, x)
        return log_normal(inner(mean, v, v), scale, dimension) - log_volume_change(mean, v)

    return log_density


def closed(angle: Array, scale: ArrayLike, dimension: int, ratio: Callable[[Array], Array], power: int) -> Array:
    """`[...]` log-density at a point at distance `angle`, where every geodesic closes after 2 pi.

        log sum_k N(r_k; 0, scale^2 I) / |ratio(r_k^2)|^power,    r_k = angle + 2 pi k, k = -3 ... 3

    For power > 0 the terms have poles where the ratio is zero: exp takes whole spheres of the tangent space to one
    point, to the mean by k != 0, on spheres also to the antipode. They are integrable, of weight
    exp(-(2 pi / scale)^2 / 2) at the mean, and are cut off in a neighbourhood of about 1e-6.

    Args:
        angle: the angles, `[...]` in [0, pi].
        scale: the standard deviation in (0, pi], a number or a prefix of the batch.
        dimension: the dimension of the manifold.
        ratio: squared length -> the factor by which exp changes lengths across the geodesic.
        power: number of directions that it changes.

    Raises:
        ValueError: if a scale is not in (0, pi]: beyond, more turns would count.
    """
    if not isinstance(scale, Tracer):
        require_scale(scale)
    scale = jnp.asarray(scale)
    turns = 2 * math.pi * jnp.arange(-WRAPS, WRAPS + 1, dtype=angle.dtype)
    squared = jnp.square(angle[..., None] + turns)
    terms = log_normal(squared, scale[..., None], dimension)
    if power:
        terms -= power / 2 * jnp.log(jnp.square(ratio(squared)) + _CAP**2)
    return jax.nn.logsumexp(terms, -1)


def require_scale(scale: ArrayLike, turns: int = 1) -> None:
    """Refuses the scales that `closed` does not sum exactly.

    Args:
        scale: the scales, of any shape.
        turns: the largest valid one, in units of pi: half the length of a closed geodesic.

    Raises:
        ValueError: if a scale is not valid; the message names the first.
    """
    scales = np.asarray(scale, np.float64)
    valid = (scales > 0) & (scales <= turns * (math.pi + 1e-6))
    if not valid.all():
        most = "pi" if turns == 1 else f"{turns} pi"
        raise ValueError(
            f"scale = {scales[~valid].flat[0]:g} of a wrapped normal must be in (0, {most}] where geodesics close on "
            "themselves; wider ones are nearly `uniform`"
        )
