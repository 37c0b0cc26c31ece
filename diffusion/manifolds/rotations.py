"""Rotations in three dimensions, and rigid motions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.arrays.arguments import require_shape
from diffusion.arrays.matrices import matmul
from diffusion.manifolds import smooth, wrapped
from diffusion.manifolds.euclidean import euclidean
from diffusion.manifolds.manifold import Manifold, checked, for_batch
from diffusion.manifolds.product_spaces import product


def so3() -> Manifold:
    """SO(3) as matrices, with the rotation angle as distance: exp(R, R hat(w)) = R e^hat(w), by Rodrigues' formula.

    Facts:
        points: orthogonal matrices `[3, 3]` of determinant 1
        metric: tr(U^T V) / 2
        cut_locus: rotations that differ from R by the angle pi
        paper: Leach et al. 2022, "Denoising Diffusion Probabilistic Models on SO(3) for Rotational Alignment"; Yim et
            al. 2023, "SE(3) diffusion model with application to protein backbone generation"

    A rotation by pi has two shortest geodesics, with the axes u and -u; log chooses the axis whose largest component is
    positive.

    `project` uses the quaternion of the matrix, which gives a near rotation, but not the nearest.
    """
    body = lambda x, v: _vee(matmul(x.mT, v))
    vector = lambda x, y: to_rotation_vector(matmul(x.mT, y))

    def exp(x, v):
        y = matmul(x, from_rotation_vector(body(x, v)))
        # One Newton step towards the orthogonal factor, so that rounding errors do not accumulate over many steps.
        return 1.5 * y - 0.5 * matmul(y, matmul(y.mT, y))

    def distance(x, y):
        return smooth.length(vector(x, y))

    def tangent(x, v):
        return matmul(x, hat(body(x, v)))

    def transport(x, y, v):
        # Half of the rotation, backwards: in the frame that rotates with the geodesic, dw/dt = -[W, w] / 2.
        half = from_rotation_vector(-vector(x, y) / 2)
        return matmul(y, hat(jnp.sum(half * body(x, v)[..., None, :], -1)))

    def basis(x):
        return matmul(x[..., None, :, :], hat(jnp.eye(3, dtype=jnp.result_type(x))))

    def log_volume_change(x, v):
        return 2 * jnp.log(jnp.abs(smooth.sine_ratio(inner(x, v, v) / 4)))

    def inner(x, u, v):
        return for_batch(jnp.sum(u * v, (-2, -1)) / 2, x, (3, 3))

    def wrapped_log_density(mean, scale, x):
        return wrapped.closed(distance(mean, x), scale, 3, lambda s: smooth.sine_ratio(s / 4), 2)

    def off(x):
        gram = np.swapaxes(x, -1, -2) @ x
        return np.maximum(np.abs(gram - np.eye(3)).max((-2, -1)), np.abs(np.linalg.det(x) - 1))

    return Manifold(
        name="so3",
        shape=(3, 3),
        dimension=3,
        exp=exp,
        log=lambda x, y: matmul(x, hat(vector(x, y))),
        distance=distance,
        inner=inner,
        project=lambda x: from_quaternion(to_quaternion(x)),
        tangent=tangent,
        lift=tangent,
        basis=basis,
        transport=transport,
        log_volume_change=log_volume_change,
        tangent_normal=lambda key, x: matmul(x, hat(jax.random.normal(key, x.shape[:-1], jnp.result_type(x)))),
        wrapped_log_density=wrapped_log_density,
        cut_distance=lambda x, y: math.pi - distance(x, y),
        log_volume=math.log(8 * math.pi**2),
        uniform=lambda key, shape: from_quaternion(jax.random.normal(key, (*shape, 4))),
        injectivity_radius=math.pi,
        check=checked("so3", (3, 3), "points are orthogonal matrices of determinant 1", off),
    )


def se3() -> Manifold:
    """SE(3) as the product SO(3) x R^3, whose geodesics move the rotation and the translation independently.

    Facts:
        points: tuples of a rotation `[3, 3]` and a translation `[3]`
        metric: the sum of both, the convention of FrameDiff and FrameFlow; not that of screw motions
        cut_locus: rotations that differ from R by the angle pi
        paper: Yim et al. 2023, "SE(3) diffusion model with application to protein backbone generation"; Yim et al.
            2023, "Fast protein backbone generation with SE(3) flow matching"

    The frames of n residues are `power(se3(), n)`.
    """
    return product(so3(), euclidean(3))._replace(name="se3")


def from_rotation_vector(w: Array) -> Array:
    """The rotation `[..., 3, 3]` by |w| radians about w, by Rodrigues' formula 1 + sin|w| K + (1 - cos|w|) K^2.

    Args:
        w: vectors `[..., 3]`.
    """
    squared = jnp.sum(w * w, -1)[..., None, None]
    k = hat(w)
    eye = jnp.eye(3, dtype=jnp.result_type(w))
    return eye + smooth.sine_ratio(squared) * k + smooth.versine_ratio(squared) * matmul(k, k)


def to_rotation_vector(r: Array) -> Array:
    """The rotation vector `[..., 3]`, the axis times the angle in [0, pi].

    Args:
        r: rotations `[..., 3, 3]`.
    """
    q = to_quaternion(r)
    w, v = q[..., :1], q[..., 1:]
    small = w > 0.5
    near = (
        2
        / jnp.where(small, w, 1)
        * smooth.arctan_ratio(jnp.sum(v * v, -1, keepdims=True) / jnp.where(small, w, 1) ** 2)
    )
    sine = jnp.where(small, 1, smooth.length(v)[..., None])
    far = (math.pi - 2 * jnp.arctan(w / sine)) / sine
    return jnp.where(small, near, far) * v


def to_quaternion(r: Array) -> Array:
    """The unit quaternion `[..., 4]` (w, x, y, z) with w >= 0, computed from its largest component for accuracy.

    Markley 2008, "Unit Quaternion from Rotation Matrix".

    Args:
        r: rotations `[..., 3, 3]`.
    """
    require_shape(r, (*r.shape[:-2], 3, 3), "rotations, matrices,")
    entry = lambda i, j: r[..., i, j]
    x, y, z = entry(0, 0), entry(1, 1), entry(2, 2)
    wx, wy, wz = entry(2, 1) - entry(1, 2), entry(0, 2) - entry(2, 0), entry(1, 0) - entry(0, 1)
    xy, xz, yz = entry(1, 0) + entry(0, 1), entry(2, 0) + entry(0, 2), entry(2, 1) + entry(1, 2)
    # 4 q_i q for each i
    rows = [
        jnp.stack([1 + x + y + z, wx, wy, wz], -1),
        jnp.stack([wx, 1 + x - y - z, xy, xz], -1),
        jnp.stack([wy, xy, 1 - x + y - z, yz], -1),
        jnp.stack([wz, xz, yz, 1 - x - y + z], -1),
    ]
    largest = jnp.argmax(jnp.stack([rows[i][..., i] for i in range(4)], -1), -1)
    q = jnp.take_along_axis(jnp.stack(rows, -2), largest[..., None, None], -2)[..., 0, :]
    q = q / jnp.sqrt(jnp.sum(q * q, -1, keepdims=True))
    return jnp.where(q[..., :1] < 0, -q, q)


def from_quaternion(q: Array) -> Array:
    """The rotation `[..., 3, 3]` of a nonzero quaternion.

    Args:
        q: quaternions (w, x, y, z) `[..., 4]`, which need not have norm 1.
    """
    require_shape(q, (*q.shape[:-1], 4), "quaternions (w, x, y, z)")
    w, v = q[..., :1, None], q[..., 1:]
    k = hat(v)
    eye = jnp.eye(3, dtype=jnp.result_type(q))
    return eye + 2 * (w * k + matmul(k, k)) / jnp.sum(q * q, -1)[..., None, None]


def hat(w: Array) -> Array:
    """The matrix `[..., 3, 3]` of the cross product with w: hat(w) v = w x v.

    Args:
        w: vectors `[..., 3]`.
    """
    require_shape(w, (*w.shape[:-1], 3), "vectors of three numbers")
    x, y, z = w[..., 0], w[..., 1], w[..., 2]
    zero = jnp.zeros_like(x)
    rows = [jnp.stack(row, -1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
    return jnp.stack(rows, -2)


def _vee(a: Array) -> Array:
    """The vector w with hat(w) equal to the antisymmetric part of a matrix."""
    skew = (a - a.mT) / 2
    return jnp.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], -1)
