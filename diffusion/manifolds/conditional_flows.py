"""Conditional flow matching on a manifold: along geodesics, or along the level sets of a premetric."""

__all__ = ["Auxiliary", "Premetric", "premetric_path", "riemannian_flow_matching"]

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.manifolds.distributions import Distribution, uniform
from diffusion.manifolds.geodesic_solvers import RK4, carried
from diffusion.manifolds.manifold import Manifold, check_manifold, geodesic, scaled
from diffusion.manifolds.tangent_field import velocity_field
from diffusion.objectives.couplings import Coupling
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import player
from diffusion.objectives.inputs import condition_of_data, pairing, split, times
from diffusion.objectives.objective import Moves, Objective
from diffusion.objectives.weightings import Weighting
from diffusion.package import public
from diffusion.parameterizations import Clock, velocity
from diffusion.schedules import left_broadcast
from diffusion.timesteps import Density

Auxiliary = Callable[[Any, Any, Array], Array]
"""(predicted end point at t = 0 `[B, *shape]`, x_0, t `[B]`) -> a further loss `[B]`."""
Premetric = Callable[[Array, Array], Array]
"""(x `[..., *shape]`, y) -> d(x, y) `[...]` >= 0, zero only for x = y, and elsewhere with a nonzero gradient in x."""


def riemannian_flow_matching(
    manifold: Manifold,
    density: Density,
    prior: Distribution | None = None,
    coupling: Coupling | None = None,
    premetric: Premetric | None = None,
    premetric_steps: int = 10,
    clock: Clock | None = None,
    weighting: Weighting | None = None,
    auxiliary: Auxiliary | None = None,
) -> Objective:
    """Regresses on the velocity of paths between data x_0 and draws x_1 of the prior.

        loss = |u(x_t, t) - dx_t/dt|^2 in the metric at x_t,    t ~ density, x_0 ~ data, x_1 ~ prior

    By default the paths are geodesics x_t = exp(x_1, (1 - t) log(x_1, x_0)), in closed form. x_0 may lie on the
    boundary, such as a corner of the simplex, where log(x_0, .) is not defined. With a premetric d, the path follows
    the gradient of d so that d(x_t, x_0) is proportional to t:

        dx_t/dt = d(x_1, x_0) grad d(x_t, x_0) / |grad d(x_t, x_0)|^2,    so that d(x_t, x_0) = t d(x_1, x_0).

    It is solved from t = 1 by the classical Runge-Kutta method. If d is the distance, the path is the geodesic.

    With a weighting w the loss is t^2 w(t) |u - dx_t/dt|^2 + auxiliary(exp(x_t, -t u), x_0, t).

    The fraction t of the path is the time, so the schedule must be `rectified_flow()`.

    Facts:
        loss: |u - dx_t/dt|^2 in the metric
        networks: model
        optimum: E[dx_t/dt | x_t], the velocity of the flow
        paper: Chen and Lipman 2024, "Flow Matching on General Geometries"

    Args:
        manifold: the manifold on which the data lie.
        density: density of t in [0, 1], such as `timesteps.uniform_density(schedule)`.
        prior: distribution of x_1; uniform if None.
        coupling: coupling that pairs an x_1 with each x_0; None for independent pairs. See `geodesic_cost` for optimal
            transport.
        premetric: the premetric d of the paths; None for geodesics.
        premetric_steps: number of solver steps for such paths, >= 1.
        clock: the time that the network "model" receives; t itself if None.
        weighting: weight of the squared error of the predicted x_0, t^2 |u - dx_t/dt|^2; if None, 1 / t^2 as in the
            loss above. `weightings.at_most` bounds it, so that times near 0 do not dominate.
        auxiliary: further loss of the predicted x_0, such as `proteins.atom_losses.atoms_and_distances()`.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" `[B]`.

    Raises:
        ValueError: if the manifold has no uniform distribution and prior is None, or premetric_steps is below 1; when
            called, if the schedule's t_max is not 1, and, outside of `jit`, if data lie off the manifold.
    """
    check_manifold(manifold)
    if premetric_steps < 1:
        raise ValueError(f"riemannian_flow_matching: premetric_steps = {premetric_steps} must be at least 1")
    start = uniform(manifold) if prior is None else prior

    def field(network: Any, schedule: Any, condition: Any = None) -> Any:
        return velocity_field(network, schedule, manifold, clock, condition)

    @entry()
    def loss(networks, schedule, keys, batch, step):
        if schedule.t_max != 1:
            raise ValueError(
                f"riemannian_flow_matching: t_max = {schedule.t_max:g}, but here t is the fraction of a path. Valid: "
                "a schedule from 0 to 1, rectified_flow()"
            )
        time_keys, prior_keys, pair_keys = split(keys, 3)
        x_0 = batch["x"]
        manifold.check(x_0)
        x_1 = batch["noise"] if "noise" in batch else start.sample(prior_keys).astype(x_0.dtype)
        if coupling is not None:
            x_1 = coupling(pair_keys, x_0, x_1, condition_of_data(batch))
        t, importance = times(density, time_keys, batch)
        if premetric is None:
            along = lambda t: geodesic(manifold, x_1, x_0, 1 - t)
            x_t, target = jax.jvp(along, (t,), (jnp.ones_like(t),))
        else:
            x_t, target = premetric_path(manifold, premetric, x_0, x_1, t, premetric_steps)
        u = field(player(networks, "model"), schedule, batch.get("condition"))(x_t, t)
        error = jax.tree.map(jnp.subtract, u, target)
        loss = manifold.inner(x_t, error, error)
        if weighting is not None:
            loss = left_broadcast(t**2 * weighting(schedule, t), loss) * loss
        if auxiliary is not None:
            loss = loss + auxiliary(manifold.exp(x_t, scaled(-t, u)), x_0, t)
        return left_broadcast(importance, loss) * loss, {"t": t}

    examples = pairing(coupling)._replace(real=False)
    return Objective(loss, reads=Moves(field, start, manifold, velocity(clock)), density=density, examples=examples)


