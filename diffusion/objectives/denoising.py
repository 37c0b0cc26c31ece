"""The denoising objective: regression of a network's output on its target at a random time."""

from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import player
from diffusion.objectives.inputs import noised, output_weight, weigh, weighted_mean_square
from diffusion.objectives.objective import Denoises, Objective
from diffusion.objectives.objective_facts import Examples
from diffusion.objectives.weightings import Weighting
from diffusion.parameterizations import Parameterization, evaluate
from diffusion.timesteps import Density


def denoising(parameterization: Parameterization, weighting: Weighting, density: Density) -> Objective:
    """Weighted denoising of x_t = alpha x_0 + sigma eps.

        loss = w(t) (d x0 / d output)^2 mean |output(x_t, t) - target|^2,    t ~ density, eps ~ N(0, I)

    where w is the weight on the squared error of x0, so that the loss does not depend on the parameterization. The
    arguments of published methods are in `objectives.recipes`.

    Facts:
        loss: w(t) |x0 - x0_hat|^2, in any parameterization
        networks: model
        optimum: E[target | x_t]
        paper: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", eq. 14; Kingma and Gao 2023, "Understanding
            Diffusion Objectives as the ELBO with Simple Data Augmentation", for the weights

    Args:
        parameterization: parameterization of the network "model".
        weighting: (schedule, t) -> weight on the squared error of x0.
        density: distribution of t; with a time for each frame (`timesteps.per_frame`) this is diffusion forcing.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" `[B]`.
    """

    @entry(parameterization, real=True)
    def loss(networks, schedule, keys, batch, step):
        x_0, eps, x_t, t, importance = noised(schedule, density, keys, batch)
        output, t = evaluate(player(networks, "model"), schedule, parameterization, x_t, t, batch.get("condition"))
        error = output - parameterization.target(schedule, t, x_0, eps)
        weight = output_weight(weighting, schedule, t, parameterization)
        return weighted_mean_square(weigh(importance, weight), error), {"t": t}

    return Objective(loss, reads=Denoises(parameterization), density=density, examples=Examples(real=True))
