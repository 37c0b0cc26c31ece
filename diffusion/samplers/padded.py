"""Samples of several sizes in one array, with zeros on padding."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays import padding
from diffusion.arrays.arguments import require
from diffusion.schedules import left_broadcast

AnySampler = TypeVar("AnySampler")


def padded(sampler: AnySampler, real: Array) -> AnySampler:
    """The sampler for the real part of each sample: x, the noise and the predictions are zero on padding.

    Facts:
        kind: the sampler's
        order: the sampler's
        nfe: the sampler's
        accepts: the same as the sampler
        paper: none; Hoogeboom et al. 2022, "Equivariant Diffusion for Molecule Generation in 3D", has molecules of
            several sizes in one array

    Args:
        sampler: any `Sampler`.
        real: Bool, True where x is real; its shape is a prefix of x's.

    Raises:
        TypeError, ValueError: when sampling, under the conditions of `padding.check`.
    """
    require(sampler, tuple, "sampler", "a Sampler, such as samplers.heun()")
    return sampler._replace(real=real)  # type: ignore[attr-defined]


def over_real(sampler: Any) -> Any:
    """The sampler whose steps keep padding at zero, if it is `padded`."""
    real = sampler.real
    if real is None:
        return sampler

    def init(x, schedule, plan):
        padding.check(real, x)
        return sampler.init(padding.zeroed(x, real), schedule, plan)

    def step(state, denoise, schedule, plan, i, noise):
        state = state._replace(x=padding.zeroed(state.x, real))
        noise = jnp.where(left_broadcast(real, state.x), noise, 0)
        return sampler.step(state, reading_real(denoise, real), schedule, plan, i, noise)

    return sampler._replace(init=init, step=step)


def reading_real(function: Callable[..., Any], real: Array | None) -> Callable[..., Any]:
    """A denoiser, its branches or a flow map, whose input x and whose results are made zero on padding.

    Args:
        function: (x `[B, ...]`, *times) -> a pytree of arrays in the shape of x.
        real: Bool, True where x is real, as in `padded`; None for no padding.
    """
    zeroed = lambda part: padding.zeroed(part, real)
    return lambda x, *times: jax.tree.map(zeroed, function(zeroed(x), *times))