def premetric_path(
    manifold: Manifold, premetric: Premetric, x_0: Any, x_1: Any, t: Array, steps: int
) -> tuple[Any, Any]:
    """The point at t, and its velocity, of the path from x_1 to x_0 on which a premetric is proportional to t.

    Args:
        manifold: the manifold of the points.
        premetric: the premetric d.
        x_0: data, `[B, *shape]`.
        x_1: the ends of the paths at t = 1, `[B, *shape]`.
        t: the times, `[B]` in [0, 1].
        steps: number of solver steps from 1 to t, >= 1.

    Returns:
        (x_t, dx_t/dt), `[B, *shape]` each.
    """
    distance_at_1 = premetric(x_1, x_0)

    def velocity(x):
        basis = manifold.basis(x)  # [B, dimension, *shape]
        along = lambda v: jax.jvp(lambda x: premetric(x, x_0), (x,), (v,))[1]
        slopes = jax.vmap(along, in_axes=1, out_axes=1)(basis)  # [B, dimension]
        gradient = jnp.einsum("bi,bi...->b...", slopes, basis, precision=jax.lax.Precision.HIGHEST)
        steepness = jnp.sum(slopes**2, axis=1)
        return scaled(distance_at_1 / jnp.where(steepness > 0, steepness, 1), gradient)

    def step(x, i):
        at = lambda i: 1 + (t - 1) * i / steps
        return carried(manifold, lambda x, t: (velocity(x), ()), x, at(i), at(i + 1), *RK4)[0], None

    x_t, _ = jax.lax.scan(step, x_1, jnp.arange(steps, dtype=t.dtype))
    return x_t, velocity(x_t)


public.declare(__name__)
