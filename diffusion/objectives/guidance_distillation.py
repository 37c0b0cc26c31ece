"""Guidance distillation: a network that predicts a guided teacher's output, at half the cost per step."""

from typing import Any

import jax

from diffusion.arrays.parameters import traced
from diffusion.objectives.conditioning import null_of
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import frozen, player
from diffusion.objectives.guidance_inputs import guided_prediction, uniform_scales
from diffusion.objectives.inputs import noised, output_weight, split, weigh, weighted_mean_square
from diffusion.objectives.objective import Denoises, Objective, Teacher
from diffusion.objectives.objective_facts import Condition
from diffusion.objectives.weightings import Weighting
from diffusion.parameterizations import Parameterization, evaluate, predict
from diffusion.timesteps import Density


def guidance_distillation(
    parameterization: Parameterization,
    teacher: Parameterization,
    weighting: Weighting,
    density: Density,
    guidance: tuple[float, float] | None = None,
    null: Any = None,
) -> Objective:
    """Regresses the student on the guided teacher's estimate of x0.

        loss = w(t) mean |x0(x_t, t) - stop x0_teacher(x_t, t)|^2, in the scale of `denoising`

    The student is a denoiser for any sampler, with one evaluation per step. Without `guidance`, the network "teacher"
    is already guided, with one scale that the student learns; the student can then be the teacher of
    `progressive_distillation`. With `guidance`, as in the paper, the student receives w ~ U(guidance) in the condition
    (condition, w `[B]`), and x0_teacher = (1 + w) x0_teacher(condition) - w x0_teacher(null).

    Facts:
        loss: w(t) |x0_hat - x0_teacher|^2, in any parameterization
        networks: model, teacher (already guided, if the student receives no scale)
        optimum: the guided teacher, exactly, whatever the data
        paper: Meng et al. 2023, "On Distillation of Guided Diffusion Models", section 3.1 and algorithm 1

    Args:
        parameterization: parameterization of the network "model".
        teacher: parameterization of the network "teacher".
        weighting: (schedule, t) -> weight on the squared error of x0.
        density: distribution of t.
        guidance: smallest and largest w, 0 and 4 in the paper; None if the student receives no w.
        null: the null condition of one example, used if the student receives w.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" `[B]`, and "guidance" (w) if the student receives
        w.

    Raises:
        ValueError: if the range of w is empty; when called, if there is a range of w but no condition.
    """
    low, high = guidance or (0.0, 0.0)
    if not traced(low, high) and not low <= high:
        raise ValueError(f"guidance_distillation: guidance = {guidance} must be (least, largest) w")

    @entry(parameterization, teacher)
    def loss(networks, schedule, keys, batch, step):
        condition = batch.get("condition")
        taught, metrics = frozen(networks, "teacher"), {}
        if guidance is None:
            _, _, x_t, t, importance = noised(schedule, density, keys, batch)
            guided = predict(taught, schedule, teacher, x_t, t, condition)
        else:
            if condition is None:
                raise ValueError("guidance_distillation: a range of w needs a condition, but the batch has none")
            keys, guidance_keys = split(keys, 2)
            _, _, x_t, t, importance = noised(schedule, density, keys, batch)
            w = uniform_scales(guidance_keys, low, high)
            conditions = (condition, null_of(condition, null))
            guided = guided_prediction(taught, schedule, teacher, x_t, t, conditions, w)
            condition, metrics = (condition, w), {"guidance": w}
        output, t = evaluate(player(networks, "model"), schedule, parameterization, x_t, t, condition)
        target = jax.lax.stop_gradient(parameterization.target(schedule, t, guided.x0, guided.eps))
        weight = output_weight(weighting, schedule, t, parameterization)
        return weighted_mean_square(weigh(importance, weight), output - target), {"t": t, **metrics}

    return Objective(
        loss,
        reads=Denoises(parameterization),
        density=density,
        teacher=Teacher(scale=None if guidance is None else 1.0),
        condition=Condition(strength=None if guidance is None else (1 + low, 1 + high)),
    )
