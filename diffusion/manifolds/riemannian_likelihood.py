"""The log-likelihood under a flow on a manifold, with respect to the volume of the metric."""

__all__ = ["RiemannianDivergence", "exact_divergence", "hutchinson_divergence", "riemannian_log_likelihood"]

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.arguments import require_shape
from diffusion.arrays.promotion import promoted
from diffusion.flows.flow_maps import TangentField
from diffusion.flows.likelihood import Likelihood
from diffusion.manifolds.geodesic_solvers import RK4, carried
from diffusion.manifolds.manifold import Manifold
from diffusion.package import public

RiemannianDivergence = Callable[[Manifold, Callable[[Any], Any], Any], tuple[Any, Array]]
"""(manifold, x -> tangent vector at x, x `[B, *shape]`) -> (tangent vectors at x, divergence `[B]`)."""


def riemannian_log_likelihood(
    field: TangentField,
    x: Array,
    times: ArrayLike,
    log_prior: Callable[[Any], Array],
    divergence: RiemannianDivergence | None = None,
) -> Likelihood:
    """Log-density of x under the flow, by the change of variables.

        log p_0(x(0)) = log p_1(x(1)) + integral_0^1 div u(x(t), t) dt

    The integral is computed by the classical Runge-Kutta method in normal coordinates. Mathieu and Nickel 2020,
    "Riemannian Continuous Normalizing Flows"; Chen and Lipman 2024, "Flow Matching on General Geometries".

    Args:
        field: the field u = dx/dt, trained or exact.
        x: data `[B, *shape]`.
        times: `[N + 1]` increasing times, from the data to the prior.
        log_prior: x `[B, *shape]` -> log-density `[B]` at times[-1], with respect to the metric's volume.
        divergence: method for the divergence, such as `hutchinson_divergence(probes)`; None for `exact_divergence()`.

    Returns:
        `Likelihood`, with the log-density `[B]` in nats.

    Raises:
        ValueError: if the times do not increase, x is off the manifold, or log_prior does not return one number for
            each example.
    """
    grid = np.asarray(times)
    if grid.ndim != 1 or grid.size < 2 or not np.all(np.diff(grid) > 0):
        raise ValueError(f"times must be at least two increasing numbers, starting near the data; got {grid}")
    field.manifold.check(x)
    divergence = divergence or exact_divergence()
    grid = jnp.asarray(grid, promoted(jax.tree.leaves(x)[0].dtype))

    def slope(x, t):
        return divergence(field.manifold, lambda x: field(x, t), x)

    def step(state, ends):
        x, gained = state
        t, s = ends
        x, gain = carried(field.manifold, slope, x, t, s, *RK4)
        return (x, gained + gain), None

    begin = (x, jnp.zeros(jax.tree.leaves(x)[0].shape[:1], grid.dtype))
    (latent, gained), _ = jax.lax.scan(step, begin, (grid[:-1], grid[1:]))
    at_end = log_prior(latent)
    require_shape(at_end, gained.shape, "the result of log_prior, one number for each example,")
    return Likelihood(at_end + gained, latent, 4 * (grid.size - 1))


def exact_divergence() -> RiemannianDivergence:
    """The trace of the covariant derivative over an orthonormal basis E_i of the tangent space.

        div u = sum_i <E_i, D_(E_i) u>,    D_E u = d/dr of u(exp(x, r E)), transported back to x, at r = 0

    The formula needs no coordinates and no embedding. It costs one directional derivative for each dimension of the
    manifold.
    """

    def divergence(manifold, field, x):
        directions = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), manifold.basis(x))
        parts = jax.lax.map(lambda v: manifold.inner(x, _covariant(manifold, field, x, v), v), directions)
        return field(x), parts.sum(0)

    return divergence


def hutchinson_divergence(probes: Array) -> RiemannianDivergence:
    """The unbiased estimate mean_k <z_k, D_(z_k) u> of the divergence.

    The coefficients of z_k in the orthonormal basis are the same at every point, see `exact_divergence`.

    Hutchinson 1990, "A Stochastic Estimator of the Trace of the Influence Matrix for Laplacian Smoothing Splines";
    Grathwohl et al. 2019, "FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models".

    Args:
        probes: the coefficients `[K, B, dimension]`, numbers -1 and 1 or standard normal numbers, which stay the same
            during a solve; for example from `likelihood.rademacher` with the shape (dimension,).
    """

    def divergence(manifold, field, x):
        if probes.shape[2:] != (manifold.dimension,):
            raise ValueError(f"probes must have shape [K, B, {manifold.dimension}], got {list(probes.shape)}")
        basis = manifold.basis(x)

        def along(numbers):
            weighted = lambda leaf: jnp.einsum("bi,bi...->b...", numbers, leaf, precision=jax.lax.Precision.HIGHEST)
            z = jax.tree.map(weighted, basis)
            return manifold.inner(x, _covariant(manifold, field, x, z), z)

        return field(x), jax.lax.map(along, probes).mean(0)

    return divergence


def _covariant(manifold: Manifold, field: Callable[[Any], Any], x: Any, v: Any) -> Any:
    """The covariant derivative of a field along the tangent vectors v at x, a tangent vector at each x."""

    def carried_back(r):
        y = manifold.exp(x, jax.tree.map(lambda leaf: r * leaf, v))
        return manifold.transport(y, x, field(y))

    zero = jnp.zeros((), jax.tree.leaves(x)[0].dtype)
    return jax.jvp(carried_back, (zero,), (jnp.ones_like(zero),))[1]


public.declare(__name__)
