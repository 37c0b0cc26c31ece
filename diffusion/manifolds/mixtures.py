"""Mixtures with exact densities, as targets: von Mises-Fisher on the sphere, and heat kernels.

Under Brownian motion, a mixture of heat kernels remains a mixture of heat kernels, so the whole process is known:
`exact_field` is the optimum of `riemannian_score_matching` for it.
"""

__all__ = ["diffused", "exact_field", "mixture", "von_mises_fisher"]

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.parameters import functions_of, traced
from diffusion.flows.flow_maps import TangentField
from diffusion.manifolds.distributions import Distribution
from diffusion.manifolds.heat_kernels import HeatKernel
from diffusion.manifolds.manifold import scaled
from diffusion.manifolds.sphere import sphere
from diffusion.package import public
from diffusion.schedules import NoiseSchedule
from diffusion.schedules.noise_schedule import as_float


def von_mises_fisher(mean: ArrayLike, concentration: float) -> Distribution:
    """The density kappa / (2 pi (1 - exp(-2 kappa))) exp(kappa (mean . x - 1)) on S^2.

    Fisher 1953, "Dispersion on a Sphere". Draws invert the distribution function of mean . x.

    Args:
        mean: unit vector `[3]`.
        concentration: concentration kappa, > 0.

    Raises:
        ValueError: if concentration is not positive, or mean is not a unit vector.
    """
    if not traced(concentration) and not concentration > 0:
        raise ValueError(
            f"von_mises_fisher: concentration = {concentration} must be positive; for concentration 0 use `uniform`"
        )
    mean = as_float(mean)
    surface = sphere(2)
    surface.check(mean)
    functions = functions_of(concentration)
    rest = -functions.expm1(-2 * concentration)

    def draw(key):
        height_key, direction_key = jax.random.split(key)
        uniform = jax.random.uniform(height_key)
        below = -jnp.log1p(-uniform * rest) / concentration  # 1 - mean . x = 2 sin^2(angle / 2)
        angle = 2 * jnp.arcsin(jnp.sqrt(jnp.minimum(below / 2, 1)))
        across = surface.tangent_normal(direction_key, mean)
        return surface.exp(mean, angle * across / jnp.linalg.norm(across))

    def log_density(x):
        # mean . x - 1 = -|x - mean|^2 / 2, without cancellation
        return -concentration * jnp.sum(jnp.square(x - mean.astype(x.dtype)), -1) / 2 + functions.log(
            concentration / (2 * math.pi * rest)
        )

    return Distribution(jax.vmap(draw), log_density)


def diffused(kernel: HeatKernel, mean: ArrayLike, variance: float) -> Distribution:
    """The heat kernel K_v(mean, .) as a distribution: a wrapped normal on the torus, IGSO(3) on SO(3).

    Args:
        kernel: the heat kernel, such as `heat_kernels.so3()`.
        mean: start of the Brownian motion, `[*shape]`.
        variance: variance v, > 0.

    Raises:
        ValueError: if variance is not positive, or mean is off the manifold.
    """
    if not traced(variance) and not variance > 0:
        raise ValueError(f"diffused: variance = {variance} must be positive")
    mean = as_float(mean)
    kernel.manifold.check(mean)

    def log_density(x):
        at = jnp.broadcast_to(mean.astype(x.dtype), x.shape)
        return kernel.log_density(at, x, jnp.full(x.shape[: x.ndim - mean.ndim], variance, x.dtype))

    return Distribution(jax.vmap(lambda key: kernel.sample(key, mean, variance)), log_density)


def mixture(components: Sequence[Distribution], weights: Sequence[float]) -> Distribution:
    """The mixture p(x) = sum_k w_k p_k(x).

    Args:
        components: the distributions p_k, at least one, all on one manifold.
        weights: weights w_k > 0, one for each component, which are divided by their sum.

    Raises:
        ValueError: if there is not one positive weight for each component.
    """
    log_weights = _log_weights(weights, len(components))

    def draw(key):
        choice_key, point_key = jax.random.split(key)
        points = jnp.stack([component.sample(point_key[None])[0] for component in components])
        return points[jax.random.categorical(choice_key, jnp.asarray(log_weights, jnp.float32))]

    def log_density(x):
        terms = [component.log_density(x) + weight for component, weight in zip(components, log_weights)]
        return jax.nn.logsumexp(jnp.stack(terms), axis=0)

    return Distribution(jax.vmap(draw), log_density)


def exact_field(
    kernel: HeatKernel,
    means: Sequence[Array],
    variances: Sequence[float],
    weights: Sequence[float],
    schedule: NoiseSchedule,
) -> TangentField:
    """The score and the flow of a mixture of heat kernels under Brownian motion with variance sigma(t)^2.

        p_t(x) = sum_k w_k K_(v_k + sigma(t)^2)(mean_k, x),    dx/dt = -g(t)^2 / 2 grad log p_t(x)

    Args:
        kernel: an exact heat kernel, such as `heat_kernels.torus(2)`.
        means: the means of the components, `[*shape]` each.
        variances: the variances v_k > 0.
        weights: the weights w_k > 0, which are divided by their sum.
        schedule: a schedule with alpha = 1, such as `schedules.variance_exploding()`.
    """
    log_weights = _log_weights(weights, len(means))

    def score(x, t):
        added = jnp.broadcast_to(schedule.sigma(t) ** 2, x.shape[:1])
        at = [jnp.broadcast_to(jnp.asarray(mean, x.dtype), x.shape) for mean in means]
        logs = [kernel.log_density(mean, x, v + added) + w for mean, v, w in zip(at, variances, log_weights)]
        shares = jax.nn.softmax(jnp.stack(logs), axis=0)
        return sum(scaled(share, kernel.score(mean, x, v + added)) for share, mean, v in zip(shares, at, variances))

    velocity = lambda x, t: scaled(-(schedule.diffusion(t) ** 2) / 2, score(x, t))
    return TangentField(kernel.manifold, velocity, score)


def _log_weights(weights: Sequence[float], number: int) -> list[float]:
    shares = np.asarray(weights, np.float64)
    if shares.shape != (number,) or not np.all(shares > 0):
        raise ValueError(f"a mixture of {number} components needs {number} positive weights; got {weights}")
    return np.log(shares / shares.sum()).tolist()


public.declare(__name__)
