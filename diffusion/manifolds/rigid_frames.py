"""Frames of n residues as one array: SE(3)^n without the common translation."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.arrays.parameters import traced
from diffusion.manifolds.distributions import Distribution
from diffusion.manifolds.euclidean import euclidean
from diffusion.manifolds.manifold import Manifold, checked, for_batches, in_coordinates
from diffusion.manifolds.product_spaces import power, product
from diffusion.manifolds.rotations import so3
from diffusion.objectives.couplings import Coupling
from diffusion.objectives.couplings.equivariant_transport import turn


def centred(n: int, d: int = 3) -> Manifold:
    """The flat space of n points in R^d with mean zero, which has (n - 1) d dimensions.

    Facts:
        points: real numbers `[n, d]` whose mean over n is zero
        metric: the sum of squares
        cut_locus: none
        paper: Hoogeboom et al. 2022, "Equivariant Diffusion for Molecule Generation in 3D"

    `project` and `tangent` subtract the mean, so a density on this space is a density of point sets up to translation.

    Args:
        n: number of points, >= 2.
        d: dimension of each point, >= 1.

    Raises:
        ValueError: if n < 2.
    """
    if n < 2:
        raise ValueError(f"centred: n = {n} points must be at least two, because the centre fixes one of them")
    flat = euclidean(n, d)
    dimension = (n - 1) * d
    mean_free = lambda x: x - x.mean(-2, keepdims=True)
    # Orthonormal rows that sum to zero (Helmert): row k has k + 1 equal entries, and another that balances them.
    helmert = np.tril(np.ones((n - 1, n))) - np.diag(np.arange(1.0, n), 1)[: n - 1]
    helmert /= np.linalg.norm(helmert, axis=1, keepdims=True)
    directions = np.einsum("ij,kl->ikjl", helmert, np.eye(d)).reshape(dimension, n, d)

    def basis(x):
        rows = jnp.asarray(directions, jnp.result_type(x))
        return jnp.broadcast_to(rows, (*x.shape[:-2], *rows.shape))

    def wrapped_log_density(mean, scale, x):
        squared = jnp.sum((x - mean) ** 2, (-2, -1))
        return -0.5 * squared / jnp.square(scale) - dimension * (0.5 * math.log(2 * math.pi) + jnp.log(scale))

    off = lambda x: np.abs(x.mean(-2)).max(-1) / (1 + np.abs(x).max((-2, -1)))
    return flat._replace(
        name=f"centred({n}, {d})",
        dimension=dimension,
        project=mean_free,
        tangent=lambda x, v: for_batches(mean_free(v), x),
        lift=lambda x, w: for_batches(mean_free(w), x),
        basis=basis,
        tangent_normal=lambda key, x: mean_free(jax.random.normal(key, x.shape, jnp.result_type(x))),
        wrapped_log_density=wrapped_log_density,
        check=checked(f"centred({n}, {d})", (n, d), "the mean of the points is zero", off),
    )


def frames(n: int) -> Manifold:
    """The frames of n residues as arrays `[n, 3, 4]`: a rotation and a position each, where positions have mean zero.

    Facts:
        points: arrays `[n, 3, 4]` of rotations `[3, 3]` with positions `[3]` of mean zero as the last column
        metric: the sum over rotations and positions, the convention of FrameDiff and FrameFlow
        cut_locus: where a rotation differs from R by the angle pi
        paper: Yim et al. 2023, "SE(3) diffusion model with application to protein backbone generation"; Yim et al.
            2023, "Fast protein backbone generation with SE(3) flow matching"

    This is the product of `power(so3(), n)` and `centred(n)`; the scale of a wrapped normal on it is one number.

    Args:
        n: number of residues, >= 2.

    Raises:
        ValueError: if n < 2.
    """
    parts = product(power(so3(), n), centred(n))

    def check(x):
        got = jnp.shape(x)
        if got[len(got) - 3 :] != (n, 3, 4):
            raise ValueError(f"frames({n}): points have shape [..., {n}, 3, 4], got {list(got)}")
        parts.check(_split(x))

    return in_coordinates(parts, f"frames({n})", (n, 3, 4), _split, _join, check)


def frame_prior(n: int, scale: float = 1.0) -> Distribution:
    """The prior of frames: uniform rotations, and independent normal positions minus their mean.

    Args:
        n: number of residues, >= 2.
        scale: standard deviation of positions, > 0, in the unit of the positions.

    Raises:
        ValueError: if n < 2 or scale is not positive.
    """
    if not traced(scale) and not scale > 0:
        raise ValueError(f"frame_prior: scale = {scale} must be positive")
    rotations, positions = power(so3(), n), centred(n)
    origin = jnp.zeros((n, 3))
    uniform = rotations.uniform
    assert uniform is not None, "rotations have a finite volume"

    def draw(key: Array) -> Array:
        rotation_key, position_key = jax.random.split(key)
        x = scale * positions.tangent_normal(position_key, origin)
        return _join((uniform(rotation_key, ()), x))

    def log_density(x: Array) -> Array:
        return positions.wrapped_log_density(origin, scale, x[..., 3]) - n * math.log(8 * math.pi**2)

    return Distribution(jax.vmap(draw), log_density)


def aligned_frames() -> Coupling:
    """Each example keeps its noise, which is rotated as a whole so that its positions are nearest to the data's.

        (R_i, p_i) -> (Q R_i, Q p_i),    Q = argmin sum_i |x_i - Q p_i|^2 over rotations Q

    The prior is invariant under rotations, so the rotated noise is equally likely, and an equivariant network learns
    straighter paths. The noise is no longer independent of the data.

    Reference: Yim et al., "Fast protein backbone generation with SE(3) flow matching", 2023.
    """
    return Coupling(lambda keys, x0, eps: aligned(x0, eps), condition="ignored")


def aligned(targets: Array, frames: Array) -> Array:
    """Frames `[B, n, 3, 4]`, rotated as a whole in each example so that positions are nearest to the targets'."""

    def align(x: Array, e: Array) -> Array:
        q = turn(x[..., 3], e[..., 3]).T
        return jnp.einsum("ij,njk->nik", q, e, precision=jax.lax.Precision.HIGHEST)

    return jax.vmap(align)(targets, frames)


def _split(x: Array) -> tuple[Array, Array]:
    return x[..., :3], x[..., 3]


def _join(parts: tuple[Array, Array]) -> Array:
    return jnp.concatenate([parts[0], parts[1][..., None]], -1)
