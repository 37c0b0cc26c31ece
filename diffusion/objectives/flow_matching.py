"""Conditional flow matching, with any coupling of data and noise."""

from diffusion.couplings import Coupling, independent
from diffusion.objectives.inputs import Objective, draw_noise, draw_times, mean_square, split
from diffusion.parameterizations import Clock, evaluate, velocity
from diffusion.schedules import left_broadcast
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
    coupling = coupling or independent()
    parameterization = velocity(clock)

    def objective(networks, schedule, keys, batch, step):
        time_keys, noise_keys = split(keys, 2)
        x_0 = batch["x"]
        t, importance = draw_times(density, time_keys, batch)
        eps = coupling(x_0, draw_noise(noise_keys, x_0))
        x_t = left_broadcast(schedule.alpha(t), x_0) * x_0 + left_broadcast(schedule.sigma(t), x_0) * eps
        u, t = evaluate(networks["model"], schedule, parameterization, x_t, t, batch.get("condition"))
        return importance * mean_square(u - parameterization.target(schedule, t, x_0, eps)), {"t": t}

    return objective
