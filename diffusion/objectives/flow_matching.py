"""Conditional flow matching, with any coupling of data and noise."""

from diffusion.couplings import Coupling
from diffusion.objectives.inputs import Objective, mean_square, noised
from diffusion.parameterizations import Clock, evaluate, velocity
from diffusion.timesteps import Density


def flow_matching(density: Density, coupling: Coupling | None = None, clock: Clock | None = None) -> Objective:
    """Regression on the conditional velocity.

        loss = mean |u(x_t, t) - (alpha' x_0 + sigma' eps)|^2,    t ~ density, (x_0, eps) ~ coupling

    On the rectified flow the target is eps - x_0. Lipman et al. 2023, "Flow Matching for Generative Modeling", eq. 9;
    Tong et al. 2024, "Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport", for
    couplings.

    Args:
      density: distribution of t.
      coupling: (x0, eps) -> eps re-paired; independent pairs if None.
      clock: the time that the network "model" is told; t itself if None.

    Returns:
      An objective; see `diffusion.objectives.inputs`. Metrics: "t" `[B]`.
    """
    parameterization = velocity(clock)

    def objective(networks, schedule, keys, batch, step):
        x_0, eps, x_t, t, importance = noised(schedule, density, keys, batch, coupling)
        u, t = evaluate(networks["model"], schedule, parameterization, x_t, t, batch.get("condition"))
        return importance * mean_square(u - parameterization.target(schedule, t, x_0, eps)), {"t": t}

    return objective
