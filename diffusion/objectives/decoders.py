"""Decoders of the variational bound: log p(x_0 | x_t) at the smallest time, for each number of x_0."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.schedules.noise_schedule import as_float

Decoder = Callable[[Array, Array, Array], Array]
"""(x_0, noise, sigma / alpha) -> log p(x_0 | x_t) for each number of x_0."""


def levels(count: int = 256) -> Decoder:
    """The decoder of data on `count` levels of [-1, 1]: p(x_0 | x_t) is proportional to q(x_t | x_0), number by number.

    It follows Kingma et al. 2021, as in the authors' code. The bound then holds for the probability of the data, not
    for a density. Data outside of [-1, 1] have a bound of NaN.

    Args:
        count: number of levels -1 + 2 k / (count - 1), at least 2.

    Raises:
        ValueError: if count is below 2.
    """
    if count < 2:
        raise ValueError(f"levels: count = {count} must be at least 2 (256 for bytes)")
    half = (count - 1) / 2

    def decoder(x_0, noise, ratio):
        values = jnp.arange(count, dtype=as_float(x_0).dtype) / half - 1
        y = (x_0 + ratio * noise)[..., None]
        log_p = jax.nn.log_softmax(-jnp.square((y - values) / ratio[..., None]) / 2)
        level = jnp.round((x_0 + 1) * half).astype(jnp.int32)
        level = jnp.where(level < 0, count, level)  # a negative index would count from the end
        return jnp.take_along_axis(log_p, level[..., None], axis=-1)[..., 0]

    return decoder


def gaussian() -> Decoder:
    """The decoder of continuous data: p(x_0 | x_t) = N(x_t / alpha, (sigma / alpha)^2 I)."""
    return lambda x_0, noise, ratio: -jnp.square(noise) / 2 - jnp.log(ratio) - math.log(2 * math.pi) / 2
