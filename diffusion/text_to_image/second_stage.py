"""The second stage of a text-to-image model, which generates the autoencoder's latents from the first stage's.

`model` is a `text_to_image.TextToImage`.
"""

from collections.abc import Mapping
from typing import Any

import jax
from jax import Array

from diffusion import parameterizations, samplers
from diffusion.arrays import random_keys
from diffusion.models.interchange import schedulers

SECOND = 2**31  # number of the second stage's draws


def denoiser(
    model: Any, trajectory: schedulers.Trajectory, params: Mapping[str, Any], x: Array, condition: Mapping[str, Any]
) -> parameterizations.Denoiser:
    """The denoiser of the second stage.

    Args:
        model: a model with a second stage.
        trajectory: the second stage's trajectory, with the times that the network receives.
        params: parameters by the names of networks.
        x: the first stage's latents [B, h, w, C].
        condition: the first stage's condition; "pooled" is read.
    """
    stage, process = model.kind.second_stage, model.second_process
    module, weights = model.modules[stage.network], {"params": params[stage.network]}
    network = lambda x, clock, condition: module.apply(weights, x, clock, condition)
    inputs = {"pooled": condition["pooled"], "coarse": x}
    return parameterizations.denoiser(network, process.schedule, trajectory.clocked(process.parameterization), inputs)


def finer(
    model: Any, course: Any, params: Mapping[str, Any], x: Array, condition: Mapping[str, Any], keys: Array
) -> Array:
    """The latents that the autoencoder decodes, by the second stage; x itself for a model without one.

    Args:
        model: a model that `load` returned.
        course: the `programs.Course`.
        params: parameters by the names of networks.
        x: the denoiser's latents [B, h, w, C].
        condition: the denoiser's condition.
        keys: keys of the trajectory [B], from which those of this one are derived.
    """
    stage, process = model.kind.second_stage, model.second_process
    if stage is None:
        return x
    trajectory = schedulers.trajectory(process, "", stage.steps)
    both = jax.vmap(lambda key: jax.random.split(random_keys.further(key, SECOND)), out_axes=1)(keys)
    shape = course.decoded_latents(model)
    noise = jax.vmap(lambda key: jax.random.normal(key, shape))(both[0])
    denoise = denoiser(model, trajectory, params, x, condition)
    return samplers.sample(
        trajectory.sampler, denoise, process.schedule, trajectory.start * noise, trajectory.plan, both[1]
    )
