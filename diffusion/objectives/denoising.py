"""The denoising objective: regress a network's output on its target at a random time."""

from diffusion.objectives.inputs import Objective, mean_square, noised
from diffusion.parameterizations import Parameterization, evaluate
from diffusion.timesteps import Density
from diffusion.weightings import Weighting, error_scale


def denoising(parameterization: Parameterization, weighting: Weighting, density: Density) -> Objective:
    """Weighted denoising of x_t = alpha x_0 + sigma eps.

        loss = w(t) (d x0 / d output)^2 mean |output(x_t, t) - target|^2,    t ~ density, eps ~ N(0, I)

    where w is the weight on the error of x0, so that the loss is the same whatever the network predicts. With
    epsilon prediction, constant(epsilon()) and discrete times this is Ho et al. 2020, eq. 14; with edm
    preconditioning, edm weighting and log-normal density it is Karras et al. 2022, eq. 8.

    Args:
      parameterization: what the network "model" predicts.
      weighting: (schedule, t) -> weight on the squared error of x0.
      density: distribution of t.

    Returns:
      An objective; see `diffusion.objectives.inputs`. Metrics: "t" `[B]`.
    """

    def objective(networks, schedule, keys, batch, step):
        x_0, eps, x_t, t, importance = noised(schedule, density, keys, batch)
        output, t = evaluate(networks["model"], schedule, parameterization, x_t, t, batch.get("condition"))
        error = mean_square(output - parameterization.target(schedule, t, x_0, eps))
        weight = weighting(schedule, t) * error_scale(schedule, t, parameterization)
        return importance * weight * error, {"t": t}

    return objective
