"""Heat kernels: the densities of Brownian motion on a manifold, with their scores and exact draws.

Brownian motion that starts at x has, at variance v, the density K_v(x, y) with

    dK / dv = Delta K / 2,

with respect to the manifold's volume; in flat space it is N(y; x, v I). Each kernel has a series of eigenfunctions,
which converges fast for large v, and an expansion for small v; both are accurate where they meet.
"""

__all__ = ["HeatKernel", "so3", "sphere", "torus", "varadhan"]

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.manifolds.manifold import Manifold, norm, scaled
from diffusion.manifolds.rotations import so3 as so3_of
from diffusion.manifolds.sphere import sphere as sphere_of
from diffusion.manifolds.spherical_heat import log_heat
from diffusion.manifolds.torus import torus as torus_of
from diffusion.package import public
from diffusion.schedules import left_broadcast

ANGLES = 2048  # number of entries in the table for drawing the distance from the start
MOST = 5  # largest dimension of a sphere for which both forms are implemented
NEAR = 1e-2  # below this distance log K is a parabola up to float32 rounding


class HeatKernel(NamedTuple):
    """Density, score and draws of Brownian motion on a manifold.

    Attributes:
        manifold: the manifold of the motion.
        log_density: (x `[..., *shape]`, y `[..., *shape]`, v `[...]`) -> log K_v(x, y) `[...]`, in nats.
        score: (x, y, v) -> the gradient of log K_v(x, y) in y, a tangent vector at y `[..., *shape]`.
        sample: (key, x `[*shape]`, v `[]`) -> a draw of K_v(x, .).
    """

    manifold: Manifold
    log_density: Callable[[Array, Array, ArrayLike], Array]
    score: Callable[[Array, Array, ArrayLike], Array]
    sample: Callable[[Array, Array, ArrayLike], Array]


