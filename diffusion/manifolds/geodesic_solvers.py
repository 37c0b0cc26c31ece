"""Samplers that stay on a manifold: Runge-Kutta methods in normal coordinates, and the geodesic random walk.

They take a `TangentField` in place of a denoiser. A step uses the normal coordinates u about its start, y = exp(x, u).
In these coordinates the flow is du/dt = d log_x(y) [dx/dt], an equation in a flat space that a Runge-Kutta method
solves with its full order. Every stage and every sample is a value of exp, so it lies on the manifold. A step should be
shorter than the injectivity radius, within which these coordinates are valid.
"""

__all__ = ["carried", "geodesic_euler", "geodesic_heun", "geodesic_random_walk", "geodesic_rk4", "standard_normal"]

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.broadcasting import flattened
from diffusion.flows.flow_maps import TangentField
from diffusion.manifolds.manifold import Manifold, scaled
from diffusion.manifolds.tangent_field import require_brownian
from diffusion.package import public
from diffusion.samplers.sample import Sampler, State

BASES = 2**24  # largest number of basis coefficients that a random walk holds at once
EULER = ((), (1.0,))
HEUN = (((1.0,),), (0.5, 0.5))
RK4 = (((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))


def geodesic_euler() -> Sampler:
    """Euler's method along geodesics.

        x_s = exp(x_t, (s - t) u(x_t, t))

    Facts:
        kind: deterministic, single step
        order: 1 in t
        nfe: steps
        accepts: tangent fields; plans that go up invert
        paper: Chen and Lipman 2024, "Flow Matching on General Geometries"
    """
    return _explicit(*EULER)


def geodesic_heun() -> Sampler:
    """Heun's method in normal coordinates about x_t.

        x_s = exp(x_t, (s - t) / 2 (u(x_t, t) + d log_x(y) u(y, s))),    y = Euler's x_s

    Facts:
        kind: deterministic, single step
        order: 2 in t
        nfe: 2 steps
        accepts: tangent fields; plans that go up invert
        paper: Munthe-Kaas 1998, "Runge-Kutta methods on Lie groups", whose coordinates are those of the group's
            exponential map
    """
    return _explicit(*HEUN)


def geodesic_rk4() -> Sampler:
    """The classical Runge-Kutta method in normal coordinates about x_t.

    Facts:
        kind: deterministic, single step
        order: 4 in t
        nfe: 4 steps
        accepts: tangent fields; plans that go up invert
        paper: Munthe-Kaas 1998, "Runge-Kutta methods on Lie groups", whose coordinates are those of the group's
            exponential map
    """
    return _explicit(*RK4)


def geodesic_random_walk() -> Sampler:
    """The reverse of Brownian motion by Euler-Maruyama steps along geodesics.

        x_s = exp(x_t, v score(x_t, t) + v^(1/2) z),    v = sigma(t)^2 - sigma(s)^2,    z standard normal at x_t

    Facts:
        kind: stochastic, single step
        order: that of Euler-Maruyama, not measured
        nfe: steps
        accepts: tangent fields with a score, schedules with alpha = 1, decreasing plans
        paper: De Bortoli et al. 2022, "Riemannian Score-Based Generative Modelling"; Jorgensen 1975, "The
            central limit problem for geodesic random walks"
    """

    def step(state, field, schedule, plan, i, noise):
        if field.score is None:
            raise ValueError(
                "geodesic_random_walk needs a score, and this field has only a velocity. Use a field with a score, "
                "which riemannian_score_matching trains, or follow the velocity by geodesic_heun()"
            )
        require_brownian(schedule, "geodesic_random_walk")
        t = plan.t[i]
        variance = schedule.sigma(t) ** 2 - schedule.sigma(plan.s[i]) ** 2
        drift = scaled(variance, field.score(state.x, t))
        kick = scaled(jnp.sqrt(variance), standard_normal(field.manifold, state.x, noise[0]))
        x = field.manifold.exp(state.x, jax.tree.map(jnp.add, drift, kick))
        return State(x, x)

    return Sampler(_start, step, draws=1, nfe=lambda steps: steps, takes=(TangentField,))


def standard_normal(manifold: Manifold, x: Array, noise: Array) -> Array:
    """A standard normal tangent vector at x `[B, *shape]`, from standard normal numbers in x's shape.

    Only a few bases, with dimension times D numbers each, are in memory at once.
    """

    def combined(at):
        point, numbers = at
        return jnp.tensordot(numbers, manifold.basis(point), 1, precision=jax.lax.Precision.HIGHEST)

    numbers = flattened(noise)[:, : manifold.dimension]
    together = max(1, BASES // (manifold.dimension * max(1, math.prod(manifold.shape))))
    if len(x) <= together:
        return jax.vmap(combined)((x, numbers))
    return jax.lax.map(combined, (x, numbers), batch_size=together)


def carried(
    manifold: Manifold,
    slope: Callable[[Any, Array], tuple[Any, Any]],
    x: Any,
    t: ArrayLike,
    s: ArrayLike,
    stages: Sequence[Sequence[float]],
    weights: Sequence[float],
) -> tuple[Any, Any]:
    """A step of an explicit Runge-Kutta method on a manifold, with integrals along the path.

    Args:
        manifold: the manifold on which x moves.
        slope: (x `[B, *shape]`, t) -> (dx/dt, a tangent vector at x; further integrands, a pytree of arrays `[B,
            ...]`).
        x: the point at t, `[B, *shape]`.
        t: start time of the step, `[]` or `[B]`.
        s: end time of the step, `[]` or `[B]`.
        stages: rows of the method's matrix, without the first row, which is empty.
        weights: the weights of the method's stages.

    Returns:
        (x at s, the integrals from t to s).
    """
    begin = jnp.asarray(t)
    h = jnp.asarray(s) - begin
    velocity, beside = slope(x, begin)
    slopes, integrands = [velocity], [beside]
    for row in stages:
        y = manifold.exp(x, scaled(h, _combined(row, slopes)))
        velocity, beside = slope(y, begin + sum(row) * h)
        slopes.append(jax.jvp(lambda point: manifold.log(x, point), (y,), (velocity,))[1])
        integrands.append(beside)
    return manifold.exp(x, scaled(h, _combined(weights, slopes))), scaled(h, _combined(weights, integrands))


def _combined(coefficients: Sequence[float], trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: sum(c * leaf for c, leaf in zip(coefficients, leaves) if c), *trees)


def _explicit(stages: Sequence[Sequence[float]], weights: Sequence[float]) -> Sampler:
    """The sampler of an explicit Runge-Kutta method; the `x0` of its trajectory equal the samples."""

    def step(state, field, schedule, plan, i, noise):
        slope = lambda x, t: (field(x, t), ())
        x, _ = carried(field.manifold, slope, state.x, plan.t[i], plan.s[i], stages, weights)
        return State(x, x)

    return Sampler(_start, step, draws=0, nfe=lambda steps: len(weights) * steps, takes=(TangentField,))


def _start(x: Any, schedule: Any, plan: Any) -> State:
    return State(x, x)


public.declare(__name__)
