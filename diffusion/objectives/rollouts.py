"""Samples that an objective generates in training, by one scan through which no gradient flows."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from diffusion.objectives.inputs import split
from diffusion.parameterizations import Network, Parameterization, denoiser
from diffusion.samplers.sample import Sampler, prior, sample_trajectory
from diffusion.schedules import NoiseSchedule
from diffusion.timesteps import plan


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
    """The trajectories `[N + 1, B, ...]` from the prior to the data; the last entries are the samples.

    Args:
        network: the network that is sampled.
        schedule: the process.
        parameterization: parameterization of the network.
        grid: `[N + 1]` times from t_max down to 0.
        sampler: sampler of denoisers.
        keys: `[B]` keys, one for each example; sample i depends only on its own key.
        shape: shape of one sample.
        condition: condition of the network, a pytree of arrays `[B, ...]`.
    """
    starts, draws = split(keys, 2)
    denoise = denoiser(network, schedule, parameterization, condition)
    noise = prior(schedule, starts, shape)
    _, trajectory = sample_trajectory(sampler, denoise, schedule, noise, plan(np.asarray(grid)), draws)
    return jax.lax.stop_gradient(trajectory.x)
