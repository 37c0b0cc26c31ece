"""Conditional flow matching, with any coupling of data and noise."""

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.parameters import is_number, traced
from diffusion.objectives.couplings import Coupling
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import player
from diffusion.objectives.inputs import noised, pairing, weighted_mean, weighted_mean_square
from diffusion.objectives.objective import Denoises, Objective
from diffusion.parameterizations import Clock, evaluate, velocity
from diffusion.timesteps import Density

SHORTEST = 1e-3  # the direction of a shorter velocity is scaled down, so that it has a derivative at 0


def flow_matching(
    density: Density, coupling: Coupling | None = None, clock: Clock | None = None, direction: float = 0.0
) -> Objective:
    """Regression on the conditional velocity.

        loss = mean |u(x_t, t) - (alpha' x_0 + sigma' eps)|^2,    t ~ density, (x_0, eps) ~ coupling

    On the rectified flow the target is eps - x_0. With `direction` > 0, the loss adds `direction` times the mean of 1 -
    cos(u, target) over positions, where the cosine is taken over the channels (Yao et al. 2024, "FasterDiT", section
    3.4). This changes the optimum.

    Facts:
        loss: |u - (alpha' x_0 + sigma' eps)|^2
        networks: model
        optimum: E[alpha' x_0 + sigma' eps | x_t], the velocity of the flow
        paper: Lipman et al. 2023, "Flow Matching for Generative Modeling", eq. 9; Tong et al. 2024, "Improving and
            Generalizing Flow-Based Generative Models with Minibatch Optimal Transport", for couplings

    Args:
        density: distribution of t for each example, or for each frame (`timesteps.per_frame`).
        coupling: `Coupling` of data and noise; if None, each x_0 keeps the noise of the batch or the drawn noise.
        clock: the time that the network "model" receives; t itself if None.
        direction: weight of the velocity's direction, >= 0; 1 in LightningDiT.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" `[B]`, with `direction` also "direction" `[B]`,
        the mean of 1 - cos.

    Raises:
        ValueError: if `direction` is negative.
    """
    if not traced(direction) and not direction >= 0:
        raise ValueError(f"flow_matching: direction = {direction} must be at least 0")
    parameterization = velocity(clock)

    @entry(parameterization, real=True)
    def loss(networks, schedule, keys, batch, step):
        x_0, eps, x_t, t, importance = noised(schedule, density, keys, batch, coupling)
        u, t = evaluate(player(networks, "model"), schedule, parameterization, x_t, t, batch.get("condition"))
        target = parameterization.target(schedule, t, x_0, eps)
        losses = weighted_mean_square(importance, u - target)
        if is_number(direction, 0):
            return losses, {"t": t}
        away = 1 - (_direction(u) * _direction(target)).sum(-1, keepdims=True)
        weighted = weighted_mean(importance, away)
        return losses + direction * weighted, {"t": t, "direction": weighted}

    return Objective(loss, reads=Denoises(parameterization), density=density, examples=pairing(coupling))


def _direction(v: Array) -> Array:
    """v / |v| over the last axis; about 0 for a v much shorter than SHORTEST."""
    return v * jax.lax.rsqrt(jnp.square(v).sum(-1, keepdims=True) + SHORTEST**2)
