"""Samplers whose estimates of the data are clipped to the data's range."""

from typing import Any, TypeVar

import jax.numpy as jnp

from diffusion.arrays.arguments import require
from diffusion.arrays.parameters import traced
from diffusion.flows.flow_maps import FlowMap
from diffusion.guidance.prediction_changes import replace_x0
from diffusion.samplers.sample import Clip

AnySampler = TypeVar("AnySampler")


def clipped(sampler: AnySampler, largest: float = 1.0, keeps_eps: bool = True) -> AnySampler:
    """The sampler with clipped estimates of the data: x0 <- clip(x0, -largest, largest).

    Facts:
        kind: the sampler's
        order: the sampler's, where nothing is clipped
        nfe: the sampler's
        accepts: the same as the sampler
        paper: none; Ho et al. 2020, "Denoising Diffusion Probabilistic Models", in its code

    Args:
        sampler: any `Sampler`.
        largest: largest absolute value of the data, > 0.
        keeps_eps: whether eps remains as predicted, as in the code of DDPM and DDIM; otherwise it is recomputed from
            the clipped x0.

    Raises:
        ValueError: if largest is not positive.
    """
    require(sampler, tuple, "sampler", "a Sampler, such as samplers.heun()")
    if not traced(largest) and not largest > 0:
        raise ValueError(f"clipped: largest = {largest} must be positive; 1 for pictures")

    def step(state, denoise, schedule, plan, i, noise):
        def within(x, t, *s) -> Any:
            output = denoise(x, t, *s)
            if FlowMap in sampler.takes:  # type: ignore[attr-defined]
                return jnp.clip(output, -largest, largest)
            x0 = jnp.clip(output.x0, -largest, largest)
            return output._replace(x0=x0) if keeps_eps else replace_x0(output, schedule, t, x0)

        return sampler.step(state, within, schedule, plan, i, noise)  # type: ignore[attr-defined]

    return sampler._replace(step=step, clip=Clip(largest, keeps_eps))  # type: ignore[attr-defined]
