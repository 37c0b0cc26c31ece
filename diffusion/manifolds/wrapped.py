"""Densities of wrapped normals: a normal draw in the tangent space at the mean, mapped to the manifold by exp.

    p(y) = sum over all v with exp(mean, v) = y of N(v; 0, scale^2 I) / |det d exp_mean(v)|

with respect to the metric's volume (Nagano et al. 2019, "A Wrapped Normal Distribution on Hyperbolic Space for
Gradient-Based Learning"; Mathieu and Nickel 2020, "Riemannian Continuous Normalizing Flows", appendix; Grattarola et
al. 2019). If exp is one-to-one, the sum has one term. If geodesics close after the length 2 pi, the sum has a term for
each number of turns.
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
"""Number of turns in either direction that are summed; the other terms are below 1e-6 for scales up to pi."""
_CAP = 1e-6  # floor of |sin(r) / r|, at whose zeros exp maps a whole sphere of tangent vectors to one point


def log_normal(squared: Array, scale: ArrayLike, dimension: int) -> Array:
    """log N(v; 0, scale^2 I) `[...]` for vectors v of squared norm `squared`."""
    return -0.5 * squared / jnp.square(scale) - dimension * (0.5 * math.log(2 * math.pi) + jnp.log(scale))


def open_(
    log: Callable[[Any, Any], Any],
    inner: Callable[[Any, Any, Any], Array],
    log_volume_change: Callable[[Any, Any], Array],
    dimension: int,
) -> Callable[[Any, Any, Any], Array]:
    """`Manifold.wrapped_log_density` for manifolds on which exp is one-to-one.

    Args:
        log, inner, log_volume_change: the functions with these names in `Manifold`.
        dimension: dimension of the manifold.
    """

    def log_density(mean, scale, x):
        v = log(mean, x)
        return log_normal(inner(mean, v, v), scale, dimension) - log_volume_change(mean, v)

    return log_density


def closed(angle: Array, scale: ArrayLike, dimension: int, ratio: Callable[[Array], Array], power: int) -> Array:
    """The log-density `[...]` at a distance `angle` from the mean, on a manifold whose geodesics all close after 2 pi.

        log sum_k N(r_k; 0, scale^2 I) / |ratio(r_k^2)|^power,    r_k = angle + 2 pi k, k = -3 ... 3

    For power > 0 the terms have poles where the ratio is zero, because exp maps a whole sphere of tangent vectors to
    one point: to the mean for k != 0, and on spheres also to the antipode. The poles are integrable, with weight
    exp(-(2 pi / scale)^2 / 2) at the mean, and are cut off in a neighbourhood of about 1e-6.

    Args:
        angle: distances from the mean `[...]`, in [0, pi].
        scale: standard deviation in (0, pi], a number or an array whose shape is a prefix of the batch shape.
        dimension: dimension of the manifold.
        ratio: function from a squared length to the factor by which exp changes lengths orthogonal to the geodesic.
        power: number of these orthogonal directions.

    Raises:
        ValueError: if a scale is not in (0, pi], beyond which more turns would contribute.
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
    """Refuses scales for which the sum of `closed` is not accurate.

    Args:
        scale: scales, of any shape.
        turns: largest valid scale in units of pi, half the length of a closed geodesic.

    Raises:
        ValueError: if a scale is not valid; the message names the first such scale.
    """
    scales = np.asarray(scale, np.float64)
    valid = (scales > 0) & (scales <= turns * (math.pi + 1e-6))
    if not valid.all():
        most = "pi" if turns == 1 else f"{turns} pi"
        raise ValueError(
            f"scale = {scales[~valid].flat[0]:g} of a wrapped normal must be in (0, {most}] where geodesics close on "
            "themselves; wider ones are nearly `uniform`"
        )
