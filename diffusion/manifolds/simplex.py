"""The probability simplex."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from diffusion.arrays.arguments import is_count
from diffusion.arrays.square_roots import root
from diffusion.manifolds import wrapped
from diffusion.manifolds.manifold import Manifold, checked
from diffusion.manifolds.sphere import sphere

_MOST = 10  # largest dimension for which the 2^(n + 1) reflections of a wrapped normal are summed


def simplex(n: int) -> Manifold:
    """Probabilities of n + 1 categories with the Fisher metric: p = s^2 for s on a sphere, with distances doubled.

        distance(p, q) = 2 arccos(sum_i (p_i q_i)^(1/2))

    Facts:
        points: probabilities `[n + 1]` that sum to 1
        metric: sum_i u_i v_i / p_i; infinite on the faces
        cut_locus: none
        paper: Davis et al. 2024, "Fisher Flow Matching for Generative Modeling over Discrete Data"; Cheng et al. 2024,
            "Categorical Flow Matching on Statistical Manifolds"

    The simplex has a boundary: exp reflects geodesics at the faces, and log inverts exp only up to the first
    reflection. The second argument of log may lie on a face or at a corner, which is a single category; the first
    argument must lie inside. `wrapped_log_density` sums over all reflections, for n <= 10. A path that starts at a
    corner does not leave it, so follow paths from the other end.

    Args:
        n: dimension, >= 1, the number of categories minus 1.

    Raises:
        ValueError: if n < 1.
    """
    if not is_count(n):
        raise ValueError(
            f"simplex: n = {n} must be positive and an integer; n is one less than the number of categories"
        )
    ball = sphere(n)
    name = f"simplex({n})"
    up = lambda p, v: v / (2 * _positive(root(p)))
    down = lambda p, v: 2 * root(p) * v

    def distance(p, q):
        return 2 * ball.distance(root(p), root(q))

    def exp(p, v):
        return jnp.square(ball.exp(root(p), up(p, v)))

    def log(p, q):
        return down(p, ball.log(root(p), root(q)))

    def lift(p, w):
        # The velocity 2 ds/dt on the sphere, which the metric's factor 1 / p does not enlarge near a face.
        s = root(p)
        return s * ball.tangent(s, w)

    def transport(p, q, v):
        return down(q, ball.transport(root(p), root(q), up(p, v)))

    def project(p):
        positive = jnp.maximum(p, 0)
        return positive / jnp.sum(positive, -1, keepdims=True)

    def wrapped_log_density(mean, scale, x):
        if n > _MOST:
            raise ValueError(
                f"{name}: the density of a wrapped normal sums 2^(n + 1) reflections. Valid: n up to {_MOST}"
            )
        if not isinstance(scale, Tracer):
            wrapped.require_scale(scale, turns=2)
        signs = jnp.asarray(list(itertools.product((1, -1), repeat=n + 1)), jnp.result_type(x))
        reflected = signs * root(x)[..., None, :]
        scales = jnp.asarray(scale)[..., None] / 2
        terms = ball.wrapped_log_density(root(mean)[..., None, :], scales, reflected)
        return jax.nn.logsumexp(terms, -1) - n * math.log(2)

    return Manifold(
        name=name,
        shape=(n + 1,),
        dimension=n,
        exp=exp,
        log=log,
        distance=distance,
        inner=lambda p, u, v: jnp.sum(u * v / _positive(p), -1),
        project=project,
        tangent=lambda p, v: v - p * jnp.sum(v, -1, keepdims=True),
        lift=lift,
        basis=lambda p: root(p)[..., None, :] * ball.basis(root(p)),
        transport=transport,
        log_volume_change=lambda p, v: ball.log_volume_change(root(p), up(p, v)),
        tangent_normal=lambda key, p: lift(p, jax.random.normal(key, p.shape, jnp.result_type(p))),
        wrapped_log_density=wrapped_log_density,
        cut_distance=lambda p, q: jnp.full_like(distance(p, q), jnp.inf),
        log_volume=ball.log_volume - math.log(2),
        uniform=lambda key, shape: jax.random.dirichlet(key, jnp.full(n + 1, 0.5), shape),
        check=checked(
            name,
            (n + 1,),
            "probabilities are not negative and sum to 1",
            lambda p: np.maximum(np.abs(p.sum(-1) - 1), np.maximum(-p.min(-1), 0)),
        ),
    )


def _positive(p):
    """p, or 1 where it is zero, since the component of a tangent vector is zero there too."""
    return jnp.where(p > 0, p, 1)