def sphere(dimension: int = 2) -> HeatKernel:
    """The heat kernel of the unit sphere S^n, as a series of zonal harmonics.

        K_v(theta) = sum_l exp(-l (l + n - 1) v / 2) (2 l + n - 1) / (n - 1) C_l(cos theta) / vol(S^n)

    with the Gegenbauer polynomials C_l of index (n - 1) / 2, which are the Legendre polynomials on S^2. For v <= 1 an
    equivalent sum over the geodesics that wind around the sphere is used, see `spherical_heat`. In float32 the errors
    of the logarithm and its slope are at most 2e-6 and 5e-4, also at the antipode, the cut locus. The logarithm of
    S^5 has errors up to 5e-5 below a distance of 0.005 for v in 0.7 .. 1.

    Facts:
        series: zonal harmonics; images for v <= 1
        paper: De Bortoli et al. 2022, "Riemannian Score-Based Generative Modelling"; Camporesi 1990, "Harmonic analysis
            and propagators on homogeneous spaces"

    Args:
        dimension: dimension n, in 2 .. 5; for the circle use `torus(1)`.

    Raises:
        ValueError: if dimension is not in 2 .. 5.
    """
    if not 2 <= dimension <= MOST:
        raise ValueError(
            f"heat_kernels.sphere: dimension = {dimension} must be in 2 ... {MOST}. For the circle use torus(1); "
            "varadhan(manifold) is an approximation in any dimension"
        )
    log_area = lambda theta: (dimension - 1) * jnp.log(jnp.maximum(jnp.sin(theta), 1e-9))
    return _isotropic(sphere_of(dimension), math.pi, log_heat(dimension), log_area, ANGLES // 4)


def so3() -> HeatKernel:
    """The heat kernel of rotations, IGSO(3), as a function of the angle omega between two rotations.

        K_v(omega) = sum_l (2 l + 1) exp(-l (l + 1) v / 2) sin((l + 1/2) omega) / sin(omega / 2) / (8 pi^2)

    and, by Poisson summation, equivalently

        (2 pi v)^(-3/2) exp(v / 8) sum_k (-1)^k (omega / 2 + pi k) / sin(omega / 2) exp(-(omega + 2 pi k)^2 / (2 v)),

    which is used for v < 1. In the papers' notation v = 2 epsilon^2.

    Facts:
        series: characters; images for v < 1
        paper: Nikolayev and Savyolova 1997, "Normal distribution on the rotation group SO(3)"; Leach et al. 2022,
            "Denoising Diffusion Probabilistic Models on SO(3) for Rotational Alignment"; Yim et al. 2023, "SE(3)
            diffusion model with application to protein backbone generation"
    """
    volume = 8 * math.pi**2

    def series(omega, v):
        half = jnp.maximum(omega, NEAR / 2)[..., None] / 2
        l = jnp.arange(12, dtype=half.dtype)
        decay = (2 * l + 1) * jnp.exp(-l * (l + 1) * v[..., None] / 2)
        total = jnp.sum(decay * jnp.sin((2 * l + 1) * half) / jnp.sin(half), axis=-1)
        return jnp.log(jnp.maximum(total, 1e-30)) - math.log(volume)

    def images(omega, v):
        away = jnp.maximum(omega, NEAR / 2)  # below the arguments from `score`: a tie halves the derivative
        k = jnp.array([-1, 1], omega.dtype)  # for v < 1 further terms are below 4e-17 of the sum
        winding = 2 * math.pi * k
        shrink = jnp.exp(-winding * (winding + 2 * away[..., None]) / (2 * v[..., None]))
        # Relative to the term of k = 0.
        total = 1 + jnp.sum(jnp.cos(math.pi * k) * (1 + winding / away[..., None]) * shrink, axis=-1)
        spread = jnp.log(away / (2 * jnp.sin(away / 2)))
        gauss = -1.5 * jnp.log(2 * math.pi * v) + v / 8 - omega**2 / (2 * v)
        return gauss + spread + jnp.log(jnp.maximum(total, 1e-30))

    def log_radial(omega, v):
        short = v < 1
        return jnp.where(short, images(omega, jnp.minimum(v, 1.0)), series(omega, jnp.maximum(v, 1.0)))

    log_area = lambda omega: math.log(4) + 2 * jnp.log(jnp.maximum(jnp.sin(omega / 2), 1e-9))
    return _isotropic(so3_of(), math.pi, log_radial, log_area)


def torus(dimension: int = 2) -> HeatKernel:
    """The heat kernel of the flat torus of angles: a wrapped normal distribution for each angle.

        K_v(delta) = prod_i sum_k N(delta_i + 2 pi k; 0, v)
                   = prod_i (1 + 2 sum_l exp(-l^2 v / 2) cos(l delta_i)) / (2 pi)

    The first sum is used for v < 3, and the second, a theta series, for v >= 3.

    Facts:
        series: waves; images for v < 3
        paper: Jing et al. 2022, "Torsional Diffusion for Molecular Conformer Generation"

    Args:
        dimension: number of angles, >= 1.

    Raises:
        ValueError: if dimension is below 1.
    """
    manifold = torus_of(dimension)

    def log_angle(delta, v):
        short = v < 3
        near, wide = jnp.minimum(v, 3.0)[..., None], jnp.maximum(v, 3.0)[..., None]
        turns = 2 * math.pi * jnp.arange(-3, 4, dtype=delta.dtype)
        wrapped = jax.nn.logsumexp(-jnp.square(delta[..., None] + turns) / (2 * near), axis=-1)
        l = jnp.arange(1, 6, dtype=delta.dtype)
        waves = jnp.sum(2 * jnp.exp(-jnp.square(l) * wide / 2) * jnp.cos(l * delta[..., None]), axis=-1)
        wrapped -= 0.5 * jnp.log(2 * math.pi * near[..., 0])
        return jnp.where(short, wrapped, jnp.log1p(waves) - math.log(2 * math.pi))

    def log_density(x, y, v):
        delta = manifold.log(x, y)
        return log_angle(delta, _like(v, delta)).sum(-1)

    def score(x, y, v):
        delta = manifold.log(x, y)
        return _slope(log_angle, delta, _like(v, delta))

    def sample(key, x, v):
        return manifold.exp(x, jnp.sqrt(jnp.asarray(v, x.dtype)) * jax.random.normal(key, x.shape, x.dtype))

    return HeatKernel(manifold, log_density, score, sample)


def varadhan(manifold: Manifold, steps: int = 20) -> HeatKernel:
    """Varadhan's approximation for any manifold, exact as v -> 0 and in flat space.

        log K_v(x, y) = -d(x, y)^2 / (2 v) - n log(2 pi v) / 2,    its gradient log_y(x) / v

    Draws are the ends of a geodesic random walk of `steps` steps with variance v / steps each.

    Facts:
        series: the first term as v -> 0
        paper: Varadhan 1967, "On the behavior of the fundamental solution of the heat equation"; De Bortoli et al.
            2022, "Riemannian Score-Based Generative Modelling"

    Args:
        manifold: any manifold.
        steps: number of steps of the random walk for draws, >= 1.

    Raises:
        ValueError: if steps is below 1.
    """
    if steps < 1:
        raise ValueError(f"varadhan: steps = {steps} must be at least 1")
    n = manifold.dimension

    def log_density(x, y, v):
        return -(manifold.distance(x, y) ** 2) / (2 * v) - n / 2 * jnp.log(2 * math.pi * jnp.asarray(v))

    def score(x, y, v):
        return scaled(1 / jnp.asarray(v), manifold.log(y, x))

    def sample(key, x, v):
        def walk(x, key):
            return manifold.exp(x, scaled(jnp.sqrt(v / steps), manifold.tangent_normal(key, x))), None

        return jax.lax.scan(walk, x, jax.random.split(key, steps))[0]

    return HeatKernel(manifold, log_density, score, sample)


def _isotropic(
    manifold: Manifold,
    reach: float,
    log_radial: Callable[[Array, Array], Array],
    log_area: Callable[[Array], Array],
    angles: int = ANGLES,
) -> HeatKernel:
    """A heat kernel whose density depends only on the distance.

    Args:
        manifold: an isotropic manifold.
        reach: largest distance between two points.
        log_radial: (distance, v) -> log K.
        log_area: distance -> log area of the sphere with this radius, up to a constant.
        angles: number of entries in the table for drawing the distance.
    """

    def log_density(x, y, v):
        distance = manifold.distance(x, y)
        return log_radial(distance, _like(v, distance))

    def score(x, y, v):
        toward = manifold.log(y, x)
        away = jnp.clip(norm(manifold, y, toward), NEAR, reach)
        return scaled(-_slope(log_radial, away, _like(v, away)) / away, toward)

    def sample(key, x, v):
        distance_key, direction_key = jax.random.split(key)
        v = jnp.asarray(v, x.dtype)
        # The largest distance that a normal distribution in this dimension reaches.
        width = jnp.minimum(reach, jnp.sqrt(v) * (6 + math.sqrt(manifold.dimension)))
        distances = jnp.linspace(0, 1, angles, dtype=x.dtype) * width
        log_density = log_radial(distances, _like(v, distances))
        density = jnp.exp(log_density - log_density[0] + log_area(distances))
        below = jnp.concatenate([jnp.zeros(1, x.dtype), jnp.cumsum((density[1:] + density[:-1]) / 2)])
        distance = jnp.interp(jax.random.uniform(distance_key, (), x.dtype) * below[-1], below, distances)
        direction = manifold.tangent_normal(direction_key, x)
        return manifold.exp(x, distance / norm(manifold, x, direction) * direction)

    return HeatKernel(manifold, log_density, score, sample)


def _like(v: ArrayLike, x: Array) -> Array:
    """v `[...]`, whose shape is a prefix of x's, broadcast to x's shape and dtype."""
    return jnp.broadcast_to(left_broadcast(jnp.asarray(v, x.dtype), x), x.shape)


def _slope(log_density: Callable[[Array, Array], Array], x: Array, v: Array) -> Array:
    """The elementwise derivative in x of a function of numbers."""
    return jax.jvp(lambda x: log_density(x, v), (x,), (jnp.ones_like(x),))[1]


public.declare(__name__)
