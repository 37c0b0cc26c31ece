"""Reflow: flow matching on the pairs that a trained flow generates, which gives straighter paths."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion import samplers
from diffusion.arrays.arguments import require_keys
from diffusion.objectives import weightings
from diffusion.objectives.denoising import denoising
from diffusion.objectives.entry import entry
from diffusion.objectives.inputs import split
from diffusion.objectives.objective import Objective, Teacher
from diffusion.objectives.rollouts import check_ends
from diffusion.parameterizations import Denoiser, Parameterization, velocity
from diffusion.samplers.sample import check_sampler
from diffusion.schedules import NoiseSchedule, check_schedule
from diffusion.schedules.noise_schedule import as_float
from diffusion.timesteps import Density, Plan
from diffusion.timesteps.plans import require_plan


def reflow(density: Density, parameterization: Parameterization | None = None) -> Objective:
    """Flow matching on the pairs ("x", "noise") of the batch, which `reflow_pairs` generates.

        loss = mean |u(x_t, t) - (alpha' x_0 + sigma' eps)|^2,    x_0 = ODE(z),    t ~ density,
        eps = (z - alpha(t_max) x_0) / sigma(t_max),  so that x_t = z at t_max

    where u is the velocity, converted from the network's parameterization. On the rectified flow eps is z. Data and
    noise of a pair depend on each other, so that the trained network gives no score, and is sampled without noise.

    Facts:
        loss: |u - (alpha' x_0 + sigma' eps)|^2 on pairs of a trained flow
        networks: model
        optimum: E[alpha' x_0 + sigma' eps | x_t]; the loss is 0 if the pairs' paths do not cross
        paper: Liu et al. 2023, "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow",
            eq. 1 and algorithm 1

    Args:
        density: distribution of t.
        parameterization: parameterization of the network "model"; if None, the velocity, with the clock t.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" `[B]`.

    Raises:
        ValueError: when called, if the batch has no "noise".
    """
    velocity_weighting = weightings.constant(velocity())
    matching = denoising(velocity() if parameterization is None else parameterization, velocity_weighting, density)

    @entry(entries=None, real=True)
    def loss(networks, schedule, keys, batch, step):
        if "noise" not in batch:
            raise ValueError(
                'reflow learns from pairs: the batch needs the entry "noise", from which each "x" was sampled. Make '
                "such batches with objectives.reflow_pairs"
            )
        end = jnp.asarray(schedule.t_max, as_float(batch["x"]).dtype)
        eps = (batch["noise"] - schedule.alpha(end) * batch["x"]) / schedule.sigma(end)
        return matching(networks, schedule, keys, {**batch, "noise": eps}, step)

    examples = matching.examples._replace(score=False)  # the noise of a pair is a function of its data
    return dataclasses.replace(matching, loss=loss, teacher=Teacher(pairs=True), examples=examples)


def reflow_pairs(
    denoise: Denoiser,
    schedule: NoiseSchedule,
    plan: Plan,
    keys: Array,
    shape: tuple[int, ...],
    sampler: samplers.Sampler | None = None,
) -> dict[str, Any]:
    """Pairs (x_0, z) where x_0 is the end of the trained flow that starts at z.

    Args:
        denoise: the teacher, (x_t, t) -> Prediction.
        schedule: the process of the teacher.
        plan: plan from t_max to 0.
        keys: `[B]` random keys, one for each pair.
        shape: shape of one sample.
        sampler: a deterministic sampler; Heun's method if None.

    Returns:
        {"x": `[B, *shape]`, "noise": `[B, *shape]`, samples of the prior}, to which the caller adds conditions and
        indices, if any.

    Raises:
        ValueError: if the sampler is stochastic, so that its noise does not determine the sample, or the plan does not
            lead from t_max to 0.
    """
    require_plan(plan)
    check_schedule(schedule)
    sampler = samplers.heun() if sampler is None else sampler
    check_sampler(sampler)
    require_keys(keys, max(jnp.size(keys), 1), "reflow needs one key for each pair")
    if sampler.draws:
        raise ValueError(
            "reflow_pairs needs a deterministic sampler, such as heun(), because the noise of a pair must determine "
            "its sample"
        )
    check_ends(schedule, plan)
    start_keys, keys = split(keys, 2)
    noise = samplers.prior(schedule, start_keys, shape)
    x = jax.lax.stop_gradient(samplers.sample(sampler, denoise, schedule, noise, plan, keys))
    return {"x": x, "noise": noise}
