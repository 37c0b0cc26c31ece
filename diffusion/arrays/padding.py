"""Padding: examples of several sizes in one array, and masks of what is real in them.

A mask is Bool, True where x is real, and its shape is a prefix of x's: `[B, N]` for sets `[B, N, C]`, `[B, D]` for the
vectors of pytrees (`pytrees.mask`). Data, noise and samples are zero on padding, so that nothing of it reaches the real
part; losses are means over what is real.

    objective(networks, schedule, keys, {"x": x, "real": real}, step)      # the loss
    network = padding.network(network, real)                               # so that guidances see zeros too
    samplers.sample(samplers.padded(samplers.heun(), real), denoise, ...)  # the samples
    likelihood.log_likelihood(..., real=real)                              # the density of what is real
"""

__all__ = ["check", "count", "network", "share", "zeroed"]

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from diffusion.arrays.arguments import described
from diffusion.arrays.broadcasting import flattened, left_broadcast
from diffusion.arrays.promotion import promoted
from diffusion.package import public


def check(real: Any, x: Array | jax.ShapeDtypeStruct) -> None:
    """Refuses what is no mask of x, and, where its values are known, one that leaves nothing of an example.

    Args:
        real: Bool whose shape is a prefix of x's.
        x: `[B, ...]`.

    Raises:
        TypeError: if it is no array of Bool.
        ValueError: for another shape, or an example that is only padding, by its number.
    """
    if not hasattr(real, "dtype") or real.dtype != bool:
        raise TypeError(f"a mask of what is real must be an array of Bool; got {described(real)}")
    if not real.ndim or real.shape != x.shape[: real.ndim]:
        raise ValueError(f"the mask of what is real, {real.shape}, is not a prefix of the shape of x, {x.shape}")
    if isinstance(real, Tracer):
        return
    empty = ~np.asarray(real).any(axis=tuple(range(1, real.ndim)))
    if empty.any():
        raise ValueError(
            f"the mask is empty for example {int(np.argmax(empty))}: it marks the whole example as padding"
        )


def zeroed(x: Array, real: Array | None) -> Array:
    """x `[B, ...]` with zeros on padding; x itself without a mask."""
    return x if real is None else jnp.where(left_broadcast(real, x), x, 0)


def count(real: Array, x: Array) -> Array:
    """`[B]` how many numbers of each example are real."""
    return flattened(real).sum(axis=1) * math.prod(x.shape[real.ndim :])


def share(real: Array, x: Array) -> Array:
    """Weights of the mask's shape whose mean over an example is 1, so that a weighted mean is that over what is real.

    All are 0 where nothing is real.
    """
    most = math.prod(x.shape[1:])
    weight = most / jnp.maximum(count(real, x), 1).astype(promoted(x.dtype))
    return jnp.where(real, left_broadcast(weight, real), 0)


def network(network: Callable[..., Any], real: Array) -> Callable[..., Any]:
    """A network that receives zeros on padding and returns zeros there, so that predictions are also zero there.

    A guidance then computes norms and angles of an example only over its real values.

    Args:
        network: (x, clock, condition) -> output.
        real: mask of x; for a batch of K B, as in `guidance.together`, the mask of one B.
    """

    def real_alone(x: Array, clock: Any, condition: Any, **more: Any) -> Any:
        repeated = jnp.concatenate([real] * (len(x) // len(real)))
        output = network(zeroed(x, repeated), clock, condition, **more)
        values, rest = output if more else (output, None)
        if values.shape[-1] != x.shape[-1] and repeated.ndim == x.ndim:  # a mask of channels, several outputs a channel
            repeated = jnp.concatenate([repeated] * (values.shape[-1] // x.shape[-1]), axis=-1)
        return (zeroed(values, repeated), rest) if more else zeroed(values, repeated)

    return real_alone


public.declare(__name__)
