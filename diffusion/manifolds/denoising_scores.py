"""Denoising score matching on a manifold, where Brownian motion takes the place of Gaussian noise."""

__all__ = ["riemannian_score_matching"]

from typing import Any

import jax
import jax.numpy as jnp

from diffusion.arrays.arguments import require
from diffusion.manifolds.distributions import Distribution, uniform
from diffusion.manifolds.heat_kernels import HeatKernel
from diffusion.manifolds.manifold import scaled
from diffusion.manifolds.tangent_field import require_brownian, score_field
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import player
from diffusion.objectives.inputs import split, times
from diffusion.objectives.objective import Moves, Objective
from diffusion.package import public
from diffusion.parameterizations import Clock, epsilon
from diffusion.schedules import left_broadcast
from diffusion.timesteps import Density


def riemannian_score_matching(
    kernel: HeatKernel, density: Density, prior: Distribution | None = None, clock: Clock | None = None
) -> Objective:
    """Regresses on the score of the heat kernel.

        loss = |sigma s(x_t, t) - sigma grad log K_v(x_0, x_t)|^2 in the metric,    x_t ~ K_v(x_0, .), v = sigma(t)^2

    The network predicts -sigma times the score, which in flat space is epsilon and whose size is about one at all
    times.

    Facts:
        loss: |sigma s - sigma grad log K|^2 in the metric
        networks: model
        optimum: -sigma times the gradient of log p_t(x_t)
        paper: De Bortoli et al. 2022, "Riemannian Score-Based Generative Modelling"; Leach et al. 2022,
            "Denoising Diffusion Probabilistic Models on SO(3) for Rotational Alignment"

    Args:
        kernel: heat kernel of the manifold, such as `heat_kernels.sphere(2)`; `heat_kernels.varadhan(manifold)` if none
            is known.
        density: density of t.
        prior: distribution from which sampling starts; uniform if None. On a compact manifold, Brownian motion is
            nearly uniform if the schedule's last variance is several times the squared radius.
        clock: the time that the network "model" receives; t itself if None.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" `[B]`.

    Raises:
        ValueError: if the manifold has no uniform distribution and prior is None; when called, if the schedule has
            alpha < 1, and, outside of `jit`, if data lie off the manifold.
    """
    require(kernel, HeatKernel, "kernel", "a HeatKernel, e.g. heat_kernels.sphere(2)")
    manifold = kernel.manifold
    start = uniform(manifold) if prior is None else prior

    def field(network: Any, schedule: Any, condition: Any = None) -> Any:
        return score_field(network, schedule, manifold, clock, condition)

    @entry()
    def loss(networks, schedule, keys, batch, step):
        require_brownian(schedule, "riemannian_score_matching")
        time_keys, noise_keys = split(keys, 2)
        x_0 = batch["x"]
        manifold.check(x_0)
        t, importance = times(density, time_keys, batch)
        sigma = schedule.sigma(t)
        x_t = jax.vmap(kernel.sample)(noise_keys, x_0, sigma**2)
        target = kernel.score(x_0, x_t, sigma**2)
        score = field(player(networks, "model"), schedule, batch.get("condition")).score(x_t, t)
        error = scaled(sigma, jax.tree.map(jnp.subtract, score, target))
        loss = manifold.inner(x_t, error, error)
        return left_broadcast(importance, loss) * loss, {"t": t}

    return Objective(loss, reads=Moves(field, start, manifold, epsilon(clock)), density=density)


public.declare(__name__)
