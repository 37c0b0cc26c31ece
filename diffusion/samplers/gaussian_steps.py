"""Steps that are a single Gaussian draw, x_s ~ N(mean, std^2), so that their likelihood is known."""

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.parameterizations import Prediction
from diffusion.samplers.leaves import over_leaves
from diffusion.samplers.padded import over_real
from diffusion.samplers.sample import Sampler, State
from diffusion.schedules import NoiseSchedule
from diffusion.timesteps import Plan


def check_gaussian(user: str, sampler: Sampler, schedule: NoiseSchedule, x: Array, plan: Plan) -> None:
    """Refuses a sampler whose step is not a single Gaussian draw with one evaluation, and a plan that renoises.

    Args:
        user: beginning of the error message: the function that needs such a step, and a verb.
        sampler: the sampler.
        schedule: the process.
        x: samples `[B, ...]`, or their shape and type.
        plan: the steps.

    Raises:
        ValueError: if the sampler or the plan does not fit; the message describes the sampler's step.
    """
    steps = plan.t.shape[0]
    state = jax.eval_shape(lambda x: sampler.init(x, schedule, plan), x)
    if sampler.draws != 1 or sampler.nfe(steps) != steps or type(state) is not State:
        raise ValueError(
            f"{user} each step by the Gaussian from which it is drawn, and this sampler has no such step: it draws "
            f"{sampler.draws} noise arrays, takes {sampler.nfe(steps)} evaluations in {steps} steps, and its state is "
            f"a {type(state).__name__}. Valid: a sampler with one draw and one evaluation in each step and without "
            "history, such as samplers.ddpm()"
        )
    if plan.solved != steps:
        raise ValueError(
            f"{user.split()[0]} takes a plan whose steps all go toward the data, but this plan has steps that renoise"
        )


def gaussian_step(
    sampler: Sampler, prediction: Prediction, schedule: NoiseSchedule, x: Array, plan: Plan, i: Array
) -> tuple[Array, Array]:
    """The mean and the standard deviation of x_s, `[B, ...]` each, in a step that is a single Gaussian draw."""
    sampler = over_real(over_leaves(sampler, schedule))
    state = sampler.init(x, schedule, plan)
    move = lambda noise: sampler.step(state, lambda x, *t: prediction, schedule, plan, i, noise[None]).x
    return jax.jvp(move, (jnp.zeros_like(x),), (jnp.ones_like(x),))


def check_one_variance(function: str, schedule: NoiseSchedule) -> None:
    """Refuses leaves with a schedule each, whose numbers differ in the variance of a step.

    Raises:
        ValueError: naming the function.
    """
    if schedule.leaves:
        raise ValueError(
            f"{function} has one variance for all numbers of a step, but leaves with a schedule each have several. "
            "Valid: one schedule for all leaves"
        )
