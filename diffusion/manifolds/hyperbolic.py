"""Hyperbolic space of curvature -1, in the coordinates of the Poincare ball and of the Lorentz model."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from diffusion.arrays.arguments import is_count
from diffusion.arrays.square_roots import root
from diffusion.manifolds import smooth, wrapped
from diffusion.manifolds.manifold import Manifold, checked, for_batch, for_batches, identity_basis


def poincare(n: int) -> Manifold:
    """H^n as the open unit ball: exp(x, v) = x (+) tanh(|v|_x / 2) v / |v|, with the Moebius addition (+).

    Facts:
        points: vectors `[n]` of length below 1
        metric: (2 / (1 - |x|^2))^2 times the Euclidean one
        cut_locus: none
        paper: Ganea, Becigneul and Hofmann 2018, "Hyperbolic Neural Networks"; Mathieu and Nickel 2020, "Riemannian
            Continuous Normalizing Flows"

    At distance r from the origin, 1 - |x|^2 is about 4 e^-r. Float32 has about 7 digits, so the relative error of
    1 - |x|^2 grows as e^r.

    Args:
        n: dimension, >= 1.

    Raises:
        ValueError: if n < 1.
    """
    name = f"poincare({_positive('poincare', n)})"
    gap = lambda x: 1 - _dot(x, x)
    lift = lambda x, w: gap(x) / 2 * w

    def inner(x, u, v):
        return (4 / jnp.square(gap(x)) * _dot(u, v))[..., 0]

    def exp(x, v):
        # tanh(r / 2) / r, r = |v|_x
        z = v / gap(x) * smooth.tanh_ratio(inner(x, v, v)[..., None] / 4)
        xz, zz = _dot(x, z), _dot(z, z)
        return project(((1 + 2 * xz + zz) * x + gap(x) * z) / (1 + 2 * xz + _dot(x, x) * zz))

    def log(x, y):
        # m = -x (+) y, in terms of y - x, which is exact for near points
        d = y - x
        squared = _dot(d, d)
        m = (gap(x) * d - squared * x) / (squared + gap(x) * gap(y))
        near = _dot(m, m) < 0.25
        ratio = smooth.arctan_ratio(-jnp.where(near, _dot(m, m), 0))
        far = distance(x, y)[..., None] / (2 * jnp.where(near, 1, smooth.length(m)[..., None]))
        return gap(x) * jnp.where(near, ratio, far) * m

    def distance(x, y):
        return 2 * jnp.arcsinh(smooth.length(y - x) / jnp.sqrt(gap(x) * gap(y))[..., 0])

    def project(x):
        size = smooth.length(x)[..., None]
        largest = 1 - 16 * jnp.finfo(jnp.result_type(x)).eps
        return jnp.where(size > largest, x * (largest / jnp.where(size > largest, size, 1)), x)

    def transport(x, y, v):
        # gyr[y, -x] v, Ungar's gyration
        xy, xv, yv, xx, yy = -_dot(x, y), -_dot(x, v), _dot(y, v), _dot(x, x), _dot(y, y)
        along_y = -yv * xx + xv + 2 * xy * xv
        along_x = xv * yy + yv
        turned = v + 2 * (along_y * y + along_x * x) / (1 + 2 * xy + xx * yy)
        return gap(y) / gap(x) * turned

    def log_volume_change(x, v):
        return (n - 1) * smooth.log_sinh_ratio(inner(x, v, v))

    def wrapped_log_density(mean, scale, x):
        if not isinstance(mean, Tracer) and not isinstance(scale, Tracer):
            _require_room(name, n, mean, scale)
        return density(mean, scale, x)

    density = wrapped.open_(log, inner, log_volume_change, n)
    outside = lambda size: np.where(size < 1, 0, np.maximum(size - 1, 1e-12))
    return Manifold(
        name=name,
        shape=(n,),
        dimension=n,
        exp=exp,
        log=log,
        distance=distance,
        inner=inner,
        project=project,
        tangent=lambda x, v: for_batches(v, x),
        lift=lift,
        basis=lambda x: gap(x)[..., None] / 2 * identity_basis(x, (n,)),
        transport=transport,
        log_volume_change=log_volume_change,
        tangent_normal=lambda key, x: lift(x, jax.random.normal(key, x.shape, jnp.result_type(x))),
        wrapped_log_density=wrapped_log_density,
        cut_distance=lambda x, y: jnp.full_like(distance(x, y), jnp.inf),
        check=checked(
            name, (n,), "points are shorter than 1", lambda x: outside(np.linalg.norm(x, axis=-1)) + 0 * x[..., 0], 0.0
        ),
    )


def lorentz(n: int) -> Manifold:
    """H^n as a sheet of the hyperboloid <x, x> = -1 of Minkowski space: exp(x, v) = cosh|v| x + sinh|v| v / |v|.

    Facts:
        points: vectors `[n + 1]` with x_0 = (1 + x_1^2 + ... + x_n^2)^(1/2)
        metric: <u, v> = -u_0 v_0 + u_1 v_1 + ... + u_n v_n
        cut_locus: none
        paper: Nickel and Kiela 2018, "Learning Continuous Hierarchies in the Lorentz Model of Hyperbolic Geometry";
            Nagano et al. 2019, "A Wrapped Normal Distribution on Hyperbolic Space"

    Coordinates and their rounding errors grow as e^r with the distance r from (1, 0, ..., 0).

    Args:
        n: dimension, >= 1.

    Raises:
        ValueError: if n < 1.
    """
    name = f"lorentz({_positive('lorentz', n)})"

    def project(x):
        space = x[..., 1:]
        return jnp.concatenate([jnp.sqrt(1 + _dot(space, space)), space], -1)

    def chord(x, y):
        # y - x, where the difference of the first coordinates follows from the others
        d = (y - x)[..., 1:]
        rise = _dot(d, (x + y)[..., 1:]) / (x + y)[..., :1]
        return jnp.concatenate([rise, d], -1)

    def exp(x, v):
        squared = _minkowski(v, v)
        return project(smooth.cosine(-squared) * x + smooth.sine_ratio(-squared) * v)

    def log(x, y):
        # r / sinh(r) with |chord| = 2 sinh(r / 2)
        d = chord(x, y)
        squared = jnp.maximum(_minkowski(d, d), 0)
        near = squared < 1
        small, large = jnp.where(near, squared, 0), jnp.where(near, 1, squared)
        ratio = 4 / (4 + small) * smooth.arctan_ratio(-small / (4 + small))
        far = distance(x, y)[..., None] / jnp.sqrt(large * (1 + large / 4))
        return tangent(x, jnp.where(near, ratio, far) * tangent(x, d))

    def distance(x, y):
        d = chord(x, y)
        return 2 * jnp.arcsinh(root(_minkowski(d, d)[..., 0]) / 2)

    def tangent(x, v):
        return v + _minkowski(x, v) * x

    def from_origin(x, v):
        """Transports v in R^n, a tangent vector at (1, 0, ..., 0), to x."""
        start = jnp.concatenate([jnp.zeros_like(v[..., :1]), v], -1)
        first = jnp.zeros(n + 1, jnp.result_type(x)).at[0].set(1)
        return start + _dot(x[..., 1:], v) / (1 + x[..., :1]) * (first + x)

    def transport(x, y, v):
        return v + _minkowski(y, v) / (1 - _minkowski(x, y)) * (x + y)

    def inner(x, u, v):
        return for_batch(_minkowski(u, v)[..., 0], x, (n + 1,))

    def log_volume_change(x, v):
        return (n - 1) * smooth.log_sinh_ratio(inner(x, v, v))

    def tangent_normal(key, x):
        return from_origin(x, jax.random.normal(key, (*x.shape[:-1], n), jnp.result_type(x)))

    def off(x):
        return np.abs(x[..., 0] - np.sqrt(1 + (x[..., 1:] ** 2).sum(-1))) / np.maximum(np.abs(x[..., 0]), 1)

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
        lift=lambda x, w: from_origin(x, w[..., 1:]),
        basis=lambda x: from_origin(x[..., None, :], identity_basis(x[..., 1:], (n,))),
        transport=transport,
        log_volume_change=log_volume_change,
        tangent_normal=tangent_normal,
        wrapped_log_density=wrapped.open_(log, inner, log_volume_change, n),
        cut_distance=lambda x, y: jnp.full_like(distance(x, y), jnp.inf),
        check=checked(name, (n + 1,), "x_0 is (1 + x_1^2 + ... + x_n^2)^(1/2)", off),
    )


def poincare_to_lorentz(x: Array) -> Array:
    """The isometry from the unit ball to the Lorentz model `[..., n + 1]`: (1 + |x|^2, 2 x) / (1 - |x|^2).

    Args:
        x: points `[..., n]` in the unit ball.
    """
    squared = _dot(x, x)
    return jnp.concatenate([1 + squared, 2 * x], -1) / (1 - squared)


def lorentz_to_poincare(x: Array) -> Array:
    """The isometry from the Lorentz model to the unit ball `[..., n]`: (x_1, ..., x_n) / (1 + x_0).

    Args:
        x: points `[..., n + 1]` on the hyperboloid.
    """
    return x[..., 1:] / (1 + x[..., :1])


def _require_room(name: str, n: int, mean: Array, scale: ArrayLike) -> None:
    """Refuses a wrapped normal whose draws would lie too near the edge of the ball for the number type.

    Raises:
        ValueError: if the draws reach too far; the message has the scale and the largest distance from the origin.
    """
    room = math.log(2 / (16 * float(jnp.finfo(jnp.result_type(mean)).eps)))
    means = np.asarray(mean, np.float64)
    before = 2 * np.arctanh(np.minimum(np.linalg.norm(means, axis=-1), 1 - 1e-16))
    reach = before + np.asarray(scale, np.float64) * (math.sqrt(n) + 5)  # the norm of n normal numbers
    if np.max(reach, initial=0) > room:
        raise ValueError(
            f"{name}: draws of scale = {np.max(scale):g} reach {np.max(reach):.3g} from the origin, but this number "
            f"type can represent distances only up to {room:.3g}. Valid: a smaller scale, float64, or lorentz({n})"
        )


def _positive(name: str, n: int) -> int:
    if not is_count(n):
        raise ValueError(f"{name}: n = {n} must be positive and an integer")
    return n


def _dot(u, v):
    return jnp.sum(u * v, -1, keepdims=True)


def _minkowski(u, v):
    return _dot(u[..., 1:], v[..., 1:]) - u[..., :1] * v[..., :1]
