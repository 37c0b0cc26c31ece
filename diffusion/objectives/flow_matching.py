"""Conditional flow matching, with any coupling of data and noise."""

__all__ = ["flow_matching"]

from diffusion.couplings import Coupling
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import player
from diffusion.objectives.inputs import noised, pairing, weighted_mean_square
from diffusion.objectives.objective import Denoises, Objective
from diffusion.parameterizations import Clock, evaluate, velocity
from diffusion.timesteps import Density


def flow_matching(density: Density, coupling: Coupling | None = None, clock: Clock | None = None) -> Objective:
    """Regression on the conditional velocity.

        loss = mean |u(x_t, t) - (alpha' x_0 + sigma' eps)|^2,    t ~ density, (x_0, eps) ~ coupling

    On the rectified flow the target is eps - x_0.

    Facts:
        loss: |u - (alpha' x_0 + sigma' eps)|^2
        networks: model
        optimum: E[alpha' x_0 + sigma' eps | x_t], the velocity of the flow
        paper: Lipman et al. 2023, "Flow Matching for Generative Modeling", eq. 9; Tong et al. 2024, "Improving and
            Generalizing Flow-Based Generative Models with Minibatch Optimal Transport", for couplings

    Args:
        density: distribution of t, for each example or (`timesteps.per_frame`) each frame.
        coupling: (keys, x0, eps) -> eps re-paired; if None, the pairs stay as the batch has them or as they are drawn.
        clock: the time that the network "model" receives; t itself if None.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" `[B]`.
    """
    parameterization = velocity(clock)

    @entry(parameterization)
    def loss(networks, schedule, keys, batch, step):
        x_0, eps, x_t, t, importance = noised(schedule, density, keys, batch, coupling)
        u, t = evaluate(player(networks, "model"), schedule, parameterization, x_t, t, batch.get("condition"))
        error = u - parameterization.target(schedule, t, x_0, eps)
        return weighted_mean_square(importance, error), {"t": t}

    return Objective(loss, reads=Denoises(parameterization), density=density, **pairing(coupling))
