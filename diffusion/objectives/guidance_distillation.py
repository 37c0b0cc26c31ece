"""Guidance distillation: one network with the output of a guided teacher, at half the cost of a step."""

__all__ = ["guidance_distillation"]

import jax

from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import frozen, player
from diffusion.objectives.inputs import noised, weigh, weighted_mean_square
from diffusion.objectives.objective import Denoises, Objective, Teacher
from diffusion.parameterizations import Parameterization, evaluate, predict
from diffusion.timesteps import Density
from diffusion.weightings import Weighting, error_scale


def guidance_distillation(
    parameterization: Parameterization, teacher: Parameterization, weighting: Weighting, density: Density
) -> Objective:
    """Regression on the guided teacher's estimate, at every time.

        loss = w(t) mean |x0(x_t, t) - stop x0_teacher(x_t, t)|^2, in the scale of `denoising`

    The network "teacher" is guided already, as a run guides its teacher with one scale. The student is a denoiser for
    any sampler, whose step costs one evaluation, and a teacher for `progressive_distillation`. The paper's student
    receives the scale; this one has it built in.

    Facts:
        loss: w(t) |x0_hat - x0_teacher|^2, in any parameterization
        networks: model, teacher (guided)
        optimum: the guided teacher, exactly, whatever the data
        paper: Meng et al. 2023, "On Distillation of Guided Diffusion Models", section 3.1, at one strength of guidance

    Args:
        parameterization: parameterization of the network "model".
        teacher: parameterization of the network "teacher".
        weighting: (schedule, t) -> weight on the squared error of x0.
        density: distribution of t.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" `[B]`.
    """

    @entry(parameterization, teacher)
    def loss(networks, schedule, keys, batch, step):
        _, _, x_t, t, importance = noised(schedule, density, keys, batch)
        condition = batch.get("condition")
        guided = predict(frozen(networks, "teacher"), schedule, teacher, x_t, t, condition)
        output, t = evaluate(player(networks, "model"), schedule, parameterization, x_t, t, condition)
        target = jax.lax.stop_gradient(parameterization.target(schedule, t, guided.x0, guided.eps))
        weight = weighting(schedule, t) * error_scale(schedule, t, parameterization)
        return weighted_mean_square(weigh(importance, weight), output - target), {"t": t}

    return Objective(loss, reads=Denoises(parameterization), density=density, teacher=Teacher())
