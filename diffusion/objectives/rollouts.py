"""Samples that an objective generates in training, by one scan through which no gradient flows."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.core import Tracer

from diffusion.objectives.inputs import split
from diffusion.parameterizations import Network, Parameterization, denoiser
from diffusion.samplers.sample import Sampler, prior, sample_trajectory
from diffusion.schedules import NoiseSchedule
from diffusion.timesteps import Plan, plan

NEAR = 0.1  # not 0, because "leading" grids of a discrete process begin a step before t_max


def rollouts(
    network: Network,
    schedule: NoiseSchedule,
    parameterization: Parameterization,
    grid: Sequence[float],
    sampler: Sampler,
    keys: Array,
    shape: tuple[int, ...],
    condition: Any = None,
) -> Array:
    """The trajectories of samples from the prior to the data, through which no gradient flows.

    Args:
        network: the network that is sampled.
        schedule: the process.
        parameterization: parameterization of the network.
        grid: `[N + 1]` times from t_max down to 0.
        sampler: sampler of denoisers.
        keys: `[B]` keys, one for each example; sample i depends only on its own key.
        shape: shape of one sample.
        condition: condition of the network, a pytree of arrays `[B, ...]`.

    Returns:
        The states at the N + 1 times, `[N + 1, B, *shape]`; the last states are the samples.

    Raises:
        ValueError: under the conditions of `check_ends`.
    """
    steps = plan(np.asarray(grid))
    check_ends(schedule, steps)
    starts, draws = split(keys, 2)
    denoise = denoiser(network, schedule, parameterization, condition)
    noise = prior(schedule, starts, shape)
    _, trajectory = sample_trajectory(sampler, denoise, schedule, noise, steps, draws)
    return jax.lax.stop_gradient(trajectory.x)


def check_ends(schedule: NoiseSchedule, steps: Plan) -> None:
    """Refuses a plan that does not lead from the prior to the data.

    A first time t below t_max is accepted if |alpha(t) - alpha(t_max)| and |sigma(t) / sigma(t_max) - 1| are at most
    0.1.

    Args:
        schedule: the process; if it is traced, only the last time is checked.
        steps: the plan of the samples that an objective generates.

    Raises:
        ValueError: if the plan starts where the process has other noise than the prior, or does not end at t = 0.
    """
    if any(isinstance(t, Tracer) for t in (steps.t, steps.s, schedule.t_max)):
        return
    first, last = (np.max(t) for t in (steps.t[0], steps.s[-1]))
    if last != 0:
        raise ValueError(f"the grid of an objective's own samples ends at t = {last:g}. Valid: from t_max down to 0")
    with jax.ensure_compile_time_eval():
        coefficients = [(schedule.alpha(t), schedule.sigma(t)) for t in (first, schedule.t_max)]
    if any(isinstance(value, Tracer) for value in jax.tree.leaves(coefficients)):
        return
    (alpha, sigma), (alpha_end, sigma_end) = (map(np.asarray, pair) for pair in coefficients)
    if np.any(np.abs(alpha - alpha_end) > NEAR) or np.any(np.abs(sigma / sigma_end - 1) > NEAR):
        raise ValueError(
            f"the grid of an objective's own samples begins at t = {first:g}, where the noise differs from the prior, "
            f"which is the noise at t_max = {schedule.t_max:g}. Valid: a grid that begins at t_max"
        )
